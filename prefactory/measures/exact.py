"""Sums that have the same bits in whatever pieces, order and machine they are added.

A sum of floats depends on the order of its terms. Here numbers are first put on a grid, so that
they are whole multiples of a power of two; sums and products of whole numbers are exact in float64
as long as they stay below 2**53, and whole numbers of 64 bits add up from there. So the sums of
shards are the sum of all rows, and which kernel BLAS takes is all the same. (Reproducible
summation, Demmel and Nguyen 2013, in the form of Ozaki et al. 2012 for products of matrices, with
one slice: numbers keep 22 bits below the largest of their column, float32 has 24.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
I64 = NDArray[np.int64]

BITS = 22
_ROWS = 512
"""Rows of a block: 2**9 products of 22 bits each way sum to 2**53."""
_BLOCKS = 512
"""Blocks whose sums are below 2**62 together."""
_PIECE = 4096
_LOW = 30
"""Bits of the lower half of a `Whole`."""


class Whole(NamedTuple):
    """Whole numbers beyond 64 bits: high * 2**30 + low, Int64 of any shape, both."""

    high: I64
    low: I64

    def floats(self) -> Floats:
        """The numbers, each rounded once."""
        return np.ldexp(self.high.astype(np.float64), _LOW) + self.low


def zero(*shape: int) -> Whole:
    """Zeros."""
    return Whole(np.zeros(shape, np.int64), np.zeros(shape, np.int64))


def total(parts: Iterable[Whole]) -> Whole:
    """The sum of some (at least one) of the same shape."""
    high, low = map(np.copy, next(parts := iter(parts)))
    for part in parts:
        high += part.high
        low += part.low
    return Whole(high, low)


def grid(most: Floats, bits: int = BITS) -> Floats:
    """Step of each column's grid, a power of two: no multiple of it is above 2**bits in size.

    Args:
        most: largest absolute value of each column; a step of 1 where that is 0.
        bits: that are kept.
    """
    exponent = np.frexp(np.asarray(most, np.float64))[1]
    return np.where(np.asarray(most) > 0, np.ldexp(1.0, exponent - bits), 1.0)


def on_grid(values: NDArray[np.floating], step: Floats) -> Floats:
    """Values as multiples of a step of `grid`, rounded to whole ones: Float64 of their shape."""
    return np.rint(np.asarray(values, np.float64) / step)


def slices(values: Floats, step: Floats) -> Floats:
    """Each column as two whole ones, the second 2**22 finer: Float64[n, m] -> Float64[n, 2m].

    Together they hold 44 bits below the largest value of the column.
    """
    coarse = on_grid(values, step)
    return np.concatenate([coarse, on_grid(values - coarse * step, np.ldexp(step, -BITS))], axis=1)


def pieces(n: int) -> list[slice]:
    """Rows in work at a time, at least one slice: their grid takes twice what float32 does."""
    return [slice(start, start + _PIECE) for start in range(0, max(1, n), _PIECE)]


def products(left: Floats, right: Floats) -> Whole:
    """Sums of products of each column of one array with each of another: left' right, [p, q].

    Args:
        left: whole numbers up to 2**22, Float64[n, p]; the same array as `right` costs half.
        right: Float64[n, q].
    """
    high, low = zero(left.shape[1], right.shape[1])
    for start in range(0, len(left), _ROWS * _BLOCKS):
        held = np.zeros(high.shape, np.int64)
        for first in range(start, min(len(left), start + _ROWS * _BLOCKS), _ROWS):
            block = left[first : first + _ROWS]
            other = block if left is right else right[first : first + _ROWS]
            held += (block.T @ other).astype(np.int64)
        high += held >> _LOW
        low += held & ((1 << _LOW) - 1)
    return Whole(high, low)


def mapped(rows: NDArray[np.floating], matrix: Floats, most: float) -> Floats:
    """Rows times a matrix, each row by itself: [n, d], [d, k] -> Float64[n, k].

    Args:
        rows: n of any number.
        matrix: whose columns have grids of their own.
        most: what no absolute value in any rows exceeds.
    """
    bits = min(BITS, (53 - len(matrix).bit_length()) // 2)
    across, down = grid(np.array(most), bits), grid(np.abs(matrix).max(axis=0, initial=0), bits)
    rows = np.asarray(rows, np.float64)
    coarse, whole = on_grid(rows, across), on_grid(matrix, down)
    fine, rest = (
        on_grid(values - found * step, np.ldexp(step, -bits))
        for values, found, step in ((rows, coarse, across), (matrix, whole, down))
    )
    small = np.ldexp(coarse @ rest + fine @ whole, -bits)  # each is exact
    return (coarse @ whole + small) * (across * down)


def terms(values: Floats) -> list[float]:
    """A few numbers with the very sum of many: `math.fsum` of those of all pieces rounds it once.

    Args:
        values: Float64[n], finite, n below 2**26.

    Returns:
        At most two numbers for each power of two that there is among the values.
    """
    part, exponent = np.frexp(values)
    powers, place = np.unique(exponent, return_inverse=True)
    whole = np.ldexp(part, 53).astype(np.int64)
    halves = (whole >> 27, 27), (whole & ((1 << 27) - 1), 0)
    sums = [
        np.ldexp(np.bincount(place, half, powers.size), powers - 53 + up) for half, up in halves
    ]
    return [float(x) for x in np.concatenate(sums) if x]
