"""What is done about labels that look wrong."""

from __future__ import annotations

from typing import ClassVar, Literal

import polars as pl
from pydantic import Field, model_validator

from prefactory.context import Context
from prefactory.errors import DataError
from prefactory.preferences.trust import PLANTED
from prefactory.step import Generated, Generator, Scope, State
from prefactory.tables import Shape, canonical_order, with_ids
from prefactory.turned import turned

LEAST_LIFT = 1.5
"""Dropping needs so many times as many plants among the suspects as among all rows."""
LEAST_PRECISION = 0.5
"""Turning rows at a precision of one half or less adds errors."""


class SuspectLabels(Generator):
    """Mark for review, drop or turn round the pairs whose labels are trusted least.

    Needs `trust` of `labelers.LabelTrust`. Adds `suspect` (Boolean) and `turned_from` (the pair's
    id before). Null trust and rows that people have checked are never suspect; ties go by id.

    - `review`: all rows stay; look at those with `suspect`.
    - `drop`: suspects leave, with reason `suspect_label`. Refused unless the self-test found 1.5
      times as many of its plants among so many least trusted rows as among all: below that, nine
      of ten that leave are right.
    - `turn`: suspects with `trust` below .5 change sides, if the self-test's precision there is
      above .5, since turning a share q at precision p takes the share of wrong labels from e to
      e + q(1 - 2p). A pair whose turned order is there already leaves with reason `turned_copy`.

    The limits are our choice.

    Attributes:
        by: how many are suspect: the least trusted `share` of the rows, all with a `probability`
            of being right below a limit, or a number of `rows`.
        amount: that share (default .1), probability (.5) or number (100).
        do: what happens to them.
        checked: Boolean column of rows that people have checked.
        force: drop or turn against the self-test, or without one.

    Raises:
        DataError: when the self-test does not allow what is asked for.

    Example:
        - labelers.LabelTrust: {}
        - filters.SuspectLabels: {by: share, amount: 0.1}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PAIRS,)
    scope: ClassVar[Scope] = "dataset"
    parents: ClassVar[tuple[str, ...]] = ("turned_from",)
    version: ClassVar[int] = 2

    by: Literal["share", "probability", "rows"] = "share"
    amount: float | None = Field(default=None, gt=0)
    do: Literal["review", "drop", "turn"] = "review"
    checked: str | None = None
    force: bool = False

    @model_validator(mode="after")
    def _amount_fits(self) -> SuspectLabels:
        if self.by != "rows" and (self.amount or 0) >= 1:
            raise ValueError(f"amount {self.amount:g}: a {self.by} is below 1")
        if self.by == "rows" and (self.amount or 1) % 1:
            raise ValueError(f"amount {self.amount:g}: rows are whole")
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """Trust and the self-test's precision."""
        checked = {self.checked: pl.Boolean()} if self.checked else {}
        return {"trust": pl.Float64(), "trust_precision": pl.Float64(), **checked}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Whether the label is suspect, and the pair's id before."""
        return {"suspect": pl.Boolean(), "turned_from": pl.String()}

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Ids of the pairs in both orders, and their trust."""
        checked = pl.col(self.checked).fill_null(value=False) if self.checked else pl.lit(False)
        names = {"chosen_id": "rejected_id", "rejected_id": "chosen_id"}
        other = table.select("prompt", "chosen_id", "rejected_id").rename(names)
        back = with_ids(other, Shape.PAIRS, keep_side_ids=True)["pair_id"]
        own = table.select("pair_id", "trust", "trust_precision", checked=checked)
        return own.with_columns(back.alias("back"))

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Choose the suspects.

        Returns:
            table `suspects` (pair_id, trust, copy: the turned pair is there already); info:
            `suspect_labels`.
        """
        trusted = parts.filter(pl.col("trust").is_not_null() & ~pl.col("checked"))
        order = trusted.sort("trust", "pair_id")
        suspects = self._chosen(order)
        if self.do == "turn":
            suspects = suspects.filter(pl.col("trust") < LEAST_PRECISION)
        precision = None
        if suspects.height:
            precision = suspects["trust_precision"].tail(1).item()
            self._check(precision, suspects.height)
        here = pl.col("back").is_in(parts["pair_id"].implode())
        info = {
            "do": self.do,
            "suspects": suspects.height,
            "of": parts.height,
            "checked": int(parts["checked"].sum()),
            "precision": precision,
        }
        table = suspects.select("pair_id", "trust", copy=here)
        return State({"suspects": table}, {"suspect_labels": info})

    def _chosen(self, order: pl.DataFrame) -> pl.DataFrame:
        if self.by == "probability":
            return order.filter(pl.col("trust") < (self.amount or 0.5))
        if self.by == "rows":
            return order.head(int(self.amount or 100))
        return order.head(round((self.amount or 0.1) * order.height))

    def _check(self, precision: float | None, count: int) -> None:
        if self.do == "review" or self.force:
            return
        least = LEAST_LIFT * PLANTED if self.do == "drop" else LEAST_PRECISION
        if precision is not None and precision >= least:
            return
        said = "there was no self-test" if precision is None else f"it is {precision:.2f}"
        raise DataError(
            f"filters.SuspectLabels would {self.do} {count} rows, for which the self-test's "
            f"precision must be {least:.2f} or more, and {said}; write `do: review`, take fewer "
            "rows, or `force: true` after looking at some of them"
        )

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Mark, drop or turn.

        Returns:
            PAIRS in canonical order, and the pairs left out.
        """
        suspects = ctx.fitted.tables["suspects"]
        told = table.select("pair_id").join(
            suspects.select("pair_id", "copy", doubt="trust"),
            on="pair_id",
            how="left",
            maintain_order="left",
        )
        hit = told["doubt"].is_not_null()
        leaves = hit & {"review": False, "drop": True, "turn": told["copy"]}[self.do]
        leaves = leaves.fill_null(value=False)
        reason = "suspect_label" if self.do == "drop" else "turned_copy"
        dropped = told.filter(leaves).select(
            row_id="pair_id",
            reason=pl.lit(reason),
            detail=pl.format("trust {}", pl.col("doubt").round(3)),
        )
        marked = table.with_columns(hit.alias("suspect")).filter(~leaves)
        turn = hit.filter(~leaves) & (self.do == "turn")
        rows = turned(marked, turn, "relabel", "turned_from")
        return Generated(canonical_order(rows, Shape.PAIRS), dropped)
