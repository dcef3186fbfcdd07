"""One direction out of gradients that disagree: clipped CAGrad (RACO), least norm (MORE)."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from scipy.optimize import nnls

from prefactory.measures.calibration import Floats

LIMIT = 10
"""Objectives at most: every face of their simplex is looked at."""
_RIDGE = 1e-12
"""Of the trace: makes the kink where opposite gradients cancel a smooth point next to it."""


def least_gain(gram: Floats, weights: Floats, radius: float) -> Floats:
    """Mixture of objectives that gains least from the best step around the weighted gradient.

    Minimises `p.b + c sqrt(w'Hw) sqrt(p'Hp)`, `b = H w`, over the simplex (arXiv 2110.14048) by
    the stationary point of every face, so exactly, whatever the scale of the gradients: H is
    divided by its trace first (published solvers compare with absolute numbers, and lose the root
    where gradients are small).

    Args:
        gram: H, products of the gradients, Float64[K, K].
        weights: of the objectives, Float64[K], at least 0, sum 1.
        radius: c, 0 or more.

    Returns:
        p, Float64[K], at least 0, sum 1. The weights where all gradients are 0.

    Raises:
        ValueError: more objectives than LIMIT.
    """
    k = len(weights)
    if k > LIMIT:
        raise ValueError(f"{k} objectives; this solver looks at every face, for up to {LIMIT}")
    scale = float(np.trace(gram))
    if not scale > 0:
        return weights
    h = gram / scale
    b, s = h @ weights, radius * _root(weights @ h @ weights)
    faces = (list(f) for size in range(1, k + 1) for f in combinations(range(k), size))
    found = [p for face in faces if (p := _stationary(h, b, s, face)) is not None]
    values = [float(p @ b) + s * _root(p @ h @ p) for p in found]
    return found[int(np.argmin(values))]


def _root(square: float | Floats) -> float:
    return float(np.sqrt(max(float(square), 0.0)))


def _stationary(h: Floats, b: Floats, s: float, face: list[int]) -> Floats | None:
    """Where the objective is level inside a face; None if that is nowhere."""
    p = np.zeros(len(b))
    if len(face) == 1:
        p[face] = 1.0
        return p
    if not s:
        return None  # linear: the least is at a corner
    inner = h[np.ix_(face, face)] + _RIDGE * np.eye(len(face))
    u, v = np.linalg.solve(inner, np.stack([np.ones(len(face)), b[face]], axis=1)).T
    a, d, e = u.sum(), v.sum(), b[face] @ v
    root = d * d - a * (e - s * s)
    if root < 0 or not a > 0:
        return None
    level = (d + np.sqrt(root)) / a
    part = level * u - v
    if not part.sum() > 0 or (part < 0).any():
        return None
    p[face] = part / part.sum()
    return p


def step_of(gram: Floats, weights: Floats, radius: float, clip: bool = True) -> Floats:
    """How much of each gradient the update holds: `g = sum_i step_i g_i`.

    `g0 + c |g0| g_p / |g_p|` with `g0 = sum_i w_i g_i` and `g_p = sum_i p_i g_i`; clipped, `p_i` is
    at most `w_i`, so that an objective gets no more than was asked for it (arXiv 2602.02495).
    Without a direction (`g_p = 0`) it is g0.

    Args:
        gram: products of the gradients, Float64[K, K].
        weights: of the objectives, Float64[K], at least 0, sum 1.
        radius: c, from 0 (the weighted sum) to below 1.
        clip: whether to clip.

    Returns:
        Float64[K].
    """
    p = least_gain(gram, weights, radius)
    if clip:
        p = np.minimum(p, weights)
    length, base = p @ gram @ p, weights @ gram @ weights
    if not (length > 0 and base > 0):
        return weights
    return np.asarray(weights + radius * np.sqrt(base / length) * p, np.float64)


def least_norm(gradients: Floats) -> Floats:
    """The mixture of gradients that is shortest, exactly: weights over the simplex.

    A gradient of length 0 has no part in it: as the shortest of all it would get the whole weight,
    and stop what the others teach.

    Args:
        gradients: Float64[K, d].

    Returns:
        Float64[K], at least 0, sum 1; all alike where every gradient is 0.
    """
    lengths = np.linalg.norm(gradients, axis=1)
    there = lengths > 0
    if not there.any():
        return np.full(len(gradients), 1 / len(gradients))
    scaled = gradients[there] / lengths.max()
    # the least of |x'G|^2 + (sum x - 1)^2 over x >= 0 is a multiple of the mixture
    found, _ = nnls(np.vstack([scaled.T, np.ones(len(scaled))]), np.eye(scaled.shape[1] + 1)[-1])
    weights = np.zeros(len(gradients))
    weights[there] = found / found.sum()
    return weights
