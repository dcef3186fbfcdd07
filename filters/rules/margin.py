"""Rows leave by a score: pairs by their margin, answers by the score itself."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import polars as pl
from pydantic import Field, model_validator

from prefactory.context import Context
from prefactory.step import Filter, verdict
from prefactory.tables import SIDES, Shape

Policy = Literal["drop", "keep"]


def score_columns(objective: str | None, shape: Shape) -> dict[str, pl.DataType]:
    """Name the score columns of an objective, if any, on a shape (pairs have one for each side)."""
    if objective is None:
        return {}
    names = [f"{side}_score_{objective}" for side in SIDES]
    return dict.fromkeys(names if shape == Shape.PAIRS else [f"score_{objective}"], pl.Float64())


def _limits_in_order(low: float | None, high: float | None) -> None:
    if low is not None and high is not None and low > high:
        raise ValueError(f"min ({low}) is above max ({high})")


class Margin(Filter):
    """Keep pairs whose score margin, chosen minus rejected, agrees with the label and is clear.

    Three policies come first: a missing score (null or NaN on either side), a tie (margin exactly
    0), a conflict (margin below 0: the label says chosen, the score says rejected). Then the size
    |margin| must lie within `min` and `max`, both inclusive, so that kept conflicts are measured
    by how far the score is from undecided.

    Reasons: `null_score`, `tie`, `conflict`, `small_margin`, `large_margin`; the detail is the
    margin, or the side without a score.

    Attributes:
        objective: whose scores are compared.
        min: least |margin|, in units of the objective.
        max: greatest |margin|; null for no limit.
        on_tie: what happens to ties.
        on_conflict: what happens to conflicts.
        on_null: what happens to pairs without a margin; kept ones meet no further rule.

    Example:
        - filters.Margin: {objective: reward, min: 0.5}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PAIRS,)

    objective: str = Field(min_length=1)
    min: float = Field(default=0.0, ge=0)
    max: float | None = Field(default=None, ge=0)
    on_tie: Policy = "drop"
    on_conflict: Policy = "drop"
    on_null: Policy = "drop"

    @model_validator(mode="after")
    def _validate_limits(self) -> Self:
        _limits_in_order(self.min, self.max)
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """Both sides' scores of the objective (Float64)."""
        return score_columns(self.objective, shape)

    def keep(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Judge PAIRS rows by their margin.

        Args:
            table: PAIRS with `chosen_score_<objective>` and `rejected_score_<objective>`.
            ctx: not used.

        Returns:
            `reason` and `detail` (String), same height and order.
        """
        chosen, rejected = (pl.col(c).fill_nan(None) for c in self.needs(Shape.PAIRS))
        margin = (chosen - rejected).fill_nan(None)
        without = (
            pl.when(chosen.is_null() & rejected.is_null())
            .then(pl.lit("both sides"))
            .when(chosen.is_null())
            .then(pl.lit("chosen"))
            .when(rejected.is_null())
            .then(pl.lit("rejected"))
            .otherwise(pl.lit("both sides infinite"))
        )
        shown = pl.format("margin {}", margin.round_sig_figs(6))
        rules = []
        if self.on_null == "drop":
            rules.append((margin.is_null(), "null_score", without))
        if self.on_tie == "drop":
            rules.append((margin == 0, "tie", shown))
        if self.on_conflict == "drop":
            rules.append((margin < 0, "conflict", shown))
        rules.append((margin.abs() < self.min, "small_margin", shown))
        if self.max is not None:
            rules.append((margin.abs() > self.max, "large_margin", shown))
        return verdict(table, *rules)


class Score(Filter):
    """Keep answers whose score of one objective lies within `min` and `max`, both inclusive.

    Reasons: `null_score` (null or NaN), `low_score`, `high_score`; the detail is the score.

    Attributes:
        objective: whose score is read.
        min: least score; null for no limit.
        max: greatest score; null for no limit.
        on_null: what happens to answers without a score.

    Example:
        - filters.Score: {objective: helpfulness, min: 3}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)

    objective: str = Field(min_length=1)
    min: float | None = None
    max: float | None = None
    on_null: Policy = "drop"

    @model_validator(mode="after")
    def _validate_limits(self) -> Self:
        _limits_in_order(self.min, self.max)
        if (self.min, self.max, self.on_null) == (None, None, "keep"):
            raise ValueError("min and max are null and on_null is keep: nothing would be filtered")
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The objective's score (Float64), on pairs of both sides."""
        return score_columns(self.objective, shape)

    def keep(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Judge RESPONSES rows by their score.

        Args:
            table: RESPONSES with `score_<objective>`.
            ctx: not used.

        Returns:
            `reason` and `detail` (String), same height and order.
        """
        score = pl.col(f"score_{self.objective}").fill_nan(None)
        shown = pl.format("score {}", score.round_sig_figs(6))
        rules = []
        if self.on_null == "drop":
            rules.append((score.is_null(), "null_score", pl.lit("not scored")))
        if self.min is not None:
            rules.append((score < self.min, "low_score", shown))
        if self.max is not None:
            rules.append((score > self.max, "high_score", shown))
        return verdict(table, *rules)
