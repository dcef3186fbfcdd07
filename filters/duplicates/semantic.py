"""Rows leave whose sentence vector is near that of a row that stays."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field

from filters.duplicates.near import prompts_at_best, quality
from filters.rules.margin import score_columns
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError
from prefactory.images.marks import pictures_key
from prefactory.near.choose import ranks
from prefactory.near.leaders import EVERY_PAIR, Allowed, exact_cosine, greedy_by_ivf, greedy_kept
from prefactory.near.pairs import array_column
from prefactory.near.polarity import FEATURES, Polarity, SameScore, polarity
from prefactory.near.shingles import I64
from prefactory.near.vectors import Vectors, load_faiss, unit32
from prefactory.step import FittedFilter, State
from prefactory.step.exchange import Exchanged, of_digests
from prefactory.tables import (
    ROW_ID,
    SIDES,
    Shape,
    digests,
    question_and_answer,
    shape_of,
    text_of,
)


class SemanticDuplicates(Exchanged, FittedFilter):
    """Drop rows whose sentence vector has a cosine of `threshold` or more with that of a kept row.

    Rows are taken best first (by the score of `keep_best`, of pairs the margin, of prompts the best
    answer; then by id), and each is compared with the rows kept before it. SemDeDup (2303.09540)
    compares with dropped rows as well, so that a chain of neighbours loses all but one: of vectors
    at 0, 20, 40, 60 and 80 degrees it keeps one at a threshold of 25 degrees, this filter three.

    Vectors hardly see polarity: "right to keep a promise" and "wrong to keep a promise" are nearer
    than many paraphrases. Short texts with an odd and an even number of negations, or with words
    of opposite meaning, are not duplicates (see `prefactory.near.polarity`; the rule
    and its word lists are ours, for want of a model of entailment); or set `stance` to an
    objective whose scores must be equal.

    What is compared is set by `on`: `row` the last user message with the answer, of pairs with
    each answer; `prompt` the conversation, whose rows stay or go together; `response` the answers
    alone, by default among rows of one prompt. The two answers of pairs are unordered.

    Reason: `semantic_duplicate`; the detail is `kept <id>, cosine <value>` (a row id, or the
    `prompt_id` on `prompt`).

    Attributes:
        on: the text that is compared.
        threshold: least cosine of duplicates, in (0, 1].
        within: where rows are compared: of one `prompt`, or `all`. Null: `prompt` if `on` is
            `response`, else all.
        keep_best: objective whose score chooses the row that stays.
        polarity_words: words of the longest texts that the guard of polarity looks at; 0: no guard.
        stance: objective whose scores duplicates must share (not on PAIRS).
        index: `exact` compares with every kept row; `ivf` with those in cells nearby, by faiss,
            for more rows than some 200,000: it misses some pairs.
        probes: cells that `ivf` looks into.
        encoder: sentence encoder.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS, Shape.RESPONSES, Shape.PAIRS)
    version: ClassVar[int] = 2

    on: Literal["row", "prompt", "response"] = "row"
    threshold: float = Field(default=0.9, gt=0, le=1)
    within: Literal["prompt", "all"] | None = None
    keep_best: str | None = Field(default=None, min_length=1)
    polarity_words: int = Field(default=50, ge=0)
    stance: str | None = Field(default=None, min_length=1)
    index: Literal["exact", "ivf"] = "exact"
    probes: int = Field(default=64, ge=1)
    encoder: Encoder = Field(default_factory=Encoder)

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The scores of `keep_best` and of `stance` (Float64), if set; PROMPTS have none.

        Raises:
            ConfigError: for a `stance` on PAIRS, whose two answers have one each; for the index
                `ivf` without faiss.
        """
        if self.index == "ivf":
            load_faiss()
        if self.stance is not None and shape == Shape.PAIRS:
            raise ConfigError("stance: a pair holds two; put the filter before labelers.Pairs")
        return self._best(shape) | self._stance(shape)

    def _best(self, shape: Shape) -> dict[str, pl.DataType]:
        return {} if shape == Shape.PROMPTS else score_columns(self.keep_best, shape)

    def _stance(self, shape: Shape) -> dict[str, pl.DataType]:
        return score_columns(self.stance, shape) if shape == Shape.RESPONSES else {}

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Embed the texts of a shard and read their polarity.

        Args:
            table: PROMPTS, RESPONSES or PAIRS.
            ctx: opens the encoder.

        Returns:
            `unit` (String), `score`, `stance` (Float64), `prompt_id` (String, if `within` a
            prompt) and, for each of one or two texts, `vector_<i>` (Array(Float32, d)) and the
            features of `prefactory.near.polarity.polarity` as `<feature>_<i>`.

        Raises:
            ConfigError: if the context has no encoder.
        """
        if ctx.embed is None:
            raise ConfigError("SemanticDuplicates needs an encoder; this context has none")
        shape = shape_of(table)
        stance = [pl.col(c) for c in self._stance(shape)] or [pl.lit(None, dtype=pl.Float64)]
        units = table.with_columns(
            unit=pl.col(self.unit(shape)), score=quality(self._best(shape)), stance=stance[0]
        )
        if self.unit(shape) == "prompt_id":
            units = prompts_at_best(units)
        by_prompt = ["prompt_id"] if self._by_prompt else []
        parts = units.select("unit", "score", "stance", *by_prompt)
        if ctx.images is not None and not by_prompt:
            parts = parts.with_columns(pictures_key(units["prompt"]))
        texts = [units.select(t.fill_null("")).to_series() for t in self._texts(shape)]
        both = np.asarray(ctx.embed(self.encoder, pl.concat(texts)), dtype=np.float32)
        for i, (text, vectors) in enumerate(zip(texts, np.split(both, len(texts)), strict=True)):
            features = polarity(text)
            features.columns = [f"{name}_{i}" for name in FEATURES]
            column = array_column(unit32(vectors), pl.Float32()).alias(f"vector_{i}")
            parts = parts.hstack([column, *features.get_columns()])
        return parts

    def unit(self, shape: Shape) -> str:
        """Prompts stay or go with all their rows if `on` is `prompt`."""
        return "prompt_id" if self.on == "prompt" else ROW_ID[shape]

    @property
    def _by_prompt(self) -> bool:
        return (self.within or ("prompt" if self.on == "response" else "all")) == "prompt"

    def _texts(self, shape: Shape) -> list[pl.Expr]:
        if self.on == "prompt" or shape == Shape.PROMPTS:
            return [text_of(pl.col("prompt"))]
        sides = ["response"] if shape == Shape.RESPONSES else list(SIDES)
        if self.on == "response":
            return [text_of(pl.col(side)) for side in sides]
        return [question_and_answer(side) for side in sides]

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Choose which rows go.

        Args:
            parts: the rows of `fit_shard`, sorted by `unit`.
            ctx: not used.

        Returns:
            State with the table `dropped` (`unit`, `reason`, `kept`, `detail`; String) and the
            facts `units` and `semantic_duplicate` (units that go).
        """
        names = sorted(c for c in parts.columns if c.startswith("vector_"))
        sides = [parts[name].to_numpy() for name in names]
        group = None
        within = next((c for c in ("prompt_id", "pictures") if c in parts.columns), None)
        if within is not None:  # rows about other pictures are other rows
            group = parts[within].rank("dense").cast(pl.Int64).to_numpy()
        rank = ranks(parts["unit"], parts["score"])
        beside = self._beside(sides, rank, group, self._allowed(parts, len(sides)))
        losers = np.flatnonzero(beside >= 0)
        cosine = np.round(exact_cosine(sides, losers, beside[losers]), 3)
        dropped = pl.DataFrame(
            {
                "unit": parts["unit"].gather(losers),
                "reason": pl.Series(["semantic_duplicate"] * losers.size, dtype=pl.String),
                "kept": parts["unit"].gather(beside[losers]),
                "cosine": cosine,
            }
        ).with_columns(detail=pl.format("kept {}, cosine {}", "kept", "cosine"))
        facts = {"units": parts.height, "semantic_duplicate": int(losers.size)}
        return State({"dropped": dropped.drop("cosine")}, facts)

    def exchanged(self) -> bool:
        """Where rows are compared with those of their prompt alone (`ivf` depends on all rows)."""
        return self._by_prompt and self.index == "exact"

    def keys(self, parts: pl.DataFrame, ctx: Context) -> pl.Series:
        """The digest of the prompt."""
        return of_digests(digests(parts["prompt_id"]))

    def _allowed(self, parts: pl.DataFrame, sides: int) -> Allowed:
        allowed = EVERY_PAIR
        if self.polarity_words:
            features = [
                parts.select(pl.col(f"{name}_{i}").alias(name) for name in FEATURES)
                for i in range(sides)
            ]
            allowed = Polarity(features, self.polarity_words)
        if self.stance is not None:
            stance = parts["stance"].fill_null(float("nan")).to_numpy()
            allowed = SameScore(stance, allowed)
        return allowed

    def _beside(self, sides: list[Vectors], rank: I64, group: I64 | None, allowed: Allowed) -> I64:
        if self.index == "ivf":
            return greedy_by_ivf(
                sides, rank, self.threshold, self.probes, group=group, allowed=allowed
            )
        return greedy_kept(
            sides,
            rank,
            self.threshold,
            group=group,
            allowed=allowed,
            device=self.encoder.device,
        )
