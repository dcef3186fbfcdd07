"""Build the report page of a dataset version."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

from catalog.arrow_folder import Table
from catalog.report import (
    charts,
    costs,
    dialogues,
    judges,
    labels,
    people,
    read,
    rewriters,
    samples,
    scores,
    stages,
    stats,
    tree_page,
    wins,
)
from catalog.report.charts import Series
from catalog.report.trees import by_luck
from catalog.versions import open_folder, read_manifest
from prefactory.errors import PrefactoryError
from prefactory.measures import judge_watch
from prefactory.pages import wording
from prefactory.pages.page import environment, render
from prefactory.tables import SCORE, SIDES, Shape

HERE = Path(__file__).parent
SAMPLES = 60
"""Rows to read on a page."""
MOST = 24
"""Objectives that get a chart and a place in the correlation table."""

TAIL = 0.01
"""Share of lengths at each end that the end bins of a length chart take in."""


def build(
    folder: Path, n_samples: int = SAMPLES, pays_made: Callable[[], None] = lambda: None
) -> str:
    """Return the report of a version as one HTML page that loads nothing from anywhere.

    The same folder content gives the same text. Reads the tables batch by batch and keeps only
    numeric columns and the rows shown.

    Args:
        folder: `<root>/<name>/<version>` with `manifest.json` and, where the version has them,
            `pairs/`, `responses/`, `prompts/` and `ledger.parquet`.
        n_samples: rows to read on the page, at most.
        pays_made: returns when `pays.json` is there, if it will be; called once all else is read.

    Raises:
        CatalogError: if the manifest is missing or a file is damaged.
    """
    manifest = read_manifest(folder)
    ledger = read.ledger(folder)
    tables = [_table(saved) for saved in read.tables(folder).values()]
    main = next((t for t in tables if t["rows"]), None)
    texts = samples.Samples((), 0, 0)
    if main is not None:
        texts = samples.read(main["saved"], main["objectives"][:MOST], n_samples)
    steps = stages.read(manifest, ledger)
    spent = costs.read(manifest, main["shape"] if main else "")
    trees = _trees(folder, manifest)
    css = [HERE / "scores.css", *([HERE / "tree_section.css"] if trees else [])]
    return render(
        environment(HERE, FILTERS, lenient=True),
        "page.html.j2",
        css,
        [HERE / "page.js", HERE / "pareto.js"],
        manifest=manifest,
        path="/".join(str(manifest.get(key) or "?") for key in ("name", "version")),
        tables=tables,
        main=main,
        scores=main and scores.section(main["saved"], main["numbers"], main["names"]),
        failed_judges=judge_watch.failed(steps),
        judges=judges.read(main["saved"], steps, spent) if main else [],
        labels=labels.read(steps),
        costs=spent,
        people=people.read(folder, ledger),
        wins=main and wins.read(main["saved"]),
        dialogues=main and dialogues.read(main["saved"]),
        trees=trees,
        by_luck=[*by_luck(manifest), *_rewriter(folder, trees)],
        samples=texts,
        cut=samples.cut_sentence(texts),
        stages=steps,
        ledger_rows=int(ledger["n"].sum()),
        missing=sum(stage.missing for stage in steps),
        interval=charts.interval,
        pays=_pays(folder, pays_made),
    )


def _pays(folder: Path, made: Callable[[], None]) -> dict[str, Any]:
    """What the run's selection gains, and scores that serve nothing (`pays.json`), if any."""
    made()
    path = folder / "pays.json"
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}


def _trees(folder: Path, manifest: dict[str, Any]) -> Markup | None:
    """The search trees of a version that keeps some."""
    tables = (manifest.get("tables") or {}).values()
    if not any("tree" in (table.get("columns") or {}) for table in tables):
        return None
    try:
        return tree_page.tree_section(folder)
    except PrefactoryError:  # somebody's own column `tree`
        return None


def _rewriter(folder: Path, trees: Markup | None) -> list[str]:
    """How good the rewriter of a version's trees is, and what a pair cost."""
    if trees is None:
        return []
    report = rewriters.of_version(open_folder(folder), rewriters.MOST)
    return list(rewriters.sentences(report))


def _table(saved: Table) -> dict[str, Any]:
    numbers = stats.numbers(saved)
    flat = stats.answers(numbers)
    rows = stats.objective_rows(numbers)
    names = [row.name for row in rows[:MOST]]
    pairs = saved.shape == Shape.PAIRS
    return {
        "saved": saved,
        "shape": saved.shape.value,
        "rows": numbers.height,
        "numbers": numbers,
        "objectives": rows,
        "names": names,
        "hidden": max(len(rows) - MOST, 0),
        "heat": stats.correlations(flat, names) if names and numbers.height else [],
        "scores": [(name, _distribution(numbers, name, saved.shape)) for name in names],
        "margin": _margin(numbers),
        "longer": stats.wins(numbers, stats.LENGTH, ties_lose=False) if pairs else None,
        "lengths": _lengths(numbers) if pairs else [],
    }


def _distribution(numbers: pl.DataFrame, name: str, shape: Shape) -> Markup | None:
    sides = SIDES if shape == Shape.PAIRS else ("",)
    series = []
    for side in sides:
        column = f"{side}_{SCORE}{name}" if side else f"{SCORE}{name}"
        if column in numbers.columns:
            series.append(Series(side or "score", side or "single", numbers[column]))
    bins = stats.bins(pl.concat([s.values for s in series])) if series else None
    if bins is None:
        return None
    return charts.histogram(series, bins, f"score: {name}", "share of answers")


def _margin(numbers: pl.DataFrame) -> Markup | None:
    bins = stats.bins(numbers["margin"]) if "margin" in numbers.columns else None
    if bins is None:
        return None
    series = [Series("margin", "single", numbers["margin"])]
    return charts.histogram(series, bins, "margin", "share of pairs")


def _lengths(numbers: pl.DataFrame) -> list[tuple[str, Markup]]:
    gap = pl.col("chosen_length") - pl.col("rejected_length")
    gaps = numbers.select(gap=gap).filter(pl.col("gap") != 0)["gap"]
    shown = []
    lengths = pl.concat([numbers[f"{side}_length"] for side in SIDES])
    bins = stats.bins(lengths, TAIL)
    if bins is not None:
        series = [Series(side, side, numbers[f"{side}_length"]) for side in SIDES]
        drawn = charts.histogram(series, bins, "length, characters", "share of answers")
        shown.append(("Length of the answers", drawn))
    bins = stats.bins(gaps, TAIL)
    if bins is not None:
        shown.append(("Which answer is longer", charts.differences(gaps, bins)))
        shown.append(("When does longer win", charts.longer_wins(stats.by_gap(numbers))))
    return shown


def _level(r: float | None) -> str:
    """CSS class of a correlation: `h-5` (strongly negative) to `h5`."""
    return "h0" if r is None else f"h{round(5 * r)}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


FILTERS = {
    "two": wording.two,
    "size": wording.size,
    "level": _level,
    "quoted": _quoted,
    "dollars": costs.dollars,
}
