"""Reader of spreadsheets (xlsx, xlsm, ods): one sheet as records of texts, like a csv file."""

from __future__ import annotations

import datetime
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any
from xml.parsers import expat  # bounds what entities stand for

from catalog.sources.chunks import Chunk
from catalog.sources.spec import Reading
from prefactory.errors import DataError

MAX_BYTES = 1_000_000_000
"""Bytes that a spreadsheet may hold unpacked: it is read whole."""
MAX_CELLS = 20_000_000
"""Cells of a sheet, the empty ones between its corners too."""
_CELL = re.compile(r"([A-Z]{1,3})([0-9]{1,7})")
_SHARED = "xl/sharedStrings.xml"
_XML = re.compile(rb"(\xef\xbb\xbf|\xff\xfe|\xfe\xff)?\s*\0?<")


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
    """Unpack it once without keeping anything, so that its size, sums and cells are known.

    Raises:
        DataError: it is no zip file, is damaged, or holds or stands for more than `most` bytes.
    """
    size = 0
    shared: list[int] = []
    try:
        with zipfile.ZipFile(raw) as archive:
            # the texts that cells share, before the cells
            for info in sorted(archive.infolist(), key=lambda i: i.filename != _SHARED):
                extent = None
                with archive.open(info) as member:
                    while piece := member.read(1024 * 1024):
                        if member.tell() == len(piece) and _XML.match(piece):
                            extent = Extent(most, shared)
                        if extent is not None:
                            extent.feed(piece)
                        size += len(piece)
                        if size > most:
                            raise DataError(
                                f"it unpacks to more than {most / 1e9:g} GB; save the sheet as csv"
                            )
                if extent is not None:
                    extent.feed(b"", last=True)
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


@dataclass
class Extent:
    """How many cells and characters a file stands for, told from its XML in pieces.

    A sheet with one cell in its last corner, a row that is repeated a million times, or a long text
    that a million cells share, is a small file that would fill memory.

    Attributes:
        texts: of cells, at most, together.
        shared: characters of the texts that cells name by their number (xlsx), filled by the file
            that has them.
    """

    texts: int
    shared: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._row = self._column = self._rows = self._columns = self._characters_seen = 0
        self._first: tuple[int, int] | None = None
        self._repeated_rows = self._repeated_columns = 1
        self._filled = 0
        self._length, self._said, self._is_shared = 0, "", False

    def feed(self, piece: bytes, *, last: bool = False) -> None:
        """Read on.

        Raises:
            DataError: it stands for too much, or is no XML.
        """
        try:
            self._parser.Parse(piece, last)
        except expat.ExpatError as error:
            raise DataError(f"it is no spreadsheet that can be read: {error}") from error

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        kind = name.rpartition(" ")[2]
        plain = {key.rpartition(" ")[2]: value for key, value in attributes.items()}
        if kind in ("row", "table-row"):
            self._repeated_rows = _number(plain.get("number-rows-repeated"), 1)
            self._row = _number(plain.get("r"), self._row + 1)
            self._column = self._filled = 0
        elif kind == "c":
            place = _CELL.fullmatch(plain.get("r", ""))
            column = self._column + 1 if place is None else _letters(place[1])
            self._reach(self._row if place is None else int(place[2]), column)
            self._column = column
            self._is_shared, self._said = plain.get("t") == "s", ""
        elif kind in ("table-cell", "covered-table-cell"):
            self._repeated_columns = _number(plain.get("number-columns-repeated"), 1)
            self._filled += self._repeated_columns
            self._length = len(plain.get("value", "")) + len(plain.get("string-value", ""))
        elif kind == "si":
            self._length = 0

    def _characters(self, text: str) -> None:
        self._length += len(text)
        if self._is_shared:
            self._said += text[:20]

    def _end(self, name: str) -> None:
        kind = name.rpartition(" ")[2]
        if kind == "si":
            self.shared.append(self._length)
        elif kind == "c" and self._is_shared:
            number = _number(self._said.strip(), len(self.shared))
            self._add(self.shared[number] if number < len(self.shared) else 0)
            self._is_shared = False
        elif kind == "table-cell" and self._length:
            self._reach(self._row, self._filled - self._repeated_columns + 1)
            self._reach(self._row + self._repeated_rows - 1, self._filled)
            self._add(self._length * self._repeated_columns * self._repeated_rows)
        elif kind == "table-row":
            self._row += self._repeated_rows - 1

    def _add(self, characters: int) -> None:
        self._characters_seen += characters
        if self._characters_seen > self.texts:
            raise DataError(
                f"its cells hold more than {self.texts / 1e9:g} GB of text; save the sheet as csv"
            )

    def _reach(self, row: int, column: int) -> None:
        first = self._first or (row, column)
        self._first = min(first[0], row), min(first[1], column)
        self._rows, self._columns = max(self._rows, row), max(self._columns, column)
        cells = (self._rows - self._first[0] + 1) * (self._columns - self._first[1] + 1)
        if cells > MAX_CELLS:
            raise DataError(
                f"a sheet spans more than {MAX_CELLS:,} cells ({self._rows:,} rows, "
                f"{self._columns:,} columns); save it as csv"
            )


def _number(text: str | None, other: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else other


def _letters(text: str) -> int:
    value = 0
    for letter in text:
        value = value * 26 + ord(letter) - 64
    return value
