"""What the pages tell of versions, models, reviews and audits, from the files of a home."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catalog.versions import Version
from pipelines.serve.charts import Trend, trend
from pipelines.settings import Settings
from prefactory.errors import CatalogError, PrefactoryError
from prefactory.folders import read_listed
from prefactory.recipe import NAME
from review.assignments import open_rows
from review.store import open_review

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Told:
    """A version in numbers.

    Attributes:
        version: which.
        when: day and time of publishing, UTC; empty if it does not say.
        rows: table -> rows.
        dropped: rows that steps dropped.
        cost: of `Version.cost`.
        tags: names that it has.
    """

    version: Version
    when: str
    rows: dict[str, int]
    dropped: int
    cost: dict[str, Any]
    tags: list[str] = field(default_factory=list)


def told_of(version: Version, tags: dict[str, str] | None = None) -> Told:
    """A version in numbers; `tags` of its dataset."""
    manifest = version.manifest
    rows = {name: sum(table.splits.values()) for name, table in manifest.tables.items()}
    try:
        when = str(version.told("provenance.json").get("created", ""))[:16].replace("T", " ")
        cost = version.cost() or {}
    except CatalogError as error:
        _LOG.warning("%s", error)
        when, cost = "", {}
    named = sorted(t for t, number in (tags or {}).items() if number == manifest.version)
    return Told(version, when, rows, manifest.ledger["rows"], cost, named)


def dataset(settings: Settings, name: str) -> tuple[list[Told], str | None]:
    """The versions of a dataset, oldest first, and the version that a rollback made the head."""
    kept = settings.catalog.kept(name)
    found = settings.catalog.versions(name)
    newest = found[-1].manifest.version if found else None
    head = kept.head if kept.head is not None and kept.over == newest else None
    return [told_of(version, kept.tags) for version in found], head


def trends(versions: Sequence[Told], models: Sequence[Model]) -> list[Trend]:
    """How a dataset and the models trained on it went, version by version."""
    tables = sorted({name for told in versions for name in told.rows})
    drawn: list[tuple[str, Callable[[Told], float | None], int]] = [
        *[(f"rows of {t}", _of_table(t), 0) for t in tables],
        ("rows dropped by steps", lambda told: float(told.dropped), 0),
        ("seconds of the run", lambda told: told.cost.get("seconds"), 0),
        ("calls of models", lambda told: told.cost.get("calls"), 0),
        ("US dollars", lambda told: told.cost.get("usd"), 2),
    ]
    for method in sorted({model.method for model in models}):
        best = _accuracies(models, method)
        drawn.append((f"held-out accuracy, {method}", best, 3))
    made = []
    for title, value, digits in drawn:
        points = [(told.version.manifest.version, value(told)) for told in versions]
        if any(v for _, v in points):  # calls and money of a recipe that asks no model: nothing
            made.append(trend(title, points, digits))
    return [chart for chart in made if chart is not None]


def _of_table(name: str) -> Callable[[Told], float | None]:
    return lambda told: told.rows.get(name)


def _accuracies(models: Sequence[Model], method: str) -> Callable[[Told], float | None]:
    known: dict[str, float] = {}
    for model in models:
        if model.method == method and model.accuracy is not None:
            known[model.ref] = max(model.accuracy, known.get(model.ref, 0.0))
    return lambda told: known.get(told.version.ref)


@dataclass(frozen=True)
class Model:
    """A trained model.

    Attributes:
        name: of its folder.
        method: how it was trained.
        ref: `name@version` that it was trained on.
        accuracy: held-out; None if it was not measured.
        facts: `training.json`.
    """

    name: str
    method: str
    ref: str
    accuracy: float | None
    facts: dict[str, Any]


def models(home: Path) -> list[Model]:
    """All models of a home that say what they are, by name."""
    found = []
    for path in sorted((home / "models").glob("*/training.json")):
        try:
            facts = json.loads(read_listed(path))
            data = facts["dataset"]
            test = (facts.get("metrics") or {}).get("test") or {}
            ref = f"{data['name']}@{data['version']}"
            found.append(
                Model(path.parent.name, str(facts["method"]), ref, test.get("accuracy"), facts)
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return [model for model in found if NAME.fullmatch(model.name)]


@dataclass(frozen=True)
class Reviewed:
    """A review in numbers.

    Attributes:
        name, task: of the review.
        source: version or file that is reviewed.
        rows, open, votes, people: how many.
        why: what keeps it from being read; empty if it can be.
    """

    name: str
    task: str = ""
    source: str = ""
    rows: int = 0
    open: int = 0
    votes: int = 0
    people: int = 0
    why: str = ""


def reviews(home: Path) -> list[Reviewed]:
    """All reviews of a home, by name."""
    folders = sorted(p for p in (home / "reviews").glob("*") if p.is_dir())
    return [_reviewed(home, path.name) for path in folders]


def _reviewed(home: Path, name: str) -> Reviewed:
    try:
        review = open_review(home, name)
    except PrefactoryError as error:
        return Reviewed(name, why=str(error))
    try:
        source = review.meta("source") or {}
        with review.db.read() as work:
            votes = work.value("select count(*) from vote where choice <> 'withdrawn'")
            people = work.value("select count(*) from person where active = 1")
        where = source.get("version") or source.get("name") or ""
        return Reviewed(
            name, review.settings.task, str(where), int(review.meta("rows")),
            open_rows(review), int(votes), int(people),
        )  # fmt: skip
    finally:
        review.db.close()


def audit_of(home: Path, version: Version) -> Path | None:
    """The page of the newest audit of a version; None without one."""
    path = home / "audits" / version.manifest.name / version.manifest.version / "audit.html"
    return path if path.is_file() else None
