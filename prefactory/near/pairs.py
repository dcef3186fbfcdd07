"""Pairs of near-duplicate rows: candidates by banding, verified by the true Jaccard index.

Rows whose sets are equal are one candidate. Of the others two meet if a band agrees; in a bucket of
more than `WINDOW` rows each meets its `WINDOW` nearest in an order that another band gives, so that
the work grows with the rows, not with their square. A meeting is sieved by short signatures, and
then the two sets themselves are compared. Rows are told by their place in a table sorted by id: no
result depends on shards, threads or an order of arrival.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prefactory.near import minhash
from prefactory.near.minhash import Banding
from prefactory.near.shingles import (
    I64,
    U32,
    U64,
    Sets,
    as_lists,
    finalise,
    from_lists,
    set_digests,
    shingle_sets,
)

WINDOW = 64
CHUNK = 1 << 22
"""Shingles that are compared at a time."""
TAG = 0x9E3779B9
"""Tag of a row's second part (its answers), so that they do not meet the shingles of prompts."""

Floats = NDArray[np.float64]


class Edges(NamedTuple):
    """Verified pairs of rows.

    Attributes:
        left, right: Int64[m], positions, left < right, sorted, each pair once.
        jaccard: Float64[m], of the part that is least alike.
    """

    left: I64
    right: I64
    jaccard: Floats


class Rows(NamedTuple):
    """Rows as sets, with what finds candidates among them.

    Attributes:
        parts: the sets of each compared text by name: of `prompt`, `response`, `chosen` and
            `rejected` those that are compared. The last two are matched in the better of both ways.
        keys: UInt32[n, bands].
        sketch: UInt8[n, SKETCH].
        digest: UInt64[n], equal on rows whose sets are equal (sides in any order).
        group: UInt64[n] or None: only rows of one group are compared.
    """

    parts: dict[str, Sets]
    keys: U32
    sketch: NDArray[np.uint8]
    digest: U64
    group: U64 | None = None


class Rule(NamedTuple):
    """When two texts are near-duplicates: by a Jaccard index that falls with their length.

    Attributes:
        threshold: least index of texts of `long` words or more.
        short: texts of up to so many words must agree in all shingles; between the two, by the
            shorter text, the least index falls in a straight line.
        long: see `threshold`.
    """

    threshold: float
    short: int = 8
    long: int = 32

    def least(self, words: NDArray[np.integer]) -> Floats:
        """Least index of texts of so many words, Float64[m]."""
        share = (self.long - words.astype(np.float64)) / max(self.long - self.short, 1)
        return self.threshold + (1.0 - self.threshold) * np.clip(share, 0.0, 1.0)


class Likeness(NamedTuple):
    """How much alike pairs of rows are.

    Attributes:
        jaccard: Float64[m], of the part that is least alike.
        near: Bool[m], every part is near-duplicate.
        crossed: Bool[m], chosen and rejected match crosswise.
    """

    jaccard: Floats
    near: NDArray[np.bool_]
    crossed: NDArray[np.bool_]


def reduce_texts(texts: dict[str, pl.Series], shingle: int, cut: Banding) -> pl.DataFrame:
    """Reduce the compared texts of rows to hashes.

    Args:
        texts: String[n] by name (see `Rows.parts`), at least one.
        shingle: words of a shingle.
        cut: the banding.

    Returns:
        `digest` (UInt64), `bands` (Array(UInt32)), `sketch` (Array(UInt8)) and, for each text,
        `words_<name>` (UInt32) and `set_<name>` (List(UInt32)).
    """
    count = max(cut.bands * cut.rows, minhash.SKETCH)
    n = len(next(iter(texts.values())))
    least: U32 = np.full((count, n), 2**32 - 1, dtype=np.uint32)
    digest: U64 = np.zeros(n, dtype=np.uint64)
    columns: dict[str, pl.Series] = {}
    for name, text in texts.items():
        sets = shingle_sets(text, shingle)
        answer = name != "prompt"
        found = minhash.signatures(sets, count, TAG if answer else 0)
        least = np.minimum(least, found)
        own = set_digests(sets)
        digest = digest + (finalise(own) if answer else own)  # a sum: sides have no order
        columns[f"words_{name}"] = pl.Series(sets.words, dtype=pl.UInt32)
        columns[f"set_{name}"] = as_lists(sets.values, sets.offsets)
    return pl.DataFrame(
        {
            "digest": pl.Series(digest, dtype=pl.UInt64),
            "bands": array_column(minhash.band_keys(least, cut), pl.UInt32()),
            "sketch": array_column(minhash.sketches(least), pl.UInt8()),
            **columns,
        }
    )


