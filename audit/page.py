"""Build the audit's page: one HTML file that loads nothing, with every text of the data escaped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from audit import charts
from audit.finding import Finding, Metric, Severity
from prefactory.errors import DataError
from prefactory.images.marks import NAMED, Pictures, unnamed
from prefactory.images.media import described, small
from prefactory.pages.page import environment, render

HERE = Path(__file__).parent
ORDER = (Severity.FAULT, Severity.WARNING, Severity.NOTE, Severity.OK)
_FAMILY_ROWS = 40
"""Metrics of one finding that its table shows; the JSON has all."""

SHOWN = 9
"""Pictures of one example that the page shows."""

_NAMED = 1000
"""Rows of one finding that the page lists; findings.parquet has all."""


def build_page(audit: Mapping[str, Any]) -> str:
    """Return the fields of an audit as one HTML page.

    The same audit gives the same text.
    """
    shown = [f for f in audit["findings"] if f.severity is not Severity.SKIPPED]
    held = audit["intake"].pictures
    filters = {
        "value": _value,
        "ends": _ends,
        "draw": charts.draw,
        "numbers": _numbers,
        "pictures": lambda text: _pictures(text, held),
        "unnamed": unnamed,
    }
    return render(
        environment(HERE, filters),
        "page.html.j2",
        [HERE / "page.css"],
        [HERE / "page.js"],
        audit=audit,
        intake=audit["intake"],
        findings=sorted(shown, key=lambda f: -f.severity),
        skipped=[f for f in audit["findings"] if f.severity is Severity.SKIPPED],
        counts=[(s.word, sum(f.severity is s for f in shown)) for s in ORDER],
        most=_NAMED,
    )


def _pictures(text: str, held: Pictures) -> list[dict[str, str | None]]:
    """The pictures whose names stand in a text, drawn anew and small."""
    shown: list[dict[str, str | None]] = []
    for name in NAMED.findall(text)[:SHOWN]:
        try:
            data = held.get(name)
        except DataError:  # not among those that are held
            shown.append({"small": None, "words": "a picture"})
        else:
            shown.append({"small": small(data), "words": str(described(data))})
    return shown


def _value(metric: Metric) -> str:
    return charts.value(metric.value, metric.unit)


def _ends(metric: Metric) -> str:
    if metric.low is None or metric.high is None:
        return ""
    return f"{charts.value(metric.low, metric.unit)} to {charts.value(metric.high, metric.unit)}"


def _numbers(finding: Finding) -> dict[str, Any]:
    """The metrics of a finding for its table, and how many are left out."""
    items = list(finding.metrics.items())
    return {"shown": items[:_FAMILY_ROWS], "more": max(len(items) - _FAMILY_ROWS, 0)}
