"""The one way to ask a model: parse, correct, and account for what came to nothing.

`ask` generates and parses; what is refused is asked again with what was wrong. A step inherits
`Asking` and takes an `Asker` per model, which asks about conversations (`each`) or about tasks on
their way (`forms`, `parsed`, `texts`). How material is shown to a model is here too.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, TypeVar

import polars as pl
from pydantic import BaseModel, BeforeValidator, Field, model_validator

from prefactory.asking.forms import Form
from prefactory.asking.gate import Gate, Problem, Said
from prefactory.context import Context
from prefactory.engines.base import (
    Completion,
    Conversation,
    Done,
    Engine,
    EngineConfig,
    Failure,
    Message,
    Request,
    Result,
    Sampling,
    SamplingParams,
)
from prefactory.engines.base import storable as storable
from prefactory.engines.configs import AnyEngine
from prefactory.errors import DataError
from prefactory.identity import fingerprint
from prefactory.measures.watcher import Ratings, Watcher, of_answers
from prefactory.tables import message_text

T = TypeVar("T")

OPEN = Gate(**dict.fromkeys(Gate.model_fields, "keep"))
"""A gate that only empty texts don't pass."""
CHARACTERS_A_TOKEN = 4
MATERIAL_TOKENS, QUESTION_TOKENS, FORM_TOKENS = 500, 600, 300
"""What `plan` takes a conversation and an answer, a question about a row, and an answer of a form
to have."""


class UnfitError(ValueError):
    """An answer that can be read, and is not what was asked for: it has a reason of its own.

    Attributes:
        reason: for the ledger, where the last attempt has it too.
    """

    def __init__(self, reason: str, told: str) -> None:
        """Keep the reason.

        Args:
            reason: a code, such as `too_long`.
            told: a sentence for the model.
        """
        super().__init__(told)
        self.reason = reason


# -- one question ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer(Generic[T]):
    """An answer of the right form.

    Attributes:
        value: what `parse` made of it.
        completion: the text that was parsed.
        attempts: how often was asked, from 1.
        asked: the conversation that it answers, with its corrections.
    """

    value: T
    completion: Completion
    attempts: int
    asked: Conversation = ()


PROBED = 20
"""Refused answers that are asked for again where all are refused, before any other is."""


@dataclass(frozen=True)
class Patience:
    """When a judge that gives no answer of use is asked no further.

    What is published can't depend on it: the run ends. Where a judge whose run would be published,
    with `max_invalid` of its answers unusable, is taken for such a one once in 1e9 times.

    Attributes:
        judge: its name.
        max_invalid: share of its answers that may be unusable, below 1.
    """

    judge: str
    max_invalid: float

    def tried(self, refused: int, asked: int, attempts: int) -> bool:
        """Whether all first answers were refused, and so many that this is no chance.

        Args:
            refused: answers that can't be used and may be asked for again.
            asked: all answers.
            attempts: how often each is asked for.
        """
        least = math.ceil(math.log(1e-9) / math.log(max(self.max_invalid, 1e-9)))
        return refused == asked >= max(PROBED, least) and attempts > 1


WARMER = 0.3
"""What each correction adds to a temperature below 1: at 0 it would be the same text again."""
QUOTED = 200
"""Characters of a refused answer that its correction quotes, of its last line."""
GUIDED_HINT = "if the server takes no JSON schemas, set guided: false"
_REFUSED = ("http_400", "http_422")
_DOUBTED = ("unparseable", "truncated")


@dataclass
class _Open(Generic[T]):
    """One sample that has no parsed answer yet."""

    row: int
    sample: int
    conversation: list[Message]
    row_id: str
    outcome: Answer[T] | Failure | None = None
    error: str = ""
    reason: str = "unparseable"
    said: str = ""
    asked: list[Request] = field(default_factory=list)

    def settle(self, result: Result, parse: Callable[[str], T], attempt: int) -> None:
        """Keep a parsed value or a failure; else prepare the next question."""
        if isinstance(result, Failure):
            self.outcome = result
            return
        try:
            value = parse(result.text)
            self.outcome = Answer(value, result, attempt, tuple(self.conversation))
        except ValueError as error:
            self.error, self.said = str(error), result.text
            cut = "truncated" if result.finish_reason == "length" else "unparseable"
            self.reason = error.reason if isinstance(error, UnfitError) else cut
            lines = storable(result.text).strip().splitlines() or [""]
            self.conversation += [
                {"role": "assistant", "content": lines[-1].strip()[-QUOTED:]},
                {"role": "user", "content": self.error},
            ]

    def give_up(self, asked: str) -> None:
        """End as what could not be read, or was not as it was wanted."""
        detail = f"{self.error} ({asked}; last answer: {self.said[:200]!r})"
        self.outcome = Failure(self.reason, detail)


