"""Bytes and lines of a file as UTF-8: unpacked, decoded, bounded; and what to do when it is cut."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from catalog.sources.spec import Reading
from prefactory.errors import DataError

READ_BYTES = 4 * 1024 * 1024
PACKED_BYTES = 512 * 1024
HEAD_BYTES = 4096
XZ_MEMORY = 256 * 1024 * 1024
"""What one xz file may ask for to be unpacked; `xz -9` asks for 65 MB."""


class _DamagedError(ValueError):
    """What an unpacker says of bytes that it can't read."""


_CUT = (EOFError, zlib.error, gzip.BadGzipFile, _DamagedError, zipfile.BadZipFile)


class _Wide:
    """Gives more than it is asked for: `gzip` asks for 8 kB, and unpacks what it got at once."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw

    def read(self, size: int = -1) -> bytes:
        whole = size >= io.DEFAULT_BUFFER_SIZE  # the fields of a header are read as asked
        return self._raw.read(PACKED_BYTES if whole else size)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the file has
        return getattr(self._raw, name)


class _Streams:
    """Unpacks streams that stand one after another in a file.

    `bz2.BZ2File` and its like raise OSError for damage as for a broken disk or line; here an error
    of the file itself stays what it is.
    """

    def __init__(self, raw: IO[bytes], make: Callable[[], Any]) -> None:
        self._raw = raw
        self._make = make
        self._stream = make()

    def read1(self, size: int) -> bytes:
        """Some bytes, at most `size`; none at the end."""
        while True:
            packed = b""
            if self._stream.eof:
                packed = self._next()
                if not packed:
                    return b""
                self._stream = self._make()
            elif self._stream.needs_input:
                packed = self._raw.read(PACKED_BYTES)
                if not packed:
                    raise EOFError("the packed file ends too early")
            try:
                unpacked = self._stream.decompress(packed, size)
            except Exception as error:  # each unpacker has errors of its own
                raise _DamagedError(str(error)) from error
            if unpacked:
                return bytes(unpacked)

    def _next(self) -> bytes:
        """The beginning of the next stream, after the padding of this one."""
        packed: bytes = self._stream.unused_data.lstrip(b"\0")
        while not packed:
            more = self._raw.read(PACKED_BYTES)
            if not more:
                return b""
            packed = more.lstrip(b"\0")
        return packed


def _zstd() -> Any:  # noqa: ANN401 - an unpacker
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd.ZstdDecompressor()


def _xz() -> Any:  # noqa: ANN401 - an unpacker
    return lzma.LZMADecompressor(memlimit=XZ_MEMORY)


_PACKERS: tuple[tuple[bytes, Callable[[IO[bytes]], Callable[[int], bytes]]], ...] = (
    (b"\x1f\x8b", lambda raw: gzip.GzipFile(fileobj=_Wide(raw)).read1),
    (b"\x28\xb5\x2f\xfd", lambda raw: _Streams(raw, _zstd).read1),
    (b"BZh", lambda raw: _Streams(raw, bz2.BZ2Decompressor).read1),
    (b"\xfd7zXZ\x00", lambda raw: _Streams(raw, _xz).read1),
)
"""First bytes -> how the file is unpacked, whatever it is called."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_WIDE = (
    ("utf-16-le", slice(0, 4, 2), slice(1, 4, 2)),
    ("utf-16-be", slice(1, 4, 2), slice(0, 4, 2)),
)


