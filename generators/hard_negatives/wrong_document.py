"""Questions about one of several documents, whose rejected answer is another document's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl
from pydantic import Field

from generators.images.attention import AttentionGate
from generators.images.columns import ANNOTATORS
from generators.made_rows import ORIGINS, PARENT, children, sides, text_column
from prefactory.asking import Sampled, storable
from prefactory.asking.gate import Gated, Said
from prefactory.context import Context
from prefactory.engines.base import Completion, Message, SamplingParams
from prefactory.engines.configs import AnyEngine
from prefactory.engines.encoder import Encoder
from prefactory.errors import DataError
from prefactory.near.vectors import similarity, unit32
from prefactory.step import Asks, Generated, Generator, Scope, State
from prefactory.tables import MESSAGES, Shape, last_user_text

SAMPLES = 4
"""Answers that `plan` takes a row to ask for: two questions, two samples."""


class WrongDocument(Gated, Sampled, Generator):
    """Pair the answer of the document that is asked about with the answer of another one.

    The text form of MIA-DPO (arXiv:2410.17637), which asks about one of several pictures: a prompt
    of numbered documents and "In document 2, ...". Rows are questions with a document and its
    answer (`span`). The other documents are those of rows that ask the same words, or whose
    questions have a cosine in [`least`, `most`]; their spans differ pairwise and from the own one,
    their lengths are within a factor of `length_ratio`, and none of them holds the own span.

    The label is a rule: an answer names a span if it holds it as whole words, without case. The
    chosen answer names the target's and no other, the rejected one exactly one other. Without a
    `model` the spans themselves are the answers; with one its answers are, and a span takes the
    place of those that no sample gives: of a model that is always right, its answer about the other
    document is the rejected one. Each row goes in twice where it can (`both_ways`), with two
    targets and the sides exchanged, so that neither answer is good in itself.

    With `attention`, a rejected answer stays only if its model, while it writes it, hardly
    looks at the document that is asked about.

    Columns beside those of pairs: `source_prompt_id`, `target` (Int64, from 1), `order`
    (List[String], prompt ids of the documents as shown), `attention_ratio` (Float64, null without a
    gate), `contrast` (`text`), `annotator` and the sides' origins. `label_source` is `rule`.

    Reasons: `no_document`, `no_span`, `span_not_in_document`, `too_few_documents`, `no_question`,
    `attention`.

    Attributes:
        document, answer: columns with the document and the span that answers the question.
        shown: documents in a prompt.
        model: what answers; null takes the spans.
        n: answers of the model to each question.
        both_ways: ask about the other document as well.
        least, most: cosines of two questions, MiniLM's (our choice).
        length_ratio: of the longer document to the shorter, in characters.
        pool: rows among which documents are drawn, held in memory.
        encoder: for the questions.
        attention: looks where a model looks; off by default.
        annotator: who made the sides differ, by the words of the survey of multimodal alignment.
        sampling: how answers are drawn.

    Example:
        - generators.WrongDocument: {shown: 3, document: context, answer: gold}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS,)
    scope: ClassVar[Scope] = "dataset"
    parents: ClassVar[tuple[str, ...]] = (PARENT,)
    new_prompts: ClassVar[bool] = True

    document: str = "document"
    answer: str = "gold"
    shown: int = Field(default=4, ge=2, le=5)
    model: AnyEngine | None = None
    n: int = Field(default=2, ge=1)
    both_ways: bool = True
    least: float = Field(default=0.5, ge=-1, le=1)
    most: float = Field(default=0.95, ge=-1, le=1)
    length_ratio: float = Field(default=2.0, ge=1)
    pool: int = Field(default=10_000, ge=2)
    encoder: Encoder = Encoder()
    attention: AttentionGate | None = None
    annotator: ANNOTATORS = "unknown"
    sampling: SamplingParams = SamplingParams(max_tokens=256)

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The document and the span (String)."""
        return {self.document: pl.String(), self.answer: pl.String()}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Which document is asked about, and in what order they stand."""
        return {
            PARENT: pl.String(),
            "target": pl.Int64(),
            "order": pl.List(pl.String),
            "attention_ratio": pl.Float64(),
            "contrast": pl.String(),
            "annotator": pl.String(),
            **ORIGINS,
        }

    def out_shape(self, shape: Shape) -> Shape:
        """PAIRS."""
        return Shape.PAIRS

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """The samples of two questions a row, if there is a model."""
        if self.model is None:
            return []
        return [Asks(self.model, rows * SAMPLES, 2_000, self.sampling.max_tokens)]

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to the documents that may be shown beside others.

        Returns:
            `prompt_id`, `question`, `document`, `span` (String), `draw` (Float64) and `vector`
            (List[Float32]) of at most `pool` rows that can be used.
        """
        rows = self._rows(table).filter(pl.col("reason").is_null())
        rows = rows.with_columns(draw=ctx.uniform(rows["prompt_id"], "pool"))
        rows = rows.sort("draw", "prompt_id").head(self.pool).sort("prompt_id")
        vectors = self._vectors(rows["question"], ctx)
        held = pl.Series("vector", vectors.tolist(), dtype=pl.List(pl.Float32))
        return rows.drop("reason").with_columns(held)

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Draw the pool."""
        pool = parts.sort("draw", "prompt_id").head(self.pool).sort("prompt_id").drop("draw")
        return State({"pool": pool}, {"pool": pool.height})

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Compose prompts of the rows of a table.

        Args:
            table: PROMPTS with the columns of `needs`.
            ctx: holds the pool; opens the model and the encoder.

        Returns:
            PAIRS in canonical order, and the rows without a child.
        """
        rows = self._rows(table)
        asked, reasons = self._asked(table, rows, ctx)
        self._answered(asked, ctx)
        good = [a for a in asked if self._passes(a)]
        kept = {a.row for a in good}
        reasons |= {a.row: "attention" for a in asked if a.row not in kept}
        dropped = pl.DataFrame(
            [(table["prompt_id"][row], reason, "") for row, reason in sorted(reasons.items())],
            schema={"row_id": pl.String, "reason": pl.String, "detail": pl.String},
            orient="row",
        )
        return Generated(self._made(table, good), dropped)

    def _rows(self, table: pl.DataFrame) -> pl.DataFrame:
        """Question, document and span of each row, and why it can't be used."""
        rows = table.select(
            "prompt_id",
            question=last_user_text(pl.col("prompt")),
            document=pl.col(self.document).fill_null(""),
            span=pl.col(self.answer).fill_null("").str.strip_chars(),
        )
        held = [bool(named(d, [s])) for d, s in rows.select("document", "span").iter_rows()]
        return rows.with_columns(
            reason=pl.when(pl.col("question").str.strip_chars() == "")
            .then(pl.lit("no_question"))
            .when(pl.col("document").str.strip_chars() == "")
            .then(pl.lit("no_document"))
            .when(pl.col("span") == "")
            .then(pl.lit("no_span"))
            .when(~pl.Series(held, dtype=pl.Boolean))
            .then(pl.lit("span_not_in_document"))
        )

    def _vectors(self, texts: pl.Series, ctx: Context) -> Any:  # noqa: ANN401 - Float32[N, d]
        if ctx.embed is None:
            raise DataError(f"{ctx.step} compares texts, but this context has no encoder")
        return unit32(ctx.embed(self.encoder, texts))

    def _asked(
        self, table: pl.DataFrame, rows: pl.DataFrame, ctx: Context
    ) -> tuple[list[_Asked], dict[int, str]]:
        """The composed questions, and why rows have none."""
        pool = ctx.fitted.tables["pool"]
        vectors = self._vectors(rows["question"], ctx)
        held = np.array(pool["vector"].to_list(), dtype=np.float32).reshape(
            pool.height, vectors.shape[1]
        )
        seeds = (ctx.uniform(table["prompt_id"], "order") * 2**53).cast(pl.UInt64).to_list()
        facts = pool.select("prompt_id", "question", "document", "span")
        others = list(facts.iter_rows(named=True))
        asked: list[_Asked] = []
        reasons: dict[int, str] = {}
        for row, own in enumerate(rows.iter_rows(named=True)):
            rng = np.random.Generator(np.random.Philox(key=seeds[row]))
            if own["reason"] is not None:
                reasons[row] = own["reason"]
                continue
            cosines = similarity(vectors[row][None], held)[0] if others else np.zeros(0)
            beside = self._beside(own, others, cosines, rng)
            if len(beside) < self.shown - 1:
                reasons[row] = "too_few_documents"
                continue
            target = int(rng.integers(self.shown))
            places = [*beside[:target], own, *beside[target:]]
            other = (target + 1 + int(rng.integers(self.shown - 1))) % self.shown
            first = _Asked(row, places, target, other)
            asked += [first, _Asked(row, places, other, target)] if self.both_ways else [first]
        return asked, reasons

    def _beside(
        self,
        own: dict[str, Any],
        others: Sequence[dict[str, Any]],
        cosines: Any,  # noqa: ANN401 - Float[N]
        rng: np.random.Generator,
    ) -> list[dict[str, Any]]:
        """Rows whose documents stand beside a row's own."""
        chosen: list[dict[str, Any]] = []
        spans = {own["span"].casefold()}
        sizes = [len(own["document"])]
        for place in rng.permutation(len(others)):
            other = others[int(place)]
            alike = other["question"].strip().casefold() == own["question"].strip().casefold()
            near = self.least <= cosines[place] <= self.most
            span, size = other["span"].casefold(), len(other["document"])
            fits = max(size, *sizes) <= self.length_ratio * min(size, *sizes)
            told = [own["span"], *(c["span"] for c in chosen)]
            crossed = named(other["document"], told) or any(
                named(c["document"], [other["span"]]) for c in (own, *chosen)
            )
            if other["prompt_id"] == own["prompt_id"] or span in spans or crossed:
                continue
            if (alike or near) and fits:
                chosen.append(other)
                spans.add(span)
                sizes.append(size)
            if len(chosen) == self.shown - 1:
                break
        return chosen

    def _answered(self, asked: Sequence[_Asked], ctx: Context) -> None:
        """Find both answers of each question."""
        texts: list[list[str]] = [[] for _ in asked]
        if self.model is not None and asked:
            talks: list[list[Message]] = [[{"role": "user", "content": a.text}] for a in asked]
            ids = [f"{a.places[a.target]['prompt_id']}/{a.text}/{ctx.step}" for a in asked]
            sampling = self.sampling.drawn(ctx.seed, self.n)
            replies = ctx.open(self.model).generate(talks, sampling, ids)
            said = [
                [
                    Said(storable(r.text).strip(), r.finish_reason, talk)
                    for r in own
                    if isinstance(r, Completion)
                ]
                for own, talk in zip(replies, talks, strict=True)
            ]
            problems = iter(self.gate.problems([s for own in said for s in own]))
            texts = [[s.text for s in own if next(problems) is None] for own in said]
        by_question = {(a.row, a.target): t for a, t in zip(asked, texts, strict=True)}
        for a, own in zip(asked, texts, strict=True):
            a.label(own, by_question.get((a.row, a.other), []))

    def _passes(self, asked: _Asked) -> bool:
        """Whether its model hardly looked at the document that is asked about."""
        if self.attention is None:
            return True
        texts = [p["document"] for p in asked.places]
        asked.ratio = self.attention.ratio_of_texts(
            asked.text, texts, asked.rejected or "", asked.target
        )
        return asked.ratio <= self.attention.most.get(len(texts), 1.0)

    def _made(self, table: pl.DataFrame, good: Sequence[_Asked]) -> pl.DataFrame:
        written = "rule" if self.model is None else "open_model"
        model = "rule" if self.model is None else self.model.model
        writers = [
            (model if a.chosen_by_model else "rule", model if a.rejected_by_model else "rule")
            for a in good
        ]
        texts = [(a.chosen or "", a.rejected or "") for a in good]
        new = sides(texts, writers, (written, written), "rule")
        new |= {
            "prompt": (
                MESSAGES,
                [[{"role": "user", "content": a.text}] for a in good],
            ),
            "target": (pl.Int64(), [a.target + 1 for a in good]),
            "order": (pl.List(pl.String), [[p["prompt_id"] for p in a.places] for a in good]),
            "attention_ratio": (pl.Float64(), [a.ratio for a in good]),
            "contrast": text_column(["text"] * len(good)),
            "annotator": text_column([self.annotator] * len(good)),
        }
        return children(table, [a.row for a in good], new, Shape.PAIRS, PARENT)


