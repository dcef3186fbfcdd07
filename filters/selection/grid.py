"""Unit vectors on a grid of integers: products of any two are exact, whatever computes them.

A float32 product of two vectors depends in its last bits on block size, threads and processor, and
with it a choice between two equally good rows. Here every coordinate is rounded to a whole number
and every vector is at most 4096 long. By Cauchy and Schwarz no partial sum of a product then
exceeds 2**24, so float32 holds all of them without rounding, in any order of addition. A cosine is
off by about 1e-4 from the rounding of coordinates (less than what bfloat16 embeddings are off).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from filters.selection.places import I64
from prefactory.near.vectors import BLOCK, blocks, unit

F32 = NDArray[np.float32]
Floats = NDArray[np.float64]
LONGEST = 4096.0
T = TypeVar("T")
S = TypeVar("S")


def workers() -> int:
    """Threads for blocks of work: OMP_NUM_THREADS, or the cores that this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(int(asked), 64) if asked.isdigit() else cores or 1)


def each(work: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """Do work on items in threads; results in the order of the items."""
    with ThreadPoolExecutor(workers()) as pool:
        return list(pool.map(work, items))


@dataclass(frozen=True, slots=True)
class Grid:
    """Vectors on the grid.

    Attributes:
        q: Float32[n, d], whole numbers; each row is `scale` long but for rounding, or zero.
        scale: length of a unit vector on the grid.
    """

    q: F32
    scale: float

    @classmethod
    def of(cls, vectors: NDArray[np.floating]) -> Grid:
        """Scale vectors to unit length and put them on the grid.

        Args:
            vectors: [n, d], finite; a zero vector stays zero (its cosine with all others is 0).
        """
        n, d = vectors.shape
        scale = LONGEST - np.sqrt(d) / 2.0
        q = np.empty((n, d), dtype=np.float32)
        for part in blocks(n):
            q[part] = np.rint(unit(vectors[part]) * scale)
        return cls(q, float(scale))

    def __len__(self) -> int:
        return len(self.q)

    def cosine(self, dots: NDArray[np.floating]) -> Floats:
        """Cosines of products of the grid."""
        return np.asarray(dots, dtype=np.float64) / self.scale**2

    def squares(self) -> Floats:
        """Squared lengths, exact: Float64[n]."""
        parts = [np.square(self.q[b], dtype=np.float64).sum(axis=1) for b in blocks(len(self))]
        return np.concatenate(parts) if parts else np.zeros(0)

    def products(self, rows: I64) -> F32:
        """Products of some rows with all: Float32[m, n], exact."""
        out = np.empty((rows.size, len(self)), dtype=np.float32)
        picked = self.q[rows]

        def work(part: slice) -> None:
            out[:, part] = picked @ self.q[part].T

        if rows.size * self.q.size < 1 << 25:
            out[:] = picked @ self.q.T
        else:
            each(work, blocks(len(self), max(BLOCK, -(-len(self) // workers()))))
        return out

    def nearest(self, kept: I64) -> tuple[Floats, I64]:
        """The most alike of some rows, for every row.

        Args:
            kept: Int64[m], distinct rows, ascending; m > 0.

        Returns:
            Float64[n], the product with it (exact), and Int64[n], the row; of equals the first.
        """
        best, at = np.empty(len(self)), np.empty(len(self), dtype=np.int64)
        chosen = self.q[kept]

        def work(part: slice) -> None:
            dots = self.q[part] @ chosen.T
            first = dots.argmax(axis=1)
            best[part] = dots[np.arange(len(dots)), first]
            at[part] = kept[first]

        each(work, blocks(len(self), 512))
        return best, at

    def at_distance(self, dots: Floats, kept: I64) -> Floats:
        """Squared distances on the grid of every row to a row, from their products; exact."""
        squares = self.squares()
        return np.asarray(squares + squares[kept] - 2.0 * dots)