def ask(
    engine: Engine,
    conversations: Sequence[Conversation],
    sampling: Sampling,
    parse: Callable[[str], T],
    row_ids: Sequence[str] | None = None,
    attempts: int = 3,
    patience: Patience | None = None,
    heard: Callable[[int, T], None] | None = None,
) -> list[list[Answer[T] | Failure]]:
    """Generate and parse; an answer that `parse` refuses is asked again.

    The last line of the refused answer (`QUOTED` characters at most) and the message of the error
    are appended to the conversation as an assistant and a user turn; each correction is drawn a
    little warmer than what was asked before (`WARMER`, up to 1). Corrections of all rows go out
    together, so they cost as many rounds as `attempts`, not as many as rows.

    Args:
        engine: what answers.
        conversations: N conversations.
        sampling: how answers are drawn; `sampling.n` samples each.
        parse: turns a text into a value, or raises ValueError with a sentence for the model;
            `UnfitError` names the reason, too.
        row_ids: see `Engine.generate`.
        attempts: how often to ask in all, at least 1.
        patience: with a judge that gives no answer of use; None: without end.
        heard: told of a row and a value as soon as its answer is there, from any thread, before
            any correction.

    Returns:
        N lists of n answers, in order; after the last attempt `Failure("unparseable", ...)`,
        `truncated` where that was cut off at `max_tokens`, or the reason of `UnfitError`; or the
        engine's own failure.

    Raises:
        DataError: the patience is over.
    """
    samples: list[_Open[T]] = []
    first = engine if heard is None else _Listened(engine, sampling.n, parse, heard)
    for row, results in enumerate(first.generate(conversations, sampling, row_ids)):
        base = fingerprint(list(conversations[row])) if row_ids is None else row_ids[row]
        for number, result in enumerate(results):
            sample: _Open[T] = _Open(row, number, list(conversations[row]), f"{base}/{number}")
            own_id = None if row_ids is None else row_ids[row]
            sample.asked.append(Request(conversations[row], sampling, number, own_id))
            sample.settle(_hinted(result, sampling), parse, 1)
            samples.append(sample)
    again = [s for s in samples if s.outcome is None]
    if patience is not None and patience.tried(len(again), len(samples), attempts):
        _correct(engine, again[:PROBED], sampling, parse, attempts)
        if not any(isinstance(s.outcome, Answer) for s in again[:PROBED]):
            _give_up(engine, samples, patience, attempts)
        again = again[PROBED:]
    _correct(engine, again, sampling, parse, attempts)
    _doubt(engine, samples)
    answers: list[list[Answer[T] | Failure]] = [[] for _ in conversations]
    for sample in samples:
        answers[sample.row].append(sample.outcome or Failure("no_answer", "never answered"))
    return answers


