"""Pairs of near-duplicate rows: candidates by banding, verified by the true Jaccard index.

Rows whose sets are equal are one candidate. Of the others two meet if a band agrees; in a bucket of
more than `WINDOW` rows each meets its `WINDOW` nearest in an order that another band gives, so that
the work grows with the rows, not with their square. A meeting is sieved by short signatures, and
then the two sets themselves are compared (`prefactory.near.likeness`). Rows are told by their place
in a table sorted by id: no result depends on shards, threads or an order of arrival.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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


class Meeting(NamedTuple):
    """What decides which rows meet, few numbers a row.

    Attributes:
        keys: UInt32[n] of a band, by its number.
        bands: how many there are.
        enough: Int64[n], bands in which a row takes part .
        group: UInt64[n] or None: only rows of one group are compared.
    """

    keys: Callable[[int], U32]
    bands: int
    enough: I64
    group: U64 | None

    @classmethod
    def of(cls, rows: Rows, least: Floats) -> Meeting:
        """Of rows, and the index that a near-duplicate of each has at least."""
        enough = rows.cut.enough(least, MISSED)
        return cls(lambda band: rows.keys[:, band], rows.cut.bands, enough, rows.group)


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
        table: its columns, of any number of shards; without `bands` where it is known already
            which rows meet.
        cut: the banding that it was given.
        group: name of a column; only rows with the same value are compared.
    """
    names = [c.removeprefix("set_") for c in table.columns if c.startswith("set_")]
    parts = {name: sets_of(table, name) for name in names}
    numbers = None
    if group is not None:
        numbers = table[group].rank("dense").cast(pl.UInt64).to_numpy()
    bands: U32 = np.zeros((table.height, 0), dtype=np.uint32)
    if "bands" in table.columns:
        bands = table["bands"].to_numpy()
    sketch = table["sketch"].to_numpy()
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
    equal_left, equal_right, first = equal_sets(rows.digest, rows.group, others)
    n = rows.digest.size
    packed = [ordered(equal_left, equal_right, n)]
    least = least_index(rows, rule)
    for left, right in _meetings(rows, np.flatnonzero(first), least):
        keep = np.ones(left.size, dtype=bool)
        if others is not None:
            keep &= others[left] != others[right]
        if rows.group is not None:
            keep &= rows.group[left] == rows.group[right]
        left, right = left[keep], right[keep]
        alike = may_be_near(rows, left, right, least)
        packed.append(ordered(left[alike], right[alike], n))
    left, right = np.divmod(np.unique(np.concatenate(packed)), max(n, 1))
    index, near, _ = similarity(rows.parts, left, right, rule)
    return Edges(left[near], right[near], index[near])


def ordered(left: I64, right: I64, n: int) -> I64:
    """Pairs of rows of n as numbers, the first row times n plus the other, Int64[m]."""
    return np.minimum(left, right) * n + np.maximum(left, right)


def clusters(edges: Edges, n: int) -> I64:
    """Number the connected components of n rows by their first rows, Int64[n]."""
    links = coo_array((np.ones(edges.left.size, bool), (edges.left, edges.right)), shape=(n, n))
    number: I64 = connected_components(links, directed=False)[1].astype(np.int64)
    return number


def equal_sets(
    digest: U64, group: U64 | None, others: NDArray[np.bool_] | None = None
) -> tuple[I64, I64, NDArray[np.bool_]]:
    """Pair each row with the first of equal digest, and mark the first ones (of each kind)."""
    kind = np.zeros(digest.size, dtype=bool) if others is None else others
    group = np.zeros(digest.size, dtype=np.uint64) if group is None else group
    table = pl.DataFrame({"d": digest, "g": group, "k": kind}).with_row_index("i")
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
    for keys, order in orders(Meeting.of(rows, least), some):
        yield from ((some[a], some[b]) for a, b in _neighbours(keys, order))


def orders(meeting: Meeting, some: I64) -> Iterator[tuple[U64, I64]]:
    """Yield keys and rows (places in `some`) sorted by them, band by band; the group comes first.

    Rows of one group are next to each other there, and often no band is needed. A short row takes
    part in the first bands only: what is near to it has so high an index that it is met there.
    """
    order = np.arange(some.size)
    group: U64 = np.zeros(some.size, dtype=np.uint64)
    if meeting.group is not None:
        group = meeting.group[some]
        order, keys = _sorted(group, order)
        yield keys, order
        if some.size == 0 or np.bincount(group.astype(np.int64)).max() <= WINDOW:
            return  # every two rows of a group have met
    enough = meeting.enough[some]
    for band in range(meeting.bands):
        order = order[enough[order] > band]
        mixed = meeting.keys(band)[some] + group * np.uint64(TAG)
        order, keys = _sorted(mixed & np.uint64(0xFFFFFFFF), order)
        yield keys, order


def least_index(rows: Rows, rule: Rule) -> Floats:
    """Index of all its shingles that a near-duplicate of a row has at least, Float64[n].

    Of two rows the shorter one tells, which has the larger.
    """
    return least_of([part.words for part in rows.parts.values()], rule, list(rows.parts))


def least_of(words: Sequence[NDArray[np.integer]], rule: Rule, names: Sequence[str]) -> Floats:
    """The same, from the words of each compared text and its name."""
    least = rule.least(np.sum([own.astype(np.int64) for own in words], axis=0))
    cut = max(rule.threshold, CUT_JACCARD)
    return least if list(names) == ["prompt"] else np.minimum(least, cut)


def may_be_near(rows: Rows, left: I64, right: I64, of_row: Floats) -> NDArray[np.bool_]:
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
