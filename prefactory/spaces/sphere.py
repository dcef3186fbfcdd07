"""Means of directions that stay on the sphere, and how evenly directions fill it (CM3).

Spherical interpolation and uniformity as in CM3 (arXiv 2508.01226), whose code divides by the sine
of an angle that may be 0. What is done there, with opposite vectors and with more than two, is our
choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prefactory.measures.calibration import Floats

NEAR = 1e-6
"""Sine of an angle below which an arc is a line."""
MOST_ROWS = 2000
"""Rows of which uniformity looks at every two: it takes n * n numbers."""


def unit(vectors: NDArray[np.floating]) -> Floats:
    """Rows of length 1, Float64; a row of zeros stays one."""
    out = np.asarray(vectors, dtype=np.float64)
    length = np.linalg.norm(out, axis=-1, keepdims=True)
    found: Floats = np.divide(out, length, out=np.zeros_like(out), where=length > 0)
    return found


def slerp(one: Floats, other: Floats, t: float) -> tuple[Floats, NDArray[np.bool_]]:
    """Directions on the arc between two of each row.

    Args:
        one: unit vectors, Float64[n, d].
        other: as many.
        t: 0 is `one`, 1 is `other`.

    Returns:
        Unit vectors, Float64[n, d], and which rows are opposite, so that no arc is the shortest:
        these keep `one`. Where the angle's sine is below 1e-6, the line between both, made unit.
    """
    cos = np.clip((one * other).sum(axis=1), -1, 1)
    angle = np.arccos(cos)
    sin = np.sin(angle)
    line = (1 - t) * one + t * other
    opposite = (np.linalg.norm((one + other) / 2, axis=1) < NEAR) & (cos < 0)
    arc = sin >= NEAR
    safe = np.where(arc, sin, 1.0)
    first, second = np.sin((1 - t) * angle) / safe, np.sin(t * angle) / safe
    found = np.where(arc[:, None], first[:, None] * one + second[:, None] * other, line)
    return unit(np.where(opposite[:, None], one, found)), opposite


def karcher(vectors: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """Weighted mean on the sphere of K directions of each row; of two it is slerp.

    The point at which the weighted arcs to all of them cancel, which, other than slerp of slerps,
    depends on no order.

    Args:
        vectors: K times unit vectors, Float64[n, d].
        weights: K, 0 or more; they are divided by their sum.

    Returns:
        Unit vectors, Float64[n, d]; where the directions cancel, that with the most weight.
    """
    share = np.asarray(weights, np.float64) / np.sum(weights)
    if len(vectors) == 2:
        first = int(share[1] > share[0])
        return slerp(vectors[first], vectors[1 - first], float(share[1 - first]))[0]
    start = sum(w * v for w, v in zip(share, vectors, strict=True))
    lost = np.linalg.norm(start, axis=1) < NEAR
    mean = unit(np.where(lost[:, None], vectors[int(np.argmax(share))], start))
    for _ in range(200):
        step = np.zeros_like(mean)
        for w, v in zip(share, vectors, strict=True):
            cos = np.clip((mean * v).sum(axis=1, keepdims=True), -1, 1)
            angle = np.arccos(cos)
            sin = np.sin(angle)
            size = np.where(sin > NEAR, angle / np.where(sin > NEAR, sin, 1.0), 1.0)
            step += w * size * (v - cos * mean)
        step[lost] = 0.0
        length = np.linalg.norm(step, axis=1, keepdims=True)
        mean = unit(np.cos(length) * mean + np.sin(length) * unit(step))
        if length.max(initial=0.0) < 1e-12:
            break
    return mean


def uniformity(
    vectors: Floats, likeness: Floats | None = None, t: float = 2.0, seed: int = 0
) -> float:
    """How unevenly directions fill the sphere: `log mean exp(-t |x_i - x_j|^2)` over all pairs.

    0 where all are one, lower where they differ more. As a measure of a dataset's diversity it only
    compares: noise is the most uniform. With `likeness` it is CM3's calibrated form, in which two
    rows that a reference says are alike (s = 1) count as in the plain one, and those that it says
    are not (s = 0) count up to 2t more: `log mean exp(-t (|x_i - x_j|^2 - 2 + 2 s_ij))`.

    Args:
        vectors: Float64[n, d], n at least 2; rows are made unit. Of more than 2,000, so many drawn.
        likeness: reference vectors of the same rows, Float64[n, e]; s is their cosine within 0, 1.
        t: how fast a pair stops to count.
        seed: of the draw.
    """
    rows = np.arange(len(vectors))
    if len(rows) > MOST_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(len(rows), MOST_ROWS, replace=False))
    x = unit(vectors[rows])
    apart = 2 - 2 * (x @ x.T)
    if likeness is not None:
        reference = unit(likeness[rows])
        apart = apart - 2 + 2 * np.clip(reference @ reference.T, 0, 1)
    weight = np.exp(-t * apart)
    np.fill_diagonal(weight, 0.0)
    return float(np.log(weight.sum() / (len(rows) * (len(rows) - 1))))
