"""What every text engine offers: conversations in, completions out, a `Failure` where a row failed.

An engine implements `run`, which hands over each finished call at once, so that the journal makes
it durable before anything else happens; `generate` is built on it here, once for all engines.
This module loads nothing heavy.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field

from prefactory.engines.chat_form import present
from prefactory.errors import PrefactoryError
from prefactory.identity import canonical_json, fingerprint, fingerprint_of, identity_of
from prefactory.images.marks import Pictures

if TYPE_CHECKING:
    from prefactory.measures.watcher import Watcher
    from prefactory.sharing.segments import Segments

S = TypeVar("S")

Message = dict[str, Any]
"""One turn: `role` and `content`, and what else it has of `prefactory.tables.OPTIONAL_KEYS`."""

Conversation = Sequence[Message]

CAPABILITIES = frozenset({"generate", "logprobs", "embed", "text", "user_turn", "images"})
"""`text` and `user_turn` are the other things that `Sampling.writes` may ask for; with `images` the
messages of a request may hold pictures."""

Writes = Literal["answer", "user_turn", "text"]

NOT_ENGINE_IDENTITY: dict[str, str] = {
    "api_key_env": "the name of the variable that holds a secret; the secret changes no answer",
    "headers_env": "names of variables that hold headers",
    "gpu_memory": "how much memory a model may take",
}
"""Fields of engine configurations, beside `identity.NOT_IDENTITY`, that change no answer."""


class EngineError(PrefactoryError, RuntimeError):
    """An engine can't work at all: no rights, no such model, an unknown scripted request."""


SAMPLER_ORDER = ("penalties", "temperature", "top_k", "top_p", "min_p")
"""What is done to the logits, in this order, by llama.cpp's names."""

