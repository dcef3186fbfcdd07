"""Work orders: what one task of a run makes, as plain data, and the place where it is made.

An order names its object and what goes into it. It can be done wherever its `Site` can be opened:
in a thread of the run, or in another process on another machine that sees the same store. Nothing
of a run lives in an order but data, and what comes back is data as well.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any, Protocol

import numpy as np
import polars as pl

from prefactory import ledger
from prefactory.apply import (
    apply_filter,
    apply_generator,
    apply_labeler,
    fit_parts,
    fit_shard,
)
from prefactory.context import Context
from prefactory.engines import calls
from prefactory.errors import DataError, MissingPackageError, PrefactoryError
from prefactory.extras import missing
from prefactory.images.marks import bind
from prefactory.recipe import Recipe
from prefactory.shards import Part, Shard, gather, listed_parts, load, without_copies
from prefactory.step import Filter, Generator, Labeler, State, Step
from prefactory.store import Record, Store, Writer
from prefactory.tables import Shape, cast_to


@dataclass
class Site:
    """Where orders are done: what a process opens once for a run.

    Attributes:
        recipe: of the run.
        sources: its opened sources (see `prefactory.stages.Source`).
        store: where outputs live.
        images: whether the run's tables may have pictures.
        embed: `(encoder, texts) -> Float32[N, d]`.
        engine: `(engine config) -> Engine`.
    """

    recipe: Recipe
    sources: Sequence[Any]
    store: Store
    images: bool = False
    embed: Callable[[Any, pl.Series], np.ndarray] | None = None
    engine: Callable[[Any], Any] | None = None
    _states: dict[str, State] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def step(self, label: str) -> Step:
        """The step of a label."""
        return next(p.step for p in self.recipe.steps if p.label == label)

    def context(self, label: str, state_key: str = "") -> Context:
        """What a step is given beside its table.

        Args:
            label: of the step.
            state_key: of what its `fit` learned, if it has one.
        """
        head = self.recipe.head
        return Context(
            head.seed, label, self.state(state_key) if state_key else None, self.embed, self.engine,
            images=self.store.images if self.images else None, recipe=head.name,
            roles=self.step(label).configs(),
        )  # fmt: skip

    def state(self, key: str) -> State:
        """What a step's `fit` learned; the last one that was asked for is kept."""
        with self._lock:
            if key not in self._states:
                self._states = {key: read_state(self.store, key)}
            return self._states[key]


def put_state(writer: Writer, state: State) -> None:
    """Write the tables of a state, and its facts, as `read_state` reads them."""
    for name, table in state.tables.items():
        writer.table(name, table)
    writer.info["info"] = dict(state.info)


def read_state(store: Store, key: str) -> State:
    """What a step learned, its tables mapped into memory.

    Raises:
        DataError: the store has no such object.
    """
    record = store.open(key)
    if record is None:
        raise DataError(f"the store has lost what a step learned: {key}; run again")
    names = [PurePath(n).stem for n in record.files if PurePath(n).stem != calls.TABLE]
    return State({name: store.read(key, name) for name in names}, record.info["info"])


class Order(Protocol):
    """One object to make.

    Attributes:
        key: its address in the store.
        label: of the stage that it belongs to.
    """

    @property
    def key(self) -> str:
        """Its address in the store."""

    @property
    def label(self) -> str:
        """Of the stage that it belongs to."""

    def make(self, site: Site) -> None:
        """Make the object and write it to the site's store."""


@dataclass(frozen=True, slots=True)
class Done:
    """What became of an order.

    Attributes:
        record: of its object.
        made: whether it was made now; else the store had it.
        paid: what was paid for it elsewhere, by step and model (see `Accounts.by_step`).
    """

    record: Record
    made: bool
    paid: Sequence[Mapping[str, Any]] = ()


Do = Callable[[Order], Done]


