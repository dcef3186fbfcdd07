"""The first records of a source, by which its layout is found, and some of each later column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from catalog.sources.chunks import Chunk, Record
from catalog.sources.hub import hub_chunks
from catalog.sources.late import filled_columns, filled_rows, is_empty
from catalog.sources.open_files import chunks
from catalog.sources.pictures.read import shows_pictures
from catalog.sources.resolve import format_of
from catalog.sources.spec import SourceFile, SourceSpec

SAMPLE_ROWS = 100
SCAN_ROWS = 4096
_KEYS_IN_RECORDS = ("jsonl", "json", None)
"""Formats whose columns are known only when all records were seen."""


def source_chunks(
    spec: SourceSpec, file: SourceFile, rows: int, columns: set[str] | None, commit: str | None
) -> Iterator[Chunk]:
    """Read a file or a hub split in chunks of at most `rows` records (see `open_files.chunks`)."""
    if commit is not None:
        return hub_chunks(spec, file, rows, columns, commit)
    return chunks(file, rows, columns, spec.reading)


@dataclass
class FirstRecords:
    """The first records of all files together, and some of each column that comes later.

    Attributes:
        columns: all that were seen.
        filled: those of them that held something.
        whole: all records are looked at.
    """

    columns: dict[str, None] = field(default_factory=dict)
    filled: set[str] = field(default_factory=set)
    records: list[Record] = field(default_factory=list)
    texts_only: bool = False
    problems: list[str] = field(default_factory=list)
    whole: bool = False

    @property
    def enough(self) -> bool:
        """Whether there are as many records as the layout is found by."""
        return len(self.records) >= SAMPLE_ROWS

    def file(self, spec: SourceSpec, file: SourceFile, commit: str | None, *, whole: bool) -> None:
        """Look at the first records of a file; at all, or at what the schema tells."""
        if self.enough and not whole and not self._is_new(spec, file, commit):
            return
        rows, left = (SCAN_ROWS if self.enough and whole else SAMPLE_ROWS), spec.limit
        for i, chunk in enumerate(source_chunks(spec, file, rows, None, commit)):
            part = chunk
            if left is not None and (i > 2 or self.enough):
                part = chunk.head(max(left, 0))  # the layout is found by all first records
            self.chunk(part)
            if left is not None:
                left -= part.size
            more = part.records is not None or self.columns.keys() - self.filled
            ended = left is not None and left <= 0
            if ended or ((self.enough or i == 2) and not (whole and more)):
                return

    def _is_new(self, spec: SourceSpec, file: SourceFile, commit: str | None) -> bool:
        """Whether a file has columns that were not seen, as far as its schema tells."""
        if commit is not None or format_of(file.name) in _KEYS_IN_RECORDS:
            return False
        chunk = next(source_chunks(spec, file, 1, set(), commit), None)
        if chunk is None:
            return False
        names = chunk.table.columns if chunk.table is not None else (chunk.records or [{}])[0]
        return bool({*names} - self.columns.keys())

    def chunk(self, chunk: Chunk) -> None:
        """Look at some records."""
        self.problems += chunk.rejects.details[:1]
        self.texts_only = self.texts_only or chunk.texts_only
        records = chunk.records
        if chunk.table is not None:
            names = dict.fromkeys(chunk.table.columns)
            table = chunk.table
            if self.enough:
                table = filled_rows(chunk, (self.columns | names).keys() - self.filled)[0]
            self.columns |= names
            records = table.to_dicts()
        self.enter(records or ())

    def enter(self, records: Sequence[Record]) -> None:
        """Keep records until there are enough, and later those that fill new columns."""
        room = max(SAMPLE_ROWS - len(self.records), 0)
        self._keep(records[:room])
        rest = records[room:]
        if new := filled_columns(rest, self.filled):
            some = (r for r in rest if any(not is_empty(r.get(name)) for name in new))
            self._keep(list(islice(some, SAMPLE_ROWS)))
        if self.whole:  # a first picture among the parts of messages may come late, too
            shown = (r for r in rest if any(map(shows_pictures, r.values())))
            self._keep(list(islice(shown, 1)))

    def _keep(self, records: Sequence[Record]) -> None:
        for record in records:
            self.columns |= dict.fromkeys(record)
            self.filled |= {name for name, value in record.items() if not is_empty(value)}
        self.records += records
