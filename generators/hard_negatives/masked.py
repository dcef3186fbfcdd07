"""Rejected answers that a model makes of a good one while it can't see what the answer rests on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field, field_validator

from generators.answers.calls import PROMPT_TOKENS, Call, outcomes, results
from generators.answers.rows import as_messages
from generators.answers.step import Origin
from generators.hard_negatives.texts import (
    MARK,
    completed,
    context_spans,
    cut,
    masked,
    opposite,
    pieces,
    sentences,
)
from prefactory.asking.gate import Gate, Gated
from prefactory.context import Context
from prefactory.engines.base import Message, Request, SamplingParams
from prefactory.engines.configs import AnyEngine
from prefactory.engines.encoder import Encoder
from prefactory.errors import DataError
from prefactory.prompts import Prompted, Text
from prefactory.step import Asks, Generated, Generator
from prefactory.tables import COLUMNS, OF_PROMPT, SCORE, Shape, canonical_order, text_of, with_ids

SENTENCES = 8
"""What `plan` takes an answer to have."""


class MaskedContinuations(Gated, Prompted, Generator):
    """Pair each answer (chosen) with one that was continued without its context (rejected).

    The text form of BDHS (arXiv:2407.02477), which masks an image: here 99 % of the words of the
    request's context are blacked out. Each sentence of the answer keeps its words up to a random
    pivot, and the model writes its end, given the true sentences before it. What comes out is
    fluent, near the good answer, and unfaithful. It is tried again while its cosine similarity to
    the good answer is above `max_similarity`; the last try is unguided: the whole answer anew.
    An answer that is only "yes" or "no" is turned round with the chance `flip` at each try, else it
    is answered unguided. Words, sentences and what the model is told are our choices for text.

    Columns beside those of pairs: `pivots` (List[Int64], words that each sentence kept; all of
    them where it has only one), `similarity` (Float64), `tries` (Int64), `method` (guided,
    unguided, flipped), `gave_up` (Boolean, still above `max_similarity`), the sides' origins, and
    all scores of the chosen answer. `label_source` is `rule`.

    Reasons for answers without a pair: `no_context` (nothing in the last message is context),
    `empty_answer`, `too_similar` (after all tries), `same_text`, and those of the engine.

    Attributes:
        model: what continues; small models make more mistakes.
        context: regular expression for the context in the last user message (its first group, or
            the whole match); null takes all its paragraphs but the last, which is the question.
        keep: share of the context's words that stay.
        max_similarity: greatest cosine similarity of the two answers.
        tries: at most, the unguided one among them.
        flip: chance that an answer of yes or no is turned round.
        on_gave_up: what happens to pairs still too similar.
        encoder: for the similarity (the paper's is all-mpnet-base-v2).
        origin: of the rejected answers.
        sampling: how sentences are drawn; `max_tokens` of one sentence, eight times as many for an
            unguided answer.
        gate: sentences that end at `max_tokens` stay.

    Example:
        - generators.MaskedContinuations:
            model: {engine: server, base_url: 'http://localhost:8000/v1', model: writer}
    """

    templates: ClassVar[dict[str, Text]] = {
        "continue": Text(
            "generators/answers/prompts/responses/continue.j2", ("request", "before", "mark")
        ),
        "answer": Text("generators/answers/prompts/responses/answer.j2", ("request", "mark")),
    }
    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    parents: ClassVar[tuple[str, ...]] = ("chosen_id",)

    model: AnyEngine
    context: str | None = None
    keep: float = Field(default=0.01, ge=0, le=1)
    max_similarity: float = Field(default=0.97, ge=-1, le=1)
    tries: int = Field(default=5, ge=1)
    flip: float = Field(default=0.5, ge=0, le=1)
    on_gave_up: Literal["drop", "keep"] = "drop"
    encoder: Encoder = Encoder()
    origin: Origin = "open_model"
    sampling: SamplingParams = SamplingParams(max_tokens=96)
    gate: Gate = Gate(truncated="keep")

    @field_validator("context")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression: {error}") from error
        return value

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """How each rejected answer was made; scores of both sides are carried over."""
        return {
            "chosen_origin": pl.String(),
            "rejected_origin": pl.String(),
            "pivots": pl.List(pl.Int64),
            "similarity": pl.Float64(),
            "tries": pl.Int64(),
            "method": pl.String(),
            "gave_up": pl.Boolean(),
        }

    def out_shape(self, shape: Shape) -> Shape:
        """PAIRS."""
        return Shape.PAIRS

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """A call per sentence and try, answers being taken to have eight sentences."""
        calls = rows * (SENTENCES * (self.tries - 1) + 1)
        return [Asks(self.model, calls, 2 * PROMPT_TOKENS, self.sampling.max_tokens)]

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Make a rejected answer for each answer of a table.

        Args:
            table: RESPONSES.
            ctx: opens the model and the encoder; draws by response id.

        Returns:
            PAIRS in canonical order, and the answers without a pair.
        """
        tasks = self._tasks(table)
        for attempt in range(1, self.tries + 1):
            left = [t for t in tasks if t.reason is None and not t.settled]
            if not left:
                break
            self._attempt(left, attempt, ctx)
        for task in tasks:
            task.end(self.max_similarity, self.on_gave_up == "drop")
        good = [t for t in tasks if t.reason is None]
        dropped = pl.DataFrame(
            [(t.response_id, t.reason, t.detail) for t in tasks if t.reason is not None],
            schema={"row_id": pl.String, "reason": pl.String, "detail": pl.String},
            orient="row",
        )
        return Generated(self._rows(table, good), dropped)

    def _tasks(self, table: pl.DataFrame) -> list[_Task]:
        answers = table.select(text_of(pl.col("response")).fill_null("")).to_series()
        columns = zip(table["response_id"], table["prompt"].to_list(), answers, strict=True)
        tasks = []
        for row, (response_id, prompt, answer) in enumerate(columns):
            task = _Task(row, response_id, prompt, answer)
            request = prompt[-1]["content"] if prompt and prompt[-1]["role"] == "user" else ""
            task.spans = context_spans(request, self.context)
            if not answer.strip():
                task.reason, task.detail = "empty_answer", "the chosen answer has no text"
            elif not task.spans:
                task.reason, task.detail = "no_context", "nothing to black out in the last message"
            tasks.append(task)
        return tasks

    def _attempt(self, tasks: list[_Task], attempt: int, ctx: Context) -> None:
        """One try for each task; what is too similar after it stays open."""
        ids = pl.Series([t.response_id for t in tasks], dtype=pl.String)
        seeds = (ctx.uniform(ids, f"try {attempt}") * 2**53).cast(pl.UInt64).to_list()
        calls: list[Call] = []
        for row, (task, seed) in enumerate(zip(tasks, seeds, strict=True)):
            rng = np.random.Generator(np.random.Philox(key=seed))
            task.begin(rng, last=attempt == self.tries, flip=self.flip)
            request = masked(task.prompt[-1]["content"], task.spans, self.keep, rng)
            calls += self._calls(task, row, request, attempt, ctx)
        name = self.model.model
        answers = outcomes(
            calls, results(ctx, [self.model], calls), [name], self.gate, [ctx.open(self.model)]
        )
        for call, (text, _, reason, detail) in zip(calls, answers.iter_rows(), strict=True):
            tasks[call.row].take(call.request.sample, text, reason, detail)
        good = [t for t in tasks if t.reason is None]
        for task, likeness in zip(good, self._similarities(good, ctx), strict=True):
            task.tries = attempt
            task.similarity = likeness
            task.settled = likeness <= self.max_similarity

    def _calls(
        self, task: _Task, place: int, request: str, attempt: int, ctx: Context
    ) -> list[Call]:
        """The questions of one try; `sample` is the sentence that a call completes."""
        if task.method == "flipped":
            return []
        row_id = f"{task.response_id}/{ctx.step}/{attempt}"
        before: list[Message] = task.prompt[:-1]
        most = self.sampling.max_tokens * (SENTENCES if task.method == "unguided" else 1)
        sampling = self.sampling.drawn(ctx.seed).model_copy(update={"max_tokens": most})

        def asked(text: str, sample: int) -> Call:
            message = {"role": "user", "content": text}
            return Call(place, 0, Request([*before, message], sampling, sample, row_id))

        if task.method == "unguided":
            return [asked(self.render("answer", request=request, mark=MARK), 0)]
        calls, written = [], ""
        for i, (sentence, pivot) in enumerate(zip(task.sentences, task.pivots, strict=True)):
            if pivot < len(pieces(sentence)):
                start = written + cut(sentence, pivot)[0]
                text = self.render("continue", request=request, before=start, mark=MARK)
                calls.append(asked(text, i))
            written += sentence
        return calls

    def _similarities(self, tasks: Sequence[_Task], ctx: Context) -> list[float]:
        if ctx.embed is None:
            raise DataError(f"{ctx.step} compares texts, but this context has no encoder")
        if not tasks:
            return []
        texts = pl.Series([t.answer for t in tasks] + [t.made for t in tasks], dtype=pl.String)
        vectors = ctx.embed(self.encoder, texts).astype(np.float64)
        vectors /= np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
        n = len(tasks)
        return [float(x) for x in (vectors[:n] * vectors[n:]).sum(axis=1).round(6)]

    def _rows(self, table: pl.DataFrame, tasks: list[_Task]) -> pl.DataFrame:
        rows = table[[t.row for t in tasks]]
        rejected = pl.Series("made", [t.made for t in tasks], dtype=pl.String)
        scores = [c for c in table.columns if c.startswith(SCORE)]
        facts = {
            "pivots": pl.Series([t.pivots for t in tasks], dtype=pl.List(pl.Int64)),
            "similarity": pl.Series([t.similarity for t in tasks], dtype=pl.Float64),
            "tries": pl.Series([t.tries for t in tasks], dtype=pl.Int64),
            "method": pl.Series([t.method for t in tasks], dtype=pl.String),
            "gave_up": pl.Series([not t.settled for t in tasks], dtype=pl.Boolean),
        }
        return (
            rule_pairs(rows, rejected, scores)
            .with_columns(
                rejected_model=pl.lit(self.model.model),
                rejected_origin=pl.lit(self.origin),
                **facts,
            )
            .pipe(canonical_order, Shape.PAIRS)
        )


@dataclass
class _Task:
    """One answer on its way to a rejected one."""

    row: int
    response_id: str
    prompt: list[Message]
    answer: str
    spans: list[tuple[int, int]] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    pivots: list[int] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    method: str = "guided"
    tries: int = 0
    similarity: float = 1.0
    settled: bool = False
    reason: str | None = None
    detail: str | None = None

    @property
    def made(self) -> str:
        return "".join(self.parts)

    def begin(self, rng: np.random.Generator, last: bool, flip: float) -> None:
        """Draw a pivot for each sentence, or turn to another method."""
        self.sentences = sentences(self.answer)
        counts = [len(pieces(s)) for s in self.sentences]
        self.pivots = [int(rng.integers(1, n)) if n > 1 else n for n in counts]
        self.parts = list(self.sentences)
        other = opposite(self.answer)
        if other is not None and rng.random() < flip:
            self.method, self.parts = "flipped", [other]
        elif last or all(n < 2 for n in counts):
            self.method, self.parts = "unguided", []
        else:
            self.method = "guided"
        if self.method != "guided":
            self.pivots = []

    def take(self, place: int, text: str | None, reason: str | None, detail: str | None) -> None:
        """Put a model's text in its place; an empty one leaves a sentence as it was."""
        if text is None and (reason != "empty_answer" or self.method == "unguided"):
            self.reason, self.detail = reason, detail
        elif self.method == "unguided":
            self.parts = [text or ""]
        elif text is not None:
            prefix, end = cut(self.sentences[place], self.pivots[place])
            self.parts[place] = completed(prefix, text, end) or self.sentences[place]

    def end(self, most: float, drop: bool) -> None:
        """Find what is still too similar after all tries."""
        if self.reason is None and self.made.strip() == self.answer.strip():
            self.reason, self.detail = "same_text", f"{self.tries} tries"
        elif self.reason is None and not self.settled and drop:
            self.reason = "too_similar"
            self.detail = f"{self.similarity:.3f} above {most} after {self.tries} tries"


def rule_pairs(rows: pl.DataFrame, rejected: pl.Series, scores: list[str]) -> pl.DataFrame:
    """PAIRS of responses, which are chosen, and texts, which are rejected, by a rule.

    Args:
        rows: RESPONSES, n rows.
        rejected: String[n]; they have no scores.
        scores: score columns that the chosen side carries over.

    Returns:
        PAIRS with `chosen_origin`, in the order of the rows; `rejected_model` and
        `rejected_origin` are null.
    """
    null = pl.lit(None, dtype=pl.String)
    pairs = rows.with_columns(rejected.alias("_text")).select(
        *COLUMNS[Shape.PROMPTS],
        *[c for c in OF_PROMPT if c in rows.columns],
        chosen="response",
        rejected=as_messages(pl.col("_text")),
        chosen_id="response_id",
        chosen_model="model",
        rejected_model=null,
        label_source=pl.lit("rule"),
        chosen_origin="origin",
        rejected_origin=null,
        **{f"chosen_{c}": pl.col(c) for c in scores},
        **{f"rejected_{c}": pl.lit(None, dtype=pl.Float64) for c in scores},
    )
    of_prompt = [c for c in OF_PROMPT if c in rows.columns]
    other = pairs.select("prompt", *of_prompt, response="rejected").pipe(with_ids, Shape.RESPONSES)
    pairs = pairs.with_columns(rejected_id=other["response_id"])
    pairs = with_ids(pairs, Shape.PAIRS, keep_side_ids=True)
    first = list(COLUMNS[Shape.PAIRS])
    return pairs.select(*first, *[c for c in pairs.columns if c not in first])