def do(order: Order, site: Site) -> Done:
    """Open an order's object, making it first if the store has no whole copy.

    Raises:
        DataError: the step failed, by a bug; it is named and the cause stays attached.
        PrefactoryError: what the step itself raises.
    """
    record = site.store.open(order.key)
    if record is not None:
        return Done(record, made=False)
    with site.store.claim(order.key):
        record = site.store.open(order.key)  # perhaps another run has made it meanwhile
        if record is not None:
            return Done(record, made=False)
        return Done(_make(order, site), made=True)


def _make(order: Order, site: Site) -> Record:
    try:
        order.make(site)
    except PrefactoryError:
        raise
    except Exception as error:
        if (lacking := missing(error)) is not None:
            raise MissingPackageError(f"{order.label}: {lacking}") from error
        problem = f"{type(error).__name__}: {error}"
        raise DataError(
            f"{order.label} failed with {problem}; `prefactory --verbose run` shows where"
        ) from error
    record = site.store.open(order.key)
    if record is None:
        raise DataError(f"{order.label} wrote an object that can't be read back: {order.key}")
    return record


@dataclass(frozen=True, slots=True)
class ReadFile:
    """Read one file of a source into parts, sorted by prompt.

    Attributes:
        source, file: places of the source in the run, and of the file in the source.
        columns: of all sources together.
    """

    key: str
    label: str
    source: int
    file: int
    columns: Mapping[str, pl.DataType]

    def make(self, site: Site) -> None:
        """Write a table for each block, one for what was rejected, and the counts."""
        source = site.sources[self.source]
        records = 0
        reasons, notes, parts, ledgers = [], [], [], []
        late: dict[str, str] = {}
        first = ""
        with site.store.write(self.key) as writer:
            for i, block in enumerate(source.read(source.files[self.file])):
                records += block.n_records
                rows = bind(cast_to(block.rows, self.columns), writer)
                rows = rows.sort("prompt_id", maintain_order=True)
                if rows.height:
                    writer.table(f"rows-{i:05d}", rows)
                    parts.append([f"rows-{i:05d}", rows.height])
                if block.rejected.height:
                    first = first or ": ".join(block.rejected.select("row_id", "detail").row(0))
                    writer.table(f"ledger-{i:05d}", ledger.entries(block.rejected, "source"))
                    ledgers.append(f"ledger-{i:05d}")
                    reasons.append(ledger.count(block.rejected))
                notes.append(ledger.count(block.notes))
                late = {**getattr(block, "late", {}), **late}
            writer.info |= {
                "late": late,
                "first": first,
                "records": records,
                "parts": parts,
                "ledgers": ledgers,
                "reasons": ledger.add_counts(reasons),
                "notes": ledger.add_counts(notes),
            }


@dataclass(frozen=True, slots=True)
class Exchange:
    """Collect the rows of a range of prompt ids from all parts; copies go to the ledger.

    Attributes:
        parts: of the whole table; or the key of their list in the store, if they are many.
        low, high: the range, [low, high).
        shape: of the rows.
    """

    key: str
    label: str
    parts: str | Sequence[Part]
    low: str
    high: str
    shape: Shape

    def make(self, site: Site) -> None:
        """Write the rows and the ledger of the copies."""
        parts = self.parts
        if isinstance(parts, str):
            parts = listed_parts(site.store, parts)
        rows = gather(site.store, parts, self.low, self.high, self.shape)
        rows, copies = without_copies(rows, self.shape, self.label)
        with site.store.write(self.key) as writer:
            writer.table("rows", rows)
            writer.table("ledger", copies)
            writer.info["columns"] = rows.columns
            writer.info["reasons"] = ledger.count(copies)


@dataclass(frozen=True, slots=True)
class Try:
    """A step's judges on rows whose answer is known."""

    key: str
    label: str

    def make(self, site: Site) -> None:
        """Write what is counted of them."""
        with written(site, self.key, site.context(self.label)) as (writer, ctx):
            writer.info["watch"] = site.step(self.label).trial(ctx)
            faults = ledger.add_counts([own["faults"] for own in writer.info["watch"]])
            writer.info["unanswered"] = ledger.passing(faults)


