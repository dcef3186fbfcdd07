"""The margin of pairs: how far one objective's score puts the chosen answer above the rejected."""

from __future__ import annotations

from typing import ClassVar

import polars as pl
from pydantic import Field

from prefactory.context import Context
from prefactory.errors import DataError
from prefactory.step import Labeler
from prefactory.tables import SCORE, SIDES, Shape


class Margin(Labeler):
    """Add `margin`, the chosen score minus the rejected score of one objective.

    It may be negative (score and label disagree) or 0. A margin is there on all pairs or on none,
    so a pair without both scores is an error; `filters.Margin` takes such pairs out. Pairs from
    `labelers.Pairs` have a margin already.

    Attributes:
        objective: whose scores are compared.

    Example:
        - labelers.Margin: {objective: reward}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PAIRS,)

    objective: str = Field(min_length=1)

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """Both sides' scores of the objective (Float64)."""
        return {f"{side}_{SCORE}{self.objective}": pl.Float64() for side in SIDES}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`margin` (Float64, in units of the objective)."""
        return {"margin": pl.Float64()}

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Subtract the scores.

        Args:
            table: PAIRS with `chosen_score_<objective>` and `rejected_score_<objective>`.
            ctx: not used.

        Returns:
            `margin`, same height and order.

        Raises:
            DataError: if a score is null or NaN, with the number of such pairs in this shard.
        """
        chosen, rejected = (pl.col(c) for c in self.needs(Shape.PAIRS))
        new = table.select(margin=(chosen - rejected).fill_nan(None))
        missing = new["margin"].null_count()
        if missing:
            raise DataError(
                f"{missing} of {table.height} pairs of this shard lack a score of "
                f"{self.objective!r} and can't have a margin; put "
                f"`filters.Margin: {{objective: {self.objective}, on_null: drop}}` before "
                "labelers.Margin"
            )
        return new
