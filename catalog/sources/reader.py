"""Open a source: find its files, recognise its layout, and read it in blocks."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from catalog.sources.chunks import Chunk
from catalog.sources.columns import ROW, typed
from catalog.sources.detect import Plan, Sample, plan_for
from catalog.sources.finish import finish
from catalog.sources.hub import hub_chunks, hub_revision, hub_splits
from catalog.sources.layouts.base import Surroundings
from catalog.sources.open_files import chunks, evidence
from catalog.sources.questions import question_files, read_questions
from catalog.sources.resolve import resolve
from catalog.sources.spec import LEDGER, Block, SourceFile, SourceSpec
from prefactory.errors import DataError
from prefactory.shards import in_order
from prefactory.tables import Shape

READER_VERSION = 1
"""Part of every identity: bump it when the same source gives other rows."""

SAMPLE_ROWS = 100


@dataclass(frozen=True)
class OpenSource:
    """A source that can be read. Make it with `open_source`.

    Attributes:
        spec: what was asked for.
        layout: name of the layout.
        shape: of its rows.
        files: its files (or hub splits), sorted by name.
        schema: exact columns of every block's rows.
        commit: revision of a hub dataset, resolved.
        questions: files that hold the prompts, for layouts that need them.
    """

    spec: SourceSpec
    layout: str
    shape: Shape
    files: list[SourceFile]
    schema: dict[str, pl.DataType]
    name: str
    plan: Plan = field(repr=False)
    commit: str | None = None
    questions: tuple[SourceFile, ...] = ()
    around: Surroundings = field(default_factory=Surroundings, repr=False)

    def identity(self) -> dict[str, Any]:
        """Everything that decides the rows, as plain JSON: layout, names, and files by content.

        Absolute paths and the order of the files are no part of it.
        """
        spec = self.spec
        mapping = {k: v for k, v in sorted(spec.mapping.items()) if k != "questions"}
        hub = {"dataset": self.files[0].url, "config": spec.config, "commit": self.commit}
        return {
            "reader": READER_VERSION,
            "layout": self.layout,
            "mapping": mapping,
            "name": self.name,
            "label_source": spec.label_source,
            "limit": spec.limit,
            **({"hub": hub} if self.commit else {}),
            "files": [
                {"name": f.name} if self.commit else evidence(f)
                for f in sorted(self.files, key=lambda f: f.name)
            ],
            **({"questions": [evidence(f) for f in self.questions]} if self.questions else {}),
        }

    def read(self, file: SourceFile, block_rows: int = 16384) -> Iterator[Block]:
        """Read one file of the source, a block at a time, in order.

        Where there are fewer files than processors, the next blocks are made while one is used.

        Memory is bounded by the block, except for a file that is one JSON array: it is read whole.

        Args:
            file: one of `files`.
            block_rows: records per block at most; very long texts make it fewer.
        """
        ahead = min(3, (os.cpu_count() or 1) // max(1, len(self.files)) - 1)
        chunks = self._limited(file, block_rows)
        return in_order(chunks, lambda chunk: self._block(chunk, file), ahead)

    def _limited(self, file: SourceFile, block_rows: int) -> Iterator[Chunk]:
        """The chunks of a file, up to the limit of the spec."""
        columns = {path[0] for path in self.plan.binding.values()}
        limit = self.spec.limit
        rows = block_rows if limit is None else max(1, min(block_rows, limit))
        left = limit
        for chunk in _chunks(self.spec, file, rows, columns, self.commit):
            part = chunk if left is None else chunk.head(left)
            if part.size:
                yield part
            if left is not None:
                left -= part.size
                if left <= 0:
                    return

    def _block(self, chunk: Chunk, file: SourceFile) -> Block:
        layout = self.plan.layout
        frame = typed(chunk, file.name, self.plan.fields, self.plan.binding)
        draft = layout.build(frame, self.around)
        frame = self._with_provenance(draft.frame)
        block = finish(
            type(draft)(frame, draft.rejects, draft.notes),
            layout.shape,
            self.schema,
            layout.keeps_side_ids,
        )
        bad = chunk.rejects
        if not bad.lines:
            return block
        unread = pl.DataFrame(
            {
                "row_id": [f"{file.name}:{n}" for n in bad.lines],
                "reason": bad.reasons,
                "detail": bad.details,
            },
            schema=LEDGER,
        )
        rejected = pl.concat([block.rejected, unread])
        return Block(block.rows, rejected, block.notes, block.n_records + unread.height)

    def _with_provenance(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Add the columns that say where a row is from and who labelled it, and those it lacks."""
        spec, layout = self.spec, self.plan.layout
        defaults = {"source": pl.lit(self.name), "source_id": pl.col(ROW)}
        given = {"source": spec.name}
        if self.shape == Shape.PAIRS:
            defaults["label_source"] = pl.lit(layout.label_source)
            given["label_source"] = spec.label_source
        columns = []
        for name, default in defaults.items():
            value = given.get(name)
            if value is not None:
                default = pl.lit(value)
            elif name in frame.columns:
                default = pl.coalesce(pl.col(name), default)
            columns.append(default.cast(pl.String).alias(name))
        ids = {"prompt_id", "response_id", "pair_id", "chosen_id", "rejected_id"}
        columns += [
            pl.lit(None, dtype=dtype).alias(name)
            for name, dtype in self.schema.items()
            if name not in frame.columns and name not in ids and name not in defaults
        ]
        return frame.with_columns(columns)


