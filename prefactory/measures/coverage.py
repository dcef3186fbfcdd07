"""How well a set of rows covers categories: support, shares, entropy, distance to a wanted mix.

A categorical column holds one category a row (String) or several (List(String)). A row with several
gives each of its categories an equal part of itself, so that shares sum to 1 either way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prefactory.errors import DataError

Floats = NDArray[np.float64]

MOST_CELLS = 1_000_000
"""Cells of a joint table that are listed."""


@dataclass(frozen=True)
class Coverage:
    """How rows spread over the categories of one column.

    Attributes:
        table: a row per category, in the order of the categories: `category`, `support` (rows that
            have it, Int64), `share` (its part of all rows with a known category, Float64; rows
            with several count in parts), and `target` (wanted share; null without a target).
        rows: rows in all.
        labelled: rows with a known category.
        unknown: values that are none of the categories, most frequent first: `value`, `support`.
        entropy: H / log K over the K categories, 1 if uniform and 0 if all rows are in one; None
            without labelled rows or with K < 2.
        distance: Jensen-Shannon distance to the target, see `jensen_shannon`; None without one.
    """

    table: pl.DataFrame
    rows: int
    labelled: int
    unknown: pl.DataFrame
    entropy: float | None
    distance: float | None

    @property
    def missing(self) -> list[str]:
        """Categories that no row has."""
        empty = self.table.filter(pl.col("support") == 0)
        return [str(c) for c in empty["category"]]


def coverage(
    values: pl.Series,
    categories: Sequence[str] | None = None,
    target: Mapping[str, float] | None = None,
) -> Coverage:
    """Measure how rows spread over categories.

    Known answers: as many rows in each category have entropy 1; the target's own mix has
    distance 0.

    Args:
        values: String or List(String) [n]; null, an empty list and repeats within a row do not
            count.
        categories: all that there are, in the order of the result; None takes those that occur,
            sorted.
        target: category -> wanted weight, at least 0, of any sum; categories without one have 0.

    Raises:
        DataError: values of another type, a category twice, or a target that is none.
    """
    flat = _flat(values)
    if categories is None:
        categories = sorted({*flat["value"].unique(), *(target or {})})
    if len(set(categories)) != len(categories):
        raise DataError("coverage: a category is there twice")
    known = pl.DataFrame({"value": pl.Series(list(categories), dtype=pl.String)})
    inside = flat.join(known, on="value", how="semi")
    weight = 1 / pl.len().over("row")
    parts = inside.select("row", "value", weight=weight).group_by("value")
    counts = parts.agg(support=pl.len().cast(pl.Int64), weight=pl.col("weight").sort().sum())
    weighed = known.join(counts, on="value", how="left", maintain_order="left").fill_null(0)
    labelled = inside["row"].n_unique()
    share = (weighed["weight"].to_numpy() / labelled) if labelled else np.zeros(len(categories))
    wanted = None if target is None else _mix(target, categories)
    outside = flat.join(known, on="value", how="anti").group_by("value").agg(support=pl.len())
    table = pl.DataFrame(
        {
            "category": weighed["value"],
            "support": weighed["support"].cast(pl.Int64),
            "share": share,
            "target": pl.Series(wanted, dtype=pl.Float64)
            if wanted is not None
            else pl.Series([None] * len(categories), dtype=pl.Float64),
        }
    )
    return Coverage(
        table,
        values.len(),
        labelled,
        outside.with_columns(pl.col("support").cast(pl.Int64)).sort(
            ["support", "value"], descending=[True, False]
        ),
        normalised_entropy(share) if labelled else None,
        jensen_shannon(share, wanted) if labelled and wanted is not None else None,
    )


def normalised_entropy(shares: Floats) -> float | None:
    """H(p) / log K: 1 for a uniform distribution over its K categories, 0 for a single one.

    Args:
        shares: at least 0, with a sum above 0, Float64[K].

    Returns:
        A number in [0, 1]; None for K < 2.
    """
    if len(shares) < 2:
        return None
    p = shares / shares.sum()
    p = p[p > 0]
    uneven = float((p * np.log(p * len(shares))).sum()) / math.log(len(shares))
    return min(max(0.0, 1.0 - uneven), 1.0)


def jensen_shannon(p: Floats, q: Floats) -> float:
    """Jensen-Shannon distance: the root of the divergence in bits, 0 if equal, 1 if disjoint.

    Known answer: of (1, 0) and (1/2, 1/2) sqrt(0.311278) = 0.557923.

    Args:
        p: at least 0, with a sum above 0, Float64[K].
        q: likewise.
    """
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2
    divergence = (_information(p, middle) + _information(q, middle)) / 2
    return math.sqrt(min(max(divergence, 0.0), 1.0))


def joint_cells(
    table: pl.DataFrame, axes: Mapping[str, Sequence[str]], most: int = MOST_CELLS
) -> pl.DataFrame:
    """Count rows in every combination of categories; those with `support` 0 are the empty cells.

    Args:
        table: has the columns of `axes`, String or List(String); a row with several categories
            counts in every one of its cells.
        axes: column -> its categories. Other values do not count.
        most: cells that may be listed.

    Returns:
        The columns of `axes` and `support` (Int64): all combinations in the order of the
        categories, the last axis fastest.

    Raises:
        DataError: more combinations than `most`, or none.
    """
    size = math.prod(len(values) for values in axes.values())
    if not axes or not 0 < size <= most:
        raise DataError(f"{size:,} combinations of {', '.join(axes)}; 1 to {most:,} can be listed")
    cells = pl.DataFrame({})
    rows = pl.DataFrame({"row": pl.int_range(table.height, eager=True)})
    for name, values in axes.items():
        flat = _flat(table[name]).rename({"value": name})
        rows = rows.join(flat, on="row", how="inner", maintain_order="left")
        axis = pl.DataFrame({name: pl.Series(list(values), dtype=pl.String)})
        cells = axis if cells.width == 0 else cells.join(axis, how="cross")
    counts = rows.group_by(list(axes)).agg(support=pl.len().cast(pl.Int64))
    joined = cells.join(counts, on=list(axes), how="left", maintain_order="left")
    return joined.with_columns(pl.col("support").fill_null(0))


def _flat(values: pl.Series) -> pl.DataFrame:
    """`row` (Int64) and `value` (String), each value once a row."""
    frame = pl.DataFrame({"row": pl.int_range(values.len(), eager=True), "value": values})
    if values.dtype == pl.List(pl.String):
        frame = frame.explode("value", keep_nulls=False, empty_as_null=False)
    elif values.dtype == pl.Null:
        frame = frame.with_columns(pl.col("value").cast(pl.String))
    elif not isinstance(values.dtype, pl.String | pl.Categorical | pl.Enum):
        raise DataError(f"coverage: categories are String or List(String), not {values.dtype}")
    frame = frame.with_columns(pl.col("value").cast(pl.String)).drop_nulls()
    return frame.unique(maintain_order=True)


def _mix(target: Mapping[str, float], categories: Sequence[str]) -> Floats:
    """Wanted shares in the order of the categories; they sum to 1."""
    strange = sorted(set(target) - set(categories))
    if strange:
        raise DataError(f"coverage: the target names {', '.join(strange)}, which is no category")
    weights = np.array([target.get(c, 0.0) for c in categories], dtype=np.float64)
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
        raise DataError("coverage: target weights are at least 0, finite, and not all 0")
    shares: Floats = weights / weights.sum()
    return shares


def _information(p: Floats, q: Floats) -> float:
    """Kullback-Leibler divergence in bits; where p is above 0, q is too."""
    some = (p > 0) & (q > 0)  # numbers too small to be halved
    return float((p[some] * np.log2(p[some] / q[some])).sum())
