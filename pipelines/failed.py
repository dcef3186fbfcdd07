"""The page of a run that published nothing: what each step dropped, and the bad answers in full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from pipelines.journal import Wanted, answers
from pipelines.settings import Settings
from prefactory import ledger
from prefactory.folders import new_file
from prefactory.pages.page import environment, render
from prefactory.recipe import Recipe
from prefactory.stages import Stage

HERE = Path(__file__).parent
MOST = 200
"""Bad answers that the page shows, and rows of the ledger of each step."""


def write(recipe: Recipe, stages: Sequence[Stage], problem: str, settings: Settings) -> Path:
    """Write the page of a recipe whose run published nothing.

    Every text is escaped; the page loads nothing.

    Args:
        recipe: what was run.
        stages: what happened, up to where it ended.
        problem: why nothing was published.
        settings: of the run.

    Returns:
        `HOME/failed/NAME.html`, in place of an older one.
    """
    bad = Wanted(recipe=recipe.name, reason="any").of(answers(settings))
    entries = {stage.label: _entries(stage, settings) for stage in stages}
    page = render(
        environment(HERE, {}),
        "failed.html.j2",
        [],
        [],
        title=recipe.name,
        recipe=recipe.path.name,
        problem=problem,
        stages=stages,
        entries=entries,
        bad=bad.head(MOST).to_dicts(),
        bad_count=bad.height,
        most=MOST,
    )
    path = settings.home / "failed" / f"{recipe.name}.html"
    with new_file(path) as file:
        file.write(page.encode())
    return path


def _entries(stage: Stage, settings: Settings) -> list[dict[str, str | None]]:
    """The first rows of a stage's ledger."""
    rows = ledger.empty()
    for key, table in stage.ledgers:
        rows = pl.concat([rows, settings.store.read(key, table).head(MOST - rows.height)])
        if rows.height >= MOST:
            break
    return rows.select("row_id", "reason", "detail").to_dicts()
