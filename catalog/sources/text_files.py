"""Readers of text formats: JSON lines, JSON arrays, csv; plain or gzipped, whatever their name."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from typing import IO, Any

import orjson

from catalog.sources.chunks import MAX_CHUNK_BYTES, Chunk, Rejects
from prefactory.errors import DataError

READ_BYTES = 4 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
_CUT = (EOFError, zlib.error, gzip.BadGzipFile)


class Pieces:
    """Bytes of a file in pieces, unpacked if it is gzip; remembers whether the file was cut short.

    Attributes:
        cut: the unpacker's message, once a damaged or incomplete gzip file has ended early.
    """

    def __init__(self, raw: IO[bytes]) -> None:
        """Look at the first two bytes to tell gzip from plain.

        Args:
            raw: an open, seekable binary file.
        """
        head = raw.read(2)
        raw.seek(0)
        self.cut: str | None = None
        self._file: IO[bytes] | gzip.GzipFile = (
            gzip.GzipFile(fileobj=raw) if head == b"\x1f\x8b" else raw
        )

    def __iter__(self) -> Iterator[bytes]:
        """Yield the bytes; a byte order mark at the start is left out."""
        first = True
        while True:
            try:
                piece = self._file.read(READ_BYTES) if self._plain else self._file.read1(READ_BYTES)  # type: ignore[union-attr]
            except _CUT as error:
                self.cut = str(error)
                return
            if not piece:
                return
            yield piece.removeprefix(_BOM) if first else piece
            first = False

    @property
    def _plain(self) -> bool:
        return not isinstance(self._file, gzip.GzipFile)


def _lines(pieces: Pieces) -> Iterator[tuple[int, list[bytes]]]:
    """Yield (number of the first line, complete lines) piece by piece; the cut tail is dropped."""
    number, rest = 1, b""
    for piece in pieces:
        if b"\n" not in piece:
            rest += piece
            continue
        lines = (rest + piece).split(b"\n")
        rest = lines.pop()
        yield number, lines
        number += len(lines)
    if rest and pieces.cut is None:
        yield number, [rest]
        number += 1
    if pieces.cut is not None:
        yield number, []


def parse_json(text: bytes) -> tuple[Any, str | None]:
    """Parse one JSON text; mend what Arrow could not hold.

    Returns:
        The value and the reason of a repair, or None: `not_utf8` (bytes replaced by U+FFFD),
        `lone_surrogate` (the same), `not_finite` (NaN or infinity read as null).

    Raises:
        ValueError: the text is no JSON; the message says where.
    """
    try:
        return orjson.loads(text), None
    except orjson.JSONDecodeError as error:
        first = error
    repair = "lone_surrogate"
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        decoded, repair = text.decode(errors="replace"), "not_utf8"
    not_finite: list[str] = []
    try:
        value = json.loads(decoded, parse_constant=not_finite.append)
    except (ValueError, RecursionError):
        raise ValueError(str(first)) from None
    if not_finite and repair != "not_utf8":
        repair = "not_finite"
    return _mended(value), repair


def _mended(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, str):
        return value.encode("utf-8", "replace_surrogates").decode() if _lone(value) else value
    if isinstance(value, list):
        return [_mended(v) for v in value]
    if isinstance(value, dict):
        return {_mended(k): _mended(v) for k, v in value.items()}
    return value


def _lone(text: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in text)
