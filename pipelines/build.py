"""The main job: a recipe in, a published version, its report and trained models out.

Plain functions; `pipelines.flows` puts them on Prefect.
"""

from __future__ import annotations

import json
import logging
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from catalog.publish import Published, publish
from catalog.report import build as build_report
from catalog.sources import LateColumnsError, OpenSource, SourceSpec, open_source
from catalog.versions import Version
from pipelines.engines import engines
from pipelines.pays import notes, pays, scores
from pipelines.settings import Settings
from pipelines.training import METHODS, Trained, train
from pipelines.vectors import embedder, known
from prefactory.errors import CatalogError, ConfigError, PrefactoryError
from prefactory.plan import PlannedStep, plan
from prefactory.recipe import Recipe, Sections, load
from prefactory.run import execute
from prefactory.stages import Mapper, Options, RunResult, Stage, common_schema

_LOG = logging.getLogger(__name__)

SECTIONS = Sections(source=SourceSpec, train=METHODS)


@dataclass
class Outcome:
    """What a build made.

    Attributes:
        published: the version, and whether it is new.
        stages: what happened at each stage.
        trained: models trained on the version, in the recipe's order.
    """

    published: Published
    stages: list[Stage]
    trained: list[Trained] = field(default_factory=list)


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


def build(recipe: Recipe, sources: list[OpenSource], settings: Settings, mapper: Mapper) -> Outcome:
    """Run a recipe, publish the result with its report, and train what the recipe asks for."""
    used: dict[str, dict[str, Any]] = {}
    with engines(settings, used) as engine:
        options = Options(
            workers=settings.workers,
            shard_rows=settings.shard_rows,
            embed=embedder(settings),
            engine=engine,
            on_stage=lambda stage: _LOG.info(stage_line(stage)),
        )
        try:
            result = execute(recipe, sources, settings.store, mapper, options)
        except LateColumnsError:
            again = [source.whole() for source in sources]
            result = execute(recipe, again, settings.store, mapper, options)
    shown = recipe.head.publish.report_rows

    def report(folder: Path) -> str:
        _write_pays(result, folder, settings)
        return build_report(folder, shown)

    try:
        published = publish(result, settings.catalog, report, used)
    except OSError as error:
        raise CatalogError(
            f"the catalog at {settings.catalog.root} can't be written: {error}; what was computed "
            "is kept, and the same command publishes it"
        ) from error
    outcome = Outcome(published, result.stages)
    for method, config in recipe.train:
        _LOG.info("train %s", method)
        outcome.trained.append(train(method, config, published.version, settings))
    return outcome


def _write_pays(result: RunResult, folder: Path, settings: Settings) -> None:
    """Write what the run's selection gains, and its idle scores, to `pays.json`, if any."""
    if not result.recipe.head.publish.pays:
        return
    started = time.monotonic()
    told = scores(result)
    found = {
        "selection": pays(result, embedder(settings), known(settings)),
        "scores": told,
        "notes": notes(told),
    }
    if any(found.values()):
        text = json.dumps(found, indent=2, ensure_ascii=False)
        (folder / "pays.json").write_text(text + "\n", "utf-8")
    _LOG.info("does it pay%s%6.1f s", " " * 41, time.monotonic() - started)


def pays_lines(version: Version) -> list[str]:
    """What `pays.json` of a version says, line by line."""
    path = version.path / "pays.json"
    if not path.is_file():
        return []
    found = json.loads(path.read_text("utf-8"))
    selection = found["selection"]
    return [*([selection["sentence"]] if selection else []), *found["notes"]]


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
