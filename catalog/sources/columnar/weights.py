"""What rows of an Arrow batch stand for, in bytes, before anything is decoded.

A dictionary or a view lets a million rows share one long text: a file of a hundred kilobytes then
stands for a terabyte. So rows are weighed by the lengths of their values, and cut by weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Weights = np.ndarray[Any, np.dtype[np.int64]]
_WORD = 8
"""Bytes that a value or a list has beside its content."""


def weights(array: Any) -> Weights:  # noqa: ANN401 - pyarrow is untyped
    """Bytes of each of n values once nothing is shared: int64[n]. The array must be valid."""
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return weights(array.storage)
    if pa.types.is_dictionary(kind):
        return _shared(array)
    if pa.types.is_struct(kind):
        parts = [weights(part) for part in array.flatten()]
        return np.sum(parts, axis=0, dtype=np.int64) if parts else _same(len(array), _WORD)
    if pa.types.is_map(kind):
        array = array.cast(pa.list_(pa.struct([kind.key_field, kind.item_field])))
        return _of_lists(array)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _of_lists(array)
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        views = np.frombuffer(array.buffers()[1], np.int32)
        return views[array.offset * 4 :: 4][: len(array)].astype(np.int64) + _WORD
    if pa.types.is_binary(kind) or pa.types.is_string(kind) or _is_large(kind):
        lengths = pc.binary_length(array).fill_null(0)
        return np.asarray(lengths, np.int64) + _WORD
    return _same(len(array), _WORD)


def _is_large(kind: Any) -> bool:  # noqa: ANN401 - pyarrow is untyped
    return bool(pa.types.is_large_binary(kind) or pa.types.is_large_string(kind))


def _same(n: int, weight: int) -> Weights:
    return np.full(n, weight, np.int64)


def _shared(array: Any) -> Weights:  # noqa: ANN401 - pyarrow is untyped
    known = np.append(weights(array.dictionary), _WORD)  # the last is that of a null
    places = array.indices.cast(pa.int64()).fill_null(len(known) - 1)
    taken: Weights = known[np.asarray(places)]
    return taken


def _of_lists(array: Any) -> Weights:  # noqa: ANN401 - pyarrow is untyped
    counts = np.asarray(pc.list_value_length(array).fill_null(0), np.int64)
    before = np.concatenate([[0], np.cumsum(weights(array.flatten()))])
    ends = np.cumsum(counts)
    sums: Weights = before[ends] - before[ends - counts] + _WORD
    return sums


def cuts(sizes: Weights, rows: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut n rows into runs of at most `rows` rows and, but for a single row, `most` bytes.

    Args:
        sizes: int64[n].
        rows: at least 1.
        most: bytes.

    Yields:
        Start and end of each run, in order.
    """
    total = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = int(total[start - 1]) if start else 0
        end = int(np.searchsorted(total, before + most, side="right"))
        end = min(max(end, start + 1), start + rows, len(sizes))
        yield start, end
        start = end


def plain(kind: Any) -> Any:  # noqa: ANN401 - pyarrow is untyped
    """A data type with the values of dictionaries in the place of dictionaries."""
    if pa.types.is_dictionary(kind):
        return plain(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([f.with_type(plain(f.type)) for f in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(plain(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(plain(kind.value_type)))
    return kind
