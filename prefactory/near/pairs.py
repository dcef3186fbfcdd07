"""Pairs of near-duplicate rows: candidates by banding, verified by the true Jaccard index.

Rows whose sets are equal are one candidate. Of the others two meet if a band agrees; in a bucket of
more than `WINDOW` rows each meets its `WINDOW` nearest in an order that another band gives, so that
the work grows with the rows, not with their square. A meeting is sieved by short signatures, and
then the two sets themselves are compared (`prefactory.near.likeness`). Rows are told by their place
in a table sorted by id: no result depends on shards, threads or an order of arrival.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from prefactory.near import minhash
from prefactory.near.likeness import CUT_JACCARD, Floats, Rule, similarity
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
MISSED = 0.001
"""Probability that short rows, which must be more alike than the threshold, do not meet."""
TAG = 0x9E3779B9
"""Tag of a row's second part (its answers), so that they do not meet the shingles of prompts."""


FEW = 1024
"""Rows of which twice as many neighbours are compared at each look at which are joined."""
MARKS = 256
"""Places of the bits by which the likeness of two sets is bounded."""
AT_A_TIME = 1 << 16
"""Words of sketches that are compared at a time: few enough for the processor's cache."""
_LOW_SEVEN, _HIGHEST = np.uint64(0x7F7F7F7F7F7F7F7F), np.uint64(0x8080808080808080)


class Edges(NamedTuple):
    """Verified pairs of rows.

    Attributes:
        left, right: Int64[m], positions, left < right, sorted, each pair once.
        jaccard: Float64[m], see `prefactory.near.likeness.Likeness`.
    """

    left: I64
    right: I64
    jaccard: Floats


class Marks(NamedTuple):
    """Which of `MARKS` places the shingles of sets fall into.

    Attributes:
        bits: UInt64[n, MARKS / 64].
        sizes: Int64[n], shingles of each set.
        beyond: Int64[n], those that fell into a place that another has filled.
    """

    bits: U64
    sizes: I64
    beyond: I64


class Rows(NamedTuple):
    """Rows as sets, with what finds candidates among them.

    Attributes:
        parts: the sets of each compared text by name: of `prompt`, `response`, `chosen` and
            `rejected` those that are compared. The last two are matched in the better of both ways.
        keys: UInt32[n, bands].
        sketch: UInt8[n, SKETCH].
        digest: UInt64[n], equal on rows whose sets are equal (sides in any order).
        cut: the banding of the keys.
        group: UInt64[n] or None: only rows of one group are compared.
        marks: of the sets of single texts; None of others.
    """

    parts: dict[str, Sets]
    keys: U32
    sketch: NDArray[np.uint8]
    digest: U64
    cut: Banding
    group: U64 | None = None
    marks: Marks | None = None


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
    return reduce_sets(((name, shingle_sets(text, shingle)) for name, text in texts.items()), cut)


def reduce_sets(parts: Iterable[tuple[str, Sets]], cut: Banding) -> pl.DataFrame:
    """The same, of texts that are sets of shingles already: names and their sets, at least one."""
    count = max(cut.bands * cut.rows, minhash.SKETCH)
    least: U32 = np.full((count, 1), 2**32 - 1, dtype=np.uint32)
    digest: U64 = np.zeros(1, dtype=np.uint64)
    columns: dict[str, pl.Series] = {}
    for name, sets in parts:
        answer = name != "prompt"
        hashes = minhash.signatures(sets, count, TAG if answer else 0)
        least = np.minimum(least, hashes)
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


def sets_of(table: pl.DataFrame, name: str) -> Sets:
    """The sets of a text in what `reduce_texts` made."""
    values, offsets = from_lists(table[f"set_{name}"])
    hashes: U32 = np.asarray(values, dtype=np.uint32)
    return Sets(hashes, offsets, table[f"words_{name}"].to_numpy())


def array_column(values: NDArray[np.generic], dtype: pl.DataType) -> pl.Series:
    """A fixed-width Array column of a matrix, also of one without rows."""
    width = pl.Array(dtype, values.shape[1])
    return pl.Series(values, dtype=width) if len(values) else pl.Series([], dtype=width)


