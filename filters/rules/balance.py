"""Pairs leave until a mark of answers, such as their length, is on both sides alike."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from filters.content.style import COUNTS, FLAGS, first_words, style_features
from prefactory.context import Context
from prefactory.errors import DataError
from prefactory.step import FittedFilter, State
from prefactory.tables import SIDES, Shape, in_parts, text_of

More = Literal["longer", "markdown", "lists", "first"]
Signs = NDArray[np.int64]
MARKS = (*FLAGS, *COUNTS)
POSITIONS = tuple(f"{side}_position" for side in SIDES)


class Balance(FittedFilter):
    """Drop pairs until a mark of the answers decides for neither side.

    A pair counts +1 if the chosen answer has more of the mark, -1 if the rejected one has, 0 if
    they are alike. While the mean is further from 0 than `limit`, pairs of the side that leads
    leave, drawn at random, the same ones whatever the shards. So a model can't learn the mark in
    place of what makes an answer better.

    It takes good pairs as well: that the longer answer is the better one need not be wrong, and
    long answers may be better. The mean and the draw are ours.

    Reasons: `unbalanced`; the detail is the mark, and the side that has more of it.

    Attributes:
        more: what the answers are compared by: characters (`longer`), marks of Markdown per
            character, list items, or which was shown first (columns `chosen_position` and
            `rejected_position`).
        mark: what an answer has or has not, of `prefactory audit`'s style markers.
        opening: the first word or the first three words of an answer, whatever their case.
        limit: greatest mean that is left, between 0 and 1: twice a rule's accuracy less one, or the
            difference of the shares of both sides.
        most: share of the pairs that may leave.

    Raises:
        DataError: more than `most` of the pairs would have to leave.

    Example:
        - filters.Balance: {more: longer}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PAIRS,)
    learns_labels: ClassVar[bool] = True

    more: More | None = None
    mark: str | None = None
    opening: str | None = Field(default=None, min_length=1)
    limit: float = Field(default=0.02, ge=0, lt=1)
    most: float = Field(default=0.6, gt=0, le=1)

    @model_validator(mode="after")
    def _one_mark(self) -> Self:
        given = [name for name in ("more", "mark", "opening") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"set one of more, mark and opening, not {len(given)}")
        if self.mark is not None and self.mark not in MARKS:
            raise ValueError(f"mark: {self.mark!r} is none of {', '.join(MARKS)}")
        if self.opening is not None and len(self.opening.split()) not in (1, 3):
            raise ValueError(f"opening: {self.opening!r} is neither one word nor three")
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """With `more: first`, the place at which each answer was shown (Int64)."""
        return dict.fromkeys(POSITIONS, pl.Int64()) if self.more == "first" else {}

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce pairs to `pair_id` and `sign` (Int8): 1, -1 or 0."""
        if self.more == "first":
            gap = table.select(pl.col(POSITIONS[1]) - pl.col(POSITIONS[0])).to_series()
        else:
            chosen, rejected = (
                self._read(table.select(text_of(pl.col(side)).fill_null("")).to_series())
                for side in SIDES
            )
            gap = chosen - rejected
        sign = gap.sign().fill_null(0).cast(pl.Int8)
        return table.select("pair_id").with_columns(sign=sign)

    def _read(self, texts: pl.Series) -> pl.Series:
        """How much of the mark each text has, Float64."""
        if self.opening is not None:
            words = self.opening.lower().split()
            found = first_words(texts)["one" if len(words) == 1 else "three"]
            return (found == " ".join(words)).fill_null(value=False).cast(pl.Float64)
        style = in_parts(style_features, texts)
        if self.mark is not None:
            return (style[self.mark].cast(pl.Int64) > 0).cast(pl.Float64)
        if self.more == "markdown":
            return style["markdown"] / style["chars"].clip(lower_bound=1)
        return style["chars" if self.more == "longer" else "lists"].cast(pl.Float64)

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Choose the pairs that go.

        Args:
            parts: the rows of `fit_shard`, sorted by id.
            ctx: draws.

        Returns:
            table `dropped` (pair_id, reason, detail); info: `balance` with the pairs, those that
            left, and the mean before and after.
        """
        sign = parts["sign"].to_numpy().astype(np.int64)
        goes = surplus(sign, self.limit, ctx.uniform(parts["pair_id"]).to_numpy())
        if len(goes) > self.most * max(len(sign), 1):
            raise DataError(
                f"{ctx.step}: {len(goes):,} of {len(sign):,} pairs would have to leave until "
                f"{self._name()!r} is on both sides alike, more than {self.most:.0%}; "
                "make pairs whose answers are alike in it, or raise `most`"
            )
        leads = "chosen" if sign.sum() > 0 else "rejected"
        dropped = parts[goes].select(
            "pair_id", reason=pl.lit("unbalanced"), detail=pl.lit(f"{self._name()}: {leads}")
        )
        stays = np.delete(sign, goes)
        info: dict[str, Any] = {"n": len(sign), "dropped": len(goes)}
        info["before"], info["after"] = (
            round(float(values.mean()), 4) if values.size else None for values in (sign, stays)
        )
        return State({"dropped": dropped}, {"balance": info})

    def _name(self) -> str:
        return str(self.more or self.mark or self.opening)


def surplus(sign: Signs, limit: float, draws: NDArray[np.float64]) -> Signs:
    """Places of the pairs that leave, ascending, so that the mean of the rest is within a limit."""
    total = int(sign.sum())
    lead = 1 if total > 0 else -1
    # (|total| - k) / (n - k) <= limit
    count = max(0, math.ceil((abs(total) - limit * len(sign)) / (1 - limit) - 1e-9))
    places = np.flatnonzero(sign == lead)
    return np.sort(places[np.argsort(draws[places], kind="stable")[:count]])
