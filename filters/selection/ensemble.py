"""What the members of an ensemble of reward models don't know, or don't agree on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from filters.selection.grid import Floats
from filters.selection.places import Bools
from prefactory.near.vectors import blocks

POISSON = np.exp(-1.0) * np.cumsum([1.0, 1.0, 1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 720])
"""P(at most 0, 1, ... 6 draws) of a Poisson variable of mean 1."""

MINIMUM = 1e-12
"""Squared distance from the minimum, in the Hessian's norm, at which a head is found."""


class Uncertainty(NamedTuple):
    """Of each row, in nats.

    Attributes:
        entropy: Float64[n], of the mean probability: all that is not known, 0 to ln 2.
        mutual_information: Float64[n], between label and member (BALD, arXiv:1112.5745): the part
            of it that the members disagree on, 0 to ln 2.
    """

    entropy: Floats
    mutual_information: Floats


def binary_entropy(p: Floats) -> Floats:
    """-p ln p - (1 - p) ln(1 - p), 0 at 0 and 1."""
    inside = np.clip(p, 1e-300, 1.0)
    outside = np.clip(1.0 - p, 1e-300, 1.0)
    return np.asarray(-p * np.log(inside) - (1.0 - p) * np.log(outside))


def uncertainty(p: Floats, counts: Bools | None = None) -> Uncertainty:
    """Entropy of the mean and mutual information of members' probabilities.

    Args:
        p: Float64[n, K], each member's probability that chosen beats rejected.
        counts: Bool[n, K], which members are heard on a row (at least one); by default all.
    """
    counted = np.ones(p.shape, dtype=bool) if counts is None else counts
    voices = counted.sum(axis=1)
    total = binary_entropy((p * counted).sum(axis=1) / voices)
    own = (binary_entropy(p) * counted).sum(axis=1) / voices
    return Uncertainty(total, np.maximum(total - own, 0.0))


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)) without overflow."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0 / (1.0 + small), small / (1.0 + small))


def poisson_weights(uniform: Floats) -> Floats:
    """Poisson(1) counts from uniform draws: a bootstrap in which every row draws for itself."""
    return np.searchsorted(POISSON, uniform, side="right").astype(np.float64)


class Curve(NamedTuple):
    """Loss of a head, its gradient Float64[d], and its Hessian Float64[d, d] or an earlier one."""

    value: float
    gradient: Floats
    hessian: Floats


def fit_head(
    gaps: NDArray[np.floating],
    weights: Floats,
    l2: float,
    start: tuple[Floats, Floats] | None = None,
    most: int = 200,
) -> tuple[Floats, Floats]:
    """Bradley-Terry head: minimise sum_i w_i log(1 + exp(-h . gap_i)) / sum_i w_i + l2/2 |h|^2.

    Newton's method with halved steps on a convex problem. A Hessian, which is most of the work, is
    kept as long as a step brings the squared distance from the minimum down to a quarter.

    Args:
        gaps: [n, d], features of chosen minus rejected.
        weights: Float64[n], not negative; if all are 0 the head is 0.
        l2: penalty, above 0.
        start: head and Hessian of a similar problem to start with.
        most: steps at most.

    Returns:
        The head, Float64[d], and the Hessian that was used last, Float64[d, d].
    """
    d = gaps.shape[1]
    head, hessian = (np.zeros(d), None) if start is None else start
    used = np.flatnonzero(weights > 0)
    if not used.size:
        return np.zeros(d), np.eye(d)
    share = weights[used] / weights[used].sum()
    now = _curve(gaps, used, share, l2, head, hessian)
    last = np.inf
    for _ in range(most):
        step = np.linalg.solve(now.hessian, now.gradient)
        slope, size = float(now.gradient @ step), 1.0
        if slope < MINIMUM:
            break
        if hessian is not None and slope >= last / 4:  # too old: once more from here, with its own
            now, hessian, last = _curve(gaps, used, share, l2, head, None), None, np.inf
            continue
        while True:
            trial = _curve(gaps, used, share, l2, head - size * step, now.hessian)
            if trial.value <= now.value - 1e-4 * size * slope or size < 1e-6:
                break
            size /= 2.0
        head, last, now, hessian = head - size * step, slope, trial, now.hessian
    return head, now.hessian


def _curve(
    gaps: NDArray[np.floating],
    used: NDArray[np.int64],
    share: Floats,
    l2: float,
    head: Floats,
    known: Floats | None,
) -> Curve:
    """The curve at a head, in blocks of rows; the Hessian is computed unless one is known."""
    value = 0.5 * l2 * float(head @ head)
    gradient = l2 * head
    hessian = np.eye(head.size) * l2 if known is None else known
    for part in blocks(used.size):
        x, w = gaps[used[part]].astype(np.float64), share[part]
        margin = x @ head
        wrong = sigmoid(-margin)
        value += float(w @ np.logaddexp(0.0, -margin))
        gradient = gradient - x.T @ (w * wrong)
        if known is None:
            hessian += (x * (w * wrong * (1.0 - wrong))[:, None]).T @ x
    return Curve(value, gradient, hessian)
