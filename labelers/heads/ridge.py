"""Ridge regression in closed form, all penalties at once: pure functions on arrays.

W = (Xs'Xs + aI)^-1 Xs'Yc on standardised features Xs and centred targets Yc, or its dual form
Xs'(XsXs' + aI)^-1 Yc where there are fewer rows than features (arXiv 2510.00766, section 5.1 of
the method notes). Weights are returned for the raw features.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prefactory.measures import exact

Floats = NDArray[np.float64]

_CHUNK = 4096


class Path(NamedTuple):
    """Ridge solutions for A penalties, h features and M targets.

    Attributes:
        weights: Float64[A, h, M], for raw features.
        intercepts: Float64[A, M].
    """

    weights: Floats
    intercepts: Floats


class Moments(NamedTuple):
    """Sums over rows that decide a ridge solution.

    Attributes:
        n: number of rows.
        x: Float64[h], sum of features.
        y: Float64[M], sum of targets.
        xx: Float64[h, h].
        xy: Float64[h, M].
        yy: Float64[M], sum of squared targets.
    """

    n: float
    x: Floats
    y: Floats
    xx: Floats
    xy: Floats
    yy: Floats


class Grid(NamedTuple):
    """Steps of the grids that rows are put on before they are summed (`measures.exact`).

    Attributes:
        x: Float64[h], of features.
        y: Float64[M], of targets, which are kept in two slices.
    """

    x: Floats
    y: Floats


def sums(features: NDArray[np.float32], targets: Floats, grid: Grid) -> exact.Whole:
    """All sums behind the moments of rows, which add up to the bit: [h + 1 + 2M, h + 1 + 2M].

    Args:
        features: [n, h].
        targets: [n, M], without NaN.
        grid: for the largest values of all rows, of these and others.
    """

    def columns(rows: slice) -> Floats:
        x, y = exact.on_grid(features[rows], grid.x), exact.slices(targets[rows], grid.y)
        return np.concatenate([x, np.ones((len(x), 1)), y], axis=1)

    return exact.total(
        exact.products(block, block) for block in map(columns, exact.pieces(len(features)))
    )


def moments_of(summed: exact.Whole, grid: Grid) -> Moments:
    """The moments that `sums` on a grid stand for."""
    h, m = len(grid.x), len(grid.y)
    scale = np.concatenate([grid.x, [1.0], grid.y, np.ldexp(grid.y, -exact.BITS)])
    products = summed.floats() * np.outer(scale, scale)
    coarse, fine = np.arange(h + 1, h + 1 + m), np.arange(h + 1 + m, h + 1 + 2 * m)
    with_y = products[:, coarse] + products[:, fine]
    squares = [products[a, b] for a, b in ((coarse, coarse), (coarse, fine), (fine, fine))]
    return Moments(
        float(products[h, h]), products[:h, h], with_y[h], products[:h, :h], with_y[:h],
        squares[0] + 2 * squares[1] + squares[2],
    )  # fmt: skip


def moments(features: NDArray[np.float32], targets: Floats) -> Moments:
    """Moments of rows: features [n, h], targets [n, M] without NaN."""
    grid = Grid(exact.grid(largest(features)), exact.grid(largest(targets)))
    return moments_of(sums(features, targets, grid), grid)


def largest(columns: NDArray[np.floating]) -> Floats:
    """Largest absolute value of each column, 0 without rows: [n, c] -> Float64[c]."""
    above, below = columns.max(axis=0, initial=0), columns.min(axis=0, initial=0)
    return np.asarray(np.maximum(above, -below), np.float64)


def symmetric(stats: Moments) -> Moments:
    """Moments as if every row were there with both signs: `solve` then gives no intercept."""
    return stats._replace(x=np.zeros_like(stats.x), y=np.zeros_like(stats.y))


def solve(stats: Moments, alphas: Floats) -> Path:
    """Primal solution from moments, for penalties above 0 (Float64[A])."""
    mean_x, mean_y = stats.x / stats.n, stats.y / stats.n
    cov = stats.xx - stats.n * np.outer(mean_x, mean_x)
    scale = _scales(np.diag(cov), np.diag(stats.xx), stats.n)
    gram = cov / np.outer(scale, scale)
    cross = (stats.xy - stats.n * np.outer(mean_x, mean_y)) / scale[:, None]
    values, vectors = np.linalg.eigh(gram)
    shrunk = (vectors.T @ cross)[None] / (np.maximum(values, 0)[None, :, None] + _column(alphas))
    return _path(vectors @ shrunk, scale, mean_x, mean_y)


def solve_dual(
    features: NDArray[np.float32], targets: Floats, alphas: Floats, centred: bool = True
) -> Path:
    """Dual solution from rows (features [n, h], targets [n, M]); cheaper where n < h.

    `centred=False` is the solution of `symmetric` moments.
    """
    x = features.astype(np.float64)
    n = float(len(x))
    mean_x, mean_y = x.mean(0) * centred, targets.mean(0) * centred
    scale = _scales(((x - mean_x) ** 2).sum(0), (x**2).sum(0), n)
    x = (x - mean_x) / scale
    values, vectors = np.linalg.eigh(x @ x.T)
    inner = vectors.T @ (targets - mean_y)
    shrunk = inner[None] / (np.maximum(values, 0)[None, :, None] + _column(alphas))
    return _path(x.T @ (vectors @ shrunk), scale, mean_x, mean_y)


def squared_error(stats: Moments, path: Path) -> Floats:
    """Sum of squared errors of every solution on the rows behind some moments: Float64[A, M]."""
    w, b = path
    fitted = np.einsum("ahm,ahm->am", w, stats.xx @ w)
    linear = np.einsum("ahm,hm->am", w, stats.xy) + b * stats.y
    offset = 2 * b * np.einsum("ahm,h->am", w, stats.x) + stats.n * b**2
    result: Floats = np.maximum(stats.yy - 2 * linear + fitted + offset, 0.0)
    return result


def predict(features: NDArray[np.float32], weights: Floats, intercept: float) -> Floats:
    """Scores of rows, each from its own row alone, so that shards of any size give the same bits.

    Args:
        features: Float32[n, h].
        weights: Float64[h].
        intercept: added to every score.

    Returns:
        Float64[n].
    """
    scores = np.empty(len(features))
    for start in range(0, len(features), _CHUNK):
        rows = slice(start, start + _CHUNK)
        scores[rows] = (features[rows] * weights).sum(1)  # not BLAS, whose bits depend on n
    return scores + intercept


def _scales(squares: Floats, raw: Floats, n: float) -> Floats:
    """Standard deviations; 1 for features that are constant up to rounding."""
    constant = squares <= 1e-12 * np.maximum(raw, 1e-300)
    return np.where(constant, 1.0, np.sqrt(np.where(constant, 1.0, squares) / n))


def _column(alphas: Floats) -> Floats:
    return np.asarray(alphas, np.float64)[:, None, None]


def _path(standard: Floats, scale: Floats, mean_x: Floats, mean_y: Floats) -> Path:
    weights = standard / scale[None, :, None]
    return Path(weights, mean_y - np.einsum("h,ahm->am", mean_x, weights))
