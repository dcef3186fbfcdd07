"""What one more label would tell a scorer of pairs: the expected gain in its weights.

With the posterior of the weights as a normal (Laplace), one label of a pair with features z and
P(label) = p is worth `1/2 log(1 + p (1 - p) z' H^-1 z)` nats about the weights (MacKay 1992,
doi 10.1162/neco.1992.4.4.590; for preferences arXiv 1112.5745), with H the curvature of the
penalised loss over the rows that the scorer has learned from. So a pair is worth much that the
scorer can't foretell **and** that is unlike what it has seen; pairs of equal answers, whose p is a
half as well, are worth nothing.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_factor, solve_triangular
from scipy.special import expit
from threadpoolctl import threadpool_limits

from prefactory.measures.calibration import Floats
from prefactory.preferences.bradley_terry import root_mean_square
from prefactory.preferences.stack import COLUMNS, VECTORS, Differences

BLOCK = 4096


def gains(data: Differences, margins: Floats) -> Floats:
    """Expected gain of one more label of each pair, in nats.

    All features are taken as one fit (the form `joint`), whichever form the margins come from.

    Args:
        data: differences of the pairs that a scorer has learned from.
        margins: of the pairs, by models that did not see them, log odds, Float64[n]; NaN where
            there are none.

    Returns:
        Float64[n], at least 0; NaN where the margin is.
    """
    known = ~np.isnan(margins)
    found = np.full(len(margins), np.nan)
    if known.any():
        with threadpool_limits(1, user_api="blas"):  # bits must not depend on the cores
            p = expit(margins[known])
            found[known] = _gains(_scaled(data.take(known)), p * (1 - p))
    return found


def _scaled(data: Differences) -> Floats:
    """Features in units of their prior: weights of these have a standard normal one."""
    parts = [(data.vectors, VECTORS), (data.columns, COLUMNS)]
    scaled = [v / root_mean_square(v) / np.sqrt(penalty) for v, penalty in parts if v.shape[1]]
    return np.concatenate(scaled, axis=1) if scaled else np.zeros((len(data), 0))


def _gains(z: Floats, curve: Floats) -> Floats:
    """`1/2 log(1 + c z' (I + Z' C Z)^-1 z)` of each row, through the smaller of two systems."""
    n, d = z.shape
    if not d:
        return np.zeros(n)
    root = np.sqrt(curve)
    if n >= d:
        factor = np.linalg.cholesky(np.eye(d) + (z * curve[:, None]).T @ z)
        spread = np.concatenate([
            (solve_triangular(factor, z[start : start + BLOCK].T, lower=True) ** 2).sum(axis=0)
            for start in range(0, n, BLOCK)
        ])  # fmt: skip
        worth = curve * spread
    else:
        # c z' H^-1 z is the diagonal of A (I + A)^-1 with A = C^1/2 Z Z' C^1/2
        half = z * root[:, None]
        inner = np.eye(n) + half @ half.T
        factor = cho_factor(inner, lower=True)[0]
        inverse = solve_triangular(factor, np.eye(n), lower=True)
        worth = 1 - (inverse**2).sum(axis=0)
    gained: Floats = 0.5 * np.log1p(np.maximum(worth, 0.0))
    return gained
