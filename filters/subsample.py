"""Rows leave until a budget is met: the common part of subsampling, and the random baseline."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from filters.information import select
from prefactory.context import Context
from prefactory.errors import ConfigError, DataError
from prefactory.step import Filter, Scope, State
from prefactory.tables import ROW_ID, Shape, digests, shape_of

ROWS = pl.Schema(
    {
        "row_id": pl.String,
        "selected": pl.Boolean,
        "reason": pl.String,
        "score": pl.Float64,
        "loglik": pl.Float64,
    }
)
"""Schema of the state's table `rows`: what a subsample decided about each row, and why."""


class Subsample(Filter):
    """Base of filters that keep exactly `rows` rows, or the `fraction` of all (rounded half up).

    A budget of more rows than there are keeps everything.

    Attributes:
        fraction: share of the rows that stays, in (0, 1]; exactly one of it and `rows` is set.
        rows: number of rows that stay.
        label: objective whose score, 0 or 1, says desirable or not (RESPONSES only; a row counts as
            desirable above 0.5, rows without a score are a group of their own).
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES, Shape.PAIRS)
    scope: ClassVar[Scope] = "dataset"

    fraction: Annotated[float | None, Field(gt=0, le=1)] = None
    rows: Annotated[int | None, Field(ge=0)] = None
    label: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _validate_budget(self) -> Self:
        if (self.fraction is None) == (self.rows is None):
            raise ValueError("set exactly one of fraction and rows")
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The score of `label` (Float64) on RESPONSES, if it is set."""
        if self.label is None or shape == Shape.PAIRS:
            return {}
        return {f"score_{self.label}": pl.Float64()}

    def size(self, n: int) -> int:
        """Rows that stay of n."""
        k = self.rows if self.fraction is None else int(self.fraction * n + 0.5)
        return min(n, k or 0)

    def keep(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Look the rows up in the state.

        Args:
            table: RESPONSES or PAIRS.
            ctx: holds the state of `fit`.

        Returns:
            `reason` and `detail` (String), same height and order.

        Raises:
            DataError: if the step was not fitted.
        """
        if ctx.state is None:
            raise DataError(f"{type(self).__name__}.keep needs the state that fit returns")
        found = table.select(row_id=ROW_ID[shape_of(table)]).join(
            ctx.state.tables["rows"], on="row_id", how="left", maintain_order="left"
        )
        score = pl.format(
            "score {}, loglik {}",
            pl.col("score").round_sig_figs(4),
            pl.col("loglik").round_sig_figs(4),
        )
        detail = pl.when(pl.col("reason").is_not_null()).then(score)
        return found.select("reason", detail=detail)


class RandomSubsample(Subsample):
    """Keep a uniform random sample of rows: the baseline of every other subsample.

    Each row draws from (seed, step, id), so a larger budget keeps a superset (without quotas), and
    rows added to the data don't reshuffle the others. Reason: `not_selected`.

    Attributes:
        quotas: `label`, `source` or `none`: groups that get shares in proportion to their size;
            by default `label` if one is set.
    """

    quotas: Literal["label", "source", "none"] | None = None

    @model_validator(mode="after")
    def _validate_quotas(self) -> Self:
        if self.quotas == "label" and self.label is None:
            raise ValueError("quotas by label need the field label")
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The score of `label` (Float64), if quotas go by it."""
        if shape == Shape.PAIRS and self.quotas == "label":
            raise ConfigError("quotas by label: a pair holds both labels; use source or none")
        return super().needs(shape) if self.quotas in (None, "label") else {}

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to row ids and `group` (String, a digest; null without quotas)."""
        shape = shape_of(table)
        groups = pl.Series("group", [None] * table.height, dtype=pl.String)
        columns = list(self.needs(shape)) or (["source"] if self.quotas == "source" else [])
        for column in columns:
            value = pl.col(column) if column == "source" else label_group(column)
            groups = digests(table.select(value.cast(pl.String).alias("group")).to_series())
        return table.select(ROW_ID[shape]).with_columns(groups)

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Draw the sample.

        Args:
            parts: the rows of `fit_shard`, sorted by row id.
            ctx: its seed and step name are the randomness.

        Returns:
            State with the table `rows` (see `ROWS`; no score) and the counts `n` and `k`.
        """
        ids = parts.to_series(0)
        k = self.size(parts.height)
        uniform = ctx.uniform(ids).to_numpy()
        chosen = select(uniform, k, uniform, numbered(parts["group"]))
        return State({"rows": decided(ids, chosen)}, {"n": parts.height, "k": k})


def label_group(column: str) -> pl.Expr:
    """Group of a 0/1 score column: true, false, or null where it is not scored."""
    return pl.col(column).fill_nan(None) > 0.5


def numbered(groups: pl.Series) -> NDArray[np.int64]:
    """Number groups from 0 in the order of their values, null first: any dtype -> Int64[n]."""
    return (groups.rank("dense").fill_null(0).rank("dense").cast(pl.Int64) - 1).to_numpy()


def decided(
    ids: pl.Series,
    chosen: NDArray[np.bool_],
    score: NDArray[np.float64] | None = None,
    loglik: NDArray[np.float64] | None = None,
    outlier: NDArray[np.bool_] | None = None,
) -> pl.DataFrame:
    """Build the state's table `rows` from the choice.

    Args:
        ids: row ids, String[n].
        chosen: Bool[n], rows that stay.
        score: Float64[n].
        loglik: Float64[n].
        outlier: Bool[n]; of the rows that go, those that go as `trimmed_outlier`.
    """
    blank = pl.Series([None] * len(ids), dtype=pl.Float64)
    gone = pl.Series(np.zeros(len(ids), dtype=bool) if outlier is None else outlier)
    columns = {
        "row_id": ids,
        "selected": pl.Series(chosen, dtype=pl.Boolean),
        "outlier": gone,
        "score": blank if score is None else pl.Series(score),
        "loglik": blank if loglik is None else pl.Series(loglik),
    }
    why = pl.when("outlier").then(pl.lit("trimmed_outlier")).otherwise(pl.lit("not_selected"))
    reason = pl.when(~pl.col("selected")).then(why)
    return pl.DataFrame(columns).with_columns(reason=reason).select(list(ROWS)).cast(ROWS)
