"""A causal language model with a chat template, loaded by transformers. See `Transformers`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prefactory.engines.base import (
    Completion,
    Conversation,
    Done,
    Engine,
    Failure,
    Message,
    Request,
    TokenLogprobs,
)
from prefactory.engines.chat_form import chat_form
from prefactory.engines.device import default_device
from prefactory.engines.drawing import Drawer, Ending
from prefactory.engines.turns import text_to_continue, without_break
from prefactory.errors import ConfigError, StoppedError
from prefactory.safety.model_files import open_tokenizer

BUCKET = 32
"""Prompts are padded to the next multiple of this many tokens."""

SCORED_TOKENS = 2048
"""Tokens of one batch of `logprobs`. Not an option: the shape may decide a last bit."""

_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Tokens:
    """A tokenised prompt (and answer) and its place in the input."""

    place: int
    ids: list[int]
    answer: int = 0

    @property
    def width(self) -> int:
        """Tokens of its padded batch."""
        return max(1, -(-len(self.ids) // BUCKET)) * BUCKET


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """A resolved `Transformers`, as far as it decides how the model is loaded and run."""

    model: str
    precision: str
    chat_template: str | None
    batch_size: int
    trust_remote_code: bool
    device: str | None
    threads: int | None
    capabilities: frozenset[str]


class ChatModel(Engine):
    """A loaded model. One caller at a time uses it; others wait."""

    def __init__(
        self, config: ChatSettings, folder: Path, change: Callable[[Any], None] | None = None
    ) -> None:
        """Load tokenizer and weights.

        Args:
            config: resolved configuration.
            folder: the model's files.
            change: what is done to the loaded model, on its device.

        Raises:
            ConfigError: no chat template, no safetensors weights, an impossible device.
        """
        self.config = config
        self.capabilities = config.capabilities
        self._lock = threading.Lock()
        self._closing = False
        self._device = torch.device(config.device or default_device())
        try:
            self._tokenizer, self._model = _load(config, folder, self._device)
            self._model.to(self._device).eval()
            if change is not None:
                change(self._model)
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            if isinstance(error, ConfigError):
                raise
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(f"model {config.model!r} can't be loaded: {reason}") from error
        self._end_ids = _end_ids(self._tokenizer, self._model)
        self._pad = int(next(iter(sorted(self._end_ids)), 0))
        if self._tokenizer.pad_token_id is not None:
            self._pad = int(self._tokenizer.pad_token_id)
        self._limit = int(getattr(self._model.config, "max_position_embeddings", 0) or 1 << 30)
        self._model.generation_config = _plain_generation(self._pad, self._end_ids)
        self._pool = _pool(config.threads) if self._device.type == "cpu" else None

    def run(self, requests: Iterable[Request], done: Done) -> None:
        """Generate in batches of prompts of like length, shortest first."""
        batch = list(requests)
        rows = []
        for place, request in enumerate(batch):
            ids = self._prompt(request)
            if isinstance(ids, Failure):
                done(place, ids)
            else:
                rows.append(Tokens(place, ids))

        def work(part: list[Tokens]) -> None:
            completions = self._generate([batch[r.place] for r in part], part)
            for row, completion in zip(part, completions, strict=True):
                done(row.place, completion)

        self._each(work, _batches(rows, lambda _: self.config.batch_size))

    def logprobs(self, conversations: Sequence[Conversation]) -> list[TokenLogprobs | Failure]:
        """Score each last message: what the template puts after the prompt for an answer.

        That is the message and, where the template has one, the token that ends the turn.
        """
        logprobs: list[TokenLogprobs | Failure] = [TokenLogprobs((), ())] * len(conversations)
        rows = []
        for place, conversation in enumerate(conversations):
            row = self._scored(place, conversation)
            if isinstance(row, Failure):
                logprobs[place] = row
            elif row.answer:
                rows.append(row)

        def work(part: list[Tokens]) -> None:
            for row, scored in zip(part, self._score(part), strict=True):
                logprobs[row.place] = scored

        self._each(work, _batches(rows, lambda width: max(1, SCORED_TOKENS // width)))
        return logprobs

    def close(self) -> None:
        """Free the weights, after the batches that are in work; no other begins."""
        self._closing = True
        with self._lock:
            self._model = None
            if self._pool is not None:
                self._pool.shutdown()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()

    def _each(self, work: Callable[[list[Tokens]], None], parts: Iterable[list[Tokens]]) -> None:
        """Work on all batches: on the CPU side by side, each on one thread, for the same sums."""

        def quietly(part: list[Tokens]) -> None:
            if self._closing:
                raise StoppedError("stopped; what was answered is kept: run the same command again")
            with torch.inference_mode():
                work(part)

        with self._lock:
            for _ in self._pool.map(quietly, parts) if self._pool else map(quietly, parts):
                pass

    # -- texts to tokens -----------------------------------------------------------------------

    def _render(self, conversation: Conversation, prompt: bool) -> str | Failure:
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    chat_form(conversation, objects=True),
                    tokenize=False,
                    add_generation_prompt=prompt,
                )
            )
        except Exception as error:  # whatever a template raises
            return Failure("template", f"the chat template refuses the messages: {error}"[:300])

    def _read(self, request: Request) -> str | Failure:
        """What the model reads: the prompt in its template, or what `writes` asks for."""
        if request.sampling.writes == "answer":
            return self._render(request.conversation, prompt=True)

        def render(messages: Sequence[Message]) -> str:
            text = self._render(messages, prompt=False)
            if isinstance(text, Failure):
                raise ValueError(text.detail)
            return text

        try:
            return text_to_continue(request, render)
        except ValueError as error:
            return Failure("template", str(error))

    def _ids(self, text: str) -> list[int]:
        safe = text.encode("utf-8", "replace").decode()  # the tokenizer takes no lone surrogates
        return list(self._tokenizer(safe, add_special_tokens=False)["input_ids"])

    def _prompt(self, request: Request) -> list[int] | Failure:
        text = self._read(request)
        if isinstance(text, Failure):
            return text
        ids = self._ids(text)
        room = self._limit - request.sampling.max_tokens
        if -(-len(ids) // BUCKET) * BUCKET > room:
            return Failure("too_long", f"{len(ids)} tokens; {max(room, 0)} fit before the answer")
        return ids

    def _scored(self, place: int, conversation: Conversation) -> Tokens | Failure:
        if not conversation or conversation[-1]["role"] != "assistant":
            return Failure("no_answer", "the last message is not an assistant's")
        before = self._render(conversation[:-1], prompt=True)
        whole = self._render(conversation, prompt=False)
        if isinstance(before, Failure) or isinstance(whole, Failure):
            return before if isinstance(before, Failure) else Failure("template", str(whole))
        if not whole.startswith(before):
            return Failure("template", "the chat template writes an answer not after its prompt")
        answer = without_break(whole[len(before) :], conversation[-1]["content"])
        prompt, ids = self._ids(before), self._ids(answer)
        if len(prompt) + len(ids) > self._limit:
            return Failure("too_long", f"{len(prompt) + len(ids)} tokens; {self._limit} fit")
        return Tokens(place, prompt + ids, len(ids) if prompt else max(0, len(ids) - 1))

    # -- tokens to answers ---------------------------------------------------------------------

    def _padded(self, rows: Sequence[Tokens], height: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Left-padded ids and mask, int64 [height, width]; dummies are one padding token."""
        width = rows[0].width
        ids = torch.full((height, width), self._pad, dtype=torch.int64)
        mask = torch.zeros((height, width), dtype=torch.int64)
        mask[:, -1] = 1
        for i, row in enumerate(rows):
            if row.ids:
                ids[i, -len(row.ids) :] = torch.tensor(row.ids)
                mask[i, -len(row.ids) :] = 1
        return ids.to(self._device), mask.to(self._device)

    def _generate(self, requests: Sequence[Request], rows: Sequence[Tokens]) -> list[Completion]:
        height = self.config.batch_size
        ids, mask = self._padded(rows, height)
        ending = Ending(requests, ids.shape[1], self._end_ids, self._decode)
        prompts = [row.ids for row in rows]
        drawer = Drawer(requests, prompts, ids.shape[1], lambda: ending.over)
        self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max(r.sampling.max_tokens for r in requests),
            logits_processor=[_padding_rows(drawer, height - len(rows))],
            stopping_criteria=[ending],
        )
        return [
            Completion(
                request.sampling.before_stop(self._decode(tokens)),
                reason,
                len(row.ids),
                len(tokens),
                logprob,
            )
            for request, row, tokens, reason, logprob in zip(
                requests, rows, ending.tokens, ending.reasons, drawer.logprob, strict=True
            )
        ]

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def _score(self, rows: Sequence[Tokens]) -> Iterator[TokenLogprobs]:
        height = max(1, SCORED_TOKENS // rows[0].width)
        ids, mask = self._padded(rows, height)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        out = self._model(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False
        )
        for i, row in enumerate(rows):
            logits = out.logits[i, -row.answer - 1 : -1].float()
            wanted = ids[i, -row.answer :]
            logs = logits.log_softmax(-1).gather(1, wanted[:, None])[:, 0].tolist()
            tokens = self._tokenizer.convert_ids_to_tokens(wanted.tolist())
            yield TokenLogprobs(tuple(map(str, tokens)), tuple(logs))


def _pool(threads: int | None) -> ThreadPoolExecutor:
    """Threads that compute on one core each; the number of threads of others stays as it was."""
    before = torch.get_num_threads()
    count = threads or before
    together = threading.Barrier(count)
    pool = ThreadPoolExecutor(count, "model", initializer=_alone)
    list(pool.map(lambda _: together.wait(), range(count)))
    torch.set_num_threads(before)
    return pool


def _alone() -> None:
    """Let this thread compute on one core.

    Its first question for the number starts OpenMP there, which would forget an earlier answer.
    """
    torch.get_num_threads()
    torch.set_num_threads(1)


def _batches(rows: Sequence[Tokens], size: Callable[[int], int]) -> Iterator[list[Tokens]]:
    """Rows of one padded width together, shortest first, at most `size(width)` of them."""
    by_width: dict[int, list[Tokens]] = {}
    for row in rows:
        by_width.setdefault(row.width, []).append(row)
    for width in sorted(by_width):
        step = size(width)
        for start in range(0, len(by_width[width]), step):
            yield by_width[width][start : start + step]


def _padding_rows(drawer: Drawer, dummies: int) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    """Let the dummy rows at the end through untouched."""

    def processor(ids: Any, scores: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        if not dummies:
            return drawer(ids, scores)
        return torch.cat([drawer(ids[:-dummies], scores[:-dummies]), scores[-dummies:]])

    return processor


def _load(config: ChatSettings, folder: Path, device: torch.device) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM

    trusted = config.trust_remote_code
    tokenizer = open_tokenizer(folder, trusted=trusted, padding_side="left")
    if config.chat_template is not None:
        tokenizer.chat_template = config.chat_template
    if not tokenizer.chat_template:
        raise ConfigError(
            f"model {config.model!r} has no chat template: it is a base model, or its template "
            "was not saved; use a chat model, or give `chat_template`"
        )
    if not any(folder.glob("*.safetensors")):
        raise ConfigError(
            f"model {config.model!r} has no safetensors weights; others can run code when they "
            "are loaded, so convert them with save_pretrained first"
        )
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=_DTYPES[config.precision],
        use_safetensors=True,
        # on the CPU, torch's fused attention rounds by a row's place in the batch
        attn_implementation="eager" if device.type == "cpu" else "sdpa",
        trust_remote_code=trusted,
    )
    return tokenizer, model


def _end_ids(tokenizer: Any, model: Any) -> frozenset[int]:  # noqa: ANN401
    """Tokens that end a turn, by the model's own generation settings and the tokenizer."""
    eos = model.generation_config.eos_token_id
    ids = eos if isinstance(eos, list) else [eos]
    return frozenset(int(i) for i in [*ids, tokenizer.eos_token_id] if i is not None)


def _plain_generation(pad: int, end_ids: frozenset[int]) -> Any:  # noqa: ANN401
    """Greedy, without the penalties and limits that a model's repository may bring."""
    from transformers import GenerationConfig

    return GenerationConfig(do_sample=False, pad_token_id=pad, eos_token_id=sorted(end_ids) or None)
