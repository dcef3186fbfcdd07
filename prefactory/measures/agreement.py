"""How far raters agree beyond chance: shares, Cohen's and Fleiss's kappa, Krippendorff's alpha.

Every number comes with a 95% interval. Standard errors are linearised (infinitesimal jackknife):
from what each unit, or each group of units, contributes to the statistic; for Cohen's kappa that is
the large-sample error of Fleiss, Cohen and Everitt (1969). Nothing is drawn at random. What is not
defined (no units, no variation) is NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Level = Literal["nominal", "interval"]
Weights = Literal["none", "linear", "quadratic"]

_Z = 1.959963984540054
_DIGITS = 6
_NOISE = 1e-12
"""Standard errors of shares and kappas up to here are rounding: nothing varied."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic with its uncertainty.

    Attributes:
        value: the statistic, NaN if it is not defined.
        se: standard error; NaN with fewer than two groups.
        low, high: ends of the 95% interval.
        n: units (rated items, votes, pairs of votes) that it rests on.
    """

    value: float
    se: float
    low: float
    high: float
    n: int

    def plain(self) -> dict[str, Any]:
        """As JSON data: 6 decimals, None for NaN."""
        names = ("value", "se", "low", "high")
        return {k: plain(getattr(self, k)) for k in names} | {"n": self.n}


def plain(value: float) -> float | None:
    """A number as JSON data: 6 decimals, None for NaN and infinities."""
    return round(float(value), _DIGITS) + 0.0 if math.isfinite(value) else None


def _unknown(n: int) -> Estimate:
    return Estimate(math.nan, math.nan, math.nan, math.nan, n)


def standard_error(influence: Floats, groups: pl.Series | None = None) -> float:
    """Standard error of a sum of contributions (of mean 0) that are independent between groups.

    Args:
        influence: Float64[n].
        groups: length n, no nulls; None: every row is a group.

    Returns:
        NaN with fewer than two groups.
    """
    sums = influence
    if groups is not None:
        sums = np.bincount(codes(groups), weights=influence).astype(np.float64)
    g = len(sums)
    if g < 2:
        return math.nan
    return math.sqrt(float((sums**2).sum()) * g / (g - 1))


def _normal(value: float, influence: Floats, n: int, groups: pl.Series | None = None) -> Estimate:
    """An estimate with a normal interval, kept within [-1, 1].

    Where nothing varied there is no interval: that does not make a few units certain.
    """
    se = standard_error(influence, groups)
    low, high = (max(-1.0, min(1.0, value + sign * _Z * se)) for sign in (-1, 1))
    if not se > _NOISE:  # NaN or rounding
        low = high = math.nan
    return Estimate(value, se, low, high, n)


def codes(values: pl.Series) -> Ints:
    """Values of any type, no nulls, as numbers from 0 in their order: Int64[n]."""
    return (values.rank("dense").to_numpy() - 1).astype(np.int64)


def ratio(hits: Floats, of: Floats, groups: pl.Series | None = None) -> Estimate:
    """A share `sum hits / sum of`, with a Wilson interval for the effective number of units.

    The effective number is the one at which independent units would have the standard error that
    the groups show; where every group says the same it is the number of groups.

    Args:
        hits: Float64[n], 0 <= hits <= of.
        of: Float64[n].
        groups: length n, no nulls; rows of a group are not taken as independent.
    """
    there = of > 0
    hits, of = hits[there], of[there]
    total = float(of.sum())
    if total == 0:
        return _unknown(0)
    group = None if groups is None else groups.filter(pl.Series(there))
    p = float(hits.sum()) / total
    se = standard_error((hits - p * of) / total, group)
    size = float(len(hits) if group is None else group.n_unique())
    if se > _NOISE:  # no: NaN, or no group differs from another
        size = p * (1 - p) / se**2
    centre = (p + _Z**2 / (2 * size)) / (1 + _Z**2 / size)
    half = (
        _Z / (1 + _Z**2 / size) * math.sqrt(max(0.0, p * (1 - p)) / size + (_Z / (2 * size)) ** 2)
    )
    return Estimate(p, se, max(0.0, centre - half), min(1.0, centre + half), round(total))


def share(hits: pl.Series, groups: pl.Series | None = None) -> Estimate:
    """Share of rows that are true, nulls left out; see `ratio`."""
    there = hits.is_not_null()
    values = hits.filter(there).cast(pl.Float64).to_numpy()
    among = None if groups is None else groups.filter(there)
    return ratio(values, np.ones(len(values)), among)


def cohen_kappa(
    one: pl.Series,
    two: pl.Series,
    weights: Weights = "none",
    groups: pl.Series | None = None,
) -> Estimate:
    """Agreement of two raters beyond chance (Cohen 1960; weighted: 1968).

    Args:
        one: ratings of one rater, any type of categories; null: not rated.
        two: of the other, same length and type.
        weights: `linear` and `quadratic` count near misses by the distance of sorted categories.
        groups: see `ratio`.

    Returns:
        kappa in [-1, 1]; NaN if chance alone would agree always.
    """
    both = one.is_not_null() & two.is_not_null()
    one, two = one.filter(both), two.filter(both)
    n = one.len()
    if n == 0:
        return _unknown(0)
    rated = codes(pl.concat([one.rename("x"), two.rename("x")]))
    a, b = rated[:n], rated[n:]
    size = int(rated.max()) + 1
    distance = np.abs(np.subtract.outer(np.arange(size), np.arange(size))) / max(size - 1, 1)
    w = {"none": distance == 0, "linear": 1 - distance, "quadratic": 1 - distance**2}[weights]
    w = w.astype(np.float64)
    pa, pb = (np.bincount(c, minlength=size) / n for c in (a, b))
    by_a = np.einsum("ij,j->i", w, pb)  # chance agreement of a category of one with all of two
    by_b = np.einsum("ij,i->j", w, pa)
    observed, chance = float(w[a, b].mean()), float((pa * by_a).sum())
    if math.isclose(chance, 1.0):
        return _unknown(n)
    value = (observed - chance) / (1 - chance)
    d_chance = by_a[a] + by_b[b] - 2 * chance
    influence = ((w[a, b] - observed) - (1 - value) * d_chance) / (1 - chance) / n
    return _normal(value, influence, n, None if groups is None else groups.filter(both))


def fleiss_kappa(counts: Ints) -> Estimate:
    """Agreement of m raters beyond chance, each unit rated by as many (Fleiss 1971).

    Args:
        counts: Int64[n, C], how many raters put the unit into each category; all rows have the
            same sum m >= 2.

    Raises:
        ValueError: the rows have several sums, or one below 2.
    """
    n = len(counts)
    sums = counts.sum(axis=1)
    if n == 0:
        return _unknown(0)
    m = int(sums[0])
    if m < 2 or (sums != m).any():
        raise ValueError("Fleiss's kappa needs the same number of raters, 2 or more, for each unit")
    shares = counts.sum(axis=0) / (n * m)
    agreed = ((counts.astype(np.float64) ** 2).sum(axis=1) - m) / (m * (m - 1))
    observed, chance = float(agreed.mean()), float((shares**2).sum())
    if math.isclose(chance, 1.0):
        return _unknown(n)
    value = (observed - chance) / (1 - chance)
    d_chance = 2 * ((counts * shares).sum(axis=1) / m - chance)
    influence = ((agreed - observed) - (1 - value) * d_chance) / (1 - chance) / n
    return _normal(value, influence, n)


def krippendorff_alpha(
    units: pl.Series,
    values: pl.Series,
    level: Level = "nominal",
    groups: pl.Series | None = None,
) -> Estimate:
    """Agreement of any number of raters beyond chance, ratings may be missing (Krippendorff 2011).

    Ratings are one long column; who rated does not matter. Units with one rating say nothing.

    Args:
        units: what was rated, length n, any type, no nulls.
        values: the ratings, length n; null: missing. Any type for `nominal`, numbers for
            `interval`.
        level: `nominal` (ratings agree or not) or `interval` (squared distances).
        groups: length n, no nulls, one for all rows of a unit: units of a group (pairs of a prompt)
            are not taken as independent. By unit alone the interval is too narrow then.

    Returns:
        alpha <= 1; NaN without two ratings of a unit, or if all ratings are equal. `n` counts
        the units with two ratings or more. The interval is kept within [-1, 1].
    """
    group = units if groups is None else groups
    long = pl.DataFrame({"unit": units, "value": values, "group": group}).drop_nulls()
    if level == "interval":
        long = long.with_columns(pl.col("value").cast(pl.Float64)).filter(
            pl.col("value").is_finite()
        )
    long = long.filter(pl.len().over("unit") > 1)
    if long.is_empty():
        return _unknown(0)
    unit = codes(long["unit"])
    m = np.bincount(unit).astype(np.float64)
    parts = _nominal if level == "nominal" else _interval
    disagreed, expected, change = parts(unit, long["value"], m)
    n = float(m.sum())
    if expected <= 0:
        return _unknown(len(m))
    off = disagreed / (m - 1)
    observed = float(off.sum())
    gap = (n - 1) * observed / expected
    influence = -(observed * m + (n - 1) * off - gap * change) / expected
    if groups is None:
        return _normal(1 - gap, influence - influence.mean(), len(m))
    among = long.unique("unit", keep="first").sort("unit")["group"]
    return _normal(1 - gap, influence - influence.mean(), len(m), among)


def _nominal(unit: Ints, values: pl.Series, m: Floats) -> tuple[Floats, float, Floats]:
    """Unequal ordered pairs in each unit, among all ratings, and how a unit changes the latter."""
    rated = codes(values)
    size = int(rated.max()) + 1
    total = np.bincount(rated, minlength=size).astype(np.float64)
    cell, count = np.unique(unit * size + rated, return_counts=True)
    same = np.bincount(cell // size, weights=count.astype(np.float64) ** 2, minlength=len(m))
    own = np.bincount(unit, weights=total[rated], minlength=len(m))
    n = float(m.sum())
    return m**2 - same, n**2 - float((total**2).sum()), 2 * (n * m - own)


def _interval(unit: Ints, values: pl.Series, m: Floats) -> tuple[Floats, float, Floats]:
    """Squared distances of ordered pairs, as `_nominal` counts unequal ones."""
    x = values.to_numpy()
    x = x - x.mean()  # for the digits; distances stay
    sums = np.bincount(unit, weights=x)
    squares = np.bincount(unit, weights=x**2)
    n, s1, s2 = float(m.sum()), float(sums.sum()), float(squares.sum())
    spread = 2 * (n * s2 - s1**2)
    return 2 * (m * squares - sums**2), spread, 2 * (n * squares + s2 * m - 2 * s1 * sums)
