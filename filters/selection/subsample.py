"""Rows leave until a budget is met: the common part of subsampling, and the random baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from filters.selection.places import Places, Shares, rooms
from prefactory.context import Context
from prefactory.errors import ConfigError
from prefactory.step import FittedFilter, State
from prefactory.step.exchange import KEY, Exchanged
from prefactory.tables import ROW_ID, TEXTS, Shape, digests, shape_of, text_of

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


BYTES_A_TOKEN = 4.0


class Budgeted(FittedFilter, abstract=True):
    """Base of filters that keep a budget: `rows`, a `fraction` of them, or so many `tokens`.

    Exactly the budgeted number of rows stays (a fraction is rounded half up; a budget above what
    there is keeps everything). Of a budget of tokens as much is used as the rows, in the order in
    which the step wants them, fit into it. Tokens are estimated (our choice: no tokenizer is
    loaded): the UTF-8 bytes of prompt and answers, divided by `bytes_a_token`, rounded up.

    Attributes:
        fraction: share of the rows that stays, in (0, 1]; exactly one of the three is set.
        rows: number of rows that stay.
        tokens: tokens that stay at most.
        bytes_a_token: for `tokens`; 4 suits English text and most tokenizers.
        group_by: a String column; each of its values (null is one) gets a budget of its own.
        shares: whether groups get shares in proportion to their rows (or tokens), or `equal` ones;
            what a small group can't fill goes to the others.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS, Shape.RESPONSES, Shape.PAIRS)
    decided: ClassVar[str] = "rows"

    fraction: Annotated[float | None, Field(gt=0, le=1)] = None
    rows: Annotated[int | None, Field(ge=0)] = None
    tokens: Annotated[int | None, Field(ge=0)] = None
    bytes_a_token: float = Field(default=BYTES_A_TOKEN, gt=0)
    group_by: str | None = Field(default=None, min_length=1)
    shares: Shares = "proportional"

    @model_validator(mode="after")
    def _validate_budget(self) -> Self:
        if [self.fraction, self.rows, self.tokens].count(None) != 2:
            raise ValueError("set exactly one of fraction, rows and tokens")
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The column `group_by` (String), if it is set."""
        return {} if self.group_by is None else {self.group_by: pl.String()}

    def size(self, n: int) -> int:
        """Rows that stay of n, if the budget is of rows."""
        k = self.rows if self.fraction is None else int(self.fraction * n + 0.5)
        return min(n, k or 0)

    def cost_columns(self, shape: Shape) -> list[pl.Expr]:
        """What `places` reads beside the row id: `tokens` and `group_by`, each only if needed."""
        columns = []
        if self.tokens is not None:
            size = pl.sum_horizontal(
                text_of(pl.col(c)).str.len_bytes().fill_null(0) for c in TEXTS[shape]
            )
            tokens = (size / self.bytes_a_token).ceil().cast(pl.Int64).clip(lower_bound=1)
            columns.append(tokens.alias("tokens"))
        if self.group_by is not None:
            columns.append(pl.col(self.group_by).alias("group_by"))
        return columns

    def places(
        self,
        parts: pl.DataFrame,
        groups: NDArray[np.int64] | None = None,
        eligible: NDArray[np.bool_] | None = None,
    ) -> Places:
        """The budget as places.

        Args:
            parts: all rows, with the columns of `cost_columns`.
            groups: Int64[n], groups of the step's own instead of `group_by`.
            eligible: Bool[n], rows that may be chosen; by default all.
        """
        cost = np.ones(parts.height, dtype=np.int64)
        limit = self.size(parts.height)
        if self.tokens is not None:
            cost, limit = parts["tokens"].to_numpy().astype(np.int64), self.tokens
        if groups is None and self.group_by is not None:
            groups = numbered(parts["group_by"])
        return Places.of(limit, cost, groups, shares=self.shares, eligible=eligible)

    def spent(self, parts: pl.DataFrame, chosen: NDArray[np.bool_]) -> dict[str, int]:
        """Tokens of the chosen rows for the report, if the budget is of tokens."""
        return {} if self.tokens is None else {"tokens": int(parts["tokens"].filter(chosen).sum())}


class Subsample(Budgeted, abstract=True):
    """Base of budgets of labelled rows.

    Attributes:
        label: objective whose score, 0 or 1, says desirable or not (RESPONSES only; a row counts as
            desirable above 0.5, rows without a score are a group of their own).
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES, Shape.PAIRS)

    label: str | None = Field(default=None, min_length=1)

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The score of `label` (Float64) on RESPONSES, and `group_by` (String), where set."""
        labels = dict.fromkeys(self.label_columns(shape), pl.Float64())
        return {**labels, **super().needs(shape)}

    def label_columns(self, shape: Shape) -> list[str]:
        """The column of `label`, if it is set and the shape has it."""
        return [f"score_{self.label}"] if self.label and shape == Shape.RESPONSES else []

    def detail(self) -> pl.Expr:
        """How near a row was."""
        return pl.format(
            "score {}, loglik {}",
            pl.col("score").round_sig_figs(4),
            pl.col("loglik").round_sig_figs(4),
        )


class RandomSubsample(Exchanged, Subsample):
    """Keep a uniform random sample of rows: the baseline of every other subsample.

    Each row draws from (seed, step, id), so a larger budget keeps a superset (without quotas), and
    rows added to the data don't reshuffle the others. Reason: `not_selected`.

    Attributes:
        quotas: `label`, `source` or `none`: groups that get shares in proportion to their size;
            by default `label` if one is set. `group_by` takes any column instead.

    Example:
        - filters.RandomSubsample: {fraction: 0.1}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS, Shape.RESPONSES, Shape.PAIRS)

    quotas: Literal["label", "source", "none"] | None = None

    @model_validator(mode="after")
    def _validate_quotas(self) -> Self:
        if self.quotas == "label" and self.label is None:
            raise ValueError("quotas by label need the field label")
        if self.group_by is not None and self.quotas not in (None, "none"):
            raise ValueError("set group_by or quotas, not both")
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The score of `label` (Float64), if quotas go by it, and `group_by` (String)."""
        if shape == Shape.PAIRS and self.quotas == "label":
            raise ConfigError("quotas by label: a pair holds both labels; use source or none")
        return super().needs(shape)

    def label_columns(self, shape: Shape) -> list[str]:
        """The column of `label`, if quotas go by it."""
        by_label = self.quotas in (None, "label") and self.group_by is None
        return super().label_columns(shape) if by_label else []

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to ids, `group` (String, a digest; null without quotas), and the cost.

        Returns:
            Row id, `group`, and where needed `tokens` (Int64) and `group_by` (String).
        """
        shape = shape_of(table)
        groups = pl.Series("group", [None] * table.height, dtype=pl.String)
        columns = self.label_columns(shape) or (["source"] if self.quotas == "source" else [])
        for column in columns:
            value = pl.col(column) if column == "source" else label_group(column)
            groups = digests(table.select(value.cast(pl.String).alias("group")).to_series())
        parts = table.select(ROW_ID[shape], *self.cost_columns(shape))
        return parts.insert_column(1, groups)

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Draw the sample.

        Args:
            parts: the rows of `fit_shard`, sorted by row id.
            ctx: its seed and step name are the randomness.

        Returns:
            State with the table `rows` (see `ROWS`; no score) and the counts `n` and `k`.
        """
        ids = parts.to_series(0)
        groups = numbered(parts["group"]) if self.group_by is None else None
        order = np.argsort(-ctx.uniform(ids).to_numpy(), kind="stable")
        chosen = np.zeros(parts.height, dtype=bool)
        chosen[self.places(parts, groups).fill(order)] = True
        facts = {"n": parts.height, "k": int(chosen.sum()), **self.spent(parts, chosen)}
        return State({"rows": decided(ids, chosen)}, facts)

    def exchanged(self) -> bool:
        """Not of tokens: which rows still fit depends on each row before them."""
        return self.tokens is None

    def keys(self, parts: pl.DataFrame, ctx: Context) -> pl.Series:
        """The order in which rows are taken: the highest draw first."""
        draws = (ctx.uniform(parts.to_series(0)).to_numpy() * 2.0**53).astype(np.uint64)
        return pl.Series((np.uint64(2**53 - 1) - draws) << np.uint64(11))

    def survey(self, parts: pl.DataFrame) -> pl.DataFrame:
        """`group` and its `rows` (Int64)."""
        return parts.group_by(self._group().alias("group")).agg(rows=pl.len().cast(pl.Int64))

    def _group(self) -> pl.Expr:
        return pl.col("group" if self.group_by is None else "group_by")

    def fit_range(
        self, parts: pl.DataFrame, surveys: Sequence[pl.DataFrame], place: int, ctx: Context
    ) -> State:
        """Draw the rows of a range: each group has the places that ranges before it leave.

        Args:
            parts: the rows of the range, sorted by row id.
            surveys: rows of each group in all ranges.
            place: of this range.
            ctx: not used.
        """
        at = [s.with_columns(first=pl.lit(value=i < place)) for i, s in enumerate(surveys)]
        before = pl.col("rows").filter("first").sum()
        groups = pl.concat(at).group_by("group").agg(pl.col("rows").sum(), before=before)
        groups = groups.sort("group", nulls_last=False).with_row_index("number")
        sizes = groups["rows"].to_numpy()
        room = rooms(self.size(int(sizes.sum())), sizes, self.shares)
        room = np.maximum(room - groups["before"].to_numpy(), 0)
        number = parts.select(self._group().alias("group")).join(
            groups, on="group", how="left", nulls_equal=True, maintain_order="left"
        )["number"]
        ones = np.ones(parts.height, dtype=np.int64)
        places = Places(ones, number.to_numpy().astype(np.int64), room, ones > 0)
        chosen = np.zeros(parts.height, dtype=bool)
        chosen[places.fill(np.argsort(parts[KEY].to_numpy(), kind="stable"))] = True
        facts = {"n": parts.height, "k": int(chosen.sum())}
        return State({"rows": decided(parts.to_series(0), chosen)}, facts)


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
    outliers = pl.Series(np.zeros(len(ids), dtype=bool) if outlier is None else outlier)
    columns = {
        "row_id": ids,
        "selected": pl.Series(chosen, dtype=pl.Boolean),
        "outlier": outliers,
        "score": blank if score is None else pl.Series(score),
        "loglik": blank if loglik is None else pl.Series(loglik),
    }
    why = pl.when("outlier").then(pl.lit("trimmed_outlier")).otherwise(pl.lit("not_selected"))
    reason = pl.when(~pl.col("selected")).then(why)
    return pl.DataFrame(columns).with_columns(reason=reason).select(list(ROWS)).cast(ROWS)
