"""Texts as sets of hashed shingles: runs of words, the same in every process and version.

A word is a run of letters, marks and digits; in scripts that write no spaces (Han, kana, Thai, Lao,
Khmer, Burmese) every character is one. Case, compatibility forms and punctuation do not count.
The hash is ours (eight bytes at a time through a finaliser), computed for all words of a block at a
time: no Python object a word, no dependence on PYTHONHASHSEED or on a library's version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from prefactory.tables import change_where, digests
from prefactory.utf8 import change_runs

U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]

BLOCK_BYTES = 1 << 20
LONG = 64
"""Bytes of a word beyond which it is hashed by a digest."""
SALT = 0x70726566
"""Seed of the constants of every hash here. Another one would move every stored signature."""

UNUSUAL = (
    r"[^\x00-\x7F\x{C0}-\x{FF}\x{400}-\x{45F}\x{5D0}-\x{5EA}\x{621}-\x{64A}"
    r"\x{2013}\x{2014}\x{2018}\x{2019}\x{201C}\x{201D}\x{2022}\x{1F300}-\x{1FAFF}]"
)
"""Not of the common characters that are in form NFKC already, and of scripts with spaces."""

NO_SPACES = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"

SIGMA = r"[\x{3A3}\x{3F9}\x{1D6BA}\x{1D6F4}\x{1D72E}\x{1D768}\x{1D7A2}]"
"""Capital sigma, whose lower case depends on the whole word around it, and what NFKC makes it."""


class Sets(NamedTuple):
    """One sorted set of 32-bit shingle hashes per row.

    Attributes:
        values: UInt32[total], the sets one after another.
        offsets: Int64[n + 1], where each begins.
        words: UInt32[n], words of each text (with repeats).
    """

    values: U32
    offsets: I64
    words: U32

    @property
    def sizes(self) -> I64:
        """Int64[n], elements of each set."""
        return np.diff(self.offsets)

    def sizes_of(self, rows: I64) -> I64:
        """Elements of the sets of some rows, Int64[m]."""
        sizes: I64 = self.offsets[rows + 1] - self.offsets[rows]
        return sizes


class Words(NamedTuple):
    """The word hashes of each row, in order: UInt64[total], and Int64[n + 1] where each begins."""

    values: U64
    offsets: I64


def fold(texts: pl.Series) -> pl.Series:
    """Bring texts to the form whose ASCII letters, digits and bytes beyond ASCII are words.

    Only texts beyond ASCII are rewritten: NFKC, lower case, punctuation and symbols as spaces, and
    characters of scripts without spaces set apart. `word_hashes` does ASCII case and punctuation.
    Null is the empty text.
    """
    texts = texts.fill_null("")
    sigma = texts.str.contains(SIGMA)
    if not sigma.any():
        return change_runs(texts, _beyond)
    texts = change_where(texts, ~sigma, lambda others: change_runs(others, _beyond))
    return change_where(texts, sigma, _beyond)


def _beyond(texts: pl.Series) -> pl.Series:
    texts = change_where(texts, texts.str.contains(UNUSUAL), _unusual)
    return texts.str.to_lowercase().str.replace_all(r"[^\x00-\x7F\p{L}\p{M}\p{N}]", " ")


def _unusual(texts: pl.Series) -> pl.Series:
    return texts.str.normalize("NFKC").str.replace_all(NO_SPACES, " $0 ")


def word_hashes(texts: pl.Series) -> Words:
    """Hash the words of each text, in order.

    Args:
        texts: String[n]; null is the empty text.

    Returns:
        The hashes. A text without a letter or digit has one: of its characters as they are.
    """
    folded = fold(texts)
    blocks = [_block_words(block) for block in _blocks(folded)]
    counts = np.concatenate([np.zeros(0, np.int64), *(c for _, c in blocks)])
    values = np.concatenate([np.zeros(0, np.uint64), *(v for v, _ in blocks)])
    wordless = np.flatnonzero(counts == 0)
    if wordless.size:
        whole = digests(texts.fill_null("").gather(wordless)).to_list()
        hashes = np.array([int(d[:16], 16) for d in whole], dtype=np.uint64)
        values = np.insert(values, np.cumsum(counts)[wordless], hashes)
        counts[wordless] = 1
    return Words(values, _starts(counts))


def shingle_sets(texts: pl.Series, n: int) -> Sets:
    """Make the set of shingles of each text.

    Args:
        texts: String[n]; null is the empty text.
        n: words of a shingle, at least 1; a shorter text is one shingle.

    Returns:
        The sets; none is empty.
    """
    words = word_hashes(texts)
    parts = [_block_sets(words, n, low, high) for low, high in _row_blocks(words.offsets)]
    values = np.concatenate([np.zeros(0, np.uint32), *(v for v, _ in parts)])
    sizes = np.concatenate([np.zeros(0, np.int64), *(s for _, s in parts)])
    return Sets(values, _starts(sizes), np.diff(words.offsets).astype(np.uint32))


def set_digests(sets: Sets) -> U64:
    """One 64-bit digest per set, UInt64[n]: equal sets have equal ones."""
    mixed = finalise(sets.values.astype(np.uint64) + _SET_SALT)
    return np.add.reduceat(mixed, sets.offsets[:-1]) if sets.sizes.size else mixed


def as_lists(values: NDArray[np.generic], offsets: I64) -> pl.Series:
    """A List column of ragged rows, without copying them one by one."""
    ends, flat = (
        pa.Array.from_buffers(pa.from_numpy_dtype(a.dtype), len(a), [None, pa.py_buffer(a)])
        for a in map(np.ascontiguousarray, (offsets, values))
    )
    lists = pl.from_arrow(pa.LargeListArray.from_arrays(ends, flat))
    assert isinstance(lists, pl.Series)  # noqa: S101 - an array is a column
    return lists


def from_lists(lists: pl.Series) -> tuple[NDArray[np.generic], I64]:
    """Values and Int64[n + 1] offsets of a List column without null or empty rows."""
    return lists.explode(empty_as_null=False).to_numpy(), _starts(lists.list.len().to_numpy())


def finalise(hashes: U64) -> U64:
    """Spread every bit of 64-bit hashes over all others (a bijection, after splitmix64)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def _starts(counts: NDArray[np.integer]) -> I64:
    starts = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