_USUAL = {"writes": "answer", "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}


class SamplingParams(BaseModel):
    """How a model's answers are drawn, as a step's `sampling` has it.

    The order is: penalty, temperature, `top_k`, `top_p`, `min_p`, each on what
    the one before left, as transformers has it. By default nothing is cut, so that temperature 1
    is the model's own distribution in every engine.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_k: as many of the likeliest tokens are drawn from; 0: all.
        top_p: share of probability that is drawn from.
        min_p: tokens less likely than this share of the likeliest one are not drawn; 0: all are.
        repetition_penalty: logits of tokens of the prompt and the answer so far are divided by it
            where they are above 0, else multiplied (arXiv 1909.05858); 1: none.
        max_tokens: of one answer.
        stop: texts that end an answer; they are not part of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    temperature: float = Field(default=1.0, ge=0)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    min_p: float = Field(default=0.0, ge=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0)
    max_tokens: int = Field(default=512, ge=1)
    stop: tuple[str, ...] = ()

    @property
    def cuts(self) -> bool:
        """Whether tokens are drawn from anything but the model's distribution at a temperature."""
        usual = self.top_k == 0 and self.top_p == 1 and self.min_p == 0
        return not usual or self.repetition_penalty != 1

    def drawn(
        self,
        seed: int,
        n: int = 1,
        json_schema: dict[str, Any] | None = None,
        writes: Writes = "answer",
    ) -> Sampling:
        """These numbers with a run's seed; the likeliest answer (temperature 0) needs none.

        So another seed of a recipe pays for no greedy judge again.
        """
        own = SamplingParams.model_dump(self, include={*SamplingParams.model_fields})
        return Sampling(
            **own,
            n=n,
            seed=seed if self.temperature > 0 else None,
            json_schema=json_schema,
            writes=writes,
        )


class Sampling(SamplingParams):
    """How the answers of one request are drawn. All of it is identity.

    Attributes:
        n: samples per conversation.
        seed: each sample's own seed derives from it, the row and the sample's index. None sends no
            seed to a server; engines in process take 0.
        json_schema: the answer must be JSON of this schema, where the engine can enforce it.
        writes: what the model writes. `answer`: the assistant's turn. `user_turn`: what the next
            user says, after the chat template's header of a user turn; the conversation may be
            empty. `text`: what follows the contents of the messages, joined, without any template
            (no token is put before them either, unless a server does).
    """

    n: int = Field(default=1, ge=1)
    seed: int | None = None
    json_schema: dict[str, Any] | None = None
    writes: Writes = "answer"

    def before_stop(self, text: str) -> str:
        """A text up to the first of the stop texts."""
        offsets = [text.index(stop) for stop in self.stop if stop and stop in text]
        return text[: min(offsets)] if offsets else text

    def of_one_sample(self) -> dict[str, Any]:
        """What decides one sample, as plain JSON data: all but their number.

        Fields that came later are left out at their usual values, so that older journals answer.
        """
        usual = {k for k, v in _USUAL.items() if getattr(self, k) == v}
        return self.model_dump(mode="json", exclude={"n", *usual})


def storable(text: str) -> str:
    """A model's text with lone surrogates as "?": JSON can hold them, tables can't."""
    return text.encode("utf-8", "replace").decode()


class Wasted(NamedTuple):
    """Answers, billed, that could not be used.

    Attributes:
        prompt, completion: their tokens, of those that tell.
        untold: how many tell nothing.
    """

    prompt: int = 0
    completion: int = 0
    untold: int = 0

    @property
    def tokens(self) -> int:
        """All that they tell."""
        return self.prompt + self.completion

    def more(self, other: Wasted) -> Wasted:
        """These and others."""
        return Wasted(*(a + b for a, b in zip(self, other, strict=True)))

    def less(self, other: Wasted) -> Wasted:
        """These without others."""
        return Wasted(*(a - b for a, b in zip(self, other, strict=True)))


NOTHING = Wasted()
Paid = Callable[[Wasted], bool]
"""Called with what was billed for nothing, once each: whether the budget has room for another
attempt."""


_known: dict[int, tuple[Sampling, str]] = {}


def canonical_messages(conversation: Conversation) -> str:
    """Canonical JSON of messages without absent keys; plain ones, the usual, by a faster writer."""
    messages = present(conversation)
    if all(type(v) is str for message in messages for v in message.values()):
        with contextlib.suppress(orjson.JSONEncodeError):  # lone surrogates
            return orjson.dumps(messages, option=orjson.OPT_SORT_KEYS).decode()
    return canonical_json(messages)


def _canonical(sampling: Sampling) -> str:
    """Canonical JSON of what decides one sample; thousands of requests share one sampling."""
    known = _known.get(id(sampling))
    if known is None:
        if len(_known) > 64:
            _known.clear()
        known = _known[id(sampling)] = sampling, canonical_json(sampling.of_one_sample())
    return known[1]  # it is held, so that no other one has its id


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer.

    Attributes:
        text: without the stop text.
        finish_reason: `stop`, `length`, or what the server said.
        prompt_tokens, completion_tokens: counts; 0 where the engine does not tell.
        logprob: sum over the answer's tokens, natural log; None where not offered.
        wasted: attempts before it that were answered, and so are billed, but could not be used.
    """

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    logprob: float | None = None
    wasted: Wasted = NOTHING


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a row has no answer: a reason code for the ledger, and a sentence.

    Attributes:
        wasted: answers that could not be used; they are billed.
    """

    reason: str
    detail: str = ""
    wasted: Wasted = NOTHING


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probabilities (natural log) of the tokens of a conversation's last assistant message."""

    tokens: tuple[str, ...]
    logprobs: tuple[float, ...]

    @property
    def total(self) -> float:
        """Sum over the tokens."""
        return math.fsum(self.logprobs)

    @classmethod
    def of_turn(cls, tokens: list[tuple[str, float]]) -> Self:
        """Of a turn's tokens, without the line break that a template puts after its end."""
        while tokens and not tokens[-1][0].strip():
            tokens = tokens[:-1]
        return cls(tuple(t for t, _ in tokens), tuple(x for _, x in tokens))


@dataclass(frozen=True)
class Request:
    """One call: one sample for one conversation.

    Attributes:
        conversation: messages, oldest first.
        sampling: how the answer is drawn.
        sample: index of the sample, 0 to n - 1.
        row_id: makes rows with the same text draw apart; None: the same text, the same answer.
        images: has the pictures whose names stand in marks of the messages; None: marks are text.
            Their names are part of the messages, so it decides nothing.
        paid: called by engines that ask again for an answer that can't be used; it decides nothing.
    """

    conversation: Conversation
    sampling: Sampling
    sample: int = 0
    row_id: str | None = None
    images: Pictures | None = None
    paid: Paid | None = field(default=None, compare=False, repr=False)

    @property
    def content_key(self) -> str:
        """Digest of what decides the answer, beside the engine: 32 hex digits."""
        return self._digests[0]

    @property
    def draw_seed(self) -> int:
        """Seed of this sample, 31 bits, from (sampling.seed or 0, row id or messages, sample)."""
        return self._digests[1]

    @cached_property
    def _digests(self) -> tuple[str, int]:
        """Key and seed: the messages are written once for both."""
        messages = canonical_messages(self.conversation)
        row = "null" if self.row_id is None else canonical_json(self.row_id)
        key = fingerprint_of((messages, _canonical(self.sampling), str(self.sample), row))
        row = messages if self.row_id is None else self.row_id
        text = f"{self.sampling.seed or 0}\n{self.sample}\n{row}"
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).digest()
        return key, int.from_bytes(digest) >> 1

    @property
    def seed(self) -> int | None:
        """Seed to send to a server: None where the sampling has none."""
        return None if self.sampling.seed is None else self.draw_seed

    def paying(self, paid: Paid) -> Request:
        """The same call with `paid`, its digests included."""
        call = copy.copy(self)
        object.__setattr__(call, "paid", paid)
        return call