@dataclass(frozen=True, slots=True)
class FitShard:
    """A dataset step's look at one shard.

    Attributes:
        shard: what it looks at, of rows of `shape`.
    """

    key: str
    label: str
    shard: Shard
    shape: Shape

    def make(self, site: Site) -> None:
        """Write what the step needs of the shard's rows."""
        table = load(site.store, self.shard, self.shape)
        with written(site, self.key, site.context(self.label)) as (writer, ctx):
            writer.table(
                "part", fit_shard(site.step(self.label), self.label, table, self.shape, ctx)
            )


@dataclass(frozen=True, slots=True)
class Fit:
    """A dataset step's conclusion from its looks at all shards.

    Attributes:
        parts: keys of these looks, in the order of the shards.
    """

    key: str
    label: str
    parts: Sequence[str]

    def make(self, site: Site) -> None:
        """Write the tables of the state, and its facts."""
        parts = (site.store.read(k, "part") for k in self.parts)
        with written(site, self.key, site.context(self.label)) as (writer, ctx):
            put_state(writer, fit_parts(site.step(self.label), self.label, parts, ctx))


@dataclass(frozen=True, slots=True)
class Apply:
    """A step on one shard.

    Attributes:
        shard: its input, of rows of `shape`.
        state: key of what its `fit` learned; empty for steps without one.
    """

    key: str
    label: str
    shard: Shard
    shape: Shape
    state: str = ""

    def make(self, site: Site) -> None:
        """Write what the step adds, makes or drops, and its counts."""
        step = site.step(self.label)
        table = load(site.store, self.shard, self.shape)
        with written(site, self.key, site.context(self.label, self.state)) as (writer, ctx):
            if isinstance(step, Labeler):
                columns = apply_labeler(step, ctx.step, table, self.shape, ctx)
                writer.table("columns", columns)
                writer.info["notes"] = ledger.unlabelled(columns)
                writer.info["watch"] = step.watch(table, columns)
                writer.info["unanswered"] = ledger.passing(writer.info["notes"])
            elif isinstance(step, Generator):
                _generate(step, table, self.shape, ctx, writer)
            elif isinstance(step, Filter):
                _dropped(apply_filter(step, ctx.step, table, self.shape, ctx), writer)


def _generate(
    step: Generator, table: pl.DataFrame, shape: Shape, ctx: Context, writer: Writer
) -> None:
    notes: dict[str, int] = {}
    rows, dropped = apply_generator(step, ctx.step, table, shape, ctx, notes)
    writer.info["notes"] = dict(sorted(notes.items()))
    rows = bind(rows, writer)
    writer.table("rows", rows)
    writer.info["columns"] = rows.columns
    _dropped(dropped, writer)
    if rows.schema.get("failures") == pl.String:
        lost = rows.filter(pl.col("failures").str.contains(ledger.PASSING)).height
        writer.info["unanswered"] |= {"samples": lost} if lost else {}


def _dropped(dropped: pl.DataFrame, writer: Writer) -> None:
    writer.table("ledger", dropped)
    writer.info["reasons"] = ledger.count(dropped)
    failed = ledger.add_counts([writer.info["reasons"], writer.info.get("notes", {})])
    writer.info["unanswered"] = ledger.passing(failed)


@contextmanager
def written(site: Site, key: str, ctx: Context) -> Iterator[tuple[Writer, Context]]:
    """An object's writer, and a context that keeps which answers were used as one of its tables."""
    used = calls.StepCalls()
    with site.store.write(key) as writer:
        yield writer, replace(ctx, calls=used)
        if used:
            writer.table(calls.TABLE, used.table())
        if used.doubts:
            writer.info["doubts"] = dict(sorted(used.doubts.items()))
        if watched := used.watched():
            writer.info["watch"] = watched
