"""Open a source: find its files, recognise its layout, and read it in blocks."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from catalog.sources.account import EMPTY, Account
from catalog.sources.chunks import Chunk, Record
from catalog.sources.columns import ROW, typed, value_at
from catalog.sources.detect import ANNOTATOR, MissingColumnError, Plan, Sample, plan_for
from catalog.sources.fields import CONVERSATIONS
from catalog.sources.finish import finish
from catalog.sources.first_records import SAMPLE_ROWS, FirstRecords, source_chunks
from catalog.sources.hub import hub_revision, hub_splits
from catalog.sources.late import LateColumnsError, filled_columns, filled_rows, is_empty
from catalog.sources.layouts.base import FIRST_BETTER, Surroundings
from catalog.sources.open_files import evidence
from catalog.sources.parts import with_parts
from catalog.sources.pictures.allowed import AllowedImages, Fetcher, fetcher
from catalog.sources.pictures.read import Reader as PictureReader
from catalog.sources.pictures.read import (
    found_pictures,
    picture_parts,
    pictures_of,
    records_of,
    to_fetch,
    with_pictures,
)
from catalog.sources.questions import BESIDE, files_beside, read_answers, read_questions
from catalog.sources.resolve import resolve
from catalog.sources.spec import LEDGER, Block, SourceFile, SourceSpec
from prefactory.ahead import in_order
from prefactory.errors import DataError
from prefactory.images.marks import MARK
from prefactory.preferences.draws import one_draw
from prefactory.tables import LABEL_SOURCES, SIDES, Shape, stacked

READER_VERSION = 2
"""Part of every identity: bump it when the same source gives other rows."""

T = TypeVar("T")


@dataclass(frozen=True)
class OpenSource:
    """A source that can be read. Make it with `open_source`.

    Attributes:
        spec: what was asked for.
        layout: name of the layout.
        shape: of its rows.
        files: its files (or hub splits), sorted by name.
        schema: columns of every block's rows; conversations have more keys where a block has them.
        commit: revision of a hub dataset, resolved.
        questions: files that hold the prompts (and answers), for layouts that need them.
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
    base: Path | None = None
    fetcher: Fetcher = field(default_factory=lambda: Fetcher((), ()), repr=False)

    @property
    def account(self) -> Account:
        """What becomes of each column that was seen when the source was opened."""
        return self.plan.account

    @property
    def unasked(self) -> frozenset[str]:
        """Extra columns that are carried along though nobody has named them."""
        return frozenset(self.account.carried.values()) - {*self.spec.mapping, *self.spec.carry}

    def whole(self) -> OpenSource:
        """The same source, opened once more after a look at the columns of every record."""
        return open_source(self.spec, self.base, whole=True)

    def identity(self) -> dict[str, Any]:
        """Everything that decides the rows, as plain JSON: layout, names, and files by content.

        Absolute paths and the order of the files are no part of it.
        """
        spec = self.spec
        mapping = {k: v for k, v in sorted(spec.mapping.items()) if k not in BESIDE}
        hub = {"dataset": self.files[0].url, "config": spec.config, "commit": self.commit}
        return {
            "reader": READER_VERSION,
            "layout": self.layout,
            "mapping": mapping,
            **({"values": dict(sorted(spec.values.items()))} if spec.values else {}),
            "parts": {name: ".".join(self.plan.binding[name]) for name in self.plan.parts},
            "name": self.name,
            "label_source": spec.label_source,
            "limit": spec.limit,
            **spec.reading.changes(),
            **({"hub": hub} if self.commit else {}),
            "files": [
                {"name": f.name} if self.commit else evidence(f, spec.reading)
                for f in sorted(self.files, key=lambda f: f.name)
            ],
            **({"questions": [evidence(f) for f in self.questions]} if self.questions else {}),
            **self._image_identity(),
        }

    def _image_identity(self) -> dict[str, Any]:
        """What may be fetched, and the content of folders, where the rows have pictures."""
        if self.plan.pictures is None or self.spec.images == AllowedImages():
            return {}
        return {"images": {"folders": self.fetcher.evidence(), "hosts": list(self.fetcher.hosts)}}

    def read(self, file: SourceFile, block_rows: int = 16384) -> Iterator[Block]:
        """Read one file of the source, a block at a time, in order.

        Where there are fewer files than processors, the next blocks are made while one is used.

        Memory is bounded by the block, except for a file that is one JSON array: it is read whole.

        Args:
            file: one of `files`.
            block_rows: records per block at most; very long texts make it fewer.

        Raises:
            LateColumnsError: a column that must be read is not in the first records; `whole()`
                opens the source so that it is.
            DataError: such a column can't be read, or the file can't.
        """
        self._check_columns(file)
        ahead = min(3, (os.cpu_count() or 1) // max(1, len(self.files)) - 1)
        parts = self._limited(file, block_rows)
        return in_order(parts, lambda part: self._block(*part, file), ahead)

    def _check_columns(self, file: SourceFile) -> None:
        """Name a file of another form than the others: its first records lack a column.

        Raises:
            DataError: they do.
        """
        if len(self.files) < 2 or self.commit is not None:
            return
        chunk = next(source_chunks(self.spec, file, SAMPLE_ROWS, None, None), None)
        if chunk is None or not chunk.lines:
            return
        table = chunk.table
        columns = set().union(*chunk.records or ()) if table is None else {*table.columns}
        fields = [f for f in self.plan.fields if f.required and f.name in self.plan.binding]
        lacks = {self.plan.binding[f.name][0] for f in fields} - columns
        if lacks:
            raise DataError(
                f"source {self.spec.path!r}: {file.name} is of another form than the files beside "
                f"it: layout {self.layout!r} needs {', '.join(sorted(lacks))}, and its columns are "
                f"{', '.join(sorted(columns)[:30])}; make it a source of its own, or leave it out "
                "(a glob as `path` picks files)"
            )

    def _limited(
        self, file: SourceFile, block_rows: int
    ) -> Iterator[tuple[Chunk, Mapping[str, str]]]:
        """The chunks of a file, up to the limit of the spec, and the columns new in each."""
        known = {name for name in self.account.names if self.account.unread.get(name) != EMPTY}
        empty = self.account.names - known
        columns = {path[0] for path in self.plan.binding.values()} | empty
        columns |= self.plan.pictures.columns if self.plan.pictures else set()
        limit = self.spec.limit
        rows = block_rows if limit is None else max(1, min(block_rows, limit))
        left = limit
        for chunk in source_chunks(self.spec, file, rows, columns, self.commit):
            part = chunk if left is None else chunk.head(left)
            if part.size:
                late = self._late(part, file, known)
                known |= late.keys()
                yield part, late
            if left is not None:
                left -= part.size
                if left <= 0:
                    return

    def _late(self, chunk: Chunk, file: SourceFile, known: set[str]) -> Mapping[str, str]:
        """Columns that were not there or empty -> where they first hold something.

        Raises:
            LateColumnsError: one of them must be read.
        """
        records, lines = chunk.records, chunk.lines
        if records is None:
            assert chunk.table is not None  # noqa: S101 - a chunk has records or a table
            table, lines = filled_rows(chunk, {*chunk.table.columns} - known)
            records = table.to_dicts()
        new = filled_columns(records, known)
        if not new:
            return {}
        places: dict[str, str] = {}
        some = []
        for line, record in zip(lines, records, strict=True):
            if here := [name for name in new if not is_empty(record.get(name))]:
                some.append(record)
                for name in here:
                    places.setdefault(name, f"{file.name}:{line}")
        first = next(iter(places.values()))
        where = f"source {self.spec.path!r}, from {first} on,"
        files = tuple(self.files)
        plan = _planned(self.spec, files, self.commit, where, also=some[:SAMPLE_ROWS])
        if not new <= plan.account.unread.keys():
            raise LateColumnsError(sorted(new - plan.account.unread.keys()), first)
        return dict(sorted(places.items()))

    def _block(self, chunk: Chunk, late: Mapping[str, str], file: SourceFile) -> Block:
        layout = self.plan.layout
        frame = typed(chunk, file.name, self.plan.fields, self.plan.binding)
        draft = with_parts(layout.build(frame, self.around), self.plan.parts)
        if self.plan.pictures is not None:
            reader = PictureReader(self.fetcher)
            draft = with_pictures(draft, pictures_of(chunk, file.name, self.plan.pictures, reader))
        elif (place := self._late_picture(chunk, frame, file)) is not None:
            raise LateColumnsError(["pictures among the parts of messages"], place)
        frame = self._with_provenance(self._with_sides(draft.frame))
        block = finish(
            type(draft)(frame, draft.rejects, draft.notes),
            layout.shape,
            self.schema,
            layout.keeps_side_ids,
        )
        bad, notes = chunk.rejects, block.notes
        if chunk.notes:
            of_file = [(f"{file.name}:{n}", reason, text) for n, reason, text in chunk.notes]
            notes = pl.concat([pl.DataFrame(of_file, schema=LEDGER, orient="row"), notes])
        block = replace(block, late=late, notes=notes)
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
        n_records = block.n_records + unread.height
        return replace(block, rejected=rejected, n_records=n_records)

    def _late_picture(self, chunk: Chunk, frame: pl.DataFrame, file: SourceFile) -> str | None:
        """Where the first picture part stands in a source whose first records have none."""
        spoken = [f.name for f in self.plan.fields if f.kind in CONVERSATIONS]
        for name in spoken:
            if name in SIDES and frame[name].list.len().max() == 1:
                continue  # an answer alone, which has no picture
            flat = frame[name].explode(empty_as_null=False, keep_nulls=False)
            if not flat.struct.field("content").str.contains(MARK, literal=True).any():
                continue
            path = self.plan.binding[name]
            for line, record in zip(chunk.lines, records_of(chunk, {path[0]}), strict=True):
                if next(picture_parts(value_at(record, path)), None) is not None:
                    return f"{file.name}:{line}"
        return None

    def _with_sides(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Add who drew, and bring columns of the first and the second answer to the sides."""
        plan = self.plan
        if plan.draws and not plan.layout.draws:
            frame = one_draw(frame, pl.col(ANNOTATOR.name))
        if FIRST_BETTER not in frame.columns:
            return frame
        for name in plan.twins:
            own, other = pl.col(f"_a_{name}"), pl.col(f"_b_{name}")
            frame = frame.with_columns(
                pl.when(FIRST_BETTER).then(own).otherwise(other).alias(f"chosen_{name}"),
                pl.when(FIRST_BETTER).then(other).otherwise(own).alias(f"rejected_{name}"),
            )
        return frame

    def _with_provenance(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Add the columns that say where a row is from and who labelled it, and those it lacks."""
        spec, layout = self.spec, self.plan.layout
        defaults = {"source": pl.lit(self.name), "source_id": pl.col(ROW)}
        given = {"source": spec.name}
        if self.shape == Shape.PAIRS:
            defaults["label_source"] = _label_source(frame, layout.label_source)
            given["label_source"] = spec.label_source
        columns = []
        for name, default in defaults.items():
            value = given.get(name)
            if value is not None:
                default = pl.lit(value)
            elif name in frame.columns:
                said = pl.col(name)
                if name == "label_source" and layout.name != "prefactory":
                    said = pl.when(said.is_in(LABEL_SOURCES)).then(said)
                default = pl.coalesce(said, default)
            columns.append(default.cast(pl.String).alias(name))
        ids = {"prompt_id", "response_id", "pair_id", "chosen_id", "rejected_id"}
        columns += [
            pl.lit(None, dtype=dtype).alias(name)
            for name, dtype in self.schema.items()
            if name not in frame.columns and name not in ids and name not in defaults
        ]
        return frame.with_columns(columns)


_MODELS = r"(?i)gpt|claude|llama|gemini|qwen|mistral|mixtral|deepseek|gemma"
"""Part of the name of an annotator that is a language model."""


def _label_source(frame: pl.DataFrame, by_layout: str | None) -> pl.Expr:
    """Who chose: what the record says, or the layout; null where neither does."""
    marks = {
        "_by_reward_model": ("reward_model", pl.col("_by_reward_model").is_not_null()),
        "_by_judge": ("judge", pl.col("_by_judge").is_not_null()),
        "_annotator": ("judge", pl.col("_annotator").str.contains(_MODELS)),
    }
    said = [
        pl.when(says).then(pl.lit(who))
        for column, (who, says) in marks.items()
        if column in frame.columns
    ]
    return pl.coalesce(*said, pl.lit(by_layout, dtype=pl.String))


@dataclass(frozen=True, slots=True)
class Peek:
    """A look at a source: counts over all its records, and its first rows.

    Attributes:
        account: what becomes of every column of every record.
        examples: reason -> the first record that was rejected for it, and its detail.
        source: as it was read in the end.
    """

    layout: str
    shape: Shape
    files: list[SourceFile]
    n_records: int
    n_rows: int
    rejected: Mapping[str, int]
    notes: Mapping[str, int]
    rows: pl.DataFrame
    account: Account
    examples: Mapping[str, str]
    source: OpenSource = field(repr=False)

    def some(self) -> Peek:
        """Itself, if it has rows.

        Raises:
            DataError: not one record became a row; with the first of each reason.
        """
        if self.n_rows or not self.n_records:
            return self
        told = "; ".join(
            f"{reason} {n:,}, for example {self.examples[reason]}"
            for reason, n in self.rejected.items()
        )
        raise DataError(
            f"source {self.source.spec.path!r}: none of {self.n_records:,} records could be used "
            f"with layout {self.layout!r}: {told}"
        )


def open_source(spec: SourceSpec, base: Path | None = None, *, whole: bool = False) -> OpenSource:
    """Find the files of a source and its layout.

    The first records decide; all others are looked at while they are read (`OpenSource.read`).

    Args:
        spec: what to open.
        base: folder that a relative path starts from (the recipe's); the current one if None.
        whole: look at the columns of every record first; files elsewhere than on this machine
            are left out of that.

    Raises:
        DataError: nothing is there, a file can't be read, the layout is not known, or a column
            that bears on the prompt or the label would not be read.
    """
    resolved = resolve(spec, base)
    commit = hub_revision(resolved.hub, spec.revision) if resolved.hub else None
    files = resolved.files
    if resolved.hub and commit:
        files = hub_splits(spec, resolved.hub, commit)
    where = f"source {spec.path!r}"
    try:
        plan = _planned(spec, files, commit, where, whole=whole)
    except MissingColumnError:
        if whole:
            raise
        plan = _planned(spec, files, commit, where, whole=True)
    questions: tuple[SourceFile, ...] = ()
    names = {name: ".".join(path) for name, path in plan.binding.items()}
    around = Surroundings(values=spec.values, names=names)
    if plan.layout.wants_questions and (not resolved.hub or "questions" in spec.mapping):
        questions = files_beside("questions", spec, base, files)
        wants = plan.layout.wants_answers
        answers = files_beside("model_answers", spec, base, files) if wants else ()
        around = replace(around, questions=read_questions(questions), answers=read_answers(answers))
        questions += answers
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
        base=base,
        fetcher=fetcher(spec.images, base),
    )


def reading(source: OpenSource, work: Callable[[OpenSource], T]) -> T:
    """Do some work with a source; once more from the start, if a column turns up late.

    Args:
        source: an open source.
        work: reads it.

    Returns:
        What the work returned that came to an end.
    """
    try:
        return work(source)
    except LateColumnsError:
        return work(source.whole())


def peek(source: OpenSource | SourceSpec, n: int = 3) -> Peek:
    """Read a whole source and tell what is in it.

    Args:
        source: an open source, or the spec of one.
        n: how many of the first rows to keep.
    """
    opened = open_source(source) if isinstance(source, SourceSpec) else source
    return reading(opened, lambda source: _peek(source, n))


def _peek(opened: OpenSource, n: int) -> Peek:
    late: dict[str, str] = {}
    rejected: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    examples: dict[str, str] = {}
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
            for row, reason, said in block.rejected.unique("reason", keep="first").iter_rows():
                examples.setdefault(reason, f"{row}: {said}")
            late |= {name: place for name, place in block.late.items() if name not in late}
    return Peek(
        opened.layout,
        opened.shape,
        opened.files,
        records,
        rows,
        dict(rejected),
        dict(notes),
        stacked(first),
        opened.account.with_late(late),
        examples,
        opened,
    )


def _planned(
    spec: SourceSpec,
    files: tuple[SourceFile, ...],
    commit: str | None,
    where: str,
    *,
    whole: bool = False,
    also: Sequence[Record] = (),
) -> Plan:
    """Read the first records of the source, and find its layout.

    Args:
        spec: of the source.
        files: of the source.
        commit: of a hub dataset.
        where: what to call the source in errors.
        whole: look at every record of local files.
        also: records from further on, whose columns count too.
    """
    seen = FirstRecords(whole=whole)
    for file in files:
        seen.file(spec, file, commit, whole=whole and "://" not in file.url)
    seen.enter(also)
    if not seen.columns:
        if not seen.problems:
            raise DataError(f"{where} is empty: it holds no record")
        raise DataError(
            f"{where} holds no record that can be read; the first problem: {seen.problems[0]}; "
            "look at the file"
        )
    sample = Sample(list(seen.columns), seen.records, seen.texts_only)
    plan = plan_for(spec, sample, where)
    _check_images(spec, plan, sample, where)
    return plan


def _check_images(spec: SourceSpec, plan: Plan, sample: Sample, where: str) -> None:
    """Refuse a source whose pictures would have to be fetched, where nothing is allowed.

    Raises:
        DataError: with what would allow it.
    """
    if plan.pictures is None or spec.images != AllowedImages():
        return
    found = (found_pictures(record, plan.pictures) for record in sample.records)
    address = next((text for value in found if (text := to_fetch(value)) is not None), None)
    if address is not None:
        shown = address if len(address) <= 80 else f"{address[:80]}..."
        raise DataError(
            f"{where}: its pictures are files or addresses ({shown!r}), and nothing is fetched for "
            "a row that the recipe does not allow: name the folder or the host in the source's "
            "`images`, as in {folders: [pictures], hosts: [img.example.org]}, or say in `ignore` "
            "that the rows are meant without them"
        )
