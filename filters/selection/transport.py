"""Weights that bring a mix of rows towards a target mix, and how far two mixes are apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from filters.selection.grid import Floats
from prefactory.near.vectors import blocks, unit

Vectors = NDArray[np.floating]
HELD = 0.01
"""Least temperature at which exp(-2 / eps), the least entry of a kernel, is a normal number."""
MET = 1e-9


def target_weights(rows: Vectors, target: Vectors, eps: float = 0.05) -> Floats:
    """Weight of each row so that the weighted rows lie where the target lies.

    w_i = mean over target elements j of K_ij / sum_i' K_i'j with K = exp(-(1 - cos) / eps): every
    target element gives its share to the rows, by nearness. It is entropic optimal transport with
    the target's marginal held and the rows' marginal free; were the rows' marginal held as well,
    all rows would weigh the same by construction. Memory is O(n + m) beside the vectors.

    Args:
        rows: [n, d].
        target: [m, d], m > 0.
        eps: temperature, above 0.

    Returns:
        Float64[n], sums to 1.
    """
    x, z = unit(rows), unit(target)
    if not len(x):
        return np.zeros(0)
    m = len(z)
    most, total = np.full(m, -np.inf), np.zeros(m)
    for part in blocks(len(x)):
        log_k = (x[part] @ z.T - 1.0) / eps
        top = np.maximum(most, log_k.max(axis=0))
        total = total * np.exp(most - top) + np.exp(log_k - top).sum(axis=0)
        most = top
    scale = most + np.log(total)
    weights = [np.exp((x[b] @ z.T - 1.0) / eps - scale).mean(axis=1) for b in blocks(len(x))]
    joined = np.concatenate(weights)
    return np.asarray(joined / joined.sum())


def transport(
    rows: Vectors,
    target: Vectors,
    weights: Floats | None = None,
    eps: float = 0.05,
    iterations: int = 200,
) -> tuple[Floats, float]:
    """Entropic optimal transport between two samples, by Sinkhorn iterations.

    Iterates on the kernel itself where double precision holds it (eps of 0.01 or more), and on
    logarithms below that.

    Args:
        rows: [n, d]; memory is n m numbers.
        target: [m, d].
        weights: Float64[n], marginal of the rows, sums to 1; by default uniform.
        eps: temperature.
        iterations: at most; ends when the marginals are met to 1e-9.

    Returns:
        The plan, Float64[n, m], and its cost: the mean of 1 - cos along it, 0 to 2.
    """
    cost = 1.0 - unit(rows) @ unit(target).T
    n, m = cost.shape
    a = np.full(n, 1.0 / n) if weights is None else np.asarray(weights, dtype=np.float64)
    b = np.full(m, 1.0 / m)
    plan = (_scaled if eps >= HELD else _log_scaled)(cost, a, b, eps, iterations)
    return plan, float((plan * cost).sum())


def _scaled(cost: Floats, a: Floats, b: Floats, eps: float, iterations: int) -> Floats:
    kernel = np.exp(-cost / eps)
    v = np.ones(b.size)
    u = a / (kernel @ v)
    for _ in range(iterations):
        v = b / (kernel.T @ u)
        reached = kernel @ v
        if np.abs(u * reached - a).sum() < MET:
            break
        u = a / reached
    return np.asarray(u[:, None] * kernel * v)


def _log_scaled(cost: Floats, a: Floats, b: Floats, eps: float, iterations: int) -> Floats:
    with np.errstate(divide="ignore"):
        log_a, log_b = np.log(a), np.log(b)
    scaled = -cost / eps
    g = np.zeros(b.size)
    f = log_a - logsumexp(scaled, axis=1)
    for _ in range(iterations):
        g = log_b - logsumexp(scaled + f[:, None], axis=0)
        reached = logsumexp(scaled + g, axis=1)
        if np.abs(np.exp(f + reached) - a).sum() < MET:
            break
        f = log_a - reached
    return np.asarray(np.exp(scaled + f[:, None] + g))


def drift(rows: Vectors, target: Vectors, eps: float = 0.05) -> float:
    """Debiased transport cost OT(x, z) - (OT(x, x) + OT(z, z)) / 2: 0 where the mixes are the same.

    Sinkhorn divergence (Genevay, Peyre, Cuturi, arXiv:1706.00292). Costs n m: pass samples.
    """
    own = transport(rows, rows, eps=eps)[1] + transport(target, target, eps=eps)[1]
    return max(0.0, transport(rows, target, eps=eps)[1] - own / 2.0)
