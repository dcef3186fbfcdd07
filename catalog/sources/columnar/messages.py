"""How much the record batches of an Arrow stream unpack to, told without unpacking them.

A message says where each packed buffer lies, and a packed buffer begins with its length unpacked
(Arrow columnar format, "Compression"). The message is a FlatBuffer, of which four fields are read:
`Message.header`, and of it `RecordBatch.buffers`, `.compression`, or `DictionaryBatch.data`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any

import pyarrow as pa

_HEADER_TYPE, _HEADER = 1, 2
_DICTIONARY, _RECORDS = 2, 3
"""Values of `MessageHeader`."""
_DATA = 1
_BUFFERS, _COMPRESSION = 2, 3
_BLOCKS = (2, 3)
"""Fields of `Footer`: where dictionaries and record batches of a file stand."""
_MAGIC = 6
"""Bytes with which a file ends, after the footer and its length."""


def unpacked_sizes(raw: IO[bytes]) -> Iterator[tuple[int, int]]:
    """Bytes of each message's body, packed and unpacked.

    Args:
        raw: an open, seekable Arrow file or stream.

    Raises:
        pyarrow.ArrowInvalid: a message is damaged.
    """
    raw.seek(0)
    is_file = raw.read(_MAGIC) == b"ARROW1"
    raw.seek(0)
    try:
        yield from _of_file(raw) if is_file else _of_stream(raw)
    except struct.error as error:
        raise pa.ArrowInvalid(f"a message is damaged: {error}") from error


def _of_stream(raw: IO[bytes]) -> Iterator[tuple[int, int]]:
    messages = pa.ipc.MessageReader.open_stream(raw)
    while True:
        try:
            message = messages.read_next_message()
        except (StopIteration, pa.ArrowException, OSError):
            return  # where it is cut, who reads it says
        if (body := message.body) is not None:
            data = memoryview(body)
            read = partial(_at, "<q", data)
            yield body.size, _unpacked(memoryview(message.metadata), read, body.size)


def _of_file(raw: IO[bytes]) -> Iterator[tuple[int, int]]:
    """By the blocks of the footer, as readers find them."""

    def bytes_at(place: int, size: int) -> bytes:
        raw.seek(max(place, 0))
        return raw.read(max(size, 0))

    end = raw.seek(0, 2) - _MAGIC - 4
    size = _at("<i", memoryview(bytes_at(end, 4)), 0)
    about = memoryview(bytes_at(end - size, size))
    footer = _Table(about, _at("<I", about, 0))
    for field in _BLOCKS:
        start = footer.place(field)
        start += _at("<I", about, start) if start else 0
        for i in range(_at("<I", about, start) if start else 0):
            place, length, packed = struct.unpack_from("<qi4xq", about, start + 4 + 24 * i)
            head = bytes_at(place, length)
            body = place + length

            def read(at: int, body: int = body) -> int:
                return int(_at("<q", memoryview(bytes_at(body + at, 8)), 0))

            skip = 8 if head[:4] == b"\xff\xff\xff\xff" else 4
            yield packed, _unpacked(memoryview(head)[skip:], read, packed)


def _unpacked(about: memoryview, read: Callable[[int], int], packed: int) -> int:
    """Bytes that a message's body unpacks to; `read` gives the number at a place of the body."""
    table = _Table(about, _at("<I", about, 0))
    kind, inner = table.byte(_HEADER_TYPE), table.inner(_HEADER)
    if kind == _DICTIONARY and inner is not None:
        inner = inner.inner(_DATA)
    if inner is None or kind not in (_DICTIONARY, _RECORDS) or not inner.place(_COMPRESSION):
        return packed
    start = inner.place(_BUFFERS)
    if not start:
        return 0
    start += _at("<I", about, start)
    total = 0
    for i in range(_at("<I", about, start)):
        offset, length = struct.unpack_from("<qq", about, start + 4 + 16 * i)
        size = read(offset) if length >= _LEAST else length
        total += length if size < 0 else size  # -1: it is not packed
    return total


_LEAST = 8
"""Bytes of the length that stands before a packed buffer."""


def _at(form: str, data: memoryview, place: int) -> Any:  # noqa: ANN401 - a number
    if place < 0:
        raise struct.error("a place before the beginning")
    return struct.unpack_from(form, data, place)[0]


class _Table:
    """A table of a FlatBuffer: its fields are found by their number."""

    def __init__(self, data: memoryview, start: int) -> None:
        self._data = data
        self._start = start
        self._fields = start - _at("<i", data, start)

    def place(self, field: int) -> int:
        """Where a field stands; 0 if it is not there."""
        slot = 4 + 2 * field
        if slot >= _at("<H", self._data, self._fields):
            return 0
        offset = _at("<H", self._data, self._fields + slot)
        return self._start + offset if offset else 0

    def byte(self, field: int) -> int:
        place = self.place(field)
        return int(_at("<B", self._data, place)) if place else 0

    def inner(self, field: int) -> _Table | None:
        place = self.place(field)
        return _Table(self._data, place + _at("<I", self._data, place)) if place else None
