"""How far a preference model's probabilities can be believed.

A model's margin `m = score(chosen) - score(rejected)` says that chosen wins with probability
`sigmoid(m)`. Calibration counts **both orders** of every pair, `(sigmoid(m), 1)` and
`(sigmoid(-m), 0)`, as MORE does (arXiv 2312.07401): on one order only, every outcome is 1, and a
perfectly calibrated model looks badly calibrated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import expit

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """Calibration errors over uniform bins of probability.

    Attributes:
        ece: expected calibration error, `sum over bins |sum p - sum y| / N`.
        ace: mean over the bins that are not empty of `|mean p - mean y|`.
        mce: the largest `|mean p - mean y|`.
    """

    ece: float
    ace: float
    mce: float


def reliability(margins: Floats, bins: int = 10) -> pl.DataFrame:
    """Reliability table over both orders of every pair; empty bins are left out.

    Args:
        margins: score of chosen minus score of rejected, shape (n,).
        bins: number of uniform bins on [0, 1]; the last one includes 1.

    Returns:
        `low`, `high`, `n`, `mean_p` (what the model said), `mean_y` (what happened).
    """
    p = np.concatenate([expit(margins), expit(-margins)])
    y = np.repeat([1.0, 0.0], len(margins))
    bin_of = np.minimum((p * bins).astype(np.int64), bins - 1)
    n = np.bincount(bin_of, minlength=bins)
    full = n > 0
    sum_p, sum_y = (np.bincount(bin_of, weights=v, minlength=bins)[full] for v in (p, y))
    low = np.flatnonzero(full) / bins
    return pl.DataFrame(
        {
            "low": low,
            "high": low + 1 / bins,
            "n": n[full],
            "mean_p": sum_p / n[full],
            "mean_y": sum_y / n[full],
        }
    )


def calibration_errors(margins: Floats, bins: int = 10) -> Calibration:
    """ECE, ACE and MCE of a preference model, over both orders of every pair.

    Args:
        margins: score of chosen minus score of rejected, shape (n,), n >= 1.
        bins: number of uniform bins on [0, 1].
    """
    table = reliability(margins, bins)
    gap = (table["mean_p"] - table["mean_y"]).abs().to_numpy()
    n = table["n"].to_numpy()
    return Calibration(
        ece=float((gap * n).sum() / n.sum()), ace=float(gap.mean()), mce=float(gap.max())
    )


def pairwise_accuracy(margins: Floats, groups: pl.Series | None = None) -> tuple[float, float]:
    """Share of pairs in which chosen scores higher, and its standard error.

    A tie counts one half. With groups (prompt ids), the pairs of a group are not taken as
    independent: the error is the cluster-robust one, which is the binomial one if every group has
    one pair.

    Args:
        margins: score of chosen minus score of rejected, shape (n,), n >= 1.
        groups: which pairs belong together, length n.
    """
    right = (np.sign(margins) + 1) / 2
    accuracy = float(right.mean())
    off: Floats = right - accuracy
    if groups is not None:
        group = groups.rank("dense").to_numpy() - 1
        off = np.bincount(group, weights=off).astype(np.float64)
    return accuracy, float(np.sqrt((off**2).sum()) / len(margins))


def logistic_slope(gaps: Floats) -> float:
    """The one number that makes margins log odds: the maximum of mean log sigmoid(slope * margin).

    Both orders of a pair say the same, so there is no intercept. Of n pairs (n + 1) / (n + 2) count
    as won, as Platt (1999) smooths, so that the slope is finite where every margin is positive.

    Args:
        gaps: Float64[n].

    Returns:
        Log odds per unit; negative where the score falls as the label rises, 0 without a gap.
    """
    size = float(np.abs(gaps).max(initial=0.0))
    if size == 0:
        return 0.0
    z = gaps / size
    won = (len(z) + 1) / (len(z) + 2)
    low, high, slope = -math.inf, math.inf, 0.0
    for _ in range(200):
        p = expit(slope * z)
        gradient = float((z * (p - won)).mean())
        curve = float((z * z * p * (1 - p)).mean())
        low, high = (low, slope) if gradient > 0 else (slope, high)
        step = slope - gradient / curve if curve > 0 else math.nan
        if abs(step - slope) <= 1e-12 * (1 + abs(slope)):  # also where the gradient is exactly 0
            break
        if not low < step < high:  # outside what is known of the root: halve, or go on outward
            known = math.isfinite(low) and math.isfinite(high)
            step = (low + high) / 2 if known else slope - math.copysign(1 + abs(slope), gradient)
        slope = step
    return slope / size if abs(slope) > 1e-12 else 0.0  # half right, half wrong, but for rounding
