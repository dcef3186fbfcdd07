"""What a run is made of: stages, results, settings, and what it asks of sources and mappers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import polars as pl

from prefactory import ledger
from prefactory.errors import DataError
from prefactory.orders import Do, Site, do
from prefactory.plan import PlannedStep
from prefactory.recipe import Recipe
from prefactory.shards import View
from prefactory.store import Record, Store
from prefactory.tables import COLUMNS, Shape, is_messages

T = TypeVar("T")
FIT_ROWS = 1 << 20
"""Rows of a dataset step that one worker holds, unless somebody says otherwise."""


class Mapper(Protocol):
    """Runs `work(0) .. work(n - 1)`, in any order and number at a time; returns them in order."""

    def __call__(self, name: str, work: Callable[[int], T], n: int) -> list[T]:
        """Run the calls and return their results in order."""


class SourceFile(Protocol):
    """One file of a source; a task of its own."""

    @property
    def name(self) -> str:
        """Name that is stable wherever the file lies."""


class Source(Protocol):
    """What `execute` needs of a source (see `catalog.sources`)."""

    @property
    def shape(self) -> Shape:
        """Shape of its rows."""

    @property
    def schema(self) -> dict[str, pl.DataType]:
        """Columns of every block's rows."""

    @property
    def files(self) -> Sequence[Any]:
        """Its files; each is read as a task of its own."""

    def identity(self) -> dict[str, Any]:
        """Everything that decides the rows."""

    def read(self, file: Any, block_rows: int = ...) -> Iterator[Any]:  # noqa: ANN401
        """Yield blocks with `rows`, `rejected`, `notes`, `n_records`, and perhaps `late`."""


@dataclass
class Stage:
    """What happened at one stage; rows_in = rows_out + dropped is checked for all but generators.

    Attributes:
        label: of the step, or of the source.
        kind: source, filter, labeler or generator.
        shape: of the rows that came out.
        notes: rows that stay, by what is noted of them: of sources what was odd, of labelers why
            they got no label; of generators what came to nothing beside children of its row.
        ledgers: (store key, table) of its ledger parts, in canonical order.
        info: facts that `fit` learned.
        models: identities of the models that the step opens, and `roles`, what each is to it.
        doubts: answers of models that could not be used, by reason; they stay in the journal.
        usage: answers that its rows were made from, by model and role: calls, tokens, US dollars.
        objects: keys of what it keeps in the store.
        unanswered: rows without an answer, by what failed on the way to a model; the next run asks
            for them again.
        made: outputs computed now; `reused` came from the store.
        seconds: wall time, of this run.
    """

    label: str
    kind: str
    shape: Shape
    rows_in: int = 0
    rows_out: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    ledgers: list[tuple[str, str]] = field(default_factory=list)
    adds: tuple[str, ...] = ()
    fields: dict[str, Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    models: list[dict[str, Any]] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)
    doubts: dict[str, int] = field(default_factory=dict)
    usage: list[dict[str, Any]] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)
    unanswered: dict[str, int] = field(default_factory=dict)
    made: int = 0
    reused: int = 0
    seconds: float = 0.0