def array_column(values: NDArray[np.generic], dtype: pl.DataType) -> pl.Series:
    """A fixed-width Array column of a matrix, also of one without rows."""
    width = pl.Array(dtype, values.shape[1])
    return pl.Series(values, dtype=width) if len(values) else pl.Series([], dtype=width)


def read_rows(table: pl.DataFrame, group: str | None = None) -> Rows:
    """Read what `reduce_texts` made, in table order.

    Args:
        table: its columns, of any number of shards.
        group: name of a column; only rows with the same value are compared.
    """
    parts = {}
    for name in [c.removeprefix("set_") for c in table.columns if c.startswith("set_")]:
        values, offsets = from_lists(table[f"set_{name}"])
        hashes: U32 = np.asarray(values, dtype=np.uint32)
        parts[name] = Sets(hashes, offsets, table[f"words_{name}"].to_numpy())
    numbers = None
    if group is not None:
        numbers = table[group].rank("dense").cast(pl.UInt64).to_numpy()
    bands, sketch = table["bands"].to_numpy(), table["sketch"].to_numpy()
    return Rows(parts, bands, sketch, table["digest"].to_numpy(), numbers)


def near_edges(rows: Rows, rule: Rule, others: NDArray[np.bool_] | None = None) -> Edges:
    """Find the near-duplicates among rows.

    Args:
        rows: n rows.
        rule: when two are near-duplicates.
        others: Bool[n]; if given, only pairs of a row that is one and a row that is not.

    Returns:
        The pairs. Of rows with equal sets each is paired with the first (with `others`: of the
        other kind), and only the first (of its kind) with rows that are not equal.
    """
    equal_left, equal_right, first = _equal_sets(rows, others)
    found = [np.stack([equal_left, equal_right], axis=1)]
    some = np.flatnonzero(first)
    bar = minhash.least_agreement(rule.threshold, rows.sketch.shape[1])
    for left, right in _meetings(rows, some):
        keep = np.ones(left.size, dtype=bool)
        if others is not None:
            keep &= others[left] != others[right]
        if rows.group is not None:
            keep &= rows.group[left] == rows.group[right]
        left, right = left[keep], right[keep]
        alike = _agreement(rows.sketch, left, right) >= bar
        pairs = np.stack([left[alike], right[alike]], axis=1)
        found.append(np.sort(pairs, axis=1))
    pairs = _distinct(np.concatenate(found), len(rows.digest))
    index, near, _ = similarity(rows.parts, pairs[:, 0], pairs[:, 1], rule)
    return Edges(pairs[near, 0], pairs[near, 1], index[near])


def clusters(edges: Edges, n: int) -> I64:
    """Number the connected components of n rows by their first rows, Int64[n]."""
    root: I64 = np.arange(n)
    while True:
        before = root
        root = root.copy()
        for here, there in ((edges.left, edges.right), (edges.right, edges.left)):
            np.minimum.at(root, before[here], before[there])
        while not np.array_equal(root, root[root]):
            root = root[root]
        if np.array_equal(root, before):
            return np.unique(root, return_inverse=True)[1].astype(np.int64)


def similarity(parts: dict[str, Sets], left: I64, right: I64, rule: Rule) -> Likeness:
    """Compare pairs of rows, part by part.

    Args:
        parts: as in `Rows`.
        left: Int64[m], positions.
        right: Int64[m], positions.
        rule: when two texts are near-duplicates.
    """

    def one(name: str, other: str) -> tuple[Floats, NDArray[np.bool_]]:
        a, b = parts[name], parts[other]
        found = jaccard(a, b, left, right)
        return found, found >= rule.least(np.minimum(a.words[left], b.words[right]))

    index: Floats = np.ones(left.size)
    near = np.ones(left.size, dtype=bool)
    crossed = np.zeros(left.size, dtype=bool)
    for name in ("prompt", "response"):
        if name in parts:
            own, enough = one(name, name)
            index, near = np.minimum(index, own), near & enough
    if "chosen" in parts:
        first, last = one("chosen", "chosen"), one("rejected", "rejected")
        straight, straight_near = np.minimum(first[0], last[0]), first[1] & last[1]
        first, last = one("chosen", "rejected"), one("rejected", "chosen")
        cross, cross_near = np.minimum(first[0], last[0]), first[1] & last[1]
        crossed = np.where(straight_near == cross_near, cross > straight, cross_near)
        index = np.minimum(index, np.where(crossed, cross, straight))
        near &= straight_near | cross_near
    return Likeness(index, near, crossed)