@dataclass(frozen=True, slots=True)
class Purpose:
    """Who asks, and what the model is to it.

    Attributes:
        recipe: name of the recipe.
        step: label of the step.
        role: the step's field that holds the model: `judge`, `models`, ...
    """

    recipe: str = ""
    step: str = ""
    role: str = ""


NOBODY = Purpose()

Result = Completion | Failure
Done = Callable[[int, Result], None]
"""Called once per request, at once when it is finished, from any thread: (place, result)."""


class Calls(Protocol):
    """Told of every answer that a step uses."""

    def note(
        self, engine: str, key: str, config: EngineConfig, role: str, answer: Completion
    ) -> None:
        """An answer: of which engine (fingerprint), to what (`Request.content_key`), what for."""

    def doubt(self, reason: str) -> None:
        """An answer that could not be used."""

    def watcher(self, judge: str) -> Watcher:
        """What is heard and counted of a judge, by its name."""


class Closing(ABC):
    """Base of what is opened for a `with` block and closed at its end."""

    @abstractmethod
    def close(self) -> None:
        """Free what is held."""

    def __enter__(self) -> Self:
        """Return the object itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()


class Engine(Closing):
    """An opened model. Close it, or use it as a context manager; safe for several threads.

    Attributes:
        capabilities: which of `CAPABILITIES` it offers.
        runs_code_of_yours: what it raises is a bug of that code, and not its own end.
    """

    runs_code_of_yours: ClassVar[bool] = False
    capabilities: frozenset[str] = frozenset({"generate"})

    def generate(
        self,
        conversations: Sequence[Conversation],
        sampling: Sampling,
        row_ids: Sequence[str] | None = None,
    ) -> list[list[Result]]:
        """Answer N conversations n times each.

        Args:
            conversations: N conversations; the last message is the one to answer.
            sampling: how answers are drawn; `sampling.n` samples each.
            row_ids: N ids; rows with the same text but other ids draw apart. None: rows with the
                same text get the same answer.

        Returns:
            N lists of n results in the order of the input; a row that failed after all retries is
            a `Failure`.

        Raises:
            EngineError: nothing can be answered (rights, unknown model, wrong settings).
            StoppedError: the budget is spent, or the server is gone; finished calls are kept.
        """
        if row_ids is not None and len(row_ids) != len(conversations):
            raise ValueError(f"{len(conversations)} conversations but {len(row_ids)} row ids")
        ids: Sequence[str | None] = row_ids or [None] * len(conversations)
        requests = [
            Request(conversation, sampling, sample, row_id)
            for conversation, row_id in zip(conversations, ids, strict=True)
            for sample in range(sampling.n)
        ]
        results: list[Result | None] = [None] * len(requests)

        def done(place: int, result: Result) -> None:
            results[place] = result

        self.run(requests, done)
        whole = [r if r is not None else Failure("no_answer", "never answered") for r in results]
        return [whole[i : i + sampling.n] for i in range(0, len(whole), sampling.n)]

    @abstractmethod
    def run(self, requests: Iterable[Request], done: Done) -> None:
        """Answer requests and return when all are done.

        Args:
            requests: taken one by one as there is room, perhaps from another thread; the place of
                a request is its number in this order.
            done: called with each result at once; what it raises ends the run.
        """

    def asked_for(self, purpose: Purpose, calls: Calls | None = None) -> Engine:
        """The engine as one step of a run asks it; itself where nobody keeps accounts.

        Args:
            purpose: who asks.
            calls: told of every answer.
        """
        return self

    def keep_in(self, folder: Path, shared: Segments | None = None) -> None:
        """Let the engine keep what it must find again after a kill under a folder.

        Args:
            folder: of the journal.
            shared: by what other machines find it, if they have the journal as well.
        """

    def doubt(self, requests: Sequence[Request], reason: str, detail: str) -> None:
        """Note that the answers to requests could not be used; a journal can then drop them.

        Args:
            requests: that were answered.
            reason: code, as in the ledger.
            detail: a sentence.
        """

    def logprobs(self, conversations: Sequence[Conversation]) -> list[TokenLogprobs | Failure]:
        """Log-probabilities of the tokens of each conversation's last message, an assistant's.

        Raises:
            EngineError: the engine does not offer them.
        """
        raise EngineError(f"{type(self).__name__} offers no log-probabilities")

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of texts, float32 [N, d].

        Raises:
            EngineError: the engine does not offer them.
        """
        raise EngineError(f"{type(self).__name__} makes no vectors; use an Encoder")

    def close(self) -> None:  # most engines hold nothing
        """Free what the engine holds."""