def _encoding_of(head: bytes) -> tuple[str, int]:
    """The encoding of a text by its first bytes, and how many of them mark it.

    Without a mark it is UTF-16 only if the first two characters are ASCII in it (RFC 4627, 3) and
    the rest of the head has no NUL.
    """
    for mark, name in _BOMS:
        if head.startswith(mark):
            return name, len(mark)
    for name, texts, zeros in _WIDE:
        if head[zeros] == b"\0\0" and 0 not in head[texts] and len(head[texts]) == 2:
            try:
                if "\0" not in head[: len(head) // 2 * 2 - 2].decode(name):
                    return name, 0
            except UnicodeDecodeError:
                pass
    return "utf-8", 0


class Pieces:
    """Bytes of a file in pieces, unpacked, and as UTF-8.

    Attributes:
        cut: why the file ends too early, once a damaged or incomplete one has ended.
        long: numbers of the lines that were longer than a record may be; they are given as empty.
        encoding: what the text was decoded from, if not from UTF-8; known after the first piece.
    """

    def __init__(self, raw: IO[bytes], reading: Reading | None = None) -> None:
        """Look at the first bytes to tell how the file is packed.

        Args:
            raw: an open, seekable binary file.
            reading: its encoding, if it is stated, and the bounds.
        """
        raw.seek(0)
        head = raw.read(6)
        raw.seek(0)
        self.cut: str | None = None
        self.long: set[int] = set()
        self.encoding: str | None = None
        self.reading = reading or Reading()
        unpack = next((make for mark, make in _PACKERS if head.startswith(mark)), None)
        self._bounded = unpack is not None or isinstance(raw, zipfile.ZipExtFile)
        self._read = unpack(raw) if unpack is not None else raw.read
        self._size = 0

    def __iter__(self) -> Iterator[bytes]:
        """Yield the text in UTF-8; a byte order mark at the start is left out.

        Raises:
            DataError: a packed file holds more than it may.
        """
        head = b""
        while len(head) < HEAD_BYTES and (piece := self.unpacked()):
            head += piece
        name, mark = _encoding_of(head)
        name = self.reading.encoding or name
        head = head[mark:] if self.reading.encoding in (None, name) else head
        if name in ("utf-8", "utf_8", "utf8"):
            while head:
                yield head
                head = self.unpacked()
            return
        self.encoding = name
        yield from self._decoded(head, name)

    def unpacked(self) -> bytes:
        """The next bytes of the file; none at its end, or where it is damaged."""
        if self.cut is not None:
            return b""
        try:
            piece = self._read(READ_BYTES)
        except _CUT as error:
            self.cut = str(error) or type(error).__name__
            return b""
        self._size += len(piece)
        if self._bounded and self._size > self.reading.file_bytes:
            raise DataError(
                f"it unpacks to more than {self.reading.max_file_gb:g} GB; if it is as large as "
                "that, say so with `max_file_gb`"
            )
        return piece

    def _decoded(self, head: bytes, name: str) -> Iterator[bytes]:
        """What can't be decoded becomes bytes that are no UTF-8, so that their line is noted."""
        errors = "surrogatepass" if name.startswith("utf-") else "surrogateescape"
        decoder = codecs.getincrementaldecoder(name)(errors)
        try:
            while head:
                yield decoder.decode(head).encode("utf-8", errors)
                head = self.unpacked()
            yield decoder.decode(b"", final=True).encode("utf-8", errors)
        except UnicodeError as error:
            self.cut = self.cut or f"no {name}: {error}"

    def lines(self) -> Iterator[tuple[int, list[bytes]]]:
        """Yield (1-based number of the first line, complete lines), without their line feeds.

        If the file was cut, its incomplete last line is left out, and the last item is the number
        of that line with no lines.
        """
        number = 1
        parts: list[bytes] = []
        size = 0
        for piece in self:
            parts.append(piece)
            size += len(piece)
            if b"\n" not in piece:
                if size > self.reading.record_bytes:
                    parts.clear()
                continue
            lines = b"".join(parts).split(b"\n")
            if size - len(piece) + piece.index(b"\n") > self.reading.record_bytes:
                lines[0] = b""
                self.long.add(number)
            parts = [lines.pop()]
            size = len(parts[0])
            yield number, lines
            number += len(lines)
        rest = b"".join(parts)
        if self.cut is not None:
            yield number, []
        elif size > self.reading.record_bytes:
            self.long.add(number)
            yield number, [b""]
        elif rest:
            yield number, [rest]

    def too_long(self) -> str:
        """What to say of a line in `long`."""
        return too_long(self.reading)


def too_long(reading: Reading) -> str:
    """What to say of a record that is longer than one may be."""
    return (
        f"longer than {reading.max_record_mb:g} MB; if it is meant to be, say so with "
        "`max_record_mb`"
    )


_HIGH = re.compile(rb"[\x80-\xff]+")
_MULTIBYTE = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)
_NO_LETTER = re.compile(rb"[\x81\x8d\x8f\x90\x9d\xff]")


def decoded(text: bytes, stated: bool = False) -> tuple[str, str | None]:
    """Decode UTF-8, and what is Western text of one byte a character (latin-1, Windows-1252).

    Bytes that are neither, or in a text whose encoding is `stated`, become U+FFFD.

    Returns:
        The text and the reason of a repair: `read_as_cp1252`, `not_utf8`, or None.
    """
    try:
        return text.decode(), None
    except UnicodeDecodeError:
        if not stated and _is_western(text):
            return text.decode("cp1252"), "read_as_cp1252"
        return text.decode(errors="replace"), "not_utf8"


def _is_western(text: bytes) -> bool:
    """Whether bytes above ASCII stand mostly alone, as accents do, and none is a part of UTF-8.

    In Cyrillic or Chinese of another encoding they stand in rows, and in damaged UTF-8 whole
    characters are left; neither may become letters that nobody wrote.
    """
    if _MULTIBYTE.search(text) or _NO_LETTER.search(text):
        return False
    lengths = [len(run) for run in _HIGH.findall(text)]
    return max(lengths) < 4 and lengths.count(1) * 2 >= len(lengths)
