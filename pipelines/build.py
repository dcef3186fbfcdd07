"""The main job: a recipe in, a published version, its report and trained models out.

Plain functions; `pipelines.flows` puts them on Prefect.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl
from fsspec.implementations.local import LocalFileSystem

from catalog.manifest import Manifest
from catalog.publish import Published, check_number, publish
from catalog.report import build as build_report
from catalog.report.costs import dollars
from catalog.report.costs import read as read_costs
from catalog.sources import LateColumnsError, OpenSource, SourceSpec, open_source
from catalog.versions import Version
from pipelines.engines import engines
from pipelines.failed import write as write_failed
from pipelines.journal import Wanted, answers, drop_answers
from pipelines.pays import MOST, Looked, chooses, ends, looks_early, notes, pays, scores
from pipelines.progress import Progress
from pipelines.settings import Settings
from pipelines.training import METHODS, Trained, train
from pipelines.vectors import embedder, known
from prefactory.errors import (
    CatalogError,
    ConfigError,
    DataError,
    DiskFullError,
    PrefactoryError,
    is_full,
)
from prefactory.plan import PlannedStep, plan
from prefactory.recipe import Recipe, Sections, load
from prefactory.run import execute
from prefactory.shards import View
from prefactory.stages import Mapper, Options, RunResult, Stage, common_schema
from prefactory.tables import Shape
from review.settings import Settings as ReviewSettings
from review.settings import safe_name

_LOG = logging.getLogger(__name__)

SECTIONS = Sections(source=SourceSpec, train=METHODS, review=ReviewSettings)


@dataclass
class Outcome:
    """What a build made.

    Attributes:
        published: the version, and whether it is new.
        stages: what happened at each stage.
        used: what this run paid for, by step, role and model (`Accounts.by_step`).
        trained: models trained on the version, in the recipe's order.
        review: name of the review of the version that the recipe asks for.
    """

    published: Published
    stages: list[Stage]
    used: list[dict[str, Any]] = field(default_factory=list)
    trained: list[Trained] = field(default_factory=list)
    review: str | None = None


SOURCE_PATH = re.compile(r"(source(?:\.\d+)?\.path)=(?!\w+://)(.+)")
TEXT = re.compile(r"(name|version)=(?!null$)([^\s'\"]+)")


def load_recipe(path: Path, overrides: list[str]) -> Recipe:
    """Read and check a recipe file (see `prefactory.recipe.load`).

    A source path in an override starts at the working folder, if something is there: it was typed
    there. A path inside a recipe starts at the recipe's folder.
    """
    return load(path, [_as_text(_from_here(word)) for word in overrides], SECTIONS)


def _as_text(word: str) -> str:
    """`version=1.10` is a version, no number."""
    match = TEXT.fullmatch(word)
    return f"{match[1]}={json.dumps(match[2])}" if match else word


def _from_here(word: str) -> str:
    match = SOURCE_PATH.fullmatch(word)
    if match and not Path(match[2]).is_absolute() and LocalFileSystem().glob(match[2]):
        return f"{match[1]}={Path(match[2]).absolute()}"
    return word


def open_sources(recipe: Recipe, *, whole: bool = False) -> list[OpenSource]:
    """Open the sources of a recipe; relative paths start at the recipe's folder.

    Args:
        recipe: whose sources.
        whole: look at the columns of every record first (see `open_source`).
    """
    base = recipe.path.resolve().parent
    opened, problems = [], []
    for spec in recipe.sources:
        try:
            full = SourceSpec.model_validate(spec.model_dump())
            opened.append(open_source(full, base, whole=whole))
        except PrefactoryError as error:
            problems.append(f"{recipe.path.name}: source: {error}")
    if problems:
        raise ConfigError(problems)
    return opened


def check_recipe(
    path: Path, overrides: list[str], *, whole: bool = False
) -> tuple[Recipe, list[OpenSource], list[PlannedStep]]:
    """Everything that can be known before a run: the recipe, its sources, its planned steps.

    Args:
        path: of the recipe.
        overrides: `key=value` words.
        whole: look at the columns of every record of the sources, not of the first ones.
    """
    recipe = load_recipe(path, overrides)
    sources = open_sources(recipe, whole=whole)
    shape, columns = common_schema(sources)
    return recipe, sources, plan(recipe, shape, columns)


def build(
    recipe: Recipe,
    sources: list[OpenSource],
    settings: Settings,
    mapper: Mapper,
    on_stage: Callable[[Stage], None] = lambda stage: None,
) -> Outcome:
    """Run a recipe, publish the result, make the review and train the models that it asks for.

    Args:
        recipe: what to do.
        sources: its opened sources.
        settings: of the run.
        mapper: what runs the shards of a stage.
        on_stage: told of each stage that is done.
    """
    check_number(settings.catalog, recipe, [source.identity() for source in sources])
    with settings.store.in_use():  # until models and reviews say themselves what they need
        outcome = _published(recipe, sources, settings, mapper, on_stage)
        outcome.review = _put_before_people(recipe, outcome.published.version, settings)
        for method, config in recipe.train:
            _LOG.info("train %s", method)
            outcome.trained.append(train(method, config, outcome.published.version, settings))
    return outcome


def _put_before_people(recipe: Recipe, version: Version, settings: Settings) -> str | None:
    """Make the review of a version that the recipe's section `review` asks for; its name.

    Raises:
        ConfigError: it does not fit the rows; the version is published all the same.
    """
    if recipe.review is None:
        return None
    from pipelines.review.making import make  # reads rows: slow to load

    asked = ReviewSettings.model_validate(recipe.review.model_dump())
    review = make(version.ref, asked, home=settings.home, name=safe_name(version.ref))
    review.db.close()
    _LOG.info("review: rows wait for people; prefactory review %s", review.name)
    return review.name


def _published(
    recipe: Recipe,
    sources: list[OpenSource],
    settings: Settings,
    mapper: Mapper,
    on_stage: Callable[[Stage], None],
) -> Outcome:
    progress, stages = Progress(recipe.head.name), list[Stage]()
    paid = _Paid(recipe, settings)
    fresh = _ask_anew(recipe, settings)

    def finished(stage: Stage) -> None:
        stages.append(stage)
        _LOG.info(stage_line(stage))
        on_stage(stage)

    with engines(settings, progress) as session:
        options = Options(
            workers=settings.workers,
            shard_rows=settings.shard_rows,
            fit_rows=settings.fit_rows,
            embed=embedder(settings),
            engine=session.engine,
            on_stage=finished,
            on_step=paid.step,
            fresh=fresh,
            usd=session.accounts.usd,
            begin=progress.begin,
            advance=progress.advance,
            paid=lambda rows: session.accounts.add(rows, recipe.head.name),
            **_elsewhere(settings),
        )
        try:
            result = _executed(recipe, sources, settings, mapper, options, stages)
        except DataError as error:
            raise _unpublished(error, recipe, stages, settings) from error
        used = session.accounts.by_step()
    shown = recipe.head.publish.report_rows
    seconds: dict[str, float] = {}

    def report(folder: Path) -> str:
        def told() -> None:
            text, seconds["pays"] = paid.told()
            if recipe.head.publish.pays:
                _LOG.info("does it pay%s%6.1f s", " " * 41, seconds["pays"])
            if text:
                (folder / "pays.json").write_text(text, "utf-8")

        return build_report(folder, shown, told)

    try:
        with paid.of(result):
            published = publish(result, settings.catalog, report, used, seconds, paid.begin)
    except DataError as error:
        raise _unpublished(error, recipe, stages, settings) from error
    except OSError as error:
        told = (
            f"the catalog at {settings.catalog.root} can't be written: {error}; what was computed "
            "is kept, and the same command publishes it"
        )
        raise (DiskFullError if is_full(error) else CatalogError)(told) from error
    return Outcome(published, result.stages, used)


def _elsewhere(settings: Settings) -> dict[str, Any]:
    """The option of a run whose orders a cluster does."""
    if settings.cluster is None:
        return {}
    from pipelines.conduct.cluster import Cluster  # Ray: slow to load

    return {"conduct": Cluster(settings.cluster).conductor(settings)}


def _executed(
    recipe: Recipe,
    sources: list[OpenSource],
    settings: Settings,
    mapper: Mapper,
    options: Options,
    stages: list[Stage],
) -> RunResult:
    try:
        return execute(recipe, sources, settings.store, mapper, options)
    except LateColumnsError:
        stages.clear()
        again = [source.whole() for source in sources]
        return execute(recipe, again, settings.store, mapper, options)


def _ask_anew(recipe: Recipe, settings: Settings) -> frozenset[str]:
    """Drop the answers that are to be asked for again; return the labels of steps made anew.

    Raises:
        ConfigError: the recipe has no such step.
        StoreError: another run is using the journal.
    """
    labels = [placed.label for placed in recipe.steps]
    fresh = frozenset(
        label for label in labels for name in settings.fresh if _is_named(label, name)
    )
    unknown = [n for n in settings.fresh if not any(_is_named(label, n) for label in labels)]
    if unknown:
        raise ConfigError(f"--fresh {unknown[0]}: {recipe.path.name} has only {', '.join(labels)}")
    if not fresh and not settings.retry_failed:
        return fresh
    all_answers = answers(settings)
    own = Wanted(recipe=recipe.name)
    parts = [replace(own, step=label).of(all_answers) for label in sorted(fresh)]
    parts += [replace(own, reason="any").of(all_answers)] if settings.retry_failed else []
    dropped = drop_answers(settings, pl.concat(parts).unique(("engine", "key")))
    _LOG.info("%s answers were dropped and are asked for anew", f"{dropped:,}")
    return fresh


def _is_named(label: str, name: str) -> bool:
    return label == name or label.endswith(f".{name}")


def _unpublished(
    error: DataError, recipe: Recipe, stages: list[Stage], settings: Settings
) -> DataError:
    """The error of a run that publishes nothing, with the page of its bad answers."""
    path = write_failed(recipe, stages, str(error), settings)
    doubts = "".join(f"\n{line}" for line in doubt_lines(stages, recipe.path))
    return DataError(f"{error}{doubts}\nwhat was dropped and why, word for word: {path}")


def doubt_lines(stages: Sequence[Stage], recipe: Path) -> list[str]:
    """A sentence for each step some of whose answers could not be used, with the cure."""
    return [
        f"{stage.label}: {sum(stage.doubts.values()):,} answers could not be used ("
        + ", ".join(f"{reason} {n:,}" for reason, n in stage.doubts.items())
        + f"); they are kept: `prefactory run {recipe} --retry-failed` drops them and "
        "asks again"
        for stage in stages
        if stage.doubts
    ]


class _Paid:
    """What the run's selection gains, and its idle scores: worked out while tables are written.

    What does not depend on the selection is looked at as soon as its first step is done. If the run
    made nothing new, its version is likely there, and nothing is worked out before it is asked for.
    """

    def __init__(self, recipe: Recipe, settings: Settings) -> None:
        self._recipe, self._settings = recipe, settings
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="pays")
        self._result: RunResult
        self._waits = recipe.head.publish.pays and looks_early(p.step for p in recipe.steps)
        self._looked: Future[Looked] | None = None
        self._early: Future[tuple[str, float]] | None = None

    def step(self, planned: PlannedStep, view: View, stage: Stage) -> None:
        """Look at the pairs that the first step that chose had, if it has just chosen."""
        if not self._waits or planned.shape != Shape.PAIRS:
            return
        chosen, other = chooses(planned, stage), ends(planned)
        self._waits = not (chosen or other)
        if chosen and not other and stage.made:
            self._looked = self._pool.submit(Looked.at, view, MOST, self._recipe.head.seed)

    def begin(self) -> None:
        """Work it out beside what follows, if the run made something."""
        if self._recipe.head.publish.pays and any(stage.made for stage in self._result.stages):
            self._early = self._pool.submit(self._found)

    @contextmanager
    def of(self, result: RunResult) -> Iterator[None]:
        """The run that a block publishes."""
        self._result = result
        try:
            yield
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def told(self) -> tuple[str, float]:
        """The text of `pays.json`, empty if there is nothing to say, and how long it took."""
        if not self._recipe.head.publish.pays:
            return "", 0.0
        return self._found() if self._early is None else self._early.result()

    def _found(self) -> tuple[str, float]:
        started = time.monotonic()
        looked = None if self._looked is None else self._looked.result()
        told = scores(self._result)
        found = {
            "selection": pays(
                self._result, embedder(self._settings), known(self._settings), looked
            ),
            "scores": told,
            "notes": notes(told),
        }
        text = json.dumps(found, indent=2, ensure_ascii=False) + "\n" if any(found.values()) else ""
        return text, time.monotonic() - started


def pays_lines(version: Version) -> list[str]:
    """What `pays.json` of a version says, line by line."""
    found = version.told("pays.json")
    selection = found.get("selection")
    return [*([selection["sentence"]] if selection else []), *found.get("notes", ())]


def cost_lines(manifest: Manifest) -> list[str]:
    """What the answers behind a version cost, in a line, and for each row that was kept."""
    tables = [name for name in ("pairs", "responses", "prompts") if name in manifest.tables]
    costs = read_costs(manifest.model_dump(mode="json"), tables[0] if tables else "")
    if costs is None:
        return []
    line = f"models     {costs.calls:,} answers, {costs.tokens:,} tokens, {dollars(costs.usd)}"
    line += " US dollars" if costs.usd is not None else ""
    if costs.tokens_a_row is not None:
        usd = f", {dollars(costs.usd_a_row)} US dollars" if costs.usd_a_row is not None else ""
        line += f"; {costs.tokens_a_row:,.0f} tokens{usd} for each of the {costs.shape} kept"
    return [line]


def stage_line(stage: Stage) -> str:
    """One line about a finished stage."""
    reasons = ", ".join(f"{reason} {n:,}" for reason, n in stage.reasons.items())
    again = " (reused)" if stage.reused and not stage.made else ""
    text = f"{stage.label:<28} {stage.rows_in:>9,} -> {stage.rows_out:>9,} {stage.shape.value}"
    dropped = f"; dropped: {reasons}" if reasons else ""
    labeler = stage.kind == "labeler"
    notes = ", ".join(f"{note} {n:,}" for note, n in stage.notes.items())
    what = {"labeler": "without label", "generator": "came to nothing"}.get(stage.kind)
    missing = f"; {what}: {notes}" if notes and what else ""
    names = [n.replace("chosen_", "*_", 1) for n in stage.adds if not n.startswith("rejected_")]
    added = f"; adds {', '.join(names)}" if labeler else ""
    return f"{text}  {stage.seconds:6.1f} s{again}{added}{missing}{dropped}"
