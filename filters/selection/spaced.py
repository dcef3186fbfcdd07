"""Rows in an order of preference, none too near to one that was taken before it."""

from __future__ import annotations

from typing import Literal

import numpy as np

from filters.selection.grid import Floats, Grid
from filters.selection.places import I64, Places

Walk = Literal["dissimilar", "history"]
FAINT = 1e-3
SCHEDULE = ((100, 20, 3), (1000, 10, 5), (10_000, 5, 10))
LARGE = (3, 20)


def spaced(grid: Grid, order: I64, cosine: float, places: Places, block: int = 512) -> I64:
    """Go through rows and take each whose cosine with every row taken so far is at most a limit.

    The result is that of one row at a time, whatever the block: rows of a block that were turned
    down turn nobody else down.

    Args:
        grid: the vectors.
        order: Int64[m], distinct rows, best first.
        cosine: the limit; 1 or more turns nobody down.
        places: the budget; it is used up as far as possible.
        block: rows that are compared at a time.

    Returns:
        Int64[k], the rows taken, in their order.
    """
    limit = cosine * grid.scale**2 if cosine < 1 else np.inf
    taken = np.zeros((0, grid.q.shape[1]), dtype=np.float32)
    kept_rows: list[int] = []
    for at in range(0, order.size, block):
        rows = order[at : at + block]
        rows = rows[places.fit(rows)]
        if not rows.size and not places.rows().size:
            break
        vectors = grid.q[rows]
        near = np.zeros(rows.size, dtype=bool)
        for start in range(0, len(taken), 8192):
            left = np.flatnonzero(~near)
            near[left] = (vectors[left] @ taken[start : start + 8192].T > limit).any(axis=1)
        rows, vectors = rows[~near], vectors[~near]
        own = vectors @ vectors.T > limit
        near = np.zeros(rows.size, dtype=bool)
        kept = []
        for i, row in enumerate(rows.tolist()):
            if not near[i] and places.fit(rows[i : i + 1])[0]:
                places.take(row)
                kept.append(i)
                near |= own[i]
        kept_rows += rows[kept].tolist()
        taken = np.concatenate([taken, vectors[kept]])
    return np.asarray(kept_rows, dtype=np.int64)


def covered(grid: Grid, order: I64, cosine: float, places: Places) -> I64:
    """Take rows as `spaced` does, and start anew each time that every row is near to a taken one.

    Returns:
        Int64[k], as many rows as the budget has room for.
    """
    passes: list[I64] = []
    while True:
        taken = spaced(grid, order, cosine, places)
        passes.append(taken)
        order = order[places.fit(order)]
        if not order.size or not taken.size:
            return np.concatenate(passes)


def visits(
    grid: Grid, rng: np.random.Generator, alpha: float = 0.5, walk: Walk = "dissimilar"
) -> I64:
    """Count how often random walks that avoid what they know come to each row.

    From row i a walk goes to row j != i with a chance in proportion to s_ij^-alpha (`dissimilar`:
    what the published code of SRGASM does, a walk to unlike rows without a memory), or to
    s_ij ((v_j + 1) / (mean v + 1))^-alpha with v_j the visits so far (`history`: our reading of the
    paper's equation). s_ij is the cosine scaled to [0.001, 1] over the row i (our choice: the code
    scales columns of a stored n x n matrix, which needs too much memory here). Starts are uniform.
    Number and length of the walks by n are the code's.

    Args:
        grid: the vectors.
        rng: draws starts and steps.
        alpha: strength of the repulsion.
        walk: which of the two.

    Returns:
        Int64[n].
    """
    n = len(grid)
    count = np.zeros(n, dtype=np.int64)
    walks, length = next(((w, s) for most, w, s in SCHEDULE if n < most), LARGE)
    for _ in range(walks if n else 0):
        at = int(rng.integers(n))
        count[at] += 1
        for _ in range(length - 1 if n > 1 else 0):
            chances = _chances(grid, at, count, alpha, walk)
            total = np.cumsum(chances)
            at = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
            at = min(at, n - 1)
            count[at] += 1
    return count


def _chances(grid: Grid, at: int, count: I64, alpha: float, walk: Walk) -> Floats:
    dots = grid.products(np.asarray([at]))[0].astype(np.float64)
    low, high = float(dots.min()), float(dots.max())
    alike = np.maximum((dots - low) / (high - low), FAINT) if high > low else np.ones(dots.size)
    if walk == "dissimilar":
        chances = alike**-alpha
    else:
        chances = alike * ((count + 1.0) / (count.mean() + 1.0)) ** -alpha
    chances[at] = 0.0
    return chances


def spread(grid: Grid) -> float:
    """Root mean squared distance of two rows of unit vectors (with themselves): 0 to sqrt(2)."""
    mean = grid.q.mean(axis=0, dtype=np.float64)
    squared = grid.squares().mean() - float(mean @ mean)
    return float(np.sqrt(max(0.0, 2.0 * squared)) / grid.scale)