class _Listened(Engine):
    """An engine whose first answers somebody hears as they come."""

    def __init__(
        self, engine: Engine, n: int, parse: Callable[[str], T], heard: Callable[[int, T], None]
    ) -> None:
        self._engine, self._n, self._parse, self._heard = engine, n, parse, heard

    def run(self, requests: Iterable[Request], done: Done) -> None:
        def told(place: int, result: Result) -> None:
            if isinstance(result, Completion):
                with suppress(ValueError):  # it is asked again
                    self._heard(place // self._n, self._parse(result.text))
            done(place, result)

        self._engine.run(requests, told)


def _correct(
    engine: Engine,
    samples: Sequence[_Open[T]],
    sampling: Sampling,
    parse: Callable[[str], T],
    attempts: int,
) -> None:
    """Ask again about samples whose first answer was refused, until the last attempt."""
    again = list(samples)
    for attempt in range(2, attempts + 1):
        if not again:
            return
        ids = [f"{s.row_id}/{attempt}" for s in again]
        drawn = _warmer(sampling, attempt)
        talks = [list(s.conversation) for s in again]
        replies = engine.generate(talks, drawn, ids)
        for sample, talk, row_id, (result,) in zip(again, talks, ids, replies, strict=True):
            sample.asked.append(Request(talk, drawn, 0, row_id))
            sample.settle(result, parse, attempt)
        again = [s for s in again if s.outcome is None]
    for sample in again:
        sample.give_up(f"asked {attempts} times")


def _give_up(
    engine: Engine, samples: Sequence[_Open[T]], patience: Patience, attempts: int
) -> None:
    """Stop the run: not one answer is of use."""
    for sample in samples:
        if sample.outcome is None:
            sample.give_up("asked once")
    _doubt(engine, samples)
    reasons = Counter(s.outcome.reason for s in samples if isinstance(s.outcome, Failure))
    why = ", ".join(f"{reason} {n:,}" for reason, n in sorted(reasons.items()))
    raise DataError(
        f"{len(samples):,} of {len(samples):,} answers of the judge {patience.judge} are unusable "
        f"({why}), also those {PROBED} that it was asked for {attempts} times; the last one: "
        f"{samples[-1].said[:200]!r}. So nothing else is asked, and nothing is published; the "
        "answers are kept. Mend its form, its sampling or the model; max_invalid: 1 asks on"
    )


def _doubt(engine: Engine, samples: Sequence[_Open[T]]) -> None:
    """Note the answers of samples that came to nothing, so that they can be dropped."""
    for sample in samples:
        if isinstance(sample.outcome, Failure) and sample.outcome.reason in _DOUBTED:
            engine.doubt(sample.asked, sample.outcome.reason, sample.outcome.detail)


def _warmer(sampling: Sampling, attempt: int) -> Sampling:
    """How a correction is drawn; what was drawn without a seed, at temperature 0, gets a fixed one.

    So another seed of a recipe still pays for no greedy judge again.
    """
    first = sampling.temperature
    temperature = max(first, round(min(first + WARMER * (attempt - 1), 1.0), 6))
    seed = sampling.seed if first > 0 else 0
    return sampling.model_copy(update={"n": 1, "temperature": temperature, "seed": seed})


def _hinted(result: Result, sampling: Sampling) -> Result:
    """A failure that may come of the JSON schema, with the way out."""
    if isinstance(result, Failure) and sampling.json_schema and result.reason in _REFUSED:
        return Failure(result.reason, f"{result.detail}; {GUIDED_HINT}")
    return result


# -- tasks on their way ------------------------------------------------------------------------


@dataclass
class Task:
    """Something that is to be made of a row; a step adds what it needs to know.

    Attributes:
        row: place of the row in the table.
        key: what its questions are drawn by: content ids and a number, no place.
        reason, detail: why it came to nothing, for the ledger; null while it may become something.
        tokens: that models wrote for it, as far as they tell.
    """

    row: int
    key: str
    reason: str | None = None
    detail: str | None = None
    tokens: int = 0

    def fail(self, reason: str, detail: str) -> None:
        """Give the task up."""
        self.reason, self.detail = reason, storable(detail).strip()[:500]


K = TypeVar("K", bound=Task)


def open_tasks(tasks: Sequence[K]) -> list[K]:
    """Tasks that may become something."""
    return [task for task in tasks if task.reason is None]


def lost(ids: pl.Series, tasks: Sequence[Task]) -> pl.DataFrame:
    """Rows none of whose tasks came to something, with the reason of the first, for the ledger.

    Args:
        ids: row ids of the table, String[n].
        tasks: all of them, at least one per row.

    Returns:
        `row_id`, `reason`, `detail`.
    """
    fine = {task.row for task in tasks if task.reason is None}
    first: dict[int, Task] = {}
    for task in tasks:
        if task.row not in fine:
            first.setdefault(task.row, task)
    rows = [(ids[row], task.reason, task.detail) for row, task in first.items()]
    schema = {"row_id": pl.String, "reason": pl.String, "detail": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def missed(tasks: Sequence[Task]) -> dict[str, int]:
    """Tasks that came to nothing though another of their row did not, counted by reason."""
    fine = {task.row for task in tasks if task.reason is None}
    counts = Counter(t.reason for t in tasks if t.reason is not None and t.row in fine)
    return dict(sorted(counts.items()))


# -- one model, asked by the settings of a step ------------------------------------------------


@dataclass(frozen=True)
class Asker:
    """One model and how it is asked; `Asking.asker` makes it.

    Attributes:
        ctx: opens the model; its seed and step are part of every draw.
        config: of the model.
        params: how answers are drawn.
        attempts: how often a question is asked until its answer has the right form.
        guided: hand JSON schemas to the engine.
        gate: what becomes of written text that is no answer; None lets all pass but empty ones.
        max_invalid: share of unusable answers from which on nothing is published (judges only).
    """

    ctx: Context
    config: EngineConfig
    params: SamplingParams
    attempts: int = 3
    guided: bool = True
    gate: Gate | None = None
    max_invalid: float = 1.0

    def sampling(self, schema: dict[str, Any] | None = None, n: int = 1) -> Sampling:
        """How n answers of a JSON schema (None: free text) are drawn."""
        return self.params.drawn(self.ctx.seed, n, schema if self.guided else None)

    def each(
        self,
        conversations: Sequence[Conversation],
        parse: Callable[[str], T],
        schema: dict[str, Any] | None = None,
        n: int = 1,
        salts: Sequence[str] | None = None,
        heard: Callable[[int, T], None] | None = None,
    ) -> list[list[Answer[T] | Failure]]:
        """As `ask`, but equal questions are asked once and share their answers.

        What is drawn depends on the text of the question alone, so an answer can't depend on the
        place, the shard or the company of its row.

        Args:
            conversations: N conversations.
            parse: see `ask`.
            schema: of the answer.
            n: samples of each.
            salts: N texts; equal questions with other salts are drawn apart.
            heard: see `ask`; of equal questions told of the first.

        Returns:
            N lists of n answers or failures, in order.
        """
        salts = [""] * len(conversations) if salts is None else salts
        keys = [
            fingerprint([list(conversation), salt])
            for conversation, salt in zip(conversations, salts, strict=True)
        ]
        distinct = dict(zip(keys, conversations, strict=True))
        places: dict[str, int] = {}
        for place, key in enumerate(keys):
            places.setdefault(key, place)
        first = list(places.values())
        replies = ask(
            self.ctx.open(self.config),
            list(distinct.values()),
            self.sampling(schema, n),
            parse,
            list(distinct),
            self.attempts,
            Patience(self.config.model, self.max_invalid) if self.max_invalid < 1 else None,
            None if heard is None else lambda row, value: heard(first[row], value),
        )
        by_key = dict(zip(distinct, replies, strict=True))
        return [by_key[key] for key in keys]

    def forms(
        self,
        tasks: Sequence[K],
        stage: str,
        form: Form,
        question: Callable[[K], str | Conversation],
        take: Callable[[K, dict[str, Any]], None],
        written: Callable[[dict[str, Any]], str] | None = None,
        says: Callable[[dict[str, Any]], Ratings] | None = None,
    ) -> None:
        """Ask for a form about all open tasks in one batch; see `parsed`."""
        self.parsed(tasks, stage, form.parse, question, take, form.schema, written, says)

    def parsed(
        self,
        tasks: Sequence[K],
        stage: str,
        parse: Callable[[str], T],
        question: Callable[[K], str | Conversation],
        take: Callable[[K, T], None],
        schema: dict[str, Any] | None = None,
        written: Callable[[T], str] | None = None,
        says: Callable[[T], Ratings] | None = None,
    ) -> None:
        """Ask about all open tasks in one batch; a question without an answer ends its task.

        Args:
            tasks: of which the open ones are asked about.
            stage: names the question: part of its draw, and of the detail of a failure.
            parse: see `ask`.
            question: a task's question, a text or a conversation.
            take: is given the task and what was parsed; may fail the task.
            schema: of the answer.
            written: the text in what was parsed that goes into a row; the gate looks at it.
            says: of a judge, which is watched: see `heard`.
        """
        live, conversations, ids = self._questions(tasks, stage, question)
        if not live:
            return
        engine, sampling = self.ctx.open(self.config), self.sampling(schema)
        rows = [task.row for task in live]
        heard = None if says is None else self.heard(rows, says)
        asked_for = (engine, conversations, sampling, parse, ids, self.attempts, None, heard)
        replies = [reply for (reply,) in ask(*asked_for)]
        if says is not None:
            self.count(rows, replies, says)
        said = [
            None
            if isinstance(r, Failure) or written is None
            else Said(written(r.value).strip(), r.completion.finish_reason, r.asked)
            for r in replies
        ]
        problems = self._problems(said)
        asked = [Request(c, sampling, 0, i) for c, i in zip(conversations, ids, strict=True)]
        for task, reply, problem, one in zip(live, replies, problems, asked, strict=True):
            if isinstance(reply, Failure):
                task.fail(reply.reason, f"{stage}: {reply.detail}")
                continue
            task.tokens += reply.completion.completion_tokens
            if problem is not None:
                engine.doubt([one], *problem)
                task.fail(problem[0], f"{stage}: {problem[1]}")
            else:
                take(task, reply.value)

    def watcher(self) -> Watcher:
        """What is heard and counted of this model as a judge, in this shard."""
        calls = self.ctx.calls
        return Watcher(self.config.model) if calls is None else calls.watcher(self.config.model)

    def heard(
        self, rows: Sequence[Hashable], says: Callable[[T], Ratings]
    ) -> Callable[[int, T], None]:
        """What tells, while a judge is asked, that all its answers are one: for `ask`.

        Args:
            rows: the prompt that each question is about.
            says: what was rated, and the rating, of what was parsed.
        """
        watcher = self.watcher()
        return lambda row, value: watcher.hear(rows[row], says(value))

    def count(
        self, rows: Sequence[Hashable], replies: Sequence[Answer[T] | Failure],
        says: Callable[[T], Ratings],
    ) -> None:  # fmt: skip
        """Count a judge's answers, so that labels of one that does not judge are not published."""
        said = [
            reply.reason if isinstance(reply, Failure) else says(reply.value) for reply in replies
        ]
        self.watcher().count(of_answers(self.config.model, rows, said), rows)

    def problems(self, answers: Sequence[Answer[str] | Failure]) -> list[Problem | None]:
        """What the gate says of texts that were parsed; None for failures and what is fine."""

        def said(answer: Answer[str] | Failure) -> Said | None:
            if isinstance(answer, Failure):
                return None
            return Said(answer.value, answer.completion.finish_reason, answer.asked)

        return self._problems([said(answer) for answer in answers])

    def _problems(self, said: Sequence[Said | None]) -> list[Problem | None]:
        """What the gate says of each text; None where there is none to look at."""
        gate = self.gate or OPEN
        at = [i for i, one in enumerate(said) if one is not None]
        problems: list[Problem | None] = [None] * len(said)
        for i, problem in zip(at, gate.problems([s for s in said if s is not None]), strict=True):
            problems[i] = problem
        return problems

    def texts(
        self,
        tasks: Sequence[K],
        stage: str,
        question: Callable[[K], str | Conversation],
        take: Callable[[K, str], None],
        sampling: Sampling | None = None,
    ) -> None:
        """Let the model write a text for each open task, in one batch.

        A task ends with the engine's reason, or that of the gate. See `parsed` for the arguments;
        `sampling` takes the place of the asker's own.
        """
        live, conversations, ids = self._questions(tasks, stage, question)
        if not live:
            return
        sampling = sampling or self.sampling()
        engine = self.ctx.open(self.config)
        replies = [reply for (reply,) in engine.generate(conversations, sampling, ids)]
        said = [
            None
            if isinstance(reply, Failure)
            else Said(storable(reply.text).strip(), reply.finish_reason, asked)
            for reply, asked in zip(replies, conversations, strict=True)
        ]
        problems = self._problems(said)
        rows = zip(live, replies, said, problems, conversations, ids, strict=True)
        for task, reply, one, problem, asked, row_id in rows:
            if isinstance(reply, Failure):
                task.fail(reply.reason, f"{stage}: {reply.detail}")
                continue
            task.tokens += reply.completion_tokens
            if problem is not None:
                engine.doubt([Request(asked, sampling, 0, row_id)], *problem)
                task.fail(problem[0], f"{stage}: {problem[1]}")
            else:
                take(task, one.text if one else "")

    def _questions(
        self, tasks: Sequence[K], stage: str, question: Callable[[K], str | Conversation]
    ) -> tuple[list[K], list[Conversation], list[str]]:
        live = open_tasks(tasks)
        ids = [f"{task.key}/{self.ctx.step}/{stage}" for task in live]
        return live, [conversation(question(task)) for task in live], ids


class Sampled(BaseModel):
    """Mixin of what draws a model's answers; write it before the base.

    The recipe's `seed` draws. A mapping for `sampling`, or for another field of `SamplingParams`,
    changes what it names; the rest stays as the default of the field has it.

    Attributes:
        sampling: how answers are drawn.
    """

    sampling: SamplingParams = SamplingParams(max_tokens=1024)

    @model_validator(mode="before")
    @classmethod
    def _fill_sampling(cls, data: Any) -> Any:  # noqa: ANN401 - whatever a recipe has
        if not isinstance(data, Mapping):
            return data
        defaults = {name: field.default for name, field in cls.model_fields.items()}
        return {
            name: {**defaults[name].model_dump(), **value}
            if isinstance(value, Mapping) and isinstance(defaults.get(name), SamplingParams)
            else value
            for name, value in data.items()
        }


class Asking(Sampled):
    """Mixin of steps that ask a text engine for answers of a form; write it before the base.

    Attributes:
        sampling: how answers are drawn. Steps that judge take temperature 0.
        attempts: how often a question is asked until its answer has the right form.
        guided: hand the JSON schema to the engine; False for servers that refuse schemas.
    """

    sampling: SamplingParams = SamplingParams(temperature=0.7, max_tokens=1024)
    attempts: int = Field(default=3, ge=1)
    guided: bool = True

    def asker(
        self,
        ctx: Context,
        engine: EngineConfig,
        params: SamplingParams | None = None,
        *,
        greedy: bool = False,
    ) -> Asker:
        """One model of this step, ready to be asked.

        Args:
            ctx: opens it.
            engine: its configuration.
            params: how its answers are drawn; None takes `sampling`.
            greedy: at temperature 0, for verdicts, where nothing is to be left to chance.
        """
        params = self.sampling if params is None else params
        if greedy:
            params = params.model_copy(update={"temperature": 0.0})
        gate, most = getattr(self, "gate", None), getattr(self, "max_invalid", 1.0)
        return Asker(ctx, engine, params, self.attempts, self.guided, gate, most)


GREEDY = SamplingParams(temperature=0.0, max_tokens=1024)
"""How judges answer."""


def _several(value: object) -> object:
    return value if isinstance(value, list | tuple) else (value,)


Jury = Annotated[tuple[AnyEngine, ...], BeforeValidator(_several)]
"""A step's `judge` where several may vote: one engine, or a list."""


def unrated(answer: object) -> Ratings:
    """Nothing: `says` of a judge that may well say the same of all; that it can be read counts."""
    return {}


# -- how material is shown ---------------------------------------------------------------------


def conversation(question: str | Conversation) -> list[Message]:
    """A question as messages: a text is one message of the user."""
    if isinstance(question, str):
        return [{"role": "user", "content": question}]
    return list(question)


def transcript(messages: Sequence[Mapping[str, Any]] | None) -> str:
    """A conversation as text: each message under its role in brackets, blank lines between."""
    return "\n\n".join(f"[{m['role']}]\n{message_text(m)}" for m in messages or [])


def request_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """What is asked: the words of a user's message that stands alone, else the transcript."""
    if len(messages) == 1 and messages[0]["role"] == "user":
        return message_text(messages[0])
    return transcript(messages)


def answer_text(messages: Sequence[Mapping[str, Any]] | None) -> str:
    """The texts of an answer, blank lines between; as a transcript where a role is not ours."""
    if any(m["role"] != "assistant" for m in messages or []):
        return transcript(messages)
    return "\n\n".join(message_text(m) for m in messages or [])


def fence(*texts: str) -> str:
    """Eight hex digits for the lines around texts in a question, the `mark` of prompt texts.

    They are a digest of these texts, so no text can be written that closes its own block.
    """
    joined = "\0".join(texts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(joined, digest_size=4).hexdigest()


def tokens_of(text: str) -> int:
    """About how many tokens a prompt has, with an answer of usual length in it."""
    return len(text) // CHARACTERS_A_TOKEN + MATERIAL_TOKENS
