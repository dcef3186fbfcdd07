"""Means and intervals of rows that come in clusters (answers to near-duplicate prompts)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import stdtrit

from prefactory.measures.calibration import Floats

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval, of 95 % unless said otherwise.

    Attributes:
        value: the mean; NaN without rows.
        se: cluster-robust standard error; NaN with fewer than two clusters.
        low, high: ends of the interval; NaN where `se` is.
        n: rows.
        clusters: clusters of rows.
    """

    value: float
    se: float
    low: float
    high: float
    n: int
    clusters: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON: NaN becomes None."""
        plain = {name: getattr(self, name) for name in ("value", "se", "low", "high")}
        finite = {k: float(v) if np.isfinite(v) else None for k, v in plain.items()}
        return {**finite, "n": self.n, "clusters": self.clusters}


def codes(clusters: pl.Series | NDArray[Any]) -> Ints:
    """Number of each row's cluster, in sorted order of the names, from 0: Int64[n]."""
    values = clusters.to_numpy() if isinstance(clusters, pl.Series) else np.asarray(clusters)
    if not len(values):
        return np.zeros(0, np.int64)
    found: Ints = np.unique(values, return_inverse=True)[1].astype(np.int64)
    return found


def hits(margins: Floats) -> Floats:
    """1 where a margin is above 0, a half where it is 0, else 0: Float64[n]."""
    found: Floats = (np.sign(margins) + 1) / 2
    return found


def clustered_mean(
    values: Floats, clusters: pl.Series | NDArray[Any], level: float = 0.95
) -> Estimate:
    """Mean with a cluster-robust standard error and a t interval of clusters - 1 degrees.

    Args:
        values: Float64[n].
        clusters: which rows belong together, length n.
        level: of the interval; with k questions asked at once, 1 - .05/k keeps all of them at .95.
    """
    n = len(values)
    if not n:
        return Estimate(np.nan, np.nan, np.nan, np.nan, 0, 0)
    group = codes(clusters)
    g = int(group.max()) + 1
    mean = float(values.mean())
    if g < 2:
        return Estimate(mean, np.nan, np.nan, np.nan, n, g)
    sums = np.bincount(group, weights=values - mean)
    se = float(np.sqrt(g / (g - 1) * (sums**2).sum()) / n)
    half = float(stdtrit(g - 1, 0.5 + level / 2)) * se
    return Estimate(mean, se, mean - half, mean + half, n, g)
