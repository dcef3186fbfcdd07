"""What a chat template makes of conversations: what it leaves out, refuses, or leaves open.

Models read the rendered text, not the messages. Two answers that differ in their thoughts only are
one answer to a template that strips thoughts; pairs that differ in their system message only are
each other's opposite to a template that skips it. So conversations are rendered before training,
export and audit, and compared then.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import polars as pl

from prefactory.engines.chat_form import chat_form
from prefactory.errors import ConfigError, DataError
from prefactory.safety.chat_templates import bound_templates
from prefactory.safety.model_files import open_tokenizer

Messages = Sequence[Mapping[str, Any]]
IgnoredSystem = Literal["refuse", "keep"]
_MARK = "qzxmarkqzx"
_SYSTEM, _THOUGHT, _CALL = (f"{_MARK}{name}" for name in ("system", "thought", "call"))
_RENDERED = {
    "pair_id": pl.String,
    "prompt_id": pl.String,
    "prompt": pl.String,
    "chosen": pl.String,
    "rejected": pl.String,
    "system": pl.Boolean,
    "calls": pl.Boolean,
    "diverges": pl.Boolean,
    "special": pl.Boolean,
    "error": pl.String,
}
EQUAL, REFUSED = "equal_rendered", "template_refuses"
"""Reasons: both sides are one text once they are rendered; the template raises an error."""
_SHOWN = 5


class TemplateError(DataError):
    """The template refuses a conversation; the message is the template's own."""


@dataclass(frozen=True, slots=True)
class Habits:
    """What a template does with conversations made to find that out.

    Attributes:
        system: whether system messages are `kept`, `ignored` or `refused`.
        thoughts: whether `<think>...</think>` in the last answer is `kept` or `stripped`.
        calls: whether tool calls of an answer are `kept`, `ignored` or `refused`.
        ends: whether something follows an answer that tells where it ends.
        opens: what the generation prompt ends with that no rendered answer starts with, such as
            `<think>`; empty where answers continue the prompt.
    """

    system: str
    thoughts: str
    calls: str
    ends: bool
    opens: str

    def notes(self) -> list[str]:
        """What is odd, a sentence each."""
        lines = []
        if self.thoughts == "stripped":
            lines.append("the chat template strips <think>...</think> from answers")
        if not self.ends:
            lines.append(
                "the chat template puts no end of turn after an answer, so a model trained with it "
                "does not learn to stop"
            )
        if self.opens:
            lines.append(
                f"the chat template's generation prompt ends with {self.opens!r}, which rendered "
                "answers don't start with: training sees the prompt without it"
            )
        return lines


