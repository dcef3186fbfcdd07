"""Bytes and lines of a file, unpacked if it is gzip, and what to do when it ends too early."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from typing import IO, Any

READ_BYTES = 4 * 1024 * 1024
PACKED_BYTES = 512 * 1024
_BOM = b"\xef\xbb\xbf"
_CUT = (EOFError, zlib.error, gzip.BadGzipFile)


class _Wide:
    """Gives more than it is asked for: `gzip` asks for 8 kB, and unpacks what it got at once."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw

    def read(self, size: int = -1) -> bytes:
        whole = size >= io.DEFAULT_BUFFER_SIZE  # the fields of a header are read as asked
        return self._raw.read(PACKED_BYTES if whole else size)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the file has
        return getattr(self._raw, name)


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
        raw.seek(0)
        head = raw.read(2)
        raw.seek(0)
        self.cut: str | None = None
        packed = head == b"\x1f\x8b"
        self._read = gzip.GzipFile(fileobj=_Wide(raw)).read1 if packed else raw.read

    def __iter__(self) -> Iterator[bytes]:
        """Yield the bytes; a byte order mark at the start is left out."""
        first = True
        while True:
            try:
                piece = self._read(READ_BYTES)
            except _CUT as error:
                self.cut = str(error)
                return
            if not piece:
                return
            yield piece.removeprefix(_BOM) if first else piece
            first = False

    def lines(self) -> Iterator[tuple[int, list[bytes]]]:
        """Yield (1-based number of the first line, complete lines), without their line feeds.

        If the file was cut, its incomplete last line is left out, and the last item is the number
        of that line with no lines.
        """
        number = 1
        parts: list[bytes] = []
        for piece in self:
            parts.append(piece)
            if b"\n" not in piece:
                continue
            lines = b"".join(parts).split(b"\n")
            parts = [lines.pop()]
            yield number, lines
            number += len(lines)
        rest = b"".join(parts)
        if self.cut is not None:
            yield number, []
        elif rest:
            yield number, [rest]
