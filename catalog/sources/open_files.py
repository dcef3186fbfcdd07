"""Open a file of a source, whatever its place and format, and tell which bytes it holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa

from catalog.sources.arrow_files import read_ipc, read_parquet
from catalog.sources.chunks import Chunk
from catalog.sources.csv_files import read_csv
from catalog.sources.json_files import read_json, read_jsonl
from catalog.sources.pieces import Pieces
from catalog.sources.resolve import FORMATS, format_of
from catalog.sources.spec import SourceFile
from prefactory.errors import DataError


def chunks(file: SourceFile, rows: int, columns: set[str] | None = None) -> Iterator[Chunk]:
    """Read a file in chunks of at most `rows` records.

    Args:
        file: what to read.
        rows: records per chunk.
        columns: the only top-level columns needed (columnar formats skip the others).

    Raises:
        DataError: the file can't be read as what it is.
    """
    try:
        with _open(file) as raw:
            yield from _chunks(file, raw, rows, columns)
    except (pa.ArrowException, OSError) as error:
        line = str(error).split("\n", 1)[0]
        raise DataError(f"{file.name} can't be read: {line}") from error
    except DataError as error:
        raise DataError(f"{file.name}: {error}") from error


def _open(file: SourceFile) -> Any:  # noqa: ANN401 - Python file, fsspec file or memory map
    if "://" in file.url:
        fs, path = fsspec.core.url_to_fs(file.url)
        return fs.open(path, "rb")
    if format_of(file.name) == "ipc" and file.size > 0:
        return pa.memory_map(file.url)
    return Path(file.url).open("rb")


def _chunks(
    file: SourceFile, raw: IO[bytes], rows: int, columns: set[str] | None
) -> Iterator[Chunk]:
    form = format_of(file.name) or _sniff(raw)
    if form == "parquet":
        return read_parquet(raw, rows, columns)
    if form == "ipc":
        return read_ipc(raw, rows, columns)
    if form == "jsonl":
        return read_jsonl(raw, rows)
    if form == "json":
        return read_json(raw, rows)
    if form in ("csv", "tsv"):
        return read_csv(raw, rows, "\t" if form == "tsv" else ",")
    raise DataError(f"the format is not known; rename it to one of {', '.join(FORMATS)}")


def _sniff(raw: IO[bytes]) -> str | None:
    """Format of a file whose name doesn't tell."""
    head = next(iter(Pieces(raw)), b"").lstrip()
    raw.seek(0)
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "ipc"
    return "json" if head[:1] in (b"{", b"[") else None


@lru_cache(maxsize=4096)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    """SHA-256 of a local file, computed once for each size and time that it had."""
    with Path(path).open("rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()


def evidence(file: SourceFile) -> dict[str, Any]:
    """Name, size and a digest of the content: SHA-256, or what a remote filesystem offers."""
    if "://" not in file.url:
        stat = Path(file.url).stat()
        digest = _sha256(file.url, stat.st_size, stat.st_mtime_ns)
        return {"name": file.name, "size": file.size, "sha256": digest}
    fs, path = fsspec.core.url_to_fs(file.url)
    try:
        mark = str(fs.checksum(path))
    except NotImplementedError:
        mark = str(fs.ukey(path))
    return {"name": file.name, "size": file.size, "checksum": mark}