class ChatTemplate:
    """The chat template of a tokenizer.

    Args:
        tokenizer: one of transformers, with a chat template.
        name: how errors call it.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:  # noqa: ANN401 - has no types
        bound_templates()
        self.tokenizer = tokenizer
        self.name = name

    @classmethod
    def open(cls, model: str) -> ChatTemplate:
        """Open the tokenizer of a model; code that it brings is never run.

        Args:
            model: a folder or a hub id.

        Raises:
            ConfigError: if it can't be loaded or has no chat template.
        """
        try:
            tokenizer = open_tokenizer(model)
        except (OSError, ValueError, ImportError) as error:
            missing = Path(model).is_absolute() and not Path(model).exists()
            why = "there is no such folder" if missing else str(error).partition("\n")[0]
            raise ConfigError(f"can't load the tokenizer of {model}: {why}") from error
        if not tokenizer.chat_template:
            raise ConfigError(f"the tokenizer of {model} has no chat template")
        return cls(tokenizer, model)

    def text(
        self, messages: Messages, tools: str | None = None, answer_follows: bool = False
    ) -> str:
        """Render a conversation.

        Args:
            messages: `role`, `content` and what else messages have (see `engines.chat_form`).
            tools: JSON list of tools that may be called, or None.
            answer_follows: add what stands before an answer.

        Raises:
            TemplateError: with the template's own words, if it refuses the conversation.
        """
        try:
            rendered = self.tokenizer.apply_chat_template(
                chat_form(messages, objects=True),
                tools=json.loads(tools) if tools else None,
                add_generation_prompt=answer_follows,
                tokenize=False,
            )
        except Exception as error:  # whatever a template raises, and Jinja's own errors
            raise TemplateError(str(error).strip().partition("\n")[0] or "no reason") from error
        return str(rendered)

    @cached_property
    def habits(self) -> Habits:
        """See `Habits`; a template that refuses even a question and an answer keeps nothing."""
        ask, said = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": _MARK}
        system = {"role": "system", "content": _SYSTEM}
        thought = {"role": "assistant", "content": f"<think>{_THOUGHT}</think>{_MARK}"}
        call = {"name": _CALL, "arguments": "{}"}
        called = {"role": "assistant", "content": "", "tool_calls": [call]}
        whole = self._try([ask, said])
        prompt = self._try([ask], answer_follows=True) or ""
        tail = (whole or "").rpartition(_MARK)[2]
        return Habits(
            system=_fate(self._try([system, ask, said]), _SYSTEM),
            thoughts="stripped" if _fate(self._try([ask, thought]), _THOUGHT) != "kept" else "kept",
            calls=_fate(self._try([ask, called]), _CALL),
            ends=bool(tail.strip()) or whole is None,
            opens=_beyond(prompt, whole),
        )

    def _try(self, messages: Messages, answer_follows: bool = False) -> str | None:
        try:
            return self.text(messages, answer_follows=answer_follows)
        except TemplateError:
            return None

    @cached_property
    def special_tokens(self) -> list[str]:
        """Texts that the tokenizer reads as one special token, wherever they stand."""
        return [str(token) for token in self.tokenizer.all_special_tokens if len(str(token)) > 2]


def _fate(text: str | None, mark: str) -> str:
    return "refused" if text is None else "kept" if mark in text else "ignored"


def _beyond(prompt: str, whole: str | None) -> str:
    """The end of the generation prompt that the rendered conversation lacks."""
    if whole is None or whole.startswith(prompt):
        return ""
    same = next(i for i, c in enumerate(prompt) if i >= len(whole) or whole[i] != c)
    return prompt[same:]


@dataclass(frozen=True)
class Effect:
    """What a template does to the pairs of a dataset.

    Attributes:
        lost: `pair_id`, `reason`, `detail` of the pairs that can't be used.
        notes: what a reader must know, a sentence each.
        refusal: why the data must not be trained on with this template; None if it may.
        n: pairs that were looked at.
    """

    lost: pl.DataFrame
    notes: tuple[str, ...]
    refusal: str | None
    n: int

    def checked(self) -> Effect:
        """Return itself.

        Raises:
            DataError: if the data is refused.
        """
        if self.refusal is not None:
            raise DataError(self.refusal)
        return self

    def lines(self) -> list[str]:
        """How many pairs are lost and why, and the notes, for a terminal or a card."""
        counts = self.lost.group_by("reason", "detail").len().sort("len", "detail", descending=True)
        lost = [
            f"{n:,} of {self.n:,} pairs left out: {reason} ({detail})"
            for reason, detail, n in counts.head(_SHOWN).iter_rows()
        ]
        more = counts.height - len(lost)
        return [*lost, *([f"and {more} more reasons"] if more else []), *self.notes]


def effect(
    template: ChatTemplate, pairs: Iterable[pl.DataFrame], ignored: IgnoredSystem = "refuse"
) -> Effect:
    """Render pairs and compare what comes out.

    A pair is lost if the template refuses it, or writes both sides alike. The data is refused if
    the template leaves out its system messages (with `ignored: keep` it may), and anyway if pairs
    then stand beside their own opposite, or if no pair is left.

    Args:
        template: the template.
        pairs: batches of PAIRS: `pair_id`, `prompt_id`, `prompt`, `chosen`, `rejected`, and `tools`
            if there are any.
        ignored: what to do with system messages that the template leaves out.
    """
    rows = rendered(template, pairs)
    lost = rows.select(
        "pair_id",
        reason=pl.when(pl.col("error").is_not_null())
        .then(pl.lit(REFUSED))
        .when(pl.col("chosen") == pl.col("rejected"))
        .then(pl.lit(EQUAL)),
        detail=pl.coalesce("error", pl.lit("rendered, chosen and rejected are one text")),
    ).filter(pl.col("reason").is_not_null())
    left = rows.filter(~pl.col("pair_id").is_in(lost["pair_id"].implode()))
    opposite = _opposite(left)
    return Effect(
        lost=lost,
        notes=tuple(_notes(template, rows, left, ignored)),
        refusal=_refusal(template, rows, left, opposite, ignored),
        n=rows.height,
    )


def rendered(template: ChatTemplate, pairs: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Digests of what a template makes of pairs.

    Args:
        template: the template.
        pairs: batches of PAIRS.

    Returns:
        `pair_id`, `prompt_id`; `prompt`, `chosen`, `rejected`: digests of the rendered prompt and
        of the conversation with either side; `system`: the prompt has a system message with text;
        `calls`: an answer has tool calls; `diverges`: a rendered answer does not continue the
        rendered prompt; `special`: an answer holds a special token as text; `error`: the template's
        words where it refuses, and the digests are null.
    """
    rows = [_row(template, row) for batch in pairs for row in _records(batch)]
    return pl.DataFrame(rows, schema=_RENDERED, orient="row")


