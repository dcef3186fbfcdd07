"""The page of a version beside its parent: one HTML file that loads nothing."""

from __future__ import annotations

from pathlib import Path

from catalog.history.drift import LARGE, Drift
from prefactory.pages.page import environment, render

HERE = Path(__file__).parent


def page(found: Drift) -> str:
    """The page; the same values give the same text.

    Args:
        found: what `catalog.history.drift.drift` says.
    """
    return render(
        environment(HERE, {}), "drift.html.j2", [], [],
        found=found, large=LARGE, lead=found.lines()[0],
    )  # fmt: skip
