"""Facility location: rows are chosen so that every row has a chosen one like it.

f(S) = sum_i max(0, max_{j in S} cos(i, j)). Monotone and submodular, so the greedy choice reaches
at least 1 - 1/e of the best value (Nemhauser, Wolsey, Fisher 1978); in practice nearly all of it.
All arithmetic is on whole numbers (see `filters.selection.grid`), so it is exact.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from filters.selection.greedy import Picks, greedy
from filters.selection.grid import F32, Floats, Grid, each
from filters.selection.places import I64, Places
from prefactory.near.vectors import blocks

SLOTS = 256
TILE = 2048


def facility_location(
    grid: Grid, places: Places, neighbours: int | None = None, *, lazy: bool = True
) -> Picks:
    """Choose rows greedily for facility location.

    Without `neighbours` the n^2 similarities are computed in blocks, some of them several times,
    and memory is that of the vectors and of 256 columns. With `neighbours` = t only each row's t
    most alike rows count; those are computed once and kept (8 n t bytes, more while sorting).

    Args:
        grid: the vectors.
        places: the budget; it is used up.
        neighbours: rows that can stand for a row; null for all.
        lazy: off for the plain greedy algorithm.

    Returns:
        All rows that the budget has room for (in the order of ids where no gain is left); gains in
        units of summed cosines.
    """
    if not len(grid):
        return Picks(np.zeros(0, dtype=np.int64), np.zeros(0))
    if neighbours is None or neighbours >= len(grid):
        gains: _Dense | _Sparse = _Dense(grid)
    else:
        gains = _Sparse(grid, neighbours)
    picks = greedy(gains, places, lazy=lazy)
    picks = Picks(picks.rows, grid.cosine(picks.gains))
    return picks.then(places.fill(places.rows()))


def coverage(grid: Grid, kept: I64) -> float:
    """Mean over all rows of max(0, cosine with the most alike chosen row), exact: f(S) / n.

    Args:
        grid: the vectors, of n > 0 rows.
        kept: Int64[k], rows chosen.
    """
    if not kept.size:
        return 0.0
    best, _ = grid.nearest(np.sort(kept))
    return float(grid.cosine(np.maximum(best, 0.0).sum()) / len(grid))


class _Dense:
    """Gains from all similarities; columns of candidates in work are kept."""

    def __init__(self, grid: Grid) -> None:
        n = len(grid)
        slots = min(SLOTS, n)
        self.grid = grid
        self.current: F32 = np.zeros(n, dtype=np.float32)
        self.columns: F32 = np.empty((slots, n), dtype=np.float32)
        self.slot: I64 = np.full(n, -1, dtype=np.int64)
        self.owner: I64 = np.full(slots, -1, dtype=np.int64)
        self.used: I64 = np.zeros(slots, dtype=np.int64)
        self.clock = 0

    def first(self) -> Floats:
        total = np.zeros(len(self.grid))
        q = self.grid.q
        tiles = blocks(len(self.grid), TILE)

        def work(i: int) -> list[tuple[slice, Floats]]:
            sums = []
            for j in range(i, len(tiles)):
                alike = np.maximum(q[tiles[i]] @ q[tiles[j]].T, 0.0)
                sums.append((tiles[i], alike.sum(axis=1, dtype=np.float64)))
                if j > i:
                    sums.append((tiles[j], alike.sum(axis=0, dtype=np.float64)))
            return sums

        for sums in each(work, range(len(tiles))):
            for part, values in sums:
                total[part] += values
        return total

    def of(self, rows: I64) -> Floats:
        step = self.owner.size
        pieces = [rows[at : at + step] for at in range(0, rows.size, step)]
        return np.concatenate([self._of(piece) for piece in pieces])

    def take(self, row: int) -> None:
        if self.slot[row] < 0:
            self._load(np.asarray([row]))
        np.maximum(self.current, self.columns[self.slot[row]], out=self.current)

    def _of(self, rows: I64) -> Floats:
        self.clock += 1
        cached = self.slot[rows] >= 0
        self.used[self.slot[rows[cached]]] = self.clock
        if not cached.all():
            self._load(rows[~cached])

        def gain(row: int) -> float:
            more = np.maximum(self.columns[self.slot[row]] - self.current, 0.0)
            return float(more.sum(dtype=np.float64))

        if rows.size * len(self.grid) < 1 << 22:
            return np.asarray([gain(row) for row in rows])
        return np.asarray(each(gain, rows.tolist()))

    def _load(self, rows: I64) -> None:
        slots = np.argsort(self.used, kind="stable")[: rows.size]
        evicted = self.owner[slots]
        self.slot[evicted[evicted >= 0]] = -1
        self.columns[slots] = self.grid.products(rows)
        self.slot[rows], self.owner[slots], self.used[slots] = slots, rows, self.clock


class _Sparse:
    """Gains from each row's most alike rows only."""

    def __init__(self, grid: Grid, neighbours: int) -> None:
        n = len(grid)
        beside, alike = most_alike(grid, neighbours)
        order = np.argsort(beside.ravel(), kind="stable")
        self.start = np.searchsorted(beside.ravel()[order], np.arange(n + 1))
        self.row = (order // neighbours).astype(np.int32)
        self.alike = np.maximum(alike.ravel()[order], 0.0)
        self.current: F32 = np.zeros(n, dtype=np.float32)

    def first(self) -> Floats:
        return self.of(np.arange(len(self.current)))

    def of(self, rows: I64) -> Floats:
        start, size = self.start[rows], self.start[rows + 1] - self.start[rows]
        out = np.zeros(rows.size)
        if not size.sum():
            return out
        ends = np.cumsum(size)
        at = np.arange(ends[-1]) + np.repeat(start - (ends - size), size)
        more = np.maximum(self.alike[at] - self.current[self.row[at]], 0.0)
        some = size > 0
        out[some] = np.add.reduceat(more, (ends - size)[some], dtype=np.float64)
        return out

    def take(self, row: int) -> None:
        part = slice(self.start[row], self.start[row + 1])
        covered = self.row[part]
        self.current[covered] = np.maximum(self.current[covered], self.alike[part])


def most_alike(grid: Grid, t: int) -> tuple[NDArray[np.int32], F32]:
    """Find each row's t most alike rows (itself among them), of equals the first.

    Args:
        grid: the vectors, of n rows.
        t: 1 <= t <= n.

    Returns:
        Int32[n, t], the rows, ascending, and Float32[n, t], the products with them.
    """
    n = len(grid)
    beside = np.empty((n, t), dtype=np.int32)
    alike = np.empty((n, t), dtype=np.float32)

    def work(part: slice) -> None:
        dots = grid.q[part] @ grid.q.T
        least = np.partition(dots, n - t, axis=1)[:, n - t, None]
        near = dots >= least
        for row in np.flatnonzero(near.sum(axis=1) > t):
            equal = np.flatnonzero(dots[row] == least[row])
            near[row, equal[t - int((dots[row] > least[row]).sum()) :]] = False
        beside[part] = np.nonzero(near)[1].reshape(-1, t)
        alike[part] = dots[near].reshape(-1, t)

    each(work, blocks(n, 256))
    return beside, alike