@dataclass
class RunResult:
    """What a run leaves: the tables to publish by name, and what happened on the way.

    Attributes:
        before: each step with the table that it got.
        images: its prompts may have pictures, whose names stand in their marks.
        objects: keys of everything in the store that it was made from.
        fit_rows: rows that are held at a time, about (see `Options`).
        make: has more orders done by the run's workers: what they are for, and they.
    """

    recipe: Recipe
    views: dict[str, View]
    stages: list[Stage]
    source_identities: list[dict[str, Any]]
    source_counts: list[dict[str, Any]]
    store: Store
    before: list[tuple[PlannedStep, View]] = field(default_factory=list)
    images: bool = False
    objects: set[str] = field(default_factory=set)
    fit_rows: int = FIT_ROWS
    make: Callable[[str, Sequence[Any]], object] = lambda *_: None


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of a run that change no data.

    Attributes:
        workers: shards in work at a time.
        shard_rows: rows of a shard, about.
        fit_rows: rows of a dataset step that one worker holds, about; more are cut by key, where
            the step can be cut (`prefactory.step.exchange`).
        embed: `(encoder, texts) -> Float32[N, d]`.
        engine: `(engine config) -> Engine`.
        on_stage: called after each stage.
        on_step: called after each step, with the table that it got.
        fresh: labels of steps whose outputs are made anew, whatever the store has.
        begin: told what begins: label, parts, `shards`, calls of models at most, rows.
        advance: told that a part of it is done.
        usd: (model, prompt tokens, completion tokens, metered) -> US dollars, None if not known.
        conduct: what does the orders of a run, given the site of this process.
        paid: told what was paid for orders that were done elsewhere.
    """

    workers: int = 4
    shard_rows: int = 16384
    fit_rows: int = FIT_ROWS
    embed: Callable[[Any, pl.Series], np.ndarray] | None = None
    engine: Callable[[Any], Any] | None = None
    on_stage: Callable[[Stage], None] = lambda stage: None
    on_step: Callable[[PlannedStep, View, Stage], None] = lambda *_: None
    fresh: frozenset[str] = frozenset()
    begin: Callable[[str, int, str, int, int], object] = lambda *_: None
    advance: Callable[[], object] = lambda: None
    usd: Callable[[str, int, int, bool], float | None] = lambda *_: None
    conduct: Callable[[Site], Do] = lambda site: partial(do, site=site)
    paid: Callable[[Sequence[Mapping[str, Any]]], object] = lambda _: None


def thread_mapper(workers: int) -> Mapper:
    """A mapper on a thread pool; the first error ends it.

    Ctrl-C waits for no shard: who closes the engines next ends those that wait for a model.
    """

    def mapper(name: str, work: Callable[[int], T], n: int) -> list[T]:
        pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix=name)
        waits = True
        try:
            return list(pool.map(work, range(n)))
        except BaseException as error:
            waits = isinstance(error, Exception)
            raise
        finally:
            pool.shutdown(wait=waits, cancel_futures=True)

    return mapper


def common_schema(sources: Sequence[Source]) -> tuple[Shape, dict[str, pl.DataType]]:
    """Shape and columns of the sources together (columns that only some have are null elsewhere).

    A plain column of two types that nobody asked for becomes text. The columns of the shape come
    first, then all others by name, whatever the order of the sources.

    Raises:
        DataError: if the sources differ in shape, or in the type of a column.
    """
    shapes = sorted({s.shape for s in sources})
    if len(shapes) != 1:
        raise DataError(f"the sources of one recipe must be of one shape; these are {shapes}")
    columns: dict[str, pl.DataType] = {}
    for source in sources:
        for name, dtype in source.schema.items():
            before = columns.setdefault(name, dtype)
            if before == dtype or (is_messages(before) and is_messages(dtype)):
                continue
            unasked = [getattr(s, "unasked", ()) for s in sources if name in s.schema]
            if not all(name in names for names in unasked) or _nested(before, dtype):
                raise DataError(f"column {name!r} is {before} in one source and {dtype} in another")
            columns[name] = pl.String()
    if not all("margin" in s.schema for s in sources):
        columns.pop("margin", None)
    order = [c for c in COLUMNS[shapes[0]] if c in columns]
    order += sorted(columns.keys() - set(order))
    return shapes[0], {name: columns[name] for name in order}


def _nested(*dtypes: pl.DataType) -> bool:
    return any(dtype.is_nested() for dtype in dtypes)


def file_identity(source: dict[str, Any], name: str) -> dict[str, Any]:
    """What decides the rows of one file of a source: the others do not."""
    files = [f for f in source.get("files", []) if f["name"] == name]
    return {**source, "files": files or [{"name": name}]}


def source_counts(source: Source, records: list[Record]) -> dict[str, Any]:
    """What was read of one source: records, rows (copies still in), rejected and noted ones.

    With the account of its columns, if it has one.
    """
    late: dict[str, str] = {}
    for record in records:
        late = {**record.info.get("late", {}), **late}
    account = getattr(source, "account", None)
    columns = {} if account is None else {"columns": account.with_late(late).to_dict()}
    return {
        **columns,
        "records": sum(r.info["records"] for r in records),
        "rows": sum(rows for r in records for _, rows in r.info["parts"]),
        "rejected": ledger.add_counts([r.info["reasons"] for r in records]),
        "notes": ledger.add_counts([r.info["notes"] for r in records]),
    }


def columns_key(columns: dict[str, pl.DataType]) -> dict[str, str]:
    """Columns as plain text, for keys."""
    return {name: str(dtype) for name, dtype in columns.items()}