def read_rows(table: pl.DataFrame, cut: Banding, group: str | None = None) -> Rows:
    """Read what `reduce_texts` made, in table order.

    Args:
        table: its columns, of any number of shards.
        cut: the banding that it was given.
        group: name of a column; only rows with the same value are compared.
    """
    names = [c.removeprefix("set_") for c in table.columns if c.startswith("set_")]
    parts = {name: sets_of(table, name) for name in names}
    numbers = None
    if group is not None:
        numbers = table[group].rank("dense").cast(pl.UInt64).to_numpy()
    bands, sketch = table["bands"].to_numpy(), table["sketch"].to_numpy()
    marks = _marks(parts["prompt"]) if names == ["prompt"] else None
    return Rows(parts, bands, sketch, table["digest"].to_numpy(), cut, numbers, marks)


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
    n = rows.digest.size
    packed = [_ordered(equal_left, equal_right, n)]
    least = _least(rows, rule)
    for left, right in _meetings(rows, np.flatnonzero(first), least):
        keep = np.ones(left.size, dtype=bool)
        if others is not None:
            keep &= others[left] != others[right]
        if rows.group is not None:
            keep &= rows.group[left] == rows.group[right]
        left, right = left[keep], right[keep]
        alike = _alike(rows, left, right, least)
        packed.append(_ordered(left[alike], right[alike], n))
    left, right = np.divmod(np.unique(np.concatenate(packed)), max(n, 1))
    index, near, _ = similarity(rows.parts, left, right, rule)
    return Edges(left[near], right[near], index[near])