def _records(batch: pl.DataFrame) -> Iterator[dict[str, Any]]:
    wanted = ["pair_id", "prompt_id", "prompt", "chosen", "rejected", "tools"]
    return batch.select(c for c in wanted if c in batch.columns).iter_rows(named=True)


def _row(template: ChatTemplate, row: Mapping[str, Any]) -> tuple[Any, ...]:
    sides = [row["chosen"], row["rejected"]]
    tools = row.get("tools")
    texts: list[str] | None = None
    error = None
    try:
        texts = [
            template.text(row["prompt"], tools, answer_follows=True),
            *(template.text([*row["prompt"], *side], tools) for side in sides),
        ]
    except TemplateError as refusal:
        error = str(refusal)
    said = [m for side in sides for m in side]
    return (
        row["pair_id"],
        row["prompt_id"],
        *(map(_digest, texts) if texts else (None, None, None)),
        any(m["role"] == "system" and (m["content"] or "").strip() for m in row["prompt"]),
        any(m.get("tool_calls") for m in said),
        texts is not None and not all(text.startswith(texts[0]) for text in texts[1:]),
        any(t in (m["content"] or "") for m in said for t in template.special_tokens),
        error,
    )


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()


def _opposite(rows: pl.DataFrame) -> pl.DataFrame:
    """Pairs whose opposite is there too once they are rendered, and was not before."""
    turned = rows.select("prompt", chosen="rejected", rejected="chosen", other="prompt_id")
    both = rows.join(turned, on=["prompt", "chosen", "rejected"], how="inner")
    return both.filter(pl.col("prompt_id") != pl.col("other")).unique("pair_id")


def _refusal(
    template: ChatTemplate,
    rows: pl.DataFrame,
    left: pl.DataFrame,
    opposite: pl.DataFrame,
    ignored: IgnoredSystem,
) -> str | None:
    where = f"the chat template of {template.name}"
    system = int(rows["system"].sum())
    skips = template.habits.system == "ignored" and system
    if opposite.height:
        cause = "leaves out system messages" if skips else "leaves out what tells pairs apart"
        return (
            f"{where} {cause}: {opposite.height:,} of {rows.height:,} pairs then stand beside "
            "their own opposite and teach nothing; use a model whose template reads system messages"
        )
    if skips and ignored == "refuse":
        return (
            f"{where} leaves out system messages, which {system:,} of {rows.height:,} pairs have; "
            "use a model whose template reads them, or say ignored_system=keep to do without them"
        )
    if rows.height and not left.height:
        first = rows["error"].drop_nulls()
        why = f"refuses every pair: {first[0]}" if first.len() else "writes both sides of all alike"
        return f"{where} {why}"
    return None


def _notes(
    template: ChatTemplate, rows: pl.DataFrame, left: pl.DataFrame, ignored: IgnoredSystem
) -> Iterator[str]:
    yield from template.habits.notes()
    system, calls = int(rows["system"].sum()), int(left["calls"].sum())
    if template.habits.system == "ignored" and system and ignored == "keep":
        yield f"the chat template leaves out the system messages of {system:,} pairs"
    if template.habits.calls == "ignored" and calls:
        yield f"the chat template leaves out the tool calls of {calls:,} pairs"
    if diverge := int(left["diverges"].sum()):
        yield (
            f"in {diverge:,} pairs a rendered answer does not continue the rendered prompt; "
            "the answer is taken to start where they part"
        )
    if special := int(left["special"].sum()):
        yield (
            f"answers of {special:,} pairs hold special tokens as text, which are read as tokens "
            "(an end of turn in the middle, or twice)"
        )
