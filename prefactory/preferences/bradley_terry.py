"""Bradley-Terry regression on differences, with a ridge penalty for each column.

`min_w sum_i u_i [t_i softplus(-m_i) + (1 - t_i) softplus(m_i)] / sum u + 1/2 sum_j l_j w_j^2` with
margins `m = Z w` and no intercept, so that turning a pair round (`-z`, `1 - t`) changes nothing.
Newton's method; in the dual where there are fewer rows than columns, with the same result.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from scipy.linalg.blas import dsyrk
from scipy.linalg.lapack import dpotrf, dpotrs
from scipy.special import expit

from prefactory.measures.calibration import Floats

TOLERANCE = 1e-6
STEPS = 100
EMPTY = 1e-12
"""A column whose root mean square is below this holds nothing: its scale is 1."""


def root_mean_square(differences: Floats) -> Floats:
    """Scale of each column, not centred, which would break antisymmetry: Float64[n, D] -> [D]."""
    size = np.sqrt(np.mean(differences**2, axis=0)) if len(differences) else np.zeros(0)
    found: Floats = np.where(size < EMPTY, 1.0, size)
    return found


def log_loss(margins: Floats, targets: Floats | float = 1.0) -> Floats:
    """Loss of each row in nats: `t softplus(-m) + (1 - t) softplus(m)`, Float64[n]."""
    loss: Floats = np.logaddexp(0.0, -margins) + (1.0 - targets) * margins
    return loss


def fit(
    differences: Floats,
    penalty: Floats | float,
    targets: Floats | None = None,
    weights: Floats | None = None,
) -> Floats:
    """Weights of least penalised loss.

    Args:
        differences: chosen minus rejected, Float64[n, D], usually over `root_mean_square`.
        penalty: of each column, > 0, Float64[D] or one for all.
        targets: probability that the label is right, in [0, 1], Float64[n]; 1 by default.
        weights: of the rows, >= 0, not all 0, Float64[n]; equal by default.

    Returns:
        Float64[D].
    """
    n, d = differences.shape
    root = np.sqrt(np.broadcast_to(np.asarray(penalty, np.float64), (d,)))
    if not n or not d:
        return np.zeros(d)
    z = differences / root
    t = np.ones(n) if targets is None else np.asarray(targets, np.float64)
    u = np.ones(n) if weights is None else np.asarray(weights, np.float64)
    solve = _dual if n < d else _primal
    found: Floats = solve(z, t, u / u.sum()) / root
    return found


class _Point(Protocol):
    """`(coefficients) -> (margins, half of the squared size of w)`."""

    def __call__(self, at: Floats, /) -> tuple[Floats, float]: ...


class _Place(NamedTuple):
    """Coefficients, the margins that they give, and the loss."""

    at: Floats
    margins: Floats
    loss: float


def _place(point: _Point, at: Floats, t: Floats, u: Floats) -> _Place:
    margins, size = point(at)
    return _Place(at, margins, float((u * log_loss(margins, t)).sum()) + size)


def _step(point: _Point, start: _Place, full: Floats, t: Floats, u: Floats) -> _Place:
    """Go a Newton step, halved until the loss does not rise (it hardly ever has to be)."""
    share = 1.0
    moved = _place(point, start.at + full, t, u)
    while share > 1e-4 and moved.loss > start.loss + 1e-12:
        share /= 2
        moved = _place(point, start.at + share * full, t, u)
    return moved


def _solved(curve: Floats, right: Floats, *, lower: bool) -> Floats:
    """`(curve + 1) x = right` of a matrix of which one half is looked at, and overwritten.

    Raises:
        LinAlgError: it is not positive definite.
    """
    np.einsum("ii->i", curve)[...] += 1.0
    factor, failed = dpotrf(curve, lower=lower, clean=False, overwrite_a=True)
    if failed:
        raise np.linalg.LinAlgError("the curvature of the loss is not positive definite")
    solution: Floats = dpotrs(factor, right, lower=lower)[0]
    return solution


def _primal(z: Floats, t: Floats, u: Floats) -> Floats:
    def point(w: Floats) -> tuple[Floats, float]:
        return z @ w, 0.5 * float(w @ w)

    place = _place(point, np.zeros(z.shape[1]), t, u)
    for _ in range(STEPS):
        p = expit(place.margins)
        gradient = z.T @ (u * (p - t)) + place.at
        half = z * np.sqrt(u * p * (1 - p))[:, None]
        curve = dsyrk(1.0, half.T, lower=True)  # half the work of a product
        moved = _step(point, place, -_solved(curve, gradient, lower=True), t, u)
        change, place = float(np.abs(moved.at - place.at).max()), moved
        if change < TOLERANCE:
            break
    return place.at


def _dual(z: Floats, t: Floats, u: Floats) -> Floats:
    kernel = z @ z.T

    def point(a: Floats) -> tuple[Floats, float]:
        margins = kernel @ a
        return margins, 0.5 * float(a @ margins)

    place = _place(point, np.zeros(len(z)), t, u)
    w = np.zeros(z.shape[1])
    for _ in range(STEPS):
        p = expit(place.margins)
        curve = u * p * (1 - p)
        root = np.sqrt(curve)
        wanted = curve * place.margins + u * (t - p)
        inner = root[:, None] * kernel * root
        newton = wanted - root * _solved(inner, root * (kernel @ wanted), lower=False)
        place = _step(point, place, newton - place.at, t, u)
        moved = z.T @ place.at
        change, w = float(np.abs(moved - w).max()), moved
        if change < TOLERANCE:
            break
    return w