@dataclass
class _Asked:
    """One composed question on its way to a pair."""

    row: int
    places: Sequence[dict[str, Any]]
    target: int
    other: int
    chosen: str | None = None
    rejected: str | None = None
    chosen_by_model: bool = False
    rejected_by_model: bool = False
    ratio: float | None = None

    @property
    def text(self) -> str:
        return composed([p["document"] for p in self.places], self.target + 1, self.asked)

    @property
    def asked(self) -> str:
        return str(self.places[self.target]["question"])

    def label(self, own: Sequence[str], of_other: Sequence[str]) -> None:
        """Take the model's answers that the rule calls right and wrong, or the spans."""
        spans = [p["span"] for p in self.places]
        right = [t for t in own if verdict(t, spans, self.target) == "right"]
        wrong = [t for t in own if verdict(t, spans, self.target) == "wrong"]
        wrong = wrong or [t for t in of_other if verdict(t, spans, self.target) == "wrong"]
        self.chosen, self.chosen_by_model = (right or [spans[self.target]])[0], bool(right)
        self.rejected, self.rejected_by_model = (wrong or [spans[self.other]])[0], bool(wrong)


def composed(documents: Sequence[str], target: int, asked: str) -> str:
    """A prompt of numbered documents and a question about one of them, from 1."""
    shown = "\n\n".join(f"Document {i}:\n{text}" for i, text in enumerate(documents, 1))
    return f"{shown}\n\nIn document {target}: {asked}"


def named(text: str, spans: Sequence[str]) -> list[int]:
    """Places of the spans that a text holds as whole words, without case.

    "187" does not stand in "1871".
    """
    folded = text.casefold()
    return [i for i, span in enumerate(spans) if span and _stands(span.casefold(), folded)]


def _stands(span: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(span)}(?!\w)", text) is not None


def verdict(answer: str, spans: Sequence[str], target: int) -> str:
    """What a rule says of an answer.

    Returns:
        `right` (names the target's span and no other), `wrong` (exactly one other), or `unclear`.
    """
    told = named(answer, spans)
    if len(told) != 1:
        return "unclear"
    return "right" if told[0] == target else "wrong"
