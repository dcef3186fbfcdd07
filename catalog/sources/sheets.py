"""Reader of spreadsheets (xlsx, xlsm, ods): one sheet as records of texts, like a csv file."""

from __future__ import annotations

import datetime
import zipfile
from collections.abc import Iterator
from typing import IO, Any

from catalog.sources.chunks import Chunk
from catalog.sources.spec import Reading
from prefactory.errors import DataError

MAX_BYTES = 1_000_000_000
"""Bytes that a spreadsheet may hold unpacked: it is read whole."""


def read_sheet(raw: IO[bytes], rows: int, reading: Reading | None = None) -> Iterator[Chunk]:
    """Read the first sheet whose first row that is not empty has two texts: its header.

    Records are numbered by their row; numbers, dates and truth values become texts. The sheets that
    are not read are noted.

    Args:
        raw: an open, seekable binary file.
        rows: records per chunk.
        reading: bounds.

    Raises:
        DataError: it is no spreadsheet, has no such sheet, or holds more than it may.
    """
    from python_calamine import CalamineError, CalamineWorkbook

    _check(raw, min(MAX_BYTES, (reading or Reading()).file_bytes))
    try:
        book = CalamineWorkbook.from_filelike(raw)
        names = list(book.sheet_names)
        sheets = ((n, book.get_sheet_by_name(n).to_python(skip_empty_area=False)) for n in names)
        name, table = next(((n, t) for n, t in sheets if _headed(t)), (None, []))
    except CalamineError as error:
        raise DataError(f"it is no spreadsheet that can be read: {error}") from error
    if name is None:
        raise DataError(f"no sheet begins with a row of column names; its sheets: {names}")
    others = [n for n in names if n != name]
    yield from _chunks(
        table, rows, [(1, "sheet_not_read", f"{n!r}; read: {name!r}") for n in others]
    )


def _check(raw: IO[bytes], most: int) -> None:
    """Unpack it once without keeping anything, so that its size and its sums are known.

    Raises:
        DataError: it is no zip file, is damaged, or holds more than `most` bytes.
    """
    size = 0
    try:
        with zipfile.ZipFile(raw) as archive:
            for info in archive.infolist():
                with archive.open(info) as member:
                    while piece := member.read(1024 * 1024):
                        size += len(piece)
                        if size > most:
                            raise DataError(
                                f"it unpacks to more than {most / 1e9:g} GB; save the sheet as csv"
                            )
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise DataError(f"it is no spreadsheet that can be read: {error}") from error
    raw.seek(0)


def _first(table: list[list[Any]]) -> int | None:
    """Place of the first row that is not empty."""
    return next((i for i, row in enumerate(table) if any(_text(v) for v in row)), None)


def _headed(table: list[list[Any]]) -> bool:
    first = _first(table)
    names = [] if first is None else [v for v in table[first] if isinstance(v, str) and v.strip()]
    return len(names) >= 2


def _chunks(
    table: list[list[Any]], rows: int, notes: list[tuple[int, str, str]]
) -> Iterator[Chunk]:
    start = _first(table) or 0
    header = [_text(v).strip() for v in table[start]]
    named = [i for i, name in enumerate(header) if name]
    twice = sorted({header[i] for i in named if header.count(header[i]) > 1})
    if twice:
        raise DataError(f"the header of the sheet names {', '.join(twice)} more than once")
    chunk = Chunk(lines=[], records=[], texts_only=True, notes=notes)
    for number, row in enumerate(table[start + 1 :], start + 2):
        cells = {header[i]: _text(row[i]) for i in named}
        if not any(cells.values()):
            continue
        chunk.lines.append(number)
        assert chunk.records is not None  # noqa: S101 - made with records above
        chunk.records.append(cells)
        if chunk.size >= rows:
            yield chunk
            chunk = Chunk(lines=[], records=[], texts_only=True)
    if chunk.size:
        yield chunk


def _text(value: Any) -> str:  # noqa: ANN401 - text, number, truth value, date, time
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)
