"""Gaussian mixtures by expectation-maximisation, in float64 NumPy.

Written here and not taken from scikit-learn because its k-means adds floats in the order in which
threads finish: the last bits, and with them a selection, would change from run to run. For the
same reason callers hold `one_blas_thread`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

Floats = NDArray[np.float64]
Covariance = Literal["full", "diag"]

BLOCK = 1024
"""Rows in work at a time: their temporary arrays fit into the cache of a core."""


_one_at_a_time = threading.Lock()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS to one thread: its last bits depend on how many it has, and ours must not.

    The limit belongs to the process, so only one thread holds it at a time.
    """
    with _one_at_a_time, threadpool_limits(1, user_api="blas"):
        yield


@dataclass(frozen=True, slots=True)
class Mixture:
    """A fitted mixture of K Gaussians in r dimensions.

    Attributes:
        weights: Float64[K], sums to 1.
        means: Float64[K, r].
        covariances: Float64[K, r, r]; with diagonal covariance the off-diagonal is 0.
        converged: whether the mean log-likelihood stopped rising before `max_iter`.
        n_iter: EM iterations of the restart that was kept.
    """

    weights: Floats
    means: Floats
    covariances: Floats
    converged: bool
    n_iter: int

    def joint(self, points: Floats) -> Floats:
        """Compute log(weight_k N(x; mean_k, covariance_k)): Float64[n, r] -> Float64[n, K]."""
        columns = []
        for weight, mean, covariance in zip(
            self.weights, self.means, self.covariances, strict=True
        ):
            factor = np.linalg.cholesky(covariance)
            whiten = np.linalg.inv(factor).T
            distance = np.empty(len(points))
            for block in _blocks(len(points)):
                white = (points[block] - mean) @ whiten
                distance[block] = np.einsum("ij,ij->i", white, white)
            log_det = 2.0 * np.log(np.diagonal(factor)).sum()
            constant = points.shape[1] * np.log(2.0 * np.pi) + log_det
            with np.errstate(divide="ignore"):
                columns.append(np.log(weight) - 0.5 * (constant + distance))
        return np.stack(columns, axis=1)

    def loglik(self, points: Floats) -> Floats:
        """Log-likelihood of each point: Float64[n, r] -> Float64[n]."""
        return _logsumexp(self.joint(points))

    def responsibilities(self, points: Floats) -> Floats:
        """Probability of each component given the point: Float64[n, r] -> Float64[n, K]."""
        joint = self.joint(points)
        return np.exp(joint - _logsumexp(joint)[:, None])


def fit_mixture(
    points: Floats,
    n_components: int = 2,
    *,
    rng: np.random.Generator,
    covariance: Covariance = "full",
    restarts: int = 5,
    responsibilities: Floats | None = None,
    reg: float = 1e-6,
    tol: float = 1e-4,
    max_iter: int = 200,
) -> Mixture:
    """Fit a mixture by EM from k-means starts, or from given responsibilities.

    Args:
        points: Float64[n, r] with n >= 1; their order is part of the result's last bits.
        n_components: K; n >= K.
        rng: draws the k-means++ centres.
        covariance: `full` or `diag`.
        restarts: k-means starts, of which the likeliest fit stays; equal partitions count once.
        responsibilities: Float64[n, K], rows summing to 1: the only start, if given.
        reg: added to the diagonal of every covariance.
        tol: EM stops when the mean log-likelihood rises by less.
        max_iter: EM iterations at most.

    Raises:
        ValueError: if there are fewer points than components.
    """
    if len(points) < n_components:
        raise ValueError(f"{len(points)} points can't carry {n_components} components")
    if responsibilities is not None:
        starts = [responsibilities]
    else:
        partitions = {
            labels.tobytes(): labels
            for labels in (_kmeans(points, n_components, rng) for _ in range(restarts))
        }
        starts = [np.eye(n_components)[labels] for labels in partitions.values()]
    best, best_bound = None, -np.inf
    for start in starts:
        fitted, bound = _em(points, start, covariance, reg, tol, max_iter)
        if best is None or bound > best_bound:
            best, best_bound = fitted, bound
    assert best is not None  # noqa: S101 - there is at least one start
    return best


