"""One function for the selections on vectors, for use without a recipe."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from filters.selection.facility import facility_location
from filters.selection.greedy import Picks
from filters.selection.grid import Floats, Grid
from filters.selection.k_center import k_center
from filters.selection.margins import wanted
from filters.selection.mixture import one_blas_thread
from filters.selection.places import Places
from filters.selection.quadratic import d_optimal, dpp
from filters.selection.spaced import spaced
from prefactory.errors import DataError

Method = Literal["facility_location", "k_center", "d_optimal", "dpp", "deita"]


def select(
    vectors: NDArray[np.floating],
    k: int,
    method: Method = "facility_location",
    *,
    quality: Floats | None = None,
    neighbours: int | None = None,
    ridge: float = 0.01,
    jitter: float = 0.0,
    most_alike: float = 0.9,
) -> Picks:
    """Choose k rows by their vectors.

    Args:
        vectors: [n, d], finite. For `d_optimal` a row is the square root of its information: the
            difference of two answers' vectors times sqrt(p (1 - p)).
        k: rows to choose, 0 or more; more than n chooses all.
        method: see the step of that name. `dpp` weighs vectors by `quality` (not by its
            exponential), `deita` goes by `quality`; the others ignore it.
        quality: Float64[n], finite; 1 for every row by default. Not negative for `dpp`.
        neighbours: for `facility_location`, see there.
        ridge: for `d_optimal`.
        jitter: for `dpp`; with 0 at most d rows are chosen.
        most_alike: for `deita`; fewer than k rows may be chosen.

    Returns:
        The rows, Int64[<= k], in the order taken, of equals the first; and their gains (NaN where
        there is none).

    Raises:
        DataError: vectors or qualities are not finite, or their numbers differ.
    """
    n = len(vectors)
    weight = np.ones(n) if quality is None else np.asarray(quality, dtype=np.float64)
    if not (np.isfinite(vectors).all() and np.isfinite(weight).all()) or weight.shape != (n,):
        raise DataError(f"vectors [{n}, d] and quality [{n}] must be finite numbers")
    places = Places.of(k, np.ones(n, dtype=np.int64))
    if not n or k <= 0:
        return Picks(np.zeros(0, dtype=np.int64), np.zeros(0))
    with one_blas_thread():
        if method == "facility_location":
            return facility_location(Grid.of(vectors), places, neighbours)
        if method == "k_center":
            return k_center(Grid.of(vectors), places)
        if method == "d_optimal":
            return d_optimal(vectors, places, ridge)[0]
        grid = Grid.of(vectors)
        if method == "dpp":
            return dpp(grid.q / grid.scale * weight[:, None], places, jitter)[0]
        rows = spaced(grid, wanted(weight, "high"), most_alike, places)
        return Picks(rows, np.full(rows.size, np.nan))
