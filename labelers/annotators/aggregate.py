"""Several annotators' ratings of one answer as one score: the three who agree most (HelpSteer2).

Source: arXiv:2406.08673 and its data card: at least three annotators rate an answer, the label is
the mean of the three who agree most, rounded to the nearest integer. Which triple that is and how
ties are broken is our choice: least sum of absolute differences, then lower variance, then the
triple whose middle is nearest the median of all, then the lower triple. Halves are rounded up.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import polars as pl
from pydantic import Field, model_validator

from prefactory.context import Context
from prefactory.step import Labeler
from prefactory.tables import SCORE, Shape

Name = Annotated[str, Field(min_length=1)]


class AnnotatorAggregate(Labeler):
    """Add `score_<objective>` and `range_<objective>` from a column with all annotators' ratings.

    Objective: as named in `ratings`. Range: that of the ratings (0 to 4 in HelpSteer2). Direction:
    higher is better if it is so for the ratings. `range_<objective>` is the largest difference
    within the kept ratings, in the same units, lower means more agreement; it is no score.

    Every objective takes its own triple. Two ratings or one are averaged as they are (a few
    HelpSteer2 rows have two), if `min_annotators` lets them. Null, NaN and infinite ratings do not
    count. An answer without enough ratings, or with too wide a range, has a null score.

    Attributes:
        ratings: objective -> column of lists.
        dtype: what the lists hold: `float` (Float64) or `integer` (Int64).
        round: round the mean to the nearest integer, halves up; False keeps the mean.
        min_annotators: ratings that an answer must have.
        max_range: null the score if the kept ratings are further apart; HelpSteer2's annotators
            agree if they are within 2. None keeps all.

    Example:
        - labelers.AnnotatorAggregate: {ratings: {helpfulness: annotations}}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    score_range: ClassVar[tuple[float | None, float | None]] = (None, None)
    direction: ClassVar[str] = "higher"

    ratings: dict[Name, Name] = Field(min_length=1)
    dtype: Literal["float", "integer"] = "float"
    round: bool = True
    min_annotators: int = Field(default=1, ge=1)
    max_range: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _check_names(self) -> AnnotatorAggregate:
        clash = {f"range_{o}" for o in self.ratings} & set(self.ratings.values())
        if clash:
            raise ValueError(f"ratings: {sorted(clash)} are columns that this step adds")
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The columns of ratings: lists of Float64 or of Int64."""
        inner = pl.Float64() if self.dtype == "float" else pl.Int64()
        return {column: pl.List(inner) for column in self.ratings.values()}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`score_<objective>` and `range_<objective>`, Float64."""
        names = [f"{p}{o}" for o in self.ratings for p in (SCORE, "range_")]
        return dict.fromkeys(names, pl.Float64())

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Aggregate the ratings of every answer.

        Returns:
            The columns of `adds`, same height and order.
        """
        out: list[pl.Series] = []
        for objective, column in self.ratings.items():
            ratings = closest_three(table[column])
            enough = pl.col("count") >= self.min_annotators
            wide = (
                pl.lit(value=False) if self.max_range is None else pl.col("range") > self.max_range
            )
            score = round_half_up(pl.col("mean")) if self.round else pl.col("mean")
            scores = ratings.select(
                pl.when(enough & ~wide).then(score).alias(f"{SCORE}{objective}"),
                pl.when(enough).then("range").alias(f"range_{objective}"),
            )
            out.extend(scores.get_columns())
        return pl.DataFrame(out)


def closest_three(ratings: pl.Series) -> pl.DataFrame:
    """Mean and range of the three ratings that agree most (all, if there are fewer), by answer.

    Known answers: [3, 3, 4] has mean 10/3, [0, 3, 4, 4, 4] has 4, [1, 2, 4, 4, 3] has 11/3.

    Args:
        ratings: lists of numbers [n], in any order; null and non-finite ones do not count.

    Returns:
        `mean` and `range` (Float64, null without a rating) and `count` (UInt32, finite ratings),
        height n, same order.
    """
    rows = pl.DataFrame({"rating": ratings.cast(pl.List(pl.Float64))}).with_row_index("row")
    flat = rows.explode("rating").filter(pl.col("rating").is_finite()).sort("row", "rating")
    value = pl.col("rating")
    # of sorted ratings the triple of least differences stands side by side
    flat = flat.with_columns(
        count=pl.len().over("row"),
        low=value.shift(2).over("row"),
        middle=value.shift(1).over("row"),
        median=value.median().over("row"),
    )
    triples = flat.filter(pl.col("low").is_not_null()).select(
        "row",
        "count",
        mean=(pl.col("low") + pl.col("middle") + value) / 3,
        range=value - pl.col("low"),
        skew=(
            2 * pl.col("middle") - pl.col("low") - value
        ).abs(),  # orders equal ranges by variance
        off=(pl.col("middle") - pl.col("median")).abs(),
    )
    triples = triples.sort("row", "range", "skew", "off", "mean").unique("row", keep="first")
    few = flat.filter(pl.col("count") < 3).group_by("row", "count")
    few_rows = few.agg(mean=value.mean(), range=value.max() - value.min())
    spans = pl.concat([t.select("row", "mean", "range", "count") for t in (triples, few_rows)])
    joined = rows.select("row").join(spans, on="row", how="left", maintain_order="left")
    return joined.select("mean", "range", pl.col("count").fill_null(0))


def round_half_up(value: pl.Expr) -> pl.Expr:
    """Round a Float64 to the nearest integer, halves up (2.5 -> 3, -2.5 -> -2)."""
    return (value + 0.5).floor()