def _em(
    points: Floats, resp: Floats, covariance: Covariance, reg: float, tol: float, max_iter: int
) -> tuple[Mixture, float]:
    bound, n_iter, converged = -np.inf, 0, False
    while not converged and n_iter < max_iter:
        n_iter += 1
        mixture = _maximise(points, resp, covariance, reg)
        joint = mixture.joint(points)
        loglik = _logsumexp(joint)
        resp = np.exp(joint - loglik[:, None])
        new_bound = float(loglik.mean())
        converged = abs(new_bound - bound) < tol
        bound = new_bound
    return Mixture(mixture.weights, mixture.means, mixture.covariances, converged, n_iter), bound


def _maximise(points: Floats, resp: Floats, covariance: Covariance, reg: float) -> Mixture:
    mass = resp.sum(axis=0) + 10 * np.finfo(np.float64).eps
    means = (resp.T @ points) / mass[:, None]
    dims = points.shape[1]
    covariances = np.zeros((mass.size, dims, dims))
    for k, mean in enumerate(means):
        for block in _blocks(len(points)):
            centred = points[block] - mean
            if covariance == "full":
                covariances[k] += (centred * resp[block, k : k + 1]).T @ centred
            else:
                covariances[k].flat[:: dims + 1] += resp[block, k] @ np.square(centred)
        covariances[k] /= mass[k]
        covariances[k].flat[:: dims + 1] += reg
    return Mixture(mass / mass.sum(), means, covariances, False, 0)


def _kmeans(
    points: Floats, k: int, rng: np.random.Generator, max_iter: int = 50
) -> NDArray[np.intp]:
    """K-means++ and Lloyd: Int[n] labels, numbered by first appearance."""
    centres = points[[rng.integers(len(points))]]
    while len(centres) < k:
        nearest = _squared_distances(points, centres).min(axis=1)
        total = nearest.sum()
        chances = nearest / total if total > 0 else np.full(len(points), 1.0 / len(points))
        centres = np.concatenate([centres, points[[rng.choice(len(points), p=chances)]]])
    labels = np.full(len(points), -1)
    for _ in range(max_iter):
        new = _squared_distances(points, centres).argmin(axis=1)
        if np.array_equal(new, labels):
            break
        labels = new
        member = np.eye(k)[labels]
        mass = member.sum(axis=0)
        moved = (member.T @ points) / np.maximum(mass, 1.0)[:, None]
        centres = np.where(mass[:, None] > 0, moved, centres)
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _squared_distances(points: Floats, centres: Floats) -> Floats:
    return np.stack([np.square(points - c).sum(axis=1) for c in centres], axis=1)


def _blocks(n: int) -> list[slice]:
    return [slice(start, start + BLOCK) for start in range(0, n, BLOCK)]


def _logsumexp(values: Floats) -> Floats:
    top = values.max(axis=1)
    return np.asarray(top + np.log(np.exp(values - top[:, None]).sum(axis=1)))


def auto_dims(n: int, d: int) -> int:
    """Choose how many principal components a mixture over n vectors of d dimensions is fit in.

    At most 64, and at most one for every 20 vectors (but 2), because a full covariance needs many
    more vectors than dimensions. The cap also holds where n would carry all d: EM costs n d^2, and
    with 384 dimensions 50,000 vectors take many minutes where 64 take ten seconds.
    """
    return max(1, min(64, d, n - 1, max(2, n // 20)))


def project(vectors: NDArray[np.float32], dims: int) -> tuple[Floats, float]:
    """Scale vectors to unit length and project them on their leading principal components.

    Args:
        vectors: Float32[n, d]; a zero vector stays zero.
        dims: r <= d; with r = d the unit vectors are returned as they are.

    Returns:
        Float64[n, r] and the share of the variance that is kept (1 if there is no variance).
    """
    n, d = vectors.shape
    if dims >= d:
        return _unit(vectors), 1.0
    blocks = _blocks(n)
    total = np.zeros(d)
    square = np.zeros((d, d))
    for block in blocks:
        unit = _unit(vectors[block])
        total += unit.sum(axis=0)
        square += unit.T @ unit
    mean = total / n
    values, axes = np.linalg.eigh(square / n - np.outer(mean, mean))
    values = np.maximum(values, 0.0)
    basis = axes[:, ::-1][:, :dims]
    kept = float(values[::-1][:dims].sum() / values.sum()) if values.sum() > 0 else 1.0
    return np.concatenate([(_unit(vectors[b]) - mean) @ basis for b in blocks]), kept


def _unit(vectors: NDArray[np.float32]) -> Floats:
    exact = vectors.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1, keepdims=True)
    return np.asarray(exact / np.where(norms > 0, norms, 1.0))
