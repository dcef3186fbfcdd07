"""Answers become pairs: within each prompt, a higher score is chosen over a lower one."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import polars as pl
from pydantic import Field, field_validator, model_validator

from prefactory.context import Context
from prefactory.step import Generated, Generator, Scope, verdict
from prefactory.tables import (
    LABEL_SOURCES,
    SCORE,
    SIDES,
    Shape,
    canonical_order,
    text_of,
    with_ids,
)

Strategy = Literal["best_worst", "best_random", "all", "top_bottom_k"]


class Pairs(Generator):
    """Pair the answers of each prompt by one objective's score.

    Strategies (answers of equal score are ordered by id, which is a hash and so favours none):

    - `best_worst`: the highest score with the lowest.
    - `best_random`: the highest score with one answer drawn uniformly among those that are lower
      by at least `min_margin` (UltraFeedback binarised, Tunstall et al. 2023, arXiv:2310.16944).
    - `all`: every answer with every lower one, n (n - 1) / 2 pairs of n answers.
    - `top_bottom_k`: each of the `k` highest with each lower one of the `k` lowest.

    Equal scores never make a pair, whatever the strategy, and neither do equal texts (compared in
    NFC without outer white space): of answers with one text only the first by id takes part.

    New columns are `margin` (Float64, chosen minus rejected score, always above 0) and all score
    columns of both answers; `source` and `source_id` are those of the chosen answer.

    Reasons for answers in no pair, the first that holds: `null_score` (null, NaN or infinite),
    `same_text`, `single_response` (no other usable answer), `tie` (all usable answers of the
    prompt score the same), `small_margin` (no usable answer is `min_margin` away), `not_selected`.

    Attributes:
        objective: whose score orders the answers.
        strategy: which pairs are made.
        k: size of both ends, for `top_bottom_k` only.
        min_margin: least margin of a pair, in units of the objective, inclusive.
        on_tie: ties are dropped; there is no other policy.
        max_pairs: most pairs of one prompt, greatest margin first; null for no limit.
        label_source: who ordered the answers, see `prefactory.tables.LABEL_SOURCES`.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    scope: ClassVar[Scope] = "prompt"
    parents: ClassVar[tuple[str, ...]] = ("chosen_id", "rejected_id")

    objective: str = Field(min_length=1)
    strategy: Strategy = "best_worst"
    k: int | None = Field(default=None, ge=1)
    min_margin: float = Field(default=0.0, ge=0)
    on_tie: Literal["drop"] = "drop"
    max_pairs: int | None = Field(default=None, ge=1)
    label_source: str = "reward_model"

    @field_validator("label_source")
    @classmethod
    def _validate_label_source(cls, value: str) -> str:
        if value not in LABEL_SOURCES:
            raise ValueError(f"{value!r} is none of {', '.join(LABEL_SOURCES)}")
        return value

    @model_validator(mode="after")
    def _validate_k(self) -> Self:
        if (self.strategy == "top_bottom_k") != (self.k is not None):
            raise ValueError("the strategy top_bottom_k needs k, and no other strategy takes it")
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The objective's score (Float64)."""
        return {f"{SCORE}{self.objective}": pl.Float64()}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`margin` (Float64); the score columns of both sides are carried over."""
        return {"margin": pl.Float64()}

    def out_shape(self, shape: Shape) -> Shape:
        """PAIRS."""
        return Shape.PAIRS

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Make the pairs of all prompts of a table.

        Args:
            table: RESPONSES with `score_<objective>`; all answers of a prompt are in it.
            ctx: draws the rejected answer of `best_random`, by response id.

        Returns:
            PAIRS in canonical order, and the answers that are in none of them.
        """
        scored, usable = self._usable(table)
        picked = self._pick(usable, ctx)
        used = pl.concat([picked["chosen_id"], picked["rejected_id"]]).unique()
        judged = scored.select(row_id="response_id").hstack(self._reasons(scored, usable))
        dropped = judged.filter(~pl.col("row_id").is_in(used.implode()))
        return Generated(self._rows(table, picked), dropped)

    def _usable(self, table: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """All answers by id with finite `score` and `twin`; and of them those that may pair."""
        score = pl.col(f"{SCORE}{self.objective}")
        text = text_of(pl.col("response")).fill_null("").str.normalize("NFC").str.strip_chars()
        scored = (
            table.with_row_index("row")
            .select(
                "row",
                "prompt_id",
                "response_id",
                score=pl.when(score.is_finite()).then(score),
                text=text,
            )
            .sort("prompt_id", "response_id")
            .with_columns(missing=pl.col("score").is_null())
            .with_columns(twin=pl.col("response_id").first().over("prompt_id", "missing", "text"))
            .drop("text")
        )
        usable = scored.filter(~pl.col("missing"), pl.col("response_id") == pl.col("twin"))
        return scored, usable.with_columns(
            size=pl.len().over("prompt_id"),
            least=pl.col("score").min().over("prompt_id"),
            greatest=pl.col("score").max().over("prompt_id"),
        )

    def _reasons(self, scored: pl.DataFrame, usable: pl.DataFrame) -> pl.DataFrame:
        """Why each answer would be left out if no pair held it."""
        facts = usable.select("response_id", "size", "least", "greatest")
        joined = scored.join(facts, on="response_id", how="left", maintain_order="left")
        reach = pl.max_horizontal(
            pl.col("greatest") - pl.col("score"), pl.col("score") - pl.col("least")
        )
        return verdict(
            joined,
            (pl.col("missing"), "null_score", pl.lit("no finite score")),
            (
                pl.col("response_id") != pl.col("twin"),
                "same_text",
                pl.format("same text as {}", pl.col("twin")),
            ),
            (pl.col("size") == 1, "single_response", pl.lit("no other usable answer")),
            (
                pl.col("greatest") == pl.col("least"),
                "tie",
                pl.format("all {} answers score {}", pl.col("size"), pl.col("score")),
            ),
            (
                reach < self.min_margin,
                "small_margin",
                pl.format("greatest margin {}", reach.round_sig_figs(6)),
            ),
            (pl.lit(value=True), "not_selected", pl.lit(self.strategy)),
        )

    def _pick(self, usable: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """The pairs, as ids and rows of the table, with their margin."""
        ranked = usable.sort(
            "prompt_id", "score", "response_id", descending=[False, True, False]
        ).with_columns(rank=pl.int_range(pl.len()).over("prompt_id"))
        ends = self.k or 1
        rank, size = pl.col("rank"), pl.col("size").cast(pl.Int64)
        every = pl.lit(value=True)
        chosen = every if self.strategy == "all" else rank < ends
        rejected = every if self.strategy in ("all", "best_random") else rank >= size - ends
        high, low = (
            ranked.filter(take).select(
                "prompt_id",
                pl.col("response_id").alias(f"{side}_id"),
                pl.col("row").alias(f"{side}_row"),
                pl.col("score").alias(f"{side}_score"),
            )
            for side, take in zip(SIDES, (chosen, rejected), strict=True)
        )
        margin = pl.col("margin")
        pairs = (
            high.join(low, on="prompt_id")
            .with_columns(margin=pl.col("chosen_score") - pl.col("rejected_score"))
            .filter(margin > 0, margin >= self.min_margin)
        )
        order = ["prompt_id", "margin", "chosen_id", "rejected_id"]
        pairs = pairs.sort(order, descending=[False, True, False, False])
        if self.strategy == "best_random":
            draws = ctx.uniform(pairs["rejected_id"])
            first = pl.col("draw") == pl.col("draw").min().over("prompt_id")
            pairs = pairs.with_columns(draws.alias("draw")).filter(first)
        limit = 1 if self.strategy == "best_random" else self.max_pairs
        return (
            pairs if limit is None else pairs.group_by("prompt_id", maintain_order=True).head(limit)
        )

    def _rows(self, table: pl.DataFrame, picked: pl.DataFrame) -> pl.DataFrame:
        """PAIRS rows from the picked rows of the table."""
        scores = [c for c in table.columns if c.startswith(SCORE)]
        shared = table.select("prompt_id", "prompt", "source", "source_id")
        parts = [shared.select(pl.all().gather(picked["chosen_row"]))]
        for side in SIDES:
            answers = table.select(
                pl.col("response").alias(side),
                pl.col("response_id").alias(f"{side}_id"),
                pl.col("model").alias(f"{side}_model"),
                *(pl.col(c).alias(f"{side}_{c}") for c in scores),
            )
            parts.append(answers.select(pl.all().gather(picked[f"{side}_row"])))
        rows = pl.concat(parts, how="horizontal").with_columns(
            picked["margin"], label_source=pl.lit(self.label_source)
        )
        return canonical_order(with_ids(rows, Shape.PAIRS, keep_side_ids=True), Shape.PAIRS)
