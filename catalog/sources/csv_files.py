"""Reader of csv and tsv files, plain or packed: every value stays a text until it is cast."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

from catalog.sources.chunks import MAX_CHUNK_BYTES, Chunk
from catalog.sources.pieces import Pieces, decoded
from catalog.sources.spec import Reading
from prefactory.errors import DataError

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
SAMPLE_RECORDS = 50
SAMPLE_CHARS = 1_000_000
_STATED = re.compile(r"\s*sep=(.)\s*\n")
"""The line that Excel writes and reads to say what separates."""


def read_csv(
    raw: IO[bytes], rows: int, separator: str = ",", reading: Reading | None = None
) -> Iterator[Chunk]:
    """Read records under a header line; records are numbered by the line they start on.

    Cells are separated by what the header and the first records agree on: `separator`, or else a
    comma, semicolon, tab or bar; a note says if it is not `separator`. A record with more or fewer
    cells than the header is rejected, and so is one whose quoting is broken; a quote that never
    closes costs its own line only. Bytes that are no UTF-8 are read as Western text, or replaced by
    U+FFFD.

    Args:
        raw: an open, seekable binary file.
        rows: records per chunk, fewer if their texts are very long.
        separator: what stands between two cells as a rule.
        reading: encoding, separator and bounds, if they are stated.
    """
    lines = _Lines(Pieces(raw, reading))
    stated = lines.pieces.reading.separator
    used = stated or lines.separator() or _separator(lines.head, separator)
    csv.field_size_limit(lines.pieces.reading.record_bytes)
    header: list[str] | None = None
    chunk, size = Chunk(lines=[], records=[], texts_only=True), 0
    for start, cells, problem in _records(lines, used):
        if problem is not None:
            if header is None:
                raise DataError(f"the header of the csv file can't be read: {problem[1]}")
            chunk.rejects.add(start, *problem)
        elif header is None:
            header = _header(cells)
            chunk.note_encoding(lines.pieces.encoding, 1)
            if used != separator and stated is None:
                name = SEPARATORS.get(used, repr(used))
                chunk.notes.append((start, f"separated_by_{name}", "the whole file"))
            continue
        else:
            size += _enter(chunk, start, header, cells, lines)
        if chunk.size >= rows or size >= MAX_CHUNK_BYTES:
            yield chunk
            chunk, size = Chunk(lines=[], records=[], texts_only=True), 0
    if lines.pieces.cut is not None:
        chunk.rejects.add(lines.number + 1, "truncated_file", lines.pieces.cut)
    if chunk.size:
        yield chunk


@dataclass
class _Lines:
    """The lines of a file as texts, numbered from 1; what was read can be read again.

    Attributes:
        head: the first of them, which will be read again.
        number: of the line that was read last.
        repairs: number -> what was mended, of lines since the last record.
        odd: numbers of lines since the last record that are left out, being too long.
    """

    pieces: Pieces
    head: list[str] = field(default_factory=list)
    number: int = 0
    repairs: dict[int, str] = field(default_factory=dict)
    odd: set[int] = field(default_factory=set)
    _again: list[str] = field(default_factory=list)
    _since: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._source = self._decoded()
        size = 0
        for line in self._source:
            self.head.append(line)
            size += len(line)
            if len(self.head) >= SAMPLE_RECORDS * 4 or size > SAMPLE_CHARS:
                break
        self._again = self.head[::-1]

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.pop() if self._again else next(self._source)
        self.number += 1
        self._since.append(line)
        return line

    def _decoded(self) -> Iterator[str]:
        stated = self.pieces.reading.encoding is not None
        for first, lines in self.pieces.lines():
            for number, line in enumerate(lines, first):
                text, repair = decoded(line, stated)
                if repair is not None:
                    self.repairs[number] = repair
                if number in self.pieces.long:
                    self.odd.add(number)
                yield text + "\n"

    def separator(self) -> str | None:
        """What the first line states, if it does nothing else: `sep=;`; that line is done with."""
        line = _STATED.fullmatch(self.head[0]) if self.head else None
        if line is None:
            return None
        next(self)
        return line[1]

    def forget(self) -> None:
        """Begin a record: what was read is done with."""
        self._since.clear()
        if self.repairs:
            self.repairs = {n: r for n, r in self.repairs.items() if n > self.number}
        if self.odd:
            self.odd = {n for n in self.odd if n > self.number}

    def quotes(self) -> int:
        """How many quotes the record has as it stands: an even number, if it is quoted rightly."""
        return sum(line.count('"') for line in self._since)

    def go_back(self) -> bool:
        """Read all lines of the record again but its first; false if it has only one."""
        again = self._since[1:]
        self._again += again[::-1]
        self.number -= len(again)
        self._since = self._since[:1]
        return bool(again)


def _records(
    lines: _Lines, separator: str
) -> Iterator[tuple[int, list[str], tuple[str, str] | None]]:
    """Yield (line it starts on, cells, None or (reason, detail) of what is wrong with it).

    After a quote that never closes, the lines it swallowed are read again, one by one: there, a
    line with an odd number of quotes can't be a record.
    """
    reader = csv.reader(lines, delimiter=separator, strict=True)
    until = 0
    while True:
        lines.forget()
        start = lines.number + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            if lines.pieces.cut is not None and "end of data" in str(error):
                lines.number = start - 1  # the record that the cut went through
                return
            end = lines.number
            if lines.go_back():
                until = max(until, end)
                reader = csv.reader(lines, delimiter=separator, strict=True)
            reason = "too_long" if "field limit" in str(error) else "malformed"
            yield start, [], (reason, str(error))
            continue
        if cells is None:
            return
        if lines.odd and min(lines.odd) <= lines.number:
            yield start, [], ("too_long", lines.pieces.too_long())
        elif start <= until and lines.quotes() % 2:
            yield start, [], ("malformed", "a quote stands alone after one that never closes")
        elif cells:
            yield start, cells, None


def _separator(head: list[str], usual: str) -> str:
    """What separates the cells, by the header and the first records.

    The usual one, if the header has two cells in it and half of the records as many as the header;
    else the one that most records agree on.
    """
    shares = {separator: _agreement(head, separator) for separator in (usual, *SEPARATORS)}
    best = max(shares, key=lambda s: shares[s])
    return usual if shares[usual] >= 0.5 or shares[best] < 0.5 else best


def _agreement(head: list[str], separator: str) -> float:
    """Share of the first records with as many cells as the header; 0 if that has one cell only."""
    reader = csv.reader(head, delimiter=separator, strict=True)
    counts: list[int] = []
    while len(counts) < SAMPLE_RECORDS:
        try:
            cells = next(reader, None)
        except csv.Error:
            counts.append(-1)
            continue
        if cells is None:
            break
        if cells:
            counts.append(len(cells))
    if not counts or counts[0] < 2:
        return 0.0
    return counts.count(counts[0]) / len(counts)


def _header(cells: list[str]) -> list[str]:
    named = [c for c in cells if c]
    twice = sorted({c for c in named if named.count(c) > 1})
    if twice:
        raise DataError(f"the header of the csv file names {', '.join(twice)} more than once")
    return cells


def _enter(chunk: Chunk, line: int, header: list[str], cells: list[str], lines: _Lines) -> int:
    if len(cells) != len(header):
        detail = f"{len(cells)} cells under a header of {len(header)}"
        chunk.rejects.add(line, "malformed", detail)
        return 0
    if lines.repairs:
        repairs = [r for n, r in lines.repairs.items() if line <= n <= lines.number]
        if repairs:
            chunk.repairs[line] = "not_utf8" if "not_utf8" in repairs else repairs[0]
    chunk.lines.append(line)
    if chunk.records is not None:
        chunk.records.append(dict(zip(header, cells, strict=True)))
    return sum(map(len, cells))
