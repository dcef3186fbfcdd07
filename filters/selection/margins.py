"""Margins as probabilities, their product, and the order in which rows are wanted."""

from __future__ import annotations

from typing import Literal

import numpy as np

from filters.selection.grid import Floats
from filters.selection.places import I64

Order = Literal["high", "low", "mid"]


def margin_probability(
    margin: Floats, quantiles: tuple[float, float] = (0.05, 0.95), shrink: float = 0.01
) -> Floats:
    """Margins as probabilities that the label is right: linear between two quantiles, then shrunk.

    P(m) = (clip(m, M1, M2) - M1) / (M2 - M1), brought into [shrink, 1 - shrink] by a linear map, so
    that a certain yes of one source and a certain no of the other don't make 0 / 0. Dual margin,
    arXiv:2502.14560; M1 and M2 as quantiles and the shrinkage are ours.

    Args:
        margin: Float64[n], finite.
        quantiles: of the margins, for M1 and M2; equal margins there make every P 1/2.
        shrink: in [0, 1/2).

    Returns:
        Float64[n].
    """
    if not margin.size:
        return margin.copy()
    low, high = (float(q) for q in np.quantile(margin, quantiles))
    if not high > low:
        return np.full(margin.size, 0.5)
    p = (np.clip(margin, low, high) - low) / (high - low)
    return np.asarray(shrink + (1.0 - 2.0 * shrink) * p)


def product_rule(*probabilities: Floats) -> Floats:
    """P1 P2 / (P1 P2 + (1 - P1)(1 - P2)), of any number: independent sources of one label.

    Args:
        probabilities: Float64[n] each, in [0, 1]. Where one is 0 and another 1 nothing is known:
            1/2.
    """
    for_it = np.prod(probabilities, axis=0)
    against = np.prod([1.0 - p for p in probabilities], axis=0)
    total = for_it + against
    return np.where(total > 0, for_it / np.where(total > 0, total, 1.0), 0.5)


def wanted(score: Floats, order: Order) -> I64:
    """Rows by score: the `high`est first, the `low`est first, or those nearest to the median.

    Args:
        score: Float64[n], NaN where there is none (such rows come last).
        order: which are wanted first.

    Returns:
        Int64[n], a permutation; of equals the first row is first.
    """
    scored = ~np.isnan(score)
    if order == "mid":
        middle = float(np.median(score[scored])) if scored.any() else 0.0
        key = np.abs(score - middle)
    else:
        key = score if order == "low" else -score
    return np.lexsort((np.where(scored, key, 0.0), ~scored)).astype(np.int64)