@dataclass(frozen=True, slots=True)
class Peek:
    """A look at a source: counts over all its records, and its first rows."""

    layout: str
    shape: Shape
    files: list[SourceFile]
    n_records: int
    n_rows: int
    rejected: Mapping[str, int]
    notes: Mapping[str, int]
    rows: pl.DataFrame


def open_source(spec: SourceSpec, base: Path | None = None) -> OpenSource:
    """Find the files of a source and its layout.

    Args:
        spec: what to open.
        base: folder that a relative path starts from (the recipe's); the current one if None.

    Raises:
        DataError: nothing is there, a file can't be read, or the layout is not known.
    """
    resolved = resolve(spec, base)
    commit = hub_revision(resolved.hub, spec.revision) if resolved.hub else None
    files = resolved.files
    if resolved.hub and commit:
        files = hub_splits(spec, resolved.hub, commit)
    where = f"source {spec.path!r}"
    plan = _planned(spec, files, commit, where)
    questions: tuple[SourceFile, ...] = ()
    around = Surroundings()
    if plan.layout.wants_questions and (not resolved.hub or "questions" in spec.mapping):
        questions = question_files(spec, base, files)
        around = Surroundings(read_questions(questions))
        files = tuple(f for f in files if f.url not in {q.url for q in questions})
    return OpenSource(
        spec=spec,
        layout=plan.layout.name,
        shape=plan.layout.shape,
        files=list(files),
        schema=plan.schema(),
        name=spec.name or resolved.name,
        plan=plan,
        commit=commit,
        questions=questions,
        around=around,
    )


def peek(source: OpenSource | SourceSpec, n: int = 3) -> Peek:
    """Read a whole source and tell what is in it.

    Args:
        source: an open source, or the spec of one.
        n: how many of the first rows to keep.
    """
    opened = open_source(source) if isinstance(source, SourceSpec) else source
    rejected: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    records = rows = 0
    first = [pl.DataFrame(schema=opened.schema)]
    for file in opened.files:
        for block in opened.read(file):
            if rows < n:
                first.append(block.rows.head(n - rows))
            records += block.n_records
            rows += block.rows.height
            rejected.update(block.rejected["reason"])
            notes.update(block.notes["reason"])
    return Peek(
        opened.layout,
        opened.shape,
        opened.files,
        records,
        rows,
        dict(rejected),
        dict(notes),
        pl.concat(first),
    )


def _chunks(
    spec: SourceSpec, file: SourceFile, rows: int, columns: set[str] | None, commit: str | None
) -> Iterator[Chunk]:
    if commit is not None:
        return hub_chunks(file, rows, columns, spec.config, commit)
    return chunks(file, rows, columns)


def _planned(
    spec: SourceSpec, files: tuple[SourceFile, ...], commit: str | None, where: str
) -> Plan:
    """Read the first records of the source, and find its layout."""
    columns: dict[str, None] = {}
    records: list[dict[str, Any]] = []
    texts_only = False
    images: pl.DataType | None = None
    problems: list[str] = []
    for file in files:
        for chunk in islice(_chunks(spec, file, SAMPLE_ROWS, None, commit), 3):
            problems += chunk.rejects.details[:1]
            texts_only = texts_only or chunk.texts_only
            if chunk.table is not None:
                columns |= dict.fromkeys(chunk.table.columns)
                images = chunk.table.schema.get("images", images)
            new = chunk.records if chunk.records is not None else _dicts(chunk.table)
            columns |= {key: None for record in new for key in record}
            records += new
            if len(records) >= SAMPLE_ROWS:
                break
        if len(records) >= SAMPLE_ROWS:
            break
    if not columns:
        why = f"; the first problem: {problems[0]}" if problems else ""
        raise DataError(f"{where} holds no record that can be read{why}; look at the file")
    sample = Sample(list(columns), records, texts_only, images)
    return plan_for(sample, spec.layout, spec.mapping, where)


def _dicts(table: pl.DataFrame | None) -> list[dict[str, Any]]:
    return [] if table is None else table.head(SAMPLE_ROWS).to_dicts()