class EngineConfig(BaseModel):
    """Base of engine configurations: light, frozen, without secrets; `open` loads the model.

    Attributes:
        model: name of the model, as the engine knows it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    numerics: ClassVar[int] = 1
    """Version of the engine's own behaviour: bumped when the same request may be answered
    otherwise."""

    metered: ClassVar[bool] = False
    """Whether somebody may bill for its tokens."""

    enforces_schemas: ClassVar[bool] = False
    """Whether an answer is held to the JSON schema that its request has."""

    package: ClassVar[str | None] = None
    """What must be installed for it beside prefactory."""

    model: str

    @property
    def price_share(self) -> float:
        """Share of the listed price that is billed."""
        return 1.0

    @property
    def capabilities(self) -> frozenset[str]:
        """What the opened engine will offer."""
        return frozenset({"generate"})

    def identity(self) -> dict[str, Any]:
        """What decides an answer beside the request, resolved, as plain JSON data; no secrets."""
        own = identity_of(self.model_dump(mode="json"))
        kept = {k: v for k, v in own.items() if k not in NOT_ENGINE_IDENTITY}
        return {**kept, "numerics": type(self).numerics}

    def fingerprint(self) -> str:
        """Digest of the identity."""
        return fingerprint(self.identity())

    def open(self) -> Engine:
        """Load the model, or connect to it.

        Raises:
            ConfigError: the model can't be loaded with these settings.
            MissingPackageError: an optional package is not installed.
        """
        raise NotImplementedError(f"{type(self).__name__} has no open()")


def settings_of(kind: type[S], config: object) -> S:
    """The fields of a settings dataclass, read from a configuration that has them, too.

    So a module that runs a model need not know the configuration that opens it.
    """
    return kind(**{f.name: getattr(config, f.name) for f in fields(kind)})  # type: ignore[arg-type]


def last_user_text(conversation: Conversation) -> str:
    """Content of the last user message, or of the last message if there is none."""
    for message in reversed(conversation):
        if message["role"] == "user":
            return str(message["content"])
    return str(conversation[-1]["content"]) if conversation else ""


def require(engine: Engine, capability: str, what: str) -> None:
    """Check that an engine offers a capability.

    Raises:
        EngineError: it does not.
    """
    if capability not in engine.capabilities:
        have = ", ".join(sorted(engine.capabilities))
        raise EngineError(f"{what} needs an engine with {capability!r}; this one offers {have}")
