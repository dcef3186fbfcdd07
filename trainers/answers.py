"""What a language model answers before and after its training, to the same prompts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from prefactory.chat_template import ChatTemplate, TemplateError
from trainers.report import Compared, Said
from trainers.settings import PolicySettings

_BATCH = 8


@dataclass
class Comparison:
    """Prompts that a model answers twice: call `answer` before training and after it.

    Answers are the likeliest tokens, so that what differs is the training's; both times the same
    prompts go through the same code in the same batches.

    Attributes:
        template: of the model.
        rows: pairs whose prompts are asked, each distinct one once, in their order.
        most: prompts.
        new_tokens: of an answer, at most.
        room: tokens of a prompt that is too long to ask.
    """

    template: ChatTemplate
    rows: Any
    most: int
    new_tokens: int
    room: int
    answers: list[list[Said]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Choose the prompts."""
        asked: dict[str, Any] = {}
        for row in self.rows if self.most else ():
            if len(asked) == self.most:
                break
            text = self._text(row)
            if text is not None and text not in asked and self._fits(text):
                asked[text] = row["prompt"]
        self.asked = asked

    def answer(self, model: Any) -> None:  # noqa: ANN401 - a transformers or peft model
        """Let the model answer all prompts, and keep what it says."""
        training, texts = model.training, list(self.asked)
        model.eval()
        with torch.no_grad():
            parts = (texts[i : i + _BATCH] for i in range(0, len(texts), _BATCH))
            self.answers.append([said for part in parts for said in self._of(model, part)])
        model.train(training)

    def compared(self) -> tuple[Compared, ...]:
        """The prompts with the answers of the first and of the last call."""
        if not self.answers:
            return ()
        prompts = [
            [{"role": str(m["role"]), "content": str(m.get("content") or "")} for m in prompt]
            for prompt in self.asked.values()
        ]
        both = zip(prompts, self.answers[0], self.answers[-1], strict=True)
        return tuple(Compared(*each) for each in both)

    def _text(self, row: dict[str, Any]) -> str | None:
        try:
            return self.template.text(row["prompt"], row.get("tools"), answer_follows=True)
        except TemplateError:
            return None

    def _fits(self, text: str) -> bool:
        return len(self._ids(text)) < self.room

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.template.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _of(self, model: Any, texts: list[str]) -> Iterator[Said]:  # noqa: ANN401
        tokenizer = self.template.tokenizer
        rows = [self._ids(text) for text in texts]
        width = max(map(len, rows))
        pads = [width - len(row) for row in rows]
        ids = [[tokenizer.pad_token_id] * n + row for n, row in zip(pads, rows, strict=True)]
        mask = [[0] * n + [1] * len(row) for n, row in zip(pads, rows, strict=True)]
        ends = _ends(model, tokenizer)
        out = model.generate(
            input_ids=torch.tensor(ids, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            max_new_tokens=self.new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=sorted(ends),
            use_cache=True,
        )
        for row in out[:, width:].tolist():
            size = next((i for i, token in enumerate(row) if token in ends), len(row))
            text = tokenizer.decode(row[:size], skip_special_tokens=True).strip()
            yield Said(text, size == self.new_tokens)


def compare(template: ChatTemplate, rows: Any, settings: PolicySettings) -> Comparison:  # noqa: ANN401
    """A comparison as the settings of a training have it."""
    most, new, room = settings.compare_answers, settings.answer_tokens, settings.max_length
    return Comparison(template, rows, most, new, room)


def _ends(model: Any, tokenizer: Any) -> set[int]:  # noqa: ANN401
    """Tokens that end an answer: the model's and the tokenizer's."""
    own = model.generation_config.eos_token_id
    listed = own if isinstance(own, list) else [own]
    return {token for token in (*listed, tokenizer.eos_token_id) if token is not None}