def jaccard(a: Sets, b: Sets, left: I64, right: I64) -> Floats:
    """True Jaccard index of set `left[k]` of a and set `right[k]` of b, Float64[m]."""
    sizes_left, sizes_right = a.sizes[left], b.sizes[right]
    total = sizes_left + sizes_right
    ends = np.cumsum(total)
    shared = np.zeros(left.size, dtype=np.int64)
    start = 0
    while start < left.size:
        done = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, done + CHUNK, side="right")), start + 1)
        these = slice(start, stop)
        keys = np.concatenate([_pair_keys(a, left[these]), _pair_keys(b, right[these])])
        keys.sort()
        twice = keys[1:][keys[1:] == keys[:-1]] >> np.uint64(32)
        shared[these] = np.bincount(twice.astype(np.int64), minlength=stop - start)
        start = stop
    return shared / (total - shared)


def _pair_keys(sets: Sets, rows: I64) -> U64:
    """The shingles of rows, each under the number of its pair."""
    sizes = sets.sizes[rows]
    within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    values = sets.values[np.repeat(sets.offsets[rows], sizes) + within]
    pair = np.repeat(np.arange(rows.size, dtype=np.uint64), sizes)
    keys: U64 = (pair << np.uint64(32)) | values
    return keys


def _equal_sets(rows: Rows, others: NDArray[np.bool_] | None) -> tuple[I64, I64, NDArray[np.bool_]]:
    """Pair each row with the first of equal digest, and mark the first ones (of each kind)."""
    kind = np.zeros(rows.digest.size, dtype=bool) if others is None else others
    group = np.zeros(rows.digest.size, dtype=np.uint64) if rows.group is None else rows.group
    table = pl.DataFrame({"d": rows.digest, "g": group, "k": kind}).with_row_index("i")
    i, k = pl.col("i").cast(pl.Int64), pl.col("k")
    wanted = i.first() if others is None else i.filter(k).first()
    same = table.select(
        i,
        k,
        to=wanted.over("d", "g"),
        is_first=(i == i.first().over("d", "g", "k")),
    )
    pairs = same.filter(pl.col("to").is_not_null() & (pl.col("to") != i))
    if others is not None:
        pairs = pairs.filter(~k)
    ends = np.sort(pairs.select("to", "i").to_numpy().astype(np.int64).reshape(-1, 2), axis=1)
    return ends[:, 0], ends[:, 1], same["is_first"].to_numpy()


def _meetings(rows: Rows, some: I64) -> Iterator[tuple[I64, I64]]:
    """Yield the pairs of rows that meet, band by band (positions, in no order)."""
    order = np.arange(some.size)
    group: U64 = np.zeros(some.size, dtype=np.uint64)
    if rows.group is not None:
        group = rows.group[some]
        order, keys = _sorted(group, order)
        yield from ((some[a], some[b]) for a, b in _neighbours(keys, order))
        if some.size == 0 or np.bincount(group.astype(np.int64)).max() <= WINDOW:
            return  # every two rows of a group have met
    for band in range(rows.keys.shape[1]):
        mixed = rows.keys[some, band] + group * np.uint64(TAG)
        order, keys = _sorted(mixed & np.uint64(0xFFFFFFFF), order)
        yield from ((some[a], some[b]) for a, b in _neighbours(keys, order))


def _sorted(keys: U64, order: I64) -> tuple[I64, U64]:
    """Sort rows by (key, place in an earlier order).

    Args:
        keys: UInt64[n] below 2**32, of each row.
        order: Int64[n], the rows in the earlier order.

    Returns:
        The rows in the new order, and their keys in that order.
    """
    packed = (keys[order] << np.uint64(32)) | np.arange(order.size, dtype=np.uint64)
    packed.sort()
    place = (packed & np.uint64(0xFFFFFFFF)).astype(np.int64)
    return order[place], packed >> np.uint64(32)


def _neighbours(keys: U64, order: I64) -> Iterator[tuple[I64, I64]]:
    """Pairs of rows with equal keys, at most `WINDOW` places apart."""
    at = np.arange(order.size)
    for apart in range(1, min(WINDOW, order.size - 1) + 1):
        at = at[at < order.size - apart]
        at = at[keys[at] == keys[at + apart]]
        if not at.size:
            return
        yield order[at], order[at + apart]


def _agreement(sketch: NDArray[np.uint8], left: I64, right: I64) -> I64:
    """Number of equal bytes of two rows' sketches, Int64[m]."""
    out = np.empty(left.size, dtype=np.int64)
    step = CHUNK // sketch.shape[1]
    for low in range(0, left.size, step):
        these = slice(low, low + step)
        out[these] = np.count_nonzero(sketch[left[these]] == sketch[right[these]], axis=1)
    return out


def _distinct(pairs: I64, n: int) -> I64:
    """Each pair once, sorted, Int64[m, 2]."""
    keys = np.unique(pairs[:, 0] * max(n, 1) + pairs[:, 1])
    return np.stack([keys // max(n, 1), keys % max(n, 1)], axis=1)
