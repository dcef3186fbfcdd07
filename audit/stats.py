"""Shares, differences and AUCs with 95 % intervals that respect prompts.

Rows of one prompt are not independent, so intervals are cluster-robust by prompt: of shares
Wilson's, for the effective number of rows (`prefactory.measures.agreement.ratio`), of differences
and means normal ones.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from audit.finding import Metric
from prefactory.measures.agreement import ratio, standard_error

Z = 1.959963984540054
Floats = NDArray[np.float64]
Groups = NDArray[np.int64]


def share(hits: NDArray[Any], groups: Groups | None = None) -> Metric:
    """Mean of values in [0, 1] (a tie may count one half) with an interval by groups.

    Args:
        hits: bool or float, shape (n,).
        groups: group number of every row; None takes rows as independent.

    Returns:
        Metric of unit `share`; its value is None for n = 0.
    """
    values = np.asarray(hits, dtype=np.float64)
    if values.size == 0:
        return Metric(None, n=0, unit="share")
    by = None if groups is None else pl.Series(groups)
    mean = ratio(values, np.ones(values.size), by)
    return Metric(mean.value, mean.low, mean.high, values.size, "share")


def difference(
    first: NDArray[Any], second: NDArray[Any], first_groups: Groups, second_groups: Groups
) -> Metric:
    """Difference of two shares, first minus second, with a cluster-robust normal interval.

    Rows of both may belong to the same groups (chosen and rejected of one prompt), in any number.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    n = a.size + b.size
    if not a.size or not b.size:
        return Metric(None, n=n, unit="share")
    gap = float(a.mean() - b.mean())
    influence = np.concatenate([(a - a.mean()) / a.size, (b.mean() - b) / b.size])
    error = standard_error(influence, pl.Series(np.concatenate([first_groups, second_groups])))
    if math.isnan(error):
        return Metric(gap, n=n, unit="share")
    return Metric(gap, gap - Z * error, gap + Z * error, n, "share")


def auc(scores: Floats, positive: NDArray[np.bool_], prompts: int | None = None) -> Metric:
    """Area under the ROC curve (ties count half), with the interval of Hanley and McNeil (1982).

    Args:
        scores: shape (n,).
        positive: which rows should score higher, shape (n,).
        prompts: number of independent prompts, which caps the sizes of both classes (ours).
    """
    ups = int(positive.sum())
    downs = scores.size - ups
    if not ups or not downs:
        return Metric(None, n=scores.size)
    ranks = pl.Series(scores).rank("average").to_numpy()
    area = (float(ranks[positive].sum()) - ups * (ups + 1) / 2) / (ups * downs)
    limit = prompts or scores.size
    a, b = min(ups, limit), min(downs, limit)
    one, two = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (a - 1) * (one - area**2) + (b - 1) * (two - area**2)
    half = Z * math.sqrt(max(spread, 0.0) / (a * b))
    return Metric(area, max(0.0, area - half), min(1.0, area + half), scores.size)