_MULTIPLIER, _SET_SALT = np.random.default_rng(SALT).integers(
    0, 2**64, 2, dtype=np.uint64
) | np.uint64(1)


def _byte_table() -> NDArray[np.uint8]:
    """Each byte as it counts in a word (upper case as lower), 0 if it belongs to none."""
    table = np.zeros(256, dtype=np.uint8)
    for low, high in ((48, 58), (97, 123), (128, 256)):
        table[low:high] = np.arange(low, high)
    table[65:91] = table[97:123]
    return table


_BYTES = _byte_table()
_HEADS = np.array([(1 << (8 * i)) - 1 for i in range(9)], dtype=np.uint64)
"""Masks of the first i bytes of a little-endian number of eight."""


def _blocks(texts: pl.Series) -> Iterator[pl.Series]:
    """Cut rows into runs of about `BLOCK_BYTES`."""
    ends = texts.str.len_bytes().cast(pl.UInt64).cum_sum().to_numpy()
    start = 0
    while start < len(texts):
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + BLOCK_BYTES, side="right"))
        stop = max(stop, start + 1)
        yield texts[start:stop]
        start = stop


def _block_words(texts: pl.Series) -> tuple[U64, I64]:
    """Word hashes of a block and the number of each row's words."""
    joined = texts.str.join("\n").item().encode() + b"\n"
    data = _BYTES[np.frombuffer(joined + bytes(8), dtype=np.uint8)]
    lengths = texts.str.len_bytes().to_numpy().astype(np.int64) + 1
    in_word = data != 0
    edges = np.flatnonzero(in_word[1:] != in_word[:-1]) + 1
    if in_word[0]:
        edges = np.concatenate([[0], edges])
    starts, ends = edges[::2], edges[1::2]
    return _hash_runs(data, starts, ends), np.diff(np.searchsorted(starts, _starts(lengths)))


def _hash_runs(data: NDArray[np.uint8], starts: I64, ends: I64) -> U64:
    """Hash runs of bytes that lie at least eight bytes before the end of the data."""
    eights = np.ndarray(data.size - 7, dtype="<u8", buffer=data, strides=(1,))
    lengths = ends - starts
    hashes = finalise((eights[starts] & _HEADS[np.minimum(lengths, 8)]) + lengths.astype(np.uint64))
    for at in range(8, LONG, 8):
        longer = np.flatnonzero(lengths > at)
        if not longer.size:
            return hashes
        head = _HEADS[np.minimum(lengths[longer] - at, 8)]
        hashes[longer] = finalise(
            hashes[longer] * _MULTIPLIER + (eights[starts[longer] + at] & head)
        )
    for i in np.flatnonzero(lengths > LONG):  # rare, and as long as a line: one at a time
        digest = hashlib.blake2b(data[starts[i] : ends[i]].tobytes(), digest_size=8).digest()
        hashes[i] = int.from_bytes(digest, "little")
    return hashes


def _row_blocks(offsets: I64, size: int = 1 << 17) -> Iterator[tuple[int, int]]:
    """Cut rows into runs of about `size` elements."""
    start, n = 0, len(offsets) - 1
    while start < n:
        stop = int(np.searchsorted(offsets, offsets[start] + size, side="right")) - 1
        stop = min(max(stop, start + 1), n)
        yield start, stop
        start = stop


def _block_sets(words: Words, n: int, low: int, high: int) -> tuple[U32, I64]:
    """Sorted shingle sets of rows low to high, and their sizes."""
    begin, end = words.offsets[low], words.offsets[high]
    hashes = words.values[begin:end]
    counts = np.diff(words.offsets[low : high + 1])
    rows = np.repeat(np.arange(high - low, dtype=np.uint64), counts)
    left = np.repeat(words.offsets[low + 1 : high + 1] - begin, counts) - np.arange(hashes.size)
    joined = hashes.copy()
    for step in range(1, n):
        following = np.zeros_like(hashes)
        following[: max(hashes.size - step, 0)] = hashes[step:]
        joined = joined * _MULTIPLIER + np.where(left > step, following, np.uint64(0))
    first = np.zeros(hashes.size, dtype=bool)
    first[words.offsets[low:high] - begin] = True
    whole = (left >= n) | first
    keys = (rows << np.uint64(32)) | (finalise(joined) >> np.uint64(32))
    keys = np.sort(keys[whole])
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])]
    sizes = np.bincount((keys >> np.uint64(32)).astype(np.int64), minlength=high - low)
    return keys.astype(np.uint32), sizes
