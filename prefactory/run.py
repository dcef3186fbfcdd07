"""Executing a recipe: source -> shards -> steps, every output in the store, every drop in a ledger.

`execute` is a plain loop. What runs the shards of a stage is a `Mapper`: a thread pool here, a
Prefect flow in `pipelines`. A finished output is never made again, whatever ended the run before.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import PurePath
from typing import Any, TypeVar

import polars as pl

from prefactory import ledger
from prefactory.apply import apply_filter, apply_generator, apply_labeler, fit, fit_shard
from prefactory.context import Context
from prefactory.engines import calls
from prefactory.errors import DataError, MissingPackageError, PrefactoryError
from prefactory.extras import missing
from prefactory.folders import sweep
from prefactory.identity import fingerprint
from prefactory.images.marks import bind
from prefactory.measures import judge_watch
from prefactory.plan import PlannedStep, plan
from prefactory.recipe import Recipe
from prefactory.shards import Delta, Part, Shard, View, cut, gather, load, without_copies
from prefactory.stages import (
    Mapper,
    Options,
    RunResult,
    Source,
    SourceFile,
    Stage,
    columns_key,
    common_schema,
    file_identity,
    source_counts,
)
from prefactory.step import Filter, Generator, Labeler, State, Step
from prefactory.store import Record, Store, Writer
from prefactory.tables import Shape, cast_to

T = TypeVar("T")
_LOG = logging.getLogger(__name__)


def execute(
    recipe: Recipe, sources: Sequence[Source], store: Store, mapper: Mapper, options: Options
) -> RunResult:
    """Run a recipe to its end, reusing every output that the store already holds.

    Args:
        recipe: what to do.
        sources: opened sources, all of one shape.
        store: where outputs live.
        mapper: what runs the shards of a stage.
        options: settings that change no data.

    Raises:
        ConfigError: if the steps do not fit the source; before anything runs.
        DataError: if a step breaks its promise, or rows do not add up.
    """
    shape, columns = common_schema(sources)
    planned = plan(recipe, shape, columns)
    images = any("images" in names for names in (columns, *(p.columns for p in planned)))
    run = _Run(recipe, store, mapper, options, [s.identity() for s in sources], images)
    table = run.read_sources(sources, shape)
    views: dict[str, View] = {}
    before: list[tuple[PlannedStep, View]] = []
    name = shape.value
    for step in planned:
        changes = step.out_shape != shape or _new_prompts(step.placed.step)
        if changes and not _replaces(step.placed.step) and shape != Shape.PROMPTS:
            views.setdefault(Shape.RESPONSES, View(store, Shape.RESPONSES, tuple(table), shape))
        beside = _beside(step.placed.step)
        if beside is not None:
            views.setdefault(shape, View(store, shape, tuple(table), shape))
        before.append((step, View(store, shape, tuple(table), shape)))
        table = run.step(step, table)
        shape = step.out_shape
        name = beside or (shape.value if name in set(Shape) else name)
    views[name] = View(store, shape, tuple(table), shape)
    if shape == Shape.PAIRS:
        views.setdefault(Shape.RESPONSES, View(store, Shape.RESPONSES, tuple(table), shape))
    if shape == Shape.PROMPTS:
        views.pop(Shape.RESPONSES, None)
    counts = run.source_counts
    return RunResult(
        recipe, views, run.stages, run.identities, counts, store, before, images, run.used
    )


@contextmanager
def _answers(writer: Writer, ctx: Context) -> Iterator[Context]:
    """A context that keeps which answers were used, as a table of the object."""
    used = calls.StepCalls()
    yield replace(ctx, calls=used)
    if used:
        writer.table(calls.TABLE, used.table())
    if used.doubts:
        writer.info["doubts"] = dict(sorted(used.doubts.items()))


def _new_prompts(step: Step) -> bool:
    return isinstance(step, Generator) and step.new_prompts


def _replaces(step: Step) -> bool:
    return isinstance(step, Generator) and step.replaces


def _beside(step: Step) -> str | None:
    return step.beside if isinstance(step, Generator) else None


class _Run:
    """The state of one execution: where shards are, and the stages so far."""

    def __init__(
        self,
        recipe: Recipe,
        store: Store,
        mapper: Mapper,
        options: Options,
        identities: list[dict[str, Any]],
        images: bool,
    ) -> None:
        self.recipe = recipe
        self.store = store
        self.mapper = mapper
        self.options = options
        self.identities = identities
        self.pictures = store.images if images else None
        self.source_counts: list[dict[str, Any]] = []
        self.stages: list[Stage] = []
        self.fresh: set[str] = set()
        """Keys of what this run has made or taken, and so of what it does not make again."""
        self.roles = {p.label: p.step.configs() for p in recipe.steps}
        self.used: set[str] = set()
        """Keys of all objects that it has made or taken."""
        sweep(store.root / "tmp")

    def context(self, label: str, state: State | None = None) -> Context:
        head, options = self.recipe.head, self.options
        return Context(
            head.seed, label, state, options.embed, options.engine,
            images=self.pictures, recipe=head.name, roles=self.roles.get(label, ()),
        )  # fmt: skip

    def map(
        self,
        name: str,
        work: Callable[[int], T],
        n: int,
        unit: str = "shards",
        calls: int = 0,
        rows: int = 0,
    ) -> list[T]:
        """Run `work` on all parts, and tell how far it is."""
        self.options.begin(name, n, unit, calls, rows)

        def told(i: int) -> T:
            result = work(i)
            self.options.advance()
            return result

        return self.mapper(name, told, n)

    def finish(self, stage: Stage, started: float) -> None:
        """Check the accounts of a stage and keep it."""
        stage.seconds = time.monotonic() - started
        dropped = sum(stage.reasons.values())
        if stage.kind != "generator" and stage.rows_in != stage.rows_out + dropped:
            raise DataError(
                f"{stage.label}: {stage.rows_in} rows came in, {stage.rows_out} went out and "
                f"{dropped} are in the ledger; this is a bug of the step"
            )
        self.stages.append(stage)
        self.options.on_stage(stage)
        for sentence in judge_watch.failed([stage]):
            _LOG.warning("%s", sentence)
        if stage.rows_out == 0:
            raise DataError(
                f"no row is left after {stage.label}, so nothing is published; it dropped "
                + (", ".join(f"{n:,} for {r}" for r, n in stage.reasons.items()) or "nothing")
                + "".join(f"\n{sentence}" for sentence in judge_watch.failed(self.stages))
            )

    def ensure(self, key: str, stage: Stage, make: Callable[[], None]) -> Record:
        """Open an object, making it first if the store has no whole copy."""
        self.used.add(key)
        record = self.store.open(key)
        if record is None:
            with self.store.claim(key):
                record = self.store.open(key)  # perhaps another run has made it meanwhile
                if record is None:
                    return self._make(key, stage, make)
        stage.reused += 1
        return record

    def _make(self, key: str, stage: Stage, make: Callable[[], None]) -> Record:
        try:
            make()
        except PrefactoryError:
            raise
        except Exception as error:  # a bug in a step: name the step; the cause stays attached
            if (lacking := missing(error)) is not None:
                raise MissingPackageError(f"{stage.label}: {lacking}") from error
            problem = f"{type(error).__name__}: {error}"
            raise DataError(
                f"{stage.label} failed with {problem}; `prefactory --verbose run` shows where"
            ) from error
        stage.made += 1
        record = self.store.open(key)
        if record is None:
            raise DataError(f"{stage.label} wrote an object that can't be read back: {key}")
        return record

    # -- sources -------------------------------------------------------------------------------

    def read_sources(self, sources: Sequence[Source], shape: Shape) -> list[Shard]:
        """Read every file into parts, and the parts into shards."""
        started = time.monotonic()
        stage = Stage("source", "source", shape)
        columns = common_schema(sources)[1]
        marks = [fingerprint(i) for i in self.identities]
        jobs = sorted(
            ((n, f) for n, source in enumerate(sources) for f in source.files),
            key=lambda job: (self.identities[job[0]]["name"], job[1].name, marks[job[0]]),
        )
        keys = [
            fingerprint([file_identity(self.identities[n], f.name), columns_key(columns)])
            for n, f in jobs
        ]

        def read(i: int) -> Record:
            n, file = jobs[i]
            return self.ensure(
                keys[i], stage, lambda: self._read(sources[n], file, keys[i], columns)
            )

        records = self.map("source", read, len(jobs), "files")
        for key, record in zip(keys, records, strict=True):
            stage.ledgers += [(key, t) for t in record.info["ledgers"]]
        stage.rows_in = sum(r.info["records"] for r in records)
        stage.reasons = ledger.add_counts([r.info["reasons"] for r in records])
        stage.notes = ledger.add_counts([r.info["notes"] for r in records])
        stage.info = {"files": len(jobs)}
        self.source_counts = [
            source_counts(source, [r for (m, _), r in zip(jobs, records, strict=True) if m == n])
            for n, source in enumerate(sources)
        ]
        parts = [
            Part(key, name, rows)
            for key, record in zip(keys, records, strict=True)
            for name, rows in record.info["parts"]
        ]
        if sum(p.rows for p in parts) == 0:
            first = next((r.info["first"] for r in records if r.info.get("first")), "")
            example = f" (the first: {first})" if first else ""
            raise DataError(
                f"no row of the source could be used: {stage.rows_in} records, "
                f"dropped for {stage.reasons or 'nothing'}{example}; "
                "`prefactory import SOURCE --dry-run` shows how it is read"
            )
        shards = self._exchange(parts, shape, stage)
        stage.rows_out = sum(s.rows for s in shards)
        self.finish(stage, started)
        return shards

    def _read(
        self, source: Source, file: SourceFile, key: str, columns: dict[str, pl.DataType]
    ) -> None:
        records = 0
        reasons, notes, parts, ledgers = [], [], [], []
        late: dict[str, str] = {}
        first = ""
        with self.store.write(key) as writer:
            for i, block in enumerate(source.read(file)):
                records += block.n_records
                rows = bind(cast_to(block.rows, columns), writer)
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

    def _exchange(self, parts: list[Part], shape: Shape, stage: Stage) -> list[Shard]:
        """Cut parts into shards by prompt id; copies of a row go to the ledger."""
        ranges = cut(sum(p.rows for p in parts), self.options.shard_rows)
        inputs = fingerprint([[p.key, p.table] for p in parts])
        keys = [fingerprint(["exchange", inputs, *r]) for r in ranges]

        def exchange(i: int) -> Record:
            def make() -> None:
                rows, copies = without_copies(
                    gather(self.store, parts, *ranges[i], shape), shape, stage.label
                )
                with self.store.write(keys[i]) as writer:
                    writer.table("rows", rows)
                    writer.table("ledger", copies)
                    writer.info["columns"] = rows.columns
                    writer.info["reasons"] = ledger.count(copies)

            return self.ensure(keys[i], stage, make)

        records = self.map(f"{stage.label} (shards)", exchange, len(ranges))
        stage.reasons = ledger.add_counts([stage.reasons, *(r.info["reasons"] for r in records)])
        stage.ledgers += [(key, "ledger") for key in keys]
        return [
            Shard(key, r.files["rows.arrow"]["rows"], tuple(r.info["columns"]))
            for key, r in zip(keys, records, strict=True)
        ]

    # -- steps ---------------------------------------------------------------------------------

    def step(self, planned: PlannedStep, shards: list[Shard]) -> list[Shard]:
        """Run one step on all shards."""
        started = time.monotonic()
        placed = planned.placed
        stage = Stage(placed.label, planned.kind, planned.out_shape)
        stage.rows_in = sum(s.rows for s in shards)
        stage.fields = placed.step.model_dump(mode="json")
        stage.adds = planned.adds
        stage.models = placed.step.engines()
        stage.roles = [role for _, role in placed.step.configs()]
        identity = [placed.step.identity(), stage.models]
        base = fingerprint([identity, placed.label, self.recipe.head.seed])
        state, state_key = None, ""
        if placed.step.scope == "dataset":
            state, state_key = self._fit(placed.step, base, planned.shape, shards, stage)
            stage.info = dict(state.info)
        ctx = self.context(placed.label, state)
        keys = [fingerprint([base, state_key, s.key]) for s in shards]

        def work(i: int) -> tuple[Record, str]:
            key = self._latest(keys[i], placed.label)

            def make() -> None:
                table = load(self.store, shards[i], planned.shape)
                self._apply(placed.step, table, planned.shape, ctx, key)

            return self.ensure(key, stage, make), key

        sides = 1 if planned.shape in placed.step.takes() else 2  # answers of pairs, one by one
        rows = stage.rows_in * sides
        asks = sum(a.calls for a in placed.step.asks(rows, rows))
        made = self.map(placed.label, work, len(shards), calls=asks, rows=stage.rows_in)
        records, keys = [record for record, _ in made], [key for _, key in made]
        after = self._after(planned, shards, keys, records, stage)
        stage.rows_out = sum(s.rows for s in after)
        stage.unanswered = ledger.add_counts([r.info.get("unanswered", {}) for r in records])
        stage.objects = [*stage.objects, *keys]
        kept = [r for r in map(self.store.open, stage.objects) if r is not None]
        stage.usage = self._usage(kept)
        stage.doubts = ledger.add_counts([r.info.get("doubts", {}) for r in kept])
        self.finish(stage, started)
        return after

    def _usage(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        """What models answered for some objects, by model and role, whoever paid for it."""
        used = [r.key for r in records if f"{calls.TABLE}.arrow" in r.files]
        sums = calls.summed([self.store.read(key, calls.TABLE) for key in used])
        for row in sums:
            counts = row["prompt_tokens"], row["completion_tokens"]
            usd = self.options.usd(row["model"], *counts, row.pop("metered"))
            share = row.pop("price_share")
            row["usd"] = None if usd is None else round(usd * share, 9)
        return sums

    def _latest(self, key: str, label: str = "") -> str:
        """The key of a shard's newest form: the next one, if calls of the last one failed.

        What failed on the way to a model is not final: the next run asks again, and has all other
        answers from the journal. Nor is what somebody wants anew (`run --fresh`). Each form has a
        key of its own, as what follows depends on it.
        """
        latest = key
        for attempt in itertools.count(1):
            record = self.store.open(latest)
            again = record is not None and record.info.get("unanswered")
            if record is not None and label in self.options.fresh and latest not in self.fresh:
                self.store.outdate(latest)
            if record is None or not (again or self.store.outdated(latest)):
                self.fresh.add(latest)
                return latest
            latest = fingerprint([key, "again", attempt])
        return latest

    def _apply(self, step: Step, table: pl.DataFrame, shape: Shape, ctx: Context, key: str) -> None:
        with self.store.write(key) as writer, _answers(writer, ctx) as ctx:
            if isinstance(step, Filter):
                dropped = apply_filter(step, ctx.step, table, shape, ctx)
            elif isinstance(step, Labeler):
                columns = apply_labeler(step, ctx.step, table, shape, ctx)
                writer.table("columns", columns)
                writer.info["notes"] = ledger.unlabelled(columns)
                writer.info["watch"] = step.watch(table, columns)
                writer.info["unanswered"] = ledger.passing(writer.info["notes"])
                return
            elif isinstance(step, Generator):
                notes: dict[str, int] = {}
                rows, dropped = apply_generator(step, ctx.step, table, shape, ctx, notes)
                writer.info["notes"] = dict(sorted(notes.items()))
                rows = bind(rows, writer)
                writer.table("rows", rows)
                writer.info["columns"] = rows.columns
            writer.table("ledger", dropped)
            writer.info["reasons"] = ledger.count(dropped)
            failed = ledger.add_counts([writer.info["reasons"], writer.info.get("notes", {})])
            writer.info["unanswered"] = ledger.passing(failed)
            if isinstance(step, Generator) and rows.schema.get("failures") == pl.String:
                lost = rows.filter(pl.col("failures").str.contains(ledger.PASSING)).height
                writer.info["unanswered"] |= {"samples": lost} if lost else {}

    def _after(
        self,
        planned: PlannedStep,
        shards: list[Shard],
        keys: list[str],
        records: list[Record],
        stage: Stage,
    ) -> list[Shard]:
        if planned.kind != "filter":
            stage.notes = ledger.add_counts([r.info.get("notes", {}) for r in records])
            if watched := judge_watch.merged([r.info.get("watch", []) for r in records]):
                stage.info["watch"] = watched
        if planned.kind == "labeler":
            return [
                s.with_delta(Delta("columns", k), s.rows, planned.adds)
                for s, k in zip(shards, keys, strict=True)
            ]
        stage.ledgers += [(key, "ledger") for key in keys]
        stage.reasons = ledger.add_counts([r.info["reasons"] for r in records])
        if planned.kind == "filter":
            return [
                s.with_delta(Delta("drop", k), s.rows - r.files["ledger.arrow"]["rows"])
                for s, k, r in zip(shards, keys, records, strict=True)
            ]
        new_shards = [
            Shard(k, r.files["rows.arrow"]["rows"], tuple(r.info["columns"]))
            for k, r in zip(keys, records, strict=True)
        ]
        if _new_prompts(planned.placed.step):
            parts = [Part(s.base, "rows", s.rows) for s in new_shards]
            return self._exchange(parts, planned.out_shape, stage)
        return new_shards

    def _fit(
        self, step: Step, base: str, shape: Shape, shards: list[Shard], stage: Stage
    ) -> tuple[State, str]:
        """Fit a dataset step: a map over shards, then a reduce on rows sorted by id."""
        ctx = self.context(stage.label)
        keys = [self._latest(fingerprint(["fit", base, s.key]), stage.label) for s in shards]

        def part(i: int) -> Record:
            def make() -> None:
                table = load(self.store, shards[i], shape)
                with self.store.write(keys[i]) as writer, _answers(writer, ctx) as own:
                    writer.table("part", fit_shard(step, stage.label, table, shape, own))

            return self.ensure(keys[i], stage, make)

        self.map(f"{stage.label} (fit)", part, len(shards))
        state_key = fingerprint(["state", keys])

        def reduce(_: int) -> Record:
            def make() -> None:
                rows = pl.concat([self.store.read(k, "part") for k in keys])
                with self.store.write(state_key) as writer, _answers(writer, ctx) as own:
                    state = fit(step, stage.label, rows, own)
                    for name, table in state.tables.items():
                        writer.table(name, table)
                    writer.info["info"] = dict(state.info)

            return self.ensure(state_key, stage, make)

        (record,) = self.map(f"{stage.label} (state)", reduce, 1)
        stage.objects += [*keys, state_key]
        names = [PurePath(n).stem for n in record.files if PurePath(n).stem != calls.TABLE]
        tables = {name: self.store.read(state_key, name) for name in names}
        return State(tables, record.info["info"]), state_key
