"""Reader of csv and tsv files, plain or gzipped: every value stays a text until it is cast."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from typing import IO

from catalog.sources.chunks import MAX_CHUNK_BYTES, Chunk
from catalog.sources.json_files import mended
from catalog.sources.pieces import Pieces
from prefactory.errors import DataError


def read_csv(raw: IO[bytes], rows: int, delimiter: str = ",") -> Iterator[Chunk]:
    """Read records under a header line; records are numbered by the line they start on.

    A record with more or fewer cells than the header is rejected, and so is one whose quoting is
    broken. Bytes that are no UTF-8 are replaced by U+FFFD.

    Args:
        raw: an open, seekable binary file.
        rows: records per chunk, fewer if their texts are very long.
        delimiter: what stands between two cells.
    """
    csv.field_size_limit(sys.maxsize)
    pieces = Pieces(raw)
    reader = csv.reader(_texts(pieces), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    chunk, size = Chunk(lines=[], records=[], texts_only=True), 0
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            reason = "truncated_file" if pieces.cut is not None else "malformed"
            chunk.rejects.add(line, reason, pieces.cut or str(error))
            if pieces.cut is not None:
                break
            continue
        if cells is None:
            if pieces.cut is not None:
                chunk.rejects.add(line, "truncated_file", pieces.cut)
            break
        if not cells:
            continue
        if header is None:
            header = _header(cells)
            continue
        size += _enter(chunk, line, header, cells)
        if chunk.size >= rows or size >= MAX_CHUNK_BYTES:
            yield chunk
            chunk, size = Chunk(lines=[], records=[], texts_only=True), 0
    if chunk.size:
        yield chunk


def _texts(pieces: Pieces) -> Iterator[str]:
    for _, lines in pieces.lines():
        for line in lines:
            yield line.decode(errors="surrogateescape") + "\n"


def _header(cells: list[str]) -> list[str]:
    named = [c for c in cells if c]
    twice = sorted({c for c in named if named.count(c) > 1})
    if twice:
        raise DataError(f"the header of the csv file names {', '.join(twice)} more than once")
    return cells


def _enter(chunk: Chunk, line: int, header: list[str], cells: list[str]) -> int:
    if len(cells) != len(header):
        detail = f"{len(cells)} cells under a header of {len(header)}"
        chunk.rejects.add(line, "malformed", detail)
        return 0
    text = "".join(cells)
    try:
        text.encode()
    except UnicodeEncodeError:
        cells = mended(cells)
        chunk.repairs[line] = "not_utf8"
    chunk.lines.append(line)
    if chunk.records is not None:
        chunk.records.append(dict(zip(header, cells, strict=True)))
    return len(text)
