"""The greedy choice under a budget, with lazy evaluation: as the plain one, at a part of its cost.

Gains of a submodular objective only fall as rows are chosen, so a gain that was computed earlier
bounds today's, and most rows need not be looked at again (Minoux 1978). Of gains that are equal, or
within a tolerance of floating-point arithmetic, the first row is taken: rows come in the order of
their ids, so ties don't depend on how the data were cut, and lazy and plain choices are the same.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from filters.selection.grid import Floats
from filters.selection.places import I64, Places

POOL = 1024
CHUNK = 16


class Gains(Protocol):
    """Gains of a monotone submodular objective, of rows 0 to n - 1."""

    def first(self) -> Floats:
        """Float64[n]: upper bounds of all gains at the start."""
        ...

    def of(self, rows: I64) -> Floats:
        """Float64[m]: exact gains of some rows (ascending), given what was taken."""
        ...

    def take(self, row: int) -> None:
        """Take a row, whose gain was asked for since the last one was taken."""
        ...


class Picks(NamedTuple):
    """What a greedy choice took, in its order.

    Attributes:
        rows: Int64[k].
        gains: Float64[k]; NaN for rows that were filled up without a gain.
    """

    rows: I64
    gains: Floats

    def then(self, rows: I64) -> Picks:
        """Append rows without a gain."""
        blank = np.full(rows.size, np.nan)
        return Picks(np.concatenate([self.rows, rows]), np.concatenate([self.gains, blank]))


def greedy(
    gains: Gains,
    places: Places,
    *,
    tolerance: float = 0.0,
    floor: float = 0.0,
    lazy: bool = True,
    chunk: int = CHUNK,
) -> Picks:
    """Take the row with the largest gain that fits, again and again.

    Args:
        gains: the objective.
        places: the budget; it is used up.
        tolerance: gains within this share of the largest are equal.
        floor: stop when no gain is above this.
        lazy: off, all gains are computed anew after each row (for tests).
        chunk: rows that are evaluated together at least.

    Returns:
        The rows; fewer than fit if the gains ran out.
    """
    bound = gains.first()
    taken: list[int] = []
    gained: list[float] = []
    size = POOL if lazy else bound.size
    while (rows := places.rows()).size:
        pool, edge = _top(bound, rows, size)
        before = len(taken)
        while pool.size:
            best = _evaluate(gains, bound, pool, tolerance, chunk if lazy else pool.size)
            line = best - tolerance * abs(best)
            if edge >= line:
                break  # a row outside the pool may tie or be better
            if best <= floor:
                return Picks(np.asarray(taken, dtype=np.int64), np.asarray(gained))
            row = int(pool[bound[pool] >= line][0])
            gains.take(row)
            places.take(row)
            taken.append(row)
            gained.append(float(bound[row]))
            pool = pool[places.fit(pool)]
        size = max(POOL, size // 2) if len(taken) > before else min(2 * size, bound.size)
        size = size if lazy else bound.size
    return Picks(np.asarray(taken, dtype=np.int64), np.asarray(gained))


def _top(bound: Floats, rows: I64, size: int) -> tuple[I64, float]:
    """Rows with the largest bounds, ascending, and the largest bound of the others."""
    if size >= rows.size:
        return rows, -np.inf
    order = np.argpartition(-bound[rows], size)
    return np.sort(rows[order[:size]]), float(bound[rows[order[size:]]].max())


def _evaluate(gains: Gains, bound: Floats, pool: I64, tolerance: float, chunk: int) -> float:
    """Compute gains in a pool, highest bounds first, until none of the rest can be the largest."""
    order = pool[np.argsort(-bound[pool], kind="stable")]
    best, at = -np.inf, 0
    while at < order.size:
        if bound[order[at]] < best - tolerance * abs(best):
            break
        part = np.sort(order[at : at + chunk])
        bound[part] = gains.of(part)
        best = max(best, float(bound[part].max()))
        at += chunk
        chunk *= 2
    return best
