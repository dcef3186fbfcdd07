"""MinHash signatures of shingle sets, and the banding that finds sets with a high Jaccard index.

Broder (1997). Each of the hash functions x -> a x + b modulo 2**32 (a odd) orders all shingles in
its own way; two sets share the least one with a probability close to their Jaccard index J. With b
bands of r functions two sets meet in some band with probability 1 - (1 - J**r)**b.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prefactory.near.shingles import SALT, U32, U64, Sets, _row_blocks, finalise

MOST_HASHES = 384
"""Most functions of a signature that `banding` chooses."""
SKETCH = 128
"""Bytes of the short signature by which candidates are sieved before their sets are compared."""


class Banding(NamedTuple):
    """`bands` bands of `rows` hash functions each."""

    bands: int
    rows: int

    def recall_at(self, jaccard: float) -> float:
        """Probability that two sets of this Jaccard index become candidates."""
        return 1.0 - (1.0 - jaccard**self.rows) ** self.bands

    def enough(self, jaccard: NDArray[np.float64], missed: float) -> NDArray[np.int64]:
        """Bands after which a set of this Jaccard index is missed with that probability, Int64."""
        meet = np.minimum(jaccard**self.rows, 1.0 - 1e-12)
        needed = np.ceil(np.log(missed) / np.log1p(-meet))
        enough: NDArray[np.int64] = np.minimum(needed, self.bands).astype(np.int64)
        return enough


def banding(threshold: float, recall: float) -> Banding:
    """Choose the banding for a threshold.

    The more functions a band has the fewer unlike sets meet by chance; so it is the most with which
    `MOST_HASHES` functions are enough.

    Args:
        threshold: Jaccard index, in (0, 1].
        recall: share of the pairs exactly at the threshold that must be found, in (0, 1).

    Returns:
        The banding. At a low threshold and a high recall it may have more than `MOST_HASHES`.
    """
    best = None
    for rows in range(1, 33):
        hit = min(threshold**rows, 1.0 - 1e-12)
        bands = math.ceil(math.log1p(-recall) / math.log1p(-hit))
        if best is None or bands * rows <= MOST_HASHES:
            best = Banding(bands, rows)
        if bands * rows > MOST_HASHES:
            break
    assert best is not None  # noqa: S101 - the loop runs
    return best


def signatures(sets: Sets, count: int, tag: int = 0) -> U32:
    """Least hashes of each set under `count` functions.

    Args:
        sets: sets of at least one shingle each.
        count: number of functions; the first ones are the same for every count.
        tag: shingles of sets with another tag are other shingles, in [0, 2**32).

    Returns:
        UInt32[count, n]. The signature of a union of sets is the least of their signatures.
    """
    rng = np.random.default_rng(SALT + 2)
    factors = rng.integers(0, 2**32, (count, 2), dtype=np.uint32)
    factors[:, 0] |= np.uint32(1)
    out = np.empty((count, len(sets.offsets) - 1), dtype=np.uint32)
    for low, high in _row_blocks(sets.offsets, 1 << 15):
        begin, end = sets.offsets[low], sets.offsets[high]
        values = sets.values[begin:end] ^ np.uint32(tag)
        starts = sets.offsets[low:high] - begin
        hashed = np.empty_like(values)
        for i, (factor, shift) in enumerate(factors):
            np.multiply(values, factor, out=hashed)
            np.add(hashed, shift, out=hashed)
            out[i, low:high] = np.minimum.reduceat(hashed, starts)
    return out


def band_keys(signature: U32, cut: Banding) -> U32:
    """Key of each band: rows whose functions agree in a band have the same.

    Args:
        signature: UInt32[at least bands * rows, n].
        cut: the banding.

    Returns:
        UInt32[n, bands].
    """
    keys = np.empty((signature.shape[1], cut.bands), dtype=np.uint32)
    for band in range(cut.bands):
        mixed: U64 = np.zeros(signature.shape[1], dtype=np.uint64)
        for row in signature[band * cut.rows : (band + 1) * cut.rows]:
            mixed = finalise(mixed + row)
        keys[:, band] = mixed >> np.uint64(32)
    return keys


def sketches(signature: U32) -> NDArray[np.uint8]:
    """Short signatures: one byte of each of the first `SKETCH` functions, UInt8[n, SKETCH]."""
    short = signature[:SKETCH]
    return np.ascontiguousarray((short ^ (short >> np.uint32(16))).astype(np.uint8).T)


def least_agreement(
    threshold: NDArray[np.float64], width: int, deviations: float = 4.0
) -> NDArray[np.int64]:
    """Bytes of two sketches that agree at least, if the Jaccard index is at the threshold.

    All but one of 30,000 such pairs agree in more (four standard deviations of a binomial).

    Args:
        threshold: Float64[m], least indices, in [0, 1].
        width: bytes of a sketch.
        deviations: see above.

    Returns:
        Int64[m].
    """
    agree = threshold + (1.0 - threshold) / 256
    spread = np.sqrt(width * agree * (1.0 - agree))
    return np.maximum(0, np.floor(width * agree - deviations * spread)).astype(np.int64)
