"""Texts as bytes: where each begins, and changes that touch only what is beyond ASCII."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

Ints = NDArray[np.int64]

ROWS = 8192
"""Texts that are changed at a time."""
PIECE = 1 << 16
"""Bytes that are added up at a time: few enough for the processor's cache."""


def utf8(texts: pl.Series) -> tuple[NDArray[np.uint8], Ints]:
    """The bytes of all texts in a row (UInt8), and where each text starts, with the end (Int64)."""
    array = texts.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    if data is None or ends.size == 0:
        return np.empty(0, dtype=np.uint8), np.zeros(len(array) + 1, dtype=np.int64)
    return np.frombuffer(data, dtype=np.uint8)[ends[0] : ends[-1]], ends - ends[0]


def translated(data: NDArray[np.uint8], table: bytes) -> NDArray[np.uint8]:
    """A table's value (256 of them) of each byte, UInt8: in half the time of an index."""
    return np.frombuffer(data.tobytes().translate(table), dtype=np.uint8)


def sums(values: NDArray[np.uint8], ends: Ints) -> Ints:
    """The sum of the values of each text, Int64[N].

    Texts are added up some at a time: numpy widens all values that it is given first.

    Args:
        values: of each byte, UInt8.
        ends: where each text starts, with the end, Int64[N + 1], as `utf8` gives it.
    """
    out = np.zeros(ends.size - 1, dtype=np.int64)
    filled = np.flatnonzero(np.diff(ends))  # numpy can't add up nothing
    starts = ends[filled]
    cuts = np.unique(starts.searchsorted(np.arange(0, values.size + PIECE, PIECE)))
    for low, high in pairwise(cuts.tolist()):
        begin, end = starts[low], ends[filled[high - 1] + 1]
        at = filled[low:high]
        out[at] = np.add.reduceat(values[begin:end], starts[low:high] - begin, dtype=np.int64)
    return out


def change_runs(texts: pl.Series, change: Callable[[pl.Series], pl.Series]) -> pl.Series:
    """`change` of texts, done once for each distinct run of characters beyond ASCII.

    Right for a change that keeps ASCII as it is and looks no further than a run and the ASCII
    character before it, with which a run begins: Unicode forms do so, since a mark composes with
    the letter before it and none with a letter behind it.

    Args:
        texts: String [N], null stays null.
        change: of Strings to as many.
    """
    if len(texts) > ROWS:
        parts = (texts[start : start + ROWS] for start in range(0, len(texts), ROWS))
        return pl.concat([change_runs(part, change) for part in parts])
    at = (texts.str.len_bytes() != texts.str.len_chars()).arg_true()
    if not at.len():
        return texts
    data, ends = utf8(texts.gather(at))
    starts, stops = _runs(data, ends)
    new = _changed(_strings(data, starts, stops), change)
    where = new.is_not_null().arg_true()
    if not where.len():
        return texts
    starts, stops = starts[where], stops[where]
    texts_new = _replaced(data, ends, starts, stops, new.gather(where))
    return texts.clone().scatter(at, texts_new)


def _runs(data: NDArray[np.uint8], ends: Ints) -> tuple[Ints, Ints]:
    """Where runs of bytes beyond ASCII start, with the byte before them, and where they stop."""
    beyond = data >= 128
    first = np.zeros(data.size, dtype=bool)  # a run ends with its text
    first[ends[:-1]] = True
    opens = beyond.copy()
    opens[1:] &= ~beyond[:-1] | first[1:]
    closes = beyond.copy()
    closes[:-1] &= ~beyond[1:] | first[1:]
    starts, stops = np.flatnonzero(opens), np.flatnonzero(closes) + 1
    return starts - ~first[starts], stops


def _strings(data: NDArray[np.uint8], starts: Ints, stops: Ints) -> pl.Series:
    sizes = stops - starts
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    at = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], sizes)
    return _series(data[at].tobytes(), offsets)


def _series(data: bytes, offsets: Ints) -> pl.Series:
    buffers = (pa.py_buffer(np.ascontiguousarray(offsets, dtype=np.int64)), pa.py_buffer(data))
    strings = pl.from_arrow(pa.LargeStringArray.from_buffers(offsets.size - 1, *buffers))
    assert isinstance(strings, pl.Series)  # noqa: S101 - an array is a column
    return strings


def _changed(runs: pl.Series, change: Callable[[pl.Series], pl.Series]) -> pl.Series:
    """The change of each run, null where it is the run."""
    runs = runs.alias("run")
    known = pl.DataFrame({"run": runs.unique()}).with_columns(
        pl.col("run").map_batches(change, return_dtype=pl.String).alias("new")
    )
    known = known.filter(pl.col("new") != pl.col("run"))
    return runs.to_frame().join(known, on="run", how="left", maintain_order="left")["new"]


def _replaced(
    data: NDArray[np.uint8], ends: Ints, starts: Ints, stops: Ints, new: pl.Series
) -> pl.Series:
    """Texts with other strings in the place of runs."""
    raw, put = memoryview(data.tobytes()), new.cast(pl.Binary).to_list()
    pieces: list[bytes | memoryview] = [b""] * (2 * starts.size + 1)
    lows, highs = [0, *stops.tolist()], [*starts.tolist(), data.size]
    pieces[::2] = [raw[low:high] for low, high in zip(lows, highs, strict=True)]
    pieces[1::2] = put
    grown = new.str.len_bytes().to_numpy().astype(np.int64) - (stops - starts)
    row = np.searchsorted(ends, starts, side="right") - 1
    shift = np.bincount(row, weights=grown, minlength=ends.size - 1).astype(np.int64)
    return _series(b"".join(pieces), ends + np.concatenate([[0], np.cumsum(shift)]))
