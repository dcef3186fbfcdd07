"""Greedy choices by determinants: D-optimal designs and determinantal point processes.

Both take, again and again, the row x with the largest x' M x, and then M loses w w' with
w = M x / sqrt(offset + x' M x): for a design M is the inverse information matrix (the update of
Sherman and Morrison), for a process the projection away from what the chosen rows span (the
Cholesky update of Chen, Zhang, Zhou, arXiv:1709.05135, for kernels of rank d). Memory is O(n d).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from filters.selection.greedy import Picks, greedy
from filters.selection.grid import Floats
from filters.selection.places import I64, Places
from prefactory.near.vectors import blocks

SAME = 1e-9
"""Share by which gains may differ and still count as equal: that much is rounding."""
SINGULAR = 1e-10
WORK = 1 << 21


def d_optimal(
    features: NDArray[np.floating], places: Places, ridge: float, *, lazy: bool = True
) -> tuple[Picks, Floats]:
    """Choose rows that greedily maximise log det(ridge I + sum of x x').

    Args:
        features: [n, d], finite; row i times its transpose is the row's Fisher information.
        places: the budget; it is used up.
        ridge: information that is there before, above 0.
        lazy: off for the plain algorithm.

    Returns:
        All rows that the budget has room for, with the rise of log det as gains; and Float64[n],
        the rise that one more row like each would bring after all of them.
    """
    gains = Quadratic(features, 1.0 / ridge, offset=1.0)
    picks = greedy(gains, places, tolerance=SAME, lazy=lazy)
    picks = Picks(picks.rows, np.log1p(picks.gains)).then(places.fill(places.rows()))
    return picks, np.log1p(gains.of(np.arange(len(features))))


def dpp(
    features: NDArray[np.floating], places: Places, jitter: float = 0.0, *, lazy: bool = True
) -> tuple[Picks, Floats]:
    """Choose rows by greedy MAP inference of the process with kernel F F' + jitter I.

    Args:
        features: F, [n, d]: unit vectors times qualities.
        places: the budget; it is used up as far as the kernel's rank goes.
        jitter: variance that every row has of its own; with 0 at most d rows are chosen, and the
            choice ends where no row has more than 1e-10 of the largest variance left.
        lazy: off for the plain algorithm.

    Returns:
        The rows, perhaps fewer than there is room for, with the logarithm of the variance that
        each added as gains; and Float64[n], the variance that is left of each row.
    """
    if jitter > 0:
        gains = Quadratic(features, 1.0 / jitter, offset=1.0)
        picks = greedy(gains, places, tolerance=SAME, floor=-1.0, lazy=lazy)
        variance = jitter * (1.0 + gains.of(np.arange(len(features))))
        return Picks(picks.rows, np.log(jitter) + np.log1p(picks.gains)), variance
    gains = Quadratic(features, 1.0, offset=0.0)
    floor = SINGULAR * float(gains.value.max(initial=0.0))
    picks = greedy(gains, places, tolerance=SAME, floor=floor, lazy=lazy)
    variance = np.maximum(gains.of(np.arange(len(features))), 0.0)
    return Picks(picks.rows, np.log(picks.gains)), variance


def log_det(features: NDArray[np.floating], rows: I64, ridge: float) -> float:
    """Log det(I + sum of x x' / ridge) over some rows: how far they are from knowing nothing."""
    d = features.shape[1]
    total = np.eye(d)
    for part in blocks(rows.size):
        x = features[rows[part]].astype(np.float64)
        total += x.T @ x / ridge
    return float(np.linalg.slogdet(total)[1])


class Quadratic:
    """x' M x of rows, brought up to date when it is asked for.

    Attributes:
        value: Float64[n], as last computed: today's value or more.
    """

    def __init__(self, features: NDArray[np.floating], start: float, offset: float) -> None:
        n, d = features.shape
        self.x, self.offset = features, offset
        self.matrix: Floats = np.eye(d) * start
        self.seen: I64 = np.zeros(n, dtype=np.int64)
        self.steps: list[Floats] = []
        sums = [np.square(features[b].astype(np.float64)).sum(axis=1) for b in blocks(n)]
        self.value: Floats = (np.concatenate(sums) if sums else np.zeros(0)) * start

    def first(self) -> Floats:
        """Values before any row was taken."""
        return self.value.copy()

    def of(self, rows: I64) -> Floats:
        """Values of some rows now."""
        stale = rows[self.seen[rows] < len(self.steps)]
        if stale.size:
            new = self.steps[int(self.seen[stale].min()) :]
            direct = len(new) > self.matrix.shape[0]
            step = np.stack(new, axis=1) if not direct else self.matrix
            size = max(1, WORK // step.shape[1])
            for at in range(0, stale.size, size):
                self._update(stale[at : at + size], step, direct)
        return self.value[rows]

    def take(self, row: int) -> None:
        """Bring a row into the matrix."""
        x = self.x[row].astype(np.float64)
        step = self.matrix @ x
        step /= np.sqrt(self.offset + max(float(x @ step), 0.0))
        self.matrix -= np.outer(step, step)
        self.steps.append(step)

    def _update(self, rows: I64, step: Floats, direct: bool) -> None:
        x = self.x[rows].astype(np.float64)
        if direct:
            self.value[rows] = np.einsum("ij,ij->i", x @ step, x)
        else:
            base = int(self.seen[rows].min())
            first = base - (len(self.steps) - step.shape[1])
            late = np.arange(base, len(self.steps)) >= self.seen[rows][:, None]
            self.value[rows] -= (np.square(x @ step[:, first:]) * late).sum(axis=1)
        self.seen[rows] = len(self.steps)
