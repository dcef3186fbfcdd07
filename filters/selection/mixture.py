"""Gaussian mixtures (scikit-learn's), and the points that they are fit to.

scikit-learn's k-means and BLAS add floats in an order that depends on the number of threads; on one
thread the same points and seed give the same bits, whatever the machine's settings say.
"""

from __future__ import annotations

import warnings
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from prefactory.measures import exact
from prefactory.near.vectors import one_thread, unit

Floats = NDArray[np.float64]
Covariance = Literal["full", "diag"]
REG = 1e-6
"""Added to the diagonal of every covariance."""
_UNIT = exact.grid(np.array(1.0))


def fit_mixture(
    points: Floats,
    n_components: int = 2,
    *,
    seed: int,
    covariance: Covariance = "full",
    restarts: int = 5,
    responsibilities: Floats | None = None,
    tol: float = 1e-4,
    max_iter: int = 200,
) -> GaussianMixture:
    """Fit a mixture by EM from k-means starts, or from given responsibilities.

    Args:
        points: Float64[n, r] with n >= 1; their order is part of the result's last bits.
        n_components: K; n >= K.
        seed: of the k-means starts, 0 <= seed < 2^32.
        covariance: `full` or `diag`.
        restarts: k-means starts, of which the likeliest fit stays.
        responsibilities: Float64[n, K], rows summing to 1: the only start, if given.
        tol: EM stops when the mean log-likelihood rises by less.
        max_iter: EM iterations at most; `converged_` tells whether they were enough.

    Raises:
        ValueError: if there are fewer points than components.
    """
    if len(points) < n_components:
        raise ValueError(f"{len(points)} points can't carry {n_components} components")
    start = {} if responsibilities is None else _start(points, responsibilities, covariance)
    mixture = GaussianMixture(
        n_components,
        covariance_type=covariance,
        reg_covar=REG,
        tol=tol,
        max_iter=max_iter,
        n_init=1 if start else restarts,
        random_state=seed,
        **start,
    )
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a fact of the fit
        return mixture.fit(points if len(points) > 1 else points.repeat(2, axis=0))  # wants two


def _start(points: Floats, resp: Floats, covariance: Covariance) -> dict[str, Floats]:
    """Weights, means and inverse covariances of parts of the points."""
    mass = resp.sum(axis=0) + 10 * np.finfo(np.float64).eps
    means = resp.T @ points / mass[:, None]
    roots = [np.sqrt(w)[:, None] * (points - m) for w, m in zip(resp.T, means, strict=True)]
    spread = np.stack([root.T @ root for root in roots]) / mass[:, None, None]
    spread += REG * np.eye(points.shape[1])
    inverse = np.linalg.inv(spread)
    if covariance == "diag":
        inverse = 1 / np.diagonal(spread, axis1=1, axis2=2)
    return {"weights_init": mass / mass.sum(), "means_init": means, "precisions_init": inverse}


def auto_dims(n: int, d: int) -> int:
    """Choose how many principal components a mixture over n vectors of d dimensions is fit in.

    At most 64, and at most one for every 20 vectors (but 2), because a full covariance needs many
    more vectors than dimensions. The cap also holds where n would carry all d: EM costs n d^2, and
    with 384 dimensions 50,000 vectors take many minutes where 64 take ten seconds.
    """
    return max(1, min(64, d, n - 1, max(2, n // 20)))


class Axes(NamedTuple):
    """Where unit vectors are projected.

    Attributes:
        mean: Float64[d], what is taken off first.
        basis: Float64[d, r], the leading principal components; none where r = d.
        kept: share of the variance (1 if there is no variance).
    """

    mean: Floats
    basis: Floats | None
    kept: float


def sums_of(vectors: NDArray[np.float32]) -> exact.Whole:
    """Sums of products of the numbers of unit vectors and 1, which add up to the bit.

    Args:
        vectors: Float32[n, d]; a zero vector stays zero.

    Returns:
        [d + 1, d + 1]
    """

    def columns(rows: slice) -> Floats:
        scaled = exact.on_grid(unit(vectors[rows]), _UNIT)
        return np.concatenate([scaled, np.ones((len(scaled), 1))], axis=1)

    return exact.total(
        exact.products(block, block) for block in map(columns, exact.pieces(len(vectors)))
    )


def axes_of(sums: exact.Whole, dims: int) -> Axes:
    """Principal components from the sums of all vectors.

    Args:
        sums: of `sums_of`.
        dims: r <= d; with r = d the unit vectors stay as they are.
    """
    products = sums.floats()
    d, n = len(products) - 1, products[-1, -1]
    if dims >= d:
        return Axes(np.zeros(d), None, 1.0)
    mean = products[-1, :d] * _UNIT / n
    with one_thread():
        values, axes = np.linalg.eigh(products[:d, :d] * _UNIT**2 / n - np.outer(mean, mean))
    values = np.maximum(values, 0.0)
    kept = float(values[::-1][:dims].sum() / values.sum()) if values.sum() > 0 else 1.0
    return Axes(mean, axes[:, ::-1][:, :dims], kept)


def projected(vectors: NDArray[np.float32], axes: Axes) -> Floats:
    """Points of vectors, each by itself: Float32[n, d] -> Float64[n, r]."""
    parts = [unit(vectors[rows]) for rows in exact.pieces(len(vectors))]
    if axes.basis is None:
        return np.concatenate(parts)
    return np.concatenate([exact.mapped(x - axes.mean, axes.basis, 2.0) for x in parts])


def project(vectors: NDArray[np.float32], dims: int) -> tuple[Floats, float]:
    """Scale vectors to unit length and project them on their leading principal components.

    Args:
        vectors: Float32[n, d]; a zero vector stays zero.
        dims: r <= d; with r = d the unit vectors are returned as they are.

    Returns:
        Float64[n, r] and the share of the variance that is kept (1 if there is no variance).
    """
    axes = axes_of(sums_of(vectors), dims)
    return projected(vectors, axes), axes.kept


class Density(NamedTuple):
    """A fitted mixture.

    Attributes:
        weights: Float64[K].
        means: Float64[K, r].
        roots: Float64[K, r, r], of the inverse covariances: (x - mean) @ root has variance 1.
    """

    weights: Floats
    means: Floats
    roots: Floats

    @classmethod
    def of(cls, mixture: GaussianMixture) -> Density:
        """Of scikit-learn's, `full` or `diag`."""
        roots = mixture.precisions_cholesky_
        if mixture.covariance_type == "diag":
            roots = np.stack([np.diag(root) for root in roots])
        return cls(mixture.weights_, mixture.means_, roots)

    def parts(self, points: Floats) -> Floats:
        """Log density of each component times its weight, each point by itself: Float64[n, K].

        Args:
            points: of `projected`.
        """
        found = np.empty((len(points), len(self.weights)))
        for rows in exact.pieces(len(points)):
            for k, (mean, root) in enumerate(zip(self.means, self.roots, strict=True)):
                distance = (exact.mapped(points[rows] - mean, root, 4.0) ** 2).sum(axis=1)
                level = np.log(self.weights[k]) + np.log(np.diag(root)).sum()
                found[rows, k] = level - (distance + len(mean) * np.log(2 * np.pi)) / 2
        return found
