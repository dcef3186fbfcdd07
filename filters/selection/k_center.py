"""k-center: the chosen rows leave no row far from all of them.

Farthest-first traversal (Gonzalez 1985): its covering radius is at most twice the least possible.
"""

from __future__ import annotations

import numpy as np

from filters.selection.greedy import Picks, greedy
from filters.selection.grid import Floats, Grid
from filters.selection.places import I64, Places
from prefactory.near.vectors import blocks

WORK = 1 << 22


def k_center(grid: Grid, places: Places, *, lazy: bool = True) -> Picks:
    """Choose the row nearest to the mean, then again and again the row farthest from all chosen.

    The first row is our choice: a traversal may start anywhere.

    Args:
        grid: the vectors.
        places: the budget; it is used up.
        lazy: off for the plain algorithm.

    Returns:
        All rows that the budget has room for; the gain of a row is its distance (of unit vectors,
        0 to 2) from the rows before it, NaN for the first.
    """
    rows = places.rows()
    if not rows.size:
        return Picks(rows, np.zeros(0))
    central = int(rows[np.argmax(_towards_mean(grid)[rows])])
    places.take(central)
    picks = greedy(_Distances(grid, central), places, lazy=lazy, chunk=64)
    gains = np.concatenate([[np.nan], np.sqrt(picks.gains) / grid.scale])
    return Picks(np.concatenate([[central], picks.rows]), gains).then(places.fill(places.rows()))


def radius(grid: Grid, kept: I64) -> float:
    """Largest distance of a row from the nearest chosen one; 2 if none is chosen."""
    if not kept.size:
        return 2.0
    return float(distances(grid, kept)[0].max())


def distances(grid: Grid, kept: I64) -> tuple[Floats, I64]:
    """Distance of every row from the nearest of some rows (k > 0), and that row.

    Returns:
        Float64[n] in 0 to 2 (of unit vectors, but for rounding to the grid), and Int64[n].
    """
    dots, at = grid.nearest(np.sort(kept))
    return np.sqrt(np.maximum(grid.at_distance(dots, at), 0.0)) / grid.scale, at


def _towards_mean(grid: Grid) -> Floats:
    """Products of all rows with their sum, exact in float64."""
    total = np.zeros(grid.q.shape[1])
    for part in blocks(len(grid)):
        total += grid.q[part].sum(axis=0, dtype=np.float64)
    return np.concatenate([grid.q[b].astype(np.float64) @ total for b in blocks(len(grid))])


class _Distances:
    """Squared distances from the nearest chosen row; a row is compared when it is asked for."""

    def __init__(self, grid: Grid, start: int) -> None:
        self.grid, self.squares = grid, grid.squares()
        self.centres = [start]
        self.seen: I64 = np.ones(len(grid), dtype=np.int64)
        dots = grid.products(np.asarray([start]))[0].astype(np.float64)
        self.value: Floats = self.squares + self.squares[start] - 2.0 * dots

    def first(self) -> Floats:
        return self.value.copy()

    def of(self, rows: I64) -> Floats:
        stale = rows[self.seen[rows] < len(self.centres)]
        if stale.size:
            new = np.asarray(self.centres[int(self.seen[stale].min()) :])
            step = max(1, WORK // new.size)
            for at in range(0, stale.size, step):
                self._compare(stale[at : at + step], new)
        return self.value[rows]

    def take(self, row: int) -> None:
        self.centres.append(row)

    def _compare(self, rows: I64, centres: I64) -> None:
        dots = self.grid.q[rows] @ self.grid.q[centres].T
        squared = self.squares[centres] - 2.0 * dots.astype(np.float64)
        nearest = self.squares[rows] + squared.min(axis=1)
        self.value[rows] = np.minimum(self.value[rows], nearest)
        self.seen[rows] = len(self.centres)
