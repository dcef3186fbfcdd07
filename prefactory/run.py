"""Executing a recipe: source -> shards -> steps, every output in the store, every drop in a ledger.

`execute` is a plain loop. What runs the shards of a stage is a `Mapper`: a thread pool here, a
Prefect flow in `pipelines`. A finished output is never made again, whatever ended the run before.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from prefactory import ledger
from prefactory.engines import calls
from prefactory.errors import DataError
from prefactory.folders import sweep
from prefactory.identity import fingerprint
from prefactory.measures import judge_watch
from prefactory.orders import Apply, Do, Done, Exchange, Fit, FitShard, Order, ReadFile, Site, Try
from prefactory.orders.links import Choose, Settle, linked_in
from prefactory.orders.ranges import Cut, FitRange, HandBack, Survey
from prefactory.orders.rounds import Conclude, HandOut, Look
from prefactory.plan import PlannedStep, plan
from prefactory.recipe import Recipe
from prefactory.shards import MANY_PARTS, Delta, Part, Shard, View, cut, in_runs, list_parts
from prefactory.sharing.spending import money
from prefactory.stages import (
    Mapper,
    Options,
    RunResult,
    Source,
    Stage,
    columns_key,
    common_schema,
    file_identity,
    source_counts,
)
from prefactory.step import FittedFilter, Generator, Step
from prefactory.step.exchange import Exchanged, Linked, Rounds
from prefactory.store import Record, Store
from prefactory.tables import Shape

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
    site = Site(recipe, sources, store, images, options.embed, options.engine)
    run = _Run(site, mapper, options)
    table = run.read_sources(shape)
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
        options.on_step(*before[-1], run.stages[-1])
        shape = step.out_shape
        name = beside or (shape.value if name in set(Shape) else name)
    views[name] = View(store, shape, tuple(table), shape)
    if shape == Shape.PAIRS:
        views.setdefault(Shape.RESPONSES, View(store, Shape.RESPONSES, tuple(table), shape))
    if shape == Shape.PROMPTS:
        views.pop(Shape.RESPONSES, None)
    counts = run.source_counts
    return RunResult(
        recipe, views, run.stages, run.identities, counts, store, before, images, run.used,
        options.fit_rows, run.more,
    )  # fmt: skip


def _new_prompts(step: Step) -> bool:
    return isinstance(step, Generator) and step.new_prompts


def _replaces(step: Step) -> bool:
    return isinstance(step, Generator) and step.replaces


def _beside(step: Step) -> str | None:
    return step.beside if isinstance(step, Generator) else None


class _Run:
    """The state of one execution: where shards are, and the stages so far."""

    def __init__(self, site: Site, mapper: Mapper, options: Options) -> None:
        self.recipe = site.recipe
        self.sources = site.sources
        self.store = site.store
        self.mapper = mapper
        self.options = options
        self.site = site
        self.do: Do = options.conduct(site)
        self.identities = [source.identity() for source in site.sources]
        self.source_counts: list[dict[str, Any]] = []
        self.stages: list[Stage] = []
        self.fresh: set[str] = set()
        """Keys of what this run has made or taken, and so of what it does not make again."""
        self.used: set[str] = set()
        """Keys of all objects that it has made or taken."""
        sweep(site.store.root / "tmp")

    def map(
        self,
        name: str,
        order: Callable[[int], Order],
        n: int,
        stage: Stage,
        unit: str = "shards",
        calls: int = 0,
    ) -> list[Record]:
        """Have `n` orders done, tell how far they are, and count what was made for the stage."""
        rows = stage.rows_in if calls else 0
        self.options.begin(name, n, unit, calls, rows)

        def told(i: int) -> Done:
            done = self.do(order(i))
            self.options.advance()
            return done

        every = self.mapper(name, told, n)
        stage.made += sum(done.made for done in every)
        stage.reused += sum(not done.made for done in every)
        self.used.update(done.record.key for done in every)
        for done in every:
            self.options.paid(done.paid)
        return [done.record for done in every]

    def more(self, name: str, orders: Sequence[Order]) -> None:
        """Have orders done that belong to no stage: what publishing asks for."""
        self.options.begin(name, len(orders), "parts", 0, 0)

        def done(i: int) -> None:
            self.do(orders[i])
            self.options.advance()

        self.mapper(name, done, len(orders))

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

    # -- sources -------------------------------------------------------------------------------

    def read_sources(self, shape: Shape) -> list[Shard]:
        """Read every file into parts, and the parts into shards."""
        started = time.monotonic()
        stage = Stage("source", "source", shape)
        columns = common_schema(self.sources)[1]
        marks = [fingerprint(i) for i in self.identities]
        jobs = sorted(
            (
                (n, place, file.name)
                for n, source in enumerate(self.sources)
                for place, file in enumerate(source.files)
            ),
            key=lambda job: (self.identities[job[0]]["name"], job[2], marks[job[0]]),
        )
        keys = [
            fingerprint([file_identity(self.identities[n], name), columns_key(columns)])
            for n, _, name in jobs
        ]

        def read(i: int) -> ReadFile:
            return ReadFile(keys[i], stage.label, *jobs[i][:2], columns)

        records = self.map("source", read, len(jobs), stage, "files")
        for key, record in zip(keys, records, strict=True):
            stage.ledgers += [(key, t) for t in record.info["ledgers"]]
        stage.rows_in = sum(r.info["records"] for r in records)
        stage.reasons = ledger.add_counts([r.info["reasons"] for r in records])
        stage.notes = ledger.add_counts([r.info["notes"] for r in records])
        stage.info = {"files": len(jobs)}
        self.source_counts = [
            source_counts(source, [r for (m, *_), r in zip(jobs, records, strict=True) if m == n])
            for n, source in enumerate(self.sources)
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

    def _exchange(self, parts: list[Part], shape: Shape, stage: Stage) -> list[Shard]:
        """Cut parts into shards by prompt id; copies of a row go to the ledger."""
        ranges = cut(sum(p.rows for p in parts), self.options.shard_rows)
        inputs = fingerprint([[p.key, p.table] for p in parts])
        keys = [fingerprint(["exchange", inputs, *r]) for r in ranges]
        listed: str | list[Part] = parts
        if len(parts) > MANY_PARTS:  # else each of as many orders would carry them
            listed = list_parts(self.store, fingerprint(["parts", inputs]), parts)
            self.used.add(listed)

        def exchange(i: int) -> Exchange:
            return Exchange(keys[i], stage.label, listed, *ranges[i], shape)

        records = self.map(f"{stage.label} (shards)", exchange, len(ranges), stage)
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
        tried = self._trial(placed.step, base, stage)
        states = [""] * len(shards)
        if placed.step.scope == "dataset":
            states = self._fit(base, planned, shards, stage)
        keys = [fingerprint([base, state, s.key]) for state, s in zip(states, shards, strict=True)]

        def apply(i: int) -> Apply:
            key = self._latest(keys[i], placed.label)
            return Apply(key, placed.label, shards[i], planned.shape, states[i])

        sides = 1 if planned.shape in placed.step.takes() else 2  # answers of pairs, one by one
        rows = stage.rows_in * sides
        asks = sum(a.calls for a in placed.step.asks(rows, rows))
        records = self.map(placed.label, apply, len(shards), stage, calls=asks)
        keys = [record.key for record in records]
        after = self._after(planned, shards, keys, records, stage)
        if tried:
            stage.info["watch"] = judge_watch.merged([tried, stage.info.get("watch", [])])
        stage.rows_out = sum(s.rows for s in after)
        stage.unanswered = ledger.add_counts([r.info.get("unanswered", {}) for r in records])
        stage.objects = [*stage.objects, *keys]
        kept = [r for r in map(self.store.open, stage.objects) if r is not None]
        stage.usage = self._usage(kept)
        stage.doubts = ledger.add_counts([r.info.get("doubts", {}) for r in kept])
        self.finish(stage, started)
        return after

    def _trial(self, step: Step, base: str, stage: Stage) -> list[dict[str, Any]]:
        """What a step's judges make of rows whose answer is known, asked before all others.

        Raises:
            DataError: a judge failed, and the recipe does not say `failed_judges`.
        """
        if not step.trials():
            return []
        key = self._latest(fingerprint(["trial", base]), stage.label)

        asks = sum(a.calls for a in step.asks(0, 0))
        name = f"{stage.label} (gold)"
        (record,) = self.map(name, lambda _: Try(key, stage.label), 1, stage, calls=asks)
        stage.objects = [*stage.objects, key]
        stage.info = {"watch": record.info["watch"]}
        failed = judge_watch.failed([stage])
        if failed and not self.recipe.head.publish.failed_judges:
            raise DataError(
                "\n".join(failed)
                + "\nso nothing else was asked, and nothing is published. "
                + judge_watch.HOW
            )
        return list(record.info["watch"])

    def _usage(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        """What models answered for some objects, by model and role, whoever paid for it."""
        used = [r.key for r in records if f"{calls.TABLE}.arrow" in r.files]
        sums = calls.summed([self.store.read(key, calls.TABLE) for key in used])
        for row in sums:
            counts = row["prompt_tokens"], row["completion_tokens"]
            usd = self.options.usd(row["model"], *counts, row.pop("metered"))
            share = row.pop("price_share")
            row["usd"] = None if usd is None else money(usd * share)
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
            gone = [r.files["ledger.arrow"]["rows"] for r in records]
            return [
                s.with_delta(Delta("drop", k, empty=not n), s.rows - n)
                for s, k, n in zip(shards, keys, gone, strict=True)
            ]
        new_shards = [
            Shard(k, r.files["rows.arrow"]["rows"], tuple(r.info["columns"]))
            for k, r in zip(keys, records, strict=True)
        ]
        if _new_prompts(planned.placed.step):
            parts = [Part(s.base, "rows", s.rows) for s in new_shards]
            return self._exchange(parts, planned.out_shape, stage)
        return new_shards

    def _fit(self, base: str, planned: PlannedStep, shards: list[Shard], stage: Stage) -> list[str]:
        """Fit a dataset step: a map over shards, then a reduce; the key of each shard's state.

        The reduce is one order on all rows sorted by id, or where they are too many for one
        worker, and the step can be cut, orders for runs or ranges of them.
        """
        keys = [self._latest(fingerprint(["fit", base, s.key]), stage.label) for s in shards]

        def part(i: int) -> FitShard:
            return FitShard(keys[i], stage.label, shards[i], planned.shape)

        looks = self.map(f"{stage.label} (fit)", part, len(shards), stage)
        stage.objects += keys
        step = planned.placed.step
        sizes = [look.files["part.arrow"]["rows"] for look in looks]
        runs = in_runs(sizes, self.options.fit_rows)
        if len(runs) > 1 and isinstance(step, Linked):
            return self._fit_by_links(step, keys, runs, stage)
        if len(runs) > 1 and isinstance(step, Exchanged | Rounds) and step.exchanged():
            if isinstance(step, Rounds):
                return self._fit_in_rounds(
                    step, keys, runs, [sum(sizes[a:b]) for a, b in runs], stage
                )
            return self._fit_by_key(step, keys, runs, stage)
        state_key = fingerprint(["state", keys])
        (record,) = self.map(
            f"{stage.label} (state)", lambda _: Fit(state_key, stage.label, keys), 1, stage
        )
        stage.objects.append(state_key)
        stage.info = dict(record.info["info"])
        return [state_key] * len(shards)

    def _fit_by_key(
        self, step: Exchanged, keys: list[str], runs: list[tuple[int, int]], stage: Stage
    ) -> list[str]:
        """Fit in as many ranges of keys as there are runs of shards (see `orders.ranges`)."""
        label, n = stage.label, len(runs)
        cuts = [fingerprint(["cut", keys[a:b]]) for a, b in runs]

        def stored(kind: str, of: list[str]) -> list[str]:
            return [fingerprint([kind, of, i]) for i in range(n)]

        surveys = stored("survey", cuts) if step.surveys() else []
        ranges = stored("range", cuts)
        back = stored("hand back", ranges)

        def in_all(name: str, order: Callable[[int], Order]) -> list[Record]:
            return self.map(f"{label} ({name})", order, n, stage)

        in_all("cut", lambda i: Cut(cuts[i], label, keys[slice(*runs[i])]))
        if surveys:
            in_all("survey", lambda i: Survey(surveys[i], label, cuts, i))
        in_all("ranges", lambda i: FitRange(ranges[i], label, cuts, i, surveys))
        records = in_all("state", lambda i: HandBack(back[i], label, ranges, i))
        stage.objects += [*cuts, *surveys, *ranges, *back]
        stage.info = dict(records[0].info["info"])
        return [key for key, (a, b) in zip(back, runs, strict=True) for _ in range(a, b)]

    def _fit_in_rounds(
        self,
        step: Step,
        parts: list[str],
        runs: list[tuple[int, int]],
        sizes: list[int],
        stage: Stage,
    ) -> list[str]:
        """Look at each run of shards and conclude, round by round (see `orders.rounds`)."""
        label, known, last = stage.label, "", False
        while not last:
            before = known
            looks = [fingerprint(["look", parts[a:b], before]) for a, b in runs]
            known = fingerprint(["conclude", looks])
            orders: list[Order] = [
                Look(key, label, parts[a:b], before)
                for key, (a, b) in zip(looks, runs, strict=True)
            ]
            self.map(f"{label} (looks)", orders.__getitem__, len(orders), stage)
            end = Conclude(known, label, looks, before)
            (record,) = self.map(f"{label} (state)", [end].__getitem__, 1, stage)
            stage.objects += [*looks, known]
            stage.info, last = dict(record.info["info"]), record.info["last"]
        if not isinstance(step, FittedFilter):
            return [known] * len(parts)
        first = [0, *itertools.accumulate(sizes)]
        back = [fingerprint(["hand out", known, i]) for i in range(len(runs))]
        hand: list[Order] = [
            HandOut(back[i], label, known, first[i], sizes[i]) for i in range(len(runs))
        ]
        self.map(f"{label} (hand out)", hand.__getitem__, len(hand), stage)
        stage.objects += back
        return [key for key, (a, b) in zip(back, runs, strict=True) for _ in range(a, b)]

    def _fit_by_links(
        self, step: Linked, parts: list[str], runs: list[tuple[int, int]], stage: Stage
    ) -> list[str]:
        """Link runs of shards two by two, and give each what was chosen (see `orders.links`)."""
        label, n = stage.label, len(runs)
        how = step.linking(self.store.read(parts[0], "part").columns)
        linking = linked_in(label, how, [parts[a:b] for a, b in runs])
        choice = fingerprint(["choice", linking.runs])
        back = [fingerprint(["settle", choice, i]) for i in range(n)]
        ask: list[Order] = [Choose(choice, label, how, linking.runs, linking.places, linking.links)]
        settle: list[Order] = [Settle(back[i], label, linking.runs, choice, i) for i in range(n)]
        records: dict[str, list[Record]] = {}
        for name, orders in [*linking.batches, ("choice", ask), ("state", settle)]:
            records[name] = self.map(f"{label} ({name})", orders.__getitem__, len(orders), stage)
        stage.objects += [*linking.objects, choice, *back]
        chosen = records["choice"][0].info["info"]
        stage.info = step.told(chosen, [r.info["info"] for r in records["state"]])
        return [key for key, (a, b) in zip(back, runs, strict=True) for _ in range(a, b)]
