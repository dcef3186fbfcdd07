"""What file readers hand to layouts: raw records with their line numbers, or a table of columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import polars as pl

Record = dict[str, Any]

MAX_CHUNK_BYTES = 32 * 1024 * 1024
"""A chunk of lines ends here, however few rows it has: a bound on memory for very long texts."""


@dataclass(slots=True)
class Rejects:
    """Records that could not even be parsed: parallel lists of number, reason and detail."""

    lines: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)

    def add(self, line: int, reason: str, detail: str) -> None:
        """Enter one record."""
        self.lines.append(line)
        self.reasons.append(reason)
        self.details.append(detail)


@dataclass(slots=True)
class Chunk:
    """Consecutive records of one file.

    Attributes:
        records: parsed objects, or None where `table` holds the records as columns.
        table: columns as the file types them (Parquet, Arrow, hub; JSON lines of texts).
        lines: 1-based line or record number of each record.
        repairs: line number -> reason, of records that were mended while parsing.
        rejects: records that could not be parsed.
        notes: (line, reason, detail) of what is odd about the file as a whole.
        texts_only: values are texts, whatever they mean (csv).
        padded: nulls in values of the table stand where there is none.
    """

    lines: list[int]
    records: list[Record] | None = None
    table: pl.DataFrame | None = None
    repairs: dict[int, str] = field(default_factory=dict)
    rejects: Rejects = field(default_factory=Rejects)
    notes: list[tuple[int, str, str]] = field(default_factory=list)
    texts_only: bool = False
    padded: bool = True

    def note_encoding(self, encoding: str | None, line: int) -> None:
        """Note, once a file and at its first record, that it was decoded."""
        if encoding is not None and line == 1:
            self.notes.append((line, f"read_as_{encoding.replace('-', '_')}", "the whole file"))

    @property
    def size(self) -> int:
        """Records that could be parsed, and those that could not."""
        return len(self.lines) + len(self.rejects.lines)

    def head(self, n: int) -> Chunk:
        """The first n records in file order, parsed or not."""
        if self.size <= n:
            return self
        last = sorted([*self.lines, *self.rejects.lines])[:n][-1] if n else 0
        kept = [i for i, line in enumerate(self.lines) if line <= last]
        bad = [i for i, line in enumerate(self.rejects.lines) if line <= last]
        rejects = self.rejects
        return Chunk(
            lines=[self.lines[i] for i in kept],
            records=None if self.records is None else [self.records[i] for i in kept],
            table=None if self.table is None else self.table.head(len(kept)),
            repairs=self.repairs,
            rejects=Rejects(
                [rejects.lines[i] for i in bad],
                [rejects.reasons[i] for i in bad],
                [rejects.details[i] for i in bad],
            ),
            notes=self.notes,
            texts_only=self.texts_only,
            padded=self.padded,
        )