def linking_edges(rows: Rows, rule: Rule) -> Edges:
    """Find near-duplicates enough to link every cluster that `near_edges` links, and few more.

    Pairs of rows that are joined already are not looked at, so that rows with many near copies cost
    no more than others.

    Args:
        rows: n rows.
        rule: when two are near-duplicates.

    Returns:
        The pairs, whose connected components are those of `near_edges`.
    """
    n = rows.digest.size
    left, right, first = _equal_sets(rows, None)
    root = _joined(np.arange(n), left, right)
    pairs, index = [_ordered(left, right, n)], [np.ones(left.size)]
    some, least = np.flatnonzero(first), _least(rows, rule)
    unlike: I64 = np.zeros(0, dtype=np.int64)
    for keys, order in _orders(rows, some, least):
        bucketed = some[order]
        at, apart, failed, linked = _parted(root[bucketed], keys), 0, [unlike], unlike[:0]
        while at.size and apart < WINDOW:
            stop = apart + 1 if at.size > FEW else min(2 * apart + 1, WINDOW)
            at, apart, left, right = _met(root, bucketed, keys, at, apart, stop)
            sieved = _alike(rows, left, right, least)
            met = _ordered(left[sieved], right[sieved], n)
            met = met[~_among(met, unlike)]  # of those that the sieve lets through only
            alike = similarity(rows.parts, met // n, met % n, rule)
            failed.append(met[~alike.near])
            pairs.append(met[alike.near])
            index.append(alike.jaccard[alike.near])
            linked = np.concatenate([linked, met[alike.near]])
            if linked.size * WINDOW > at.size:  # else it costs more than it saves
                root, linked = _joined(root, linked // n, linked % n), linked[:0]
                at = np.intersect1d(at, _parted(root[bucketed], keys), assume_unique=True)
        root = _joined(root, linked // n, linked % n)
        if len(failed) > 1:
            unlike = np.sort(np.concatenate(failed))
    met, at = np.unique(np.concatenate(pairs), return_index=True)
    return Edges(met // max(n, 1), met % max(n, 1), np.concatenate(index)[at])


def _met(
    root: I64, bucketed: I64, keys: U64, at: I64, apart: int, stop: int
) -> tuple[I64, int, I64, I64]:
    """Pairs of rows of one bucket, so far apart, that are not joined.

    Args:
        root: of each row.
        bucketed: rows, sorted by key.
        keys: of these.
        at: places in `bucketed` whose bucket goes on at `apart`.
        apart: places between two that have met already.
        stop: places between two that shall meet now, at most.

    Returns:
        `at` and `apart` after it, and the two rows of each pair.
    """
    found = [np.zeros((2, 0), dtype=np.int64)]
    while at.size and apart < stop:
        apart += 1
        at = at[at < bucketed.size - apart]
        at = at[keys[at] == keys[at + apart]]
        both = np.stack([bucketed[at], bucketed[at + apart]])
        found.append(both[:, root[both[0]] != root[both[1]]])
    left, right = np.concatenate(found, axis=1)
    return at, apart, left, right


def _ordered(left: I64, right: I64, n: int) -> I64:
    """Pairs of rows of n as numbers, the first row times n plus the other, Int64[m]."""
    return np.minimum(left, right) * n + np.maximum(left, right)


def _among(keys: I64, known: I64) -> NDArray[np.bool_]:
    """Whether keys are among sorted known ones, Bool[m]."""
    if not known.size:
        return np.zeros(keys.size, dtype=bool)
    slot = np.searchsorted(known, keys)
    there: NDArray[np.bool_] = known[np.minimum(slot, known.size - 1)] == keys
    return there


def clusters(edges: Edges, n: int) -> I64:
    """Number the connected components of n rows by their first rows, Int64[n]."""
    links = coo_array((np.ones(edges.left.size, bool), (edges.left, edges.right)), shape=(n, n))
    number: I64 = connected_components(links, directed=False)[1].astype(np.int64)
    return number


def _joined(root: I64, left: I64, right: I64) -> I64:
    """The first row of each row's component, after the components of these pairs are joined."""
    if not left.size:
        return root
    heads, ends = np.unique(np.concatenate([root[left], root[right]]), return_inverse=True)
    a, b = np.split(ends, 2)
    number = clusters(Edges(a, b, np.ones(left.size)), heads.size)
    first = np.arange(root.size)
    first[heads] = heads[np.unique(number, return_index=True)[1]][number]
    return first[root]


def _parted(root: I64, keys: U64) -> I64:
    """Places of sorted rows whose bucket holds more than one component."""
    if not keys.size:
        return np.zeros(0, dtype=np.int64)
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    is_joined = np.minimum.reduceat(root, starts) == np.maximum.reduceat(root, starts)
    sizes = np.diff(np.append(starts, keys.size))
    return np.flatnonzero(~np.repeat(is_joined, sizes))


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


def _meetings(rows: Rows, some: I64, least: Floats) -> Iterator[tuple[I64, I64]]:
    """Yield the pairs of rows that meet, band by band (positions, in no order)."""
    for keys, order in _orders(rows, some, least):
        yield from ((some[a], some[b]) for a, b in _neighbours(keys, order))


def _orders(rows: Rows, some: I64, least: Floats) -> Iterator[tuple[U64, I64]]:
    """Yield keys and rows (places in `some`) sorted by them, band by band; the group comes first.

    Rows of one group are next to each other there, and often no band is needed. A short row takes
    part in the first bands only: what is near to it has so high an index that it is met there.
    """
    order = np.arange(some.size)
    group: U64 = np.zeros(some.size, dtype=np.uint64)
    if rows.group is not None:
        group = rows.group[some]
        order, keys = _sorted(group, order)
        yield keys, order
        if some.size == 0 or np.bincount(group.astype(np.int64)).max() <= WINDOW:
            return  # every two rows of a group have met
    enough = rows.cut.enough(least[some], MISSED)
    for band in range(rows.keys.shape[1]):
        order = order[enough[order] > band]
        mixed = rows.keys[some, band] + group * np.uint64(TAG)
        order, keys = _sorted(mixed & np.uint64(0xFFFFFFFF), order)
        yield keys, order


def _least(rows: Rows, rule: Rule) -> Floats:
    """Index of all its shingles that a near-duplicate of a row has at least, Float64[n].

    Of two rows the shorter one tells, which has the larger.
    """
    words = np.sum([part.words.astype(np.int64) for part in rows.parts.values()], axis=0)
    least = rule.least(words)
    cut = max(rule.threshold, CUT_JACCARD)
    return least if list(rows.parts) == ["prompt"] else np.minimum(least, cut)


def _alike(rows: Rows, left: I64, right: I64, of_row: Floats) -> NDArray[np.bool_]:
    """Sieve: whether two rows may be near-duplicates, by bounds and by their sketches.

    Of single texts the bounds of `_most` come first, which cost less and keep every near-duplicate.
    """
    least = np.maximum(of_row.take(left), of_row.take(right))
    alike = np.ones(left.size, dtype=bool)
    if rows.marks is not None:
        alike = _most(rows.marks, left, right) >= least
        left, right, least = left[alike], right[alike], least[alike]
    bar = minhash.least_agreement(least, rows.sketch.shape[1])
    alike[alike] = _agreement(rows.sketch, left, right) >= bar
    return alike


def _marks(sets: Sets) -> Marks:
    n = len(sets.offsets) - 1
    bits = np.zeros((n, MARKS // 64), dtype=np.uint64)
    for low in range(0, n, 4096):
        high = min(low + 4096, n)
        begin, end = sets.offsets[low], sets.offsets[high]
        filled = np.zeros((high - low, MARKS), dtype=bool)
        rows = np.repeat(np.arange(high - low), np.diff(sets.offsets[low : high + 1]))
        filled[rows, sets.values[begin:end] & np.uint32(MARKS - 1)] = True
        bits[low:high] = np.packbits(filled, axis=1).view(np.uint64)
    sizes = sets.sizes
    return Marks(bits, sizes, sizes - np.bitwise_count(bits).sum(axis=1, dtype=np.int64))


def _most(marks: Marks, left: I64, right: I64) -> Floats:
    """The largest index that two sets may have, Float64[m].

    They share no more shingles than places that both fill, and as many as the one with fewer has
    beyond its places. (`take` gathers rows of a matrix in a third of the time of an index.)
    """
    most = np.empty(left.size)
    step = max(1, AT_A_TIME // marks.bits.shape[1])
    for low in range(0, left.size, step):
        a, b = left[low : low + step], right[low : low + step]
        filled = marks.bits.take(a, axis=0) & marks.bits.take(b, axis=0)
        both = _sum_of_four(np.bitwise_count(filled))
        shared = both + np.minimum(marks.beyond.take(a), marks.beyond.take(b))
        most[low : low + step] = shared / (marks.sizes.take(a) + marks.sizes.take(b) - shared)
    return most


def _sum_of_four(counts: NDArray[np.uint8]) -> U32:
    """The sum of each row of four, UInt32[n]: by halves of a word, as a sum of rows is slow."""
    words: U32 = counts.view(np.uint32)[:, 0]
    words = (words & np.uint32(0xFF00FF)) + ((words >> np.uint32(8)) & np.uint32(0xFF00FF))
    words = (words & np.uint32(0xFFFF)) + (words >> np.uint32(16))
    return words


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
    position = (packed & np.uint64(0xFFFFFFFF)).astype(np.int64)
    return order[position], packed >> np.uint64(32)


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
    """Number of equal bytes of two rows' sketches, Int64[m].

    Eight bytes at a time: of the difference of two words a byte is zero where they are equal, and
    the highest bit of (low seven bits + 127) or the byte itself is set in every other.
    """
    out = np.empty(left.size, dtype=np.int64)
    words = sketch.view(np.uint64)
    step = max(1, AT_A_TIME // words.shape[1])
    for low in range(0, left.size, step):
        these = slice(low, low + step)
        differ = words.take(left[these], axis=0) ^ words.take(right[these], axis=0)
        other = (((differ & _LOW_SEVEN) + _LOW_SEVEN) | differ) & _HIGHEST
        out[these] = sketch.shape[1] - np.bitwise_count(other).sum(axis=1, dtype=np.int64)
    return out
