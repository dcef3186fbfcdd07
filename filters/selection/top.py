"""The best rows by a score, of all or of each group."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from filters.rules.margin import score_columns
from filters.selection.baseline import Measure
from filters.selection.margins import wanted
from filters.selection.places import Bools, Places
from filters.selection.selector import Chosen, Selector
from filters.selection.subsample import numbered
from prefactory.context import Context
from prefactory.tables import SIDES, Shape


class Top(Selector):
    """Keep the rows with the best score: a share of all, or of each group, or so many of each.

    `fraction`, `rows` and `tokens` are a budget of all rows, shared out among the groups of
    `group_by`; `per_group` is a number for each group instead, all of a smaller one. With
    `group_by: prompt_id` a group is the answers (or pairs) of one prompt. Ties go to the lowest id.

    Reasons: `not_selected` (the detail is the score), `null_score` (null, NaN or infinite: such a
    row is never kept).

    Baseline: the mean score.

    Attributes:
        objective: whose score is read: `score_<objective>` of responses and prompts, that of one
            side of pairs. For the margin of pairs there is `filters.MarginSelection`.
        side: of pairs, whose score counts.
        order: whether a `high` or a `low` score is good.
        per_group: rows that stay of each group, instead of a budget of all.

    Example:
        - filters.Top: {objective: helpfulness, fraction: 0.5, group_by: prompt_id}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS, Shape.RESPONSES, Shape.PAIRS)

    objective: str = Field(min_length=1)
    side: Literal["chosen", "rejected"] = "chosen"
    order: Literal["high", "low"] = "high"
    per_group: Annotated[int | None, Field(ge=0)] = None

    @model_validator(mode="after")
    def _validate_budget(self) -> Self:
        budgets = (self.fraction, self.rows, self.tokens, self.per_group)
        if budgets.count(None) != 3:
            raise ValueError("set exactly one of fraction, rows, tokens and per_group")
        if self.per_group is not None and self.group_by is None:
            raise ValueError("per_group needs group_by, for example group_by: prompt_id")
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The score (Float64), and the column `group_by` (String), if it is set."""
        return {**super().needs(shape), self._column(shape): pl.Float64()}

    def _column(self, shape: Shape) -> str:
        columns = list(score_columns(self.objective, shape))
        return columns[SIDES.index(self.side)] if shape == Shape.PAIRS else columns[0]

    def reads(self, table: pl.DataFrame, shape: Shape, ctx: Context) -> list[pl.Series]:
        """`score`."""
        return [table[self._column(shape)].alias("score")]

    def places(
        self,
        parts: pl.DataFrame,
        groups: NDArray[np.int64] | None = None,
        eligible: Bools | None = None,
    ) -> Places:
        """As of every budget; `per_group` gives each group room for so many."""
        if self.per_group is None:
            return super().places(parts, groups, eligible)
        group = numbered(parts["group_by"])
        ones = np.ones(parts.height, dtype=np.int64)
        room = np.full(int(group.max(initial=0)) + 1, self.per_group, dtype=np.int64)
        return Places(ones, group, room, ones > 0 if eligible is None else eligible)

    def choose(self, parts: pl.DataFrame, places: Places, ctx: Context) -> Chosen:
        """Take the best that fit; the ledger says the score."""
        score = parts["score"].fill_null(float("nan")).to_numpy().astype(np.float64)
        rows = places.fill(wanted(np.where(places.open, score, np.nan), self.order))
        better: Literal["higher", "lower"] = "higher" if self.order == "high" else "lower"
        measure = Measure(f"mean {self.objective}", better, lambda rows: float(score[rows].mean()))
        return Chosen(rows, measure, score, "score")
