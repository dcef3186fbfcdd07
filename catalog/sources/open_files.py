"""Read a file of a source, whatever its place and format, and tell which bytes it holds."""

from __future__ import annotations

import hashlib
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import fsspec
import polars as pl
import pyarrow as pa

from catalog.sources.archives import on_disk, opened, place
from catalog.sources.chunks import Chunk
from catalog.sources.columnar.read import read_ipc, read_parquet
from catalog.sources.csv_files import read_csv
from catalog.sources.json_files import read_json, read_jsonl
from catalog.sources.pieces import Pieces
from catalog.sources.resolve import FORMATS, PACKED, format_of
from catalog.sources.sheets import read_sheet
from catalog.sources.spec import Reading, SourceFile
from prefactory.errors import DataError

_UNREADABLE = (
    pa.ArrowException,
    pl.exceptions.PolarsError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    OSError,
    EOFError,
    ValueError,
    NotImplementedError,  # a zip file packed in a way that Python doesn't know
    RuntimeError,  # a zip file with a password
)
_KINDS = {
    b"PAR1": "parquet",
    b"ARROW1": "ipc",
    b"\xff\xff\xff\xff": "ipc",
    b"PK\x03\x04": "sheet",
    b"{": "json",
    b"[": "json",
}
"""First bytes -> format, of files whose name doesn't tell."""


_CODE = ("pkl", "pickle", "pt", "pth", "bin", "ckpt", "joblib", "dill", "npy", "npz")
"""Endings of files that run code when they are read, or may: they are refused by name."""


def chunks(
    file: SourceFile, rows: int, columns: set[str] | None = None, reading: Reading | None = None
) -> Iterator[Chunk]:
    """Read a file in chunks of at most `rows` records; an empty file has none.

    Args:
        file: what to read.
        rows: records per chunk.
        columns: the only top-level columns needed (columnar formats skip the others).
        reading: encoding, separator and bounds.

    Raises:
        DataError: the file can't be read as what it is.
    """
    if (ending := file.name.lower().rpartition(".")[2]) in _CODE:
        raise DataError(
            f"{file.name}: .{ending} files may hold pickles, which run code when they are read, so "
            "none is opened; save the rows as JSON lines or Parquet"
        )
    try:
        with _open(file, reading) as raw:
            yield from _chunks(file, raw, rows, columns, reading)
    except DataError as error:
        raise DataError(f"{file.name}: {error}") from error
    except _UNREADABLE as error:
        line = (str(error) or type(error).__name__).split("\n", 1)[0]
        raise DataError(f"{file.name} can't be read: {line}") from error


def _open(file: SourceFile, reading: Reading | None) -> AbstractContextManager[Any]:
    local = file.member is None and "://" not in file.url
    if local and format_of(file.name) == "ipc" and file.size > 0 and not _packed(file.name):
        memory: AbstractContextManager[Any] = pa.memory_map(file.url)
        return memory
    return opened(file, reading)


def _packed(name: str) -> bool:
    return name.lower().endswith(PACKED)


def _chunks(
    file: SourceFile, raw: IO[bytes], rows: int, columns: set[str] | None, reading: Reading | None
) -> Iterator[Chunk]:
    if not raw.read(1):
        return
    form = format_of(file.name) or _sniff(raw)
    if form in ("parquet", "ipc", "sheet"):
        with _seekable(file, raw, reading) as whole:
            if form == "sheet":
                yield from read_sheet(whole, rows, reading)
            else:
                read = read_parquet if form == "parquet" else read_ipc
                yield from read(whole, rows, columns, reading)
    elif form == "jsonl":
        yield from read_jsonl(raw, rows, reading, columns)
    elif form == "json":
        yield from read_json(raw, rows, reading, columns)
    elif form in ("csv", "tsv"):
        yield from read_csv(raw, rows, "\t" if form == "tsv" else ",", reading)
    else:
        raise DataError(_unknown(file.name))


def _seekable(
    file: SourceFile, raw: IO[bytes], reading: Reading | None
) -> AbstractContextManager[IO[bytes]]:
    """The file itself, or a copy on disk of what is packed."""
    if file.member is None and not _packed(file.name):
        raw.seek(0)
        return nullcontext(raw)
    pieces = Pieces(raw, reading)
    return on_disk(iter(pieces.unpacked, b""))


def _unknown(name: str) -> str:
    if name.lower().endswith((".tar", ".tar.gz", ".tgz", ".7z", ".rar", ".tar.bz2", ".tar.xz")):
        return "an archive of this kind is not read; unpack it, and give the path of the folder"
    if format_of(name) == "zip":
        return "a zip file inside a zip file is not read; unpack one of them"
    return f"the format is not known; rename it to what it is: {', '.join(FORMATS)}"


def _sniff(raw: IO[bytes]) -> str | None:
    """Format of a file whose name doesn't tell."""
    head = next(iter(Pieces(raw)), b"").lstrip()
    raw.seek(0)
    return next((form for mark, form in _KINDS.items() if head.startswith(mark)), None)


@lru_cache(maxsize=4096)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    """SHA-256 of a local file, computed once for each size and time that it had."""
    with Path(path).open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()


def evidence(file: SourceFile, reading: Reading | None = None) -> dict[str, Any]:
    """Name, size and a digest of the content: SHA-256, or what a remote filesystem offers.

    Of a member of a zip file, the digest is that of the zip file.
    """
    url = place(file, reading)
    if "://" not in url:
        stat = Path(url).stat()
        digest = _sha256(url, stat.st_size, stat.st_mtime_ns)
        size = file.size if file.size >= 0 else stat.st_size
        return {"name": file.name, "size": size, "sha256": digest}
    fs, path = fsspec.core.url_to_fs(url)
    try:
        mark = str(fs.checksum(path))
    except NotImplementedError:
        mark = str(fs.ukey(path))
    return {"name": file.name, "size": file.size, "checksum": mark}
