"""Pairs of vectors with at least some cosine, the same whatever the shape of the product."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

BLOCK = 2048
BORDER = 1e-4
"""More than a float32 product of unit vectors is off; what is nearer is computed again, by pair."""
Vectors = NDArray[np.float32]


def neighbours(ours: Vectors, theirs: Vectors, least: float) -> pl.DataFrame:
    """Find neighbours.

    Args:
        ours: Float32[k, d].
        theirs: Float32[m, d]; a zero vector has no neighbour.
        least: cosine.

    Returns:
        `text` and `number` (Int64: rows of ours and of theirs) and `value` (their cosine, rounded
        to six places), sorted by both numbers.
    """
    left, right = _unit(ours), _unit(theirs)
    texts, numbers = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for start in range(0, len(left), BLOCK):
        rows, columns = np.nonzero(left[start : start + BLOCK] @ right.T >= least - BORDER)
        texts.append(rows + start)
        numbers.append(columns)
    at, number = np.concatenate(texts), np.concatenate(numbers)
    value = np.empty(at.size)
    for start in range(0, at.size, BLOCK):
        part = slice(start, start + BLOCK)
        both = left[at[part]].astype(np.float64) * right[number[part]]
        value[part] = both.sum(axis=1)
    found = pl.DataFrame({"text": at, "number": number, "value": value.round(6)})
    return found.filter(pl.col("value") >= least)


def _unit(vectors: Vectors) -> Vectors:
    wide = vectors.astype(np.float64)
    norm = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    unit: Vectors = np.divide(wide, norm, out=np.zeros_like(wide), where=norm > 0).astype(
        np.float32
    )
    return unit
