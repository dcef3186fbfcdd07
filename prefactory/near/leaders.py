"""Greedy de-duplication of vectors: a row goes only if a row that stays is near it.

Rows are taken in order of preference, in blocks: each block is multiplied with all kept vectors,
and what is left of it with itself, in bfloat16 where the device computes in it and single precision
elsewhere. A product is off by less than `BORDER`; every cosine so near to the threshold is taken
again in double precision, pair by pair. So the result is the same whatever the block, the number of
threads, the device and its precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prefactory.engines.device import default_device, native_precision
from prefactory.near.choose import greedy
from prefactory.near.shingles import I64
from prefactory.near.vectors import BORDER, Floats, Vectors, above, cell_pairs, cosines

if TYPE_CHECKING:
    import torch

BLOCK = 2048
STRIPE = 1 << 14
"""Kept vectors that a block is multiplied with at a time."""


class Allowed:
    """Which pairs of rows may count as duplicates at all; here all of them."""

    def __call__(self, left: I64, right: I64) -> NDArray[np.bool_]:
        """Tell for each pair of rows, Bool[m]."""
        return np.ones(left.size, dtype=bool)


EVERY_PAIR = Allowed()


def greedy_kept(
    sides: Sequence[Vectors],
    rank: I64,
    threshold: float,
    *,
    group: I64 | None = None,
    allowed: Allowed = EVERY_PAIR,
    device: str | None = None,
    block: int = BLOCK,
) -> I64:
    """Go through rows, best first, and drop those that a kept row is near to.

    Args:
        sides: one matrix Float32[n, d] of unit vectors; or two, of answers whose order does not
            count: the cosine of two rows is then that of the less alike answers, in the better of
            both ways to match them.
        rank: Int64[n], place of each row in the order of preference.
        threshold: least cosine of duplicates.
        group: Int64[n]; only rows of one group are compared.
        allowed: a last say on each pair.
        device: of torch; by default a GPU if there is one.
        block: rows at a time.

    Returns:
        Int64[n]: the best kept row that the row is near to, -1 if the row itself stays.
    """
    n = rank.size
    group = np.zeros(n, dtype=np.int64) if group is None else group
    order = np.lexsort((rank, group))
    beside = np.full(n, -1, dtype=np.int64)
    work = _Products(sides, threshold, group, allowed, device)
    for rows in _blocks(group[order], order, block):
        beside[rows] = work.first_kept(rows)
        left = rows[beside[rows] < 0]
        a, b = work.edges(work.take(left), left, work.take(left), left)
        inside = a < b
        beside[left] = greedy(left[a[inside]], left[b[inside]], rank)[left]
        work.keep(left[beside[left] < 0])
    return beside


def greedy_by_ivf(
    sides: Sequence[Vectors],
    rank: I64,
    threshold: float,
    probes: int,
    *,
    group: I64 | None = None,
    allowed: Allowed = EVERY_PAIR,
) -> I64:
    """The same as `greedy_kept` on the pairs that an inverted file finds (see `cell_pairs`).

    Every pair found is decided exactly; a pair whose cells are far apart is missed, so more rows
    stay than with all pairs.
    """
    n = rank.size
    if n < 2:
        return np.full(n, -1, dtype=np.int64)
    keys = [np.zeros(0, dtype=np.int64)]
    base = np.ascontiguousarray(np.concatenate(list(sides)))
    for left, right in cell_pairs(sides[0], base, threshold - BORDER["fp32"], probes):
        right = right % n
        keep = left != right
        if group is not None:
            keep &= group[left] == group[right]
        left, right = left[keep], right[keep]
        keys.append(np.unique(np.minimum(left, right) * n + np.maximum(left, right)))
    left, right = np.divmod(np.unique(np.concatenate(keys)), n)
    near = exact_cosine(sides, left, right) >= threshold
    near[near] = allowed(left[near], right[near])
    return greedy(left[near], right[near], rank)


def _blocks(groups: I64, order: I64, block: int) -> list[I64]:
    """Cut sorted rows into blocks: whole small groups together, a large group by itself."""
    edges = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), order.size]
    cuts, start = [0], 0
    for low, high in pairwise(edges):
        if high - start <= block:
            continue
        if low > start:
            cuts.append(low)
        cuts += range(low + block, high, block)
        start = cuts[-1]
        if high - low > block and high < order.size:
            cuts.append(high)
            start = high
    cuts.append(order.size)
    return [order[a:b] for a, b in pairwise(cuts) if b > a]


class _Products:
    """Cosines of blocks of rows on a device, decided exactly; and the rows kept so far."""

    def __init__(
        self,
        sides: Sequence[Vectors],
        threshold: float,
        group: I64,
        allowed: Allowed,
        device: str | None,
    ) -> None:
        import torch

        self.device = device or default_device()
        precision = native_precision(self.device)
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.border = BORDER[precision]
        self.sides = sides
        self.threshold = threshold
        self.group = group
        self.allowed = allowed
        self.kept: list[tuple[I64, list[torch.Tensor]]] = []

    def take(self, rows: I64) -> list[torch.Tensor]:
        """Vectors of rows, on the device."""
        import torch

        return [torch.from_numpy(s[rows]).to(self.device, self.dtype) for s in self.sides]

    def keep(self, rows: I64) -> None:
        """Remember rows that stay, in order, in stripes of `STRIPE`; forget those of old groups."""
        import torch

        if not rows.size:
            return
        last = self.group[rows[-1]]
        self.kept = [(r, v) for r, v in self.kept if self.group[r[-1]] == last]
        vectors = self.take(rows)
        if self.kept and self.kept[-1][0].size + rows.size <= STRIPE:
            before = self.kept.pop()
            rows = np.concatenate([before[0], rows])
            vectors = [torch.cat(both) for both in zip(before[1], vectors, strict=True)]
        self.kept.append((rows, vectors))

    def first_kept(self, rows: I64) -> I64:
        """Of each row the best kept row that is near it, or -1."""
        keepers = np.full(rows.size, -1, dtype=np.int64)
        for stripe, vectors in self.kept:
            missing = np.flatnonzero(keepers < 0)
            if self.group[stripe[-1]] != self.group[rows[0]] or not missing.size:
                continue
            a, b = self.edges(self.take(rows[missing]), rows[missing], vectors, stripe)
            best = np.full(missing.size, stripe.size, dtype=np.int64)
            np.minimum.at(best, a, b)
            hit = best < stripe.size
            keepers[missing[hit]] = stripe[best[hit]]
        return keepers

    def edges(
        self, left: list[torch.Tensor], rows: I64, right: list[torch.Tensor], others: I64
    ) -> tuple[I64, I64]:
        """Places in `rows` and in `others` of the pairs that are near, in no order."""
        nothing = np.zeros(0, dtype=np.int64)
        if not rows.size or not others.size:
            return nothing, nothing
        a, b, values = above(_cosine(left, right), self.threshold - self.border)
        keep = self.group[rows[a]] == self.group[others[b]]
        a, b, values = a[keep], b[keep], values[keep]
        keep = values >= self.threshold + self.border
        unsure = np.flatnonzero(~keep)
        exact = exact_cosine(self.sides, rows[a[unsure]], others[b[unsure]])
        keep[unsure] = exact >= self.threshold
        keep[keep] = self.allowed(rows[a[keep]], others[b[keep]])
        return a[keep], b[keep]


def _cosine(a: list[torch.Tensor], b: list[torch.Tensor]) -> torch.Tensor:
    import torch

    if len(a) == 1:
        return a[0] @ b[0].T
    straight = torch.minimum(a[0] @ b[0].T, a[1] @ b[1].T)
    return torch.maximum(straight, torch.minimum(a[0] @ b[1].T, a[1] @ b[0].T))


def exact_cosine(sides: Sequence[Vectors], left: I64, right: I64) -> Floats:
    """Cosine of pairs of rows (see `greedy_kept`), each summed by itself, Float64[m]."""

    def dot(a: Vectors, b: Vectors) -> Floats:
        return cosines(a, b, left, right)

    if len(sides) == 1:
        return dot(sides[0], sides[0])
    first, last = sides
    straight = np.minimum(dot(first, first), dot(last, last))
    return np.maximum(straight, np.minimum(dot(first, last), dot(last, first)))
