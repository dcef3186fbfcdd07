"""Scores from comparisons with anchors: the mean outcome, or a Bradley-Terry fit that they share.

Baichuan (arXiv:2410.14940) compares prompts with anchors and aggregates; the formulas are ours. An
outcome is 1 (won), 1/2 (tie) or 0 (lost), or a mean of such over judges, orders and dimensions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import expit
from threadpoolctl import threadpool_limits

from labelers.combine.scoring import Floats
from prefactory.errors import DataError

PRIOR = 0.1
"""Precision of the normal prior of strengths around 0: keeps those who always win finite."""

_STEPS = 100
_CLOSE = 1e-10


class Scored(NamedTuple):
    """Scores with their standard errors.

    Attributes:
        score: in [0, 1], NaN where nothing was compared, Float64[n].
        se: standard error over anchors, NaN where it is not known, Float64[n].
    """

    score: Floats
    se: Floats


def mean_outcome(outcomes: Floats) -> Scored:
    """Mean over a prompt's anchors, and the standard error of this mean.

    Args:
        outcomes: in [0, 1], NaN where not compared, Float64[n, k]. Everything that was said about
            one anchor is one outcome, since it hangs together.
    """
    known = ~np.isnan(outcomes)
    count = known.sum(axis=1)
    filled = np.where(known, outcomes, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = filled.sum(axis=1) / count
        off = np.where(known, outcomes - mean[:, None], 0.0)
        se = np.sqrt((off**2).sum(axis=1) / (count - 1) / count)
    return Scored(mean, np.where(count > 1, se, np.nan))


def strengths(outcomes: Floats, prior: float = PRIOR) -> Floats:
    """Bradley-Terry strengths of anchors that were compared with each other.

    Maximises sum of o_ij log sigmoid(t_i - t_j) + (1 - o_ij) log sigmoid(t_j - t_i) over all
    compared (i, j), minus prior / 2 * sum t^2, by Newton's method.

    Args:
        outcomes: of the row against the column, NaN where not compared, Float64[a, a].
        prior: precision of the prior, above 0.

    Returns:
        Float64[a], of mean about 0.

    Raises:
        DataError: the fit did not converge.
    """
    n = len(outcomes)
    known = ~np.isnan(outcomes) & ~np.eye(n, dtype=bool)
    won = np.where(known, outcomes, 0.0)
    times = known.astype(np.float64)
    theta = np.zeros(n)
    for _ in range(_STEPS):
        p = expit(theta[:, None] - theta[None, :])
        gap = won - times * p
        gradient = gap.sum(axis=1) - gap.sum(axis=0) - prior * theta
        curve = times * p * (1 - p)
        curve = curve + curve.T
        hessian = np.diag(curve.sum(axis=1) + prior) - curve
        with threadpool_limits(1, user_api="blas"):  # bits must not depend on the cores
            step = _limited(np.linalg.solve(hessian, gradient))
        theta = theta + step
        if not n or np.abs(step).max() < _CLOSE:
            return theta
    raise DataError("the Bradley-Terry fit of the anchors does not converge")


def against_anchors(outcomes: Floats, theta: Floats, pool: Floats, prior: float = PRIOR) -> Scored:
    """Scores of prompts from their outcomes against anchors of known strength.

    Each prompt's own strength is fitted with those of the anchors fixed; its score is what it would
    win on average against all anchors of its bucket, so that the luck of its draw is taken out.

    Args:
        outcomes: NaN where not compared, Float64[n, k].
        theta: strengths of the k anchors of each prompt, Float64[n, k].
        pool: strengths of all anchors of the bucket, Float64[a].
        prior: precision of the normal prior of a strength around 0.
    """
    known = ~np.isnan(outcomes)
    won = np.where(known, outcomes, 0.0)
    own = np.zeros(len(outcomes))
    open_rows = np.ones(len(outcomes), dtype=bool)  # a row stops by itself, whatever its company
    for _ in range(_STEPS):
        p = expit(own[:, None] - theta)
        gradient = np.where(known, won - p, 0.0).sum(axis=1) - prior * own
        curve = np.where(known, p * (1 - p), 0.0).sum(axis=1) + prior
        step = np.where(open_rows, _limited(gradient / curve), 0.0)
        own = own + step
        open_rows &= np.abs(step) >= _CLOSE
        if not open_rows.any():
            break
    p = expit(own[:, None] - pool[None, :])
    seen = known.any(axis=1)
    curve = np.where(known, expit(own[:, None] - theta) * expit(theta - own[:, None]), 0.0)
    slope = (p * (1 - p)).mean(axis=1)
    se = slope / np.sqrt(curve.sum(axis=1) + prior)
    return Scored(np.where(seen, p.mean(axis=1), np.nan), np.where(seen, se, np.nan))


def _limited(step: Floats) -> Floats:
    """Newton's step, at most 1 in any strength: the curve is flat far out."""
    return np.clip(step, -1.0, 1.0)
