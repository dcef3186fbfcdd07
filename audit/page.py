"""Build the audit's page: one HTML file that loads nothing, with every text of the data escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined
from jinja2.sandbox import SandboxedEnvironment
from markupsafe import Markup

import catalog.report
from audit import charts
from audit.finding import Finding, Metric, Severity
from catalog.report import wording

HERE = Path(__file__).parent
REPORT = Path(catalog.report.__file__).parent
ORDER = (Severity.FAULT, Severity.WARNING, Severity.NOTE, Severity.OK)
_FAMILY_ROWS = 40
"""Metrics of one finding that its table shows; the JSON has all."""

_NAMED = 1000
"""Rows of one finding that the page lists; findings.parquet has all."""


def build_page(audit: Mapping[str, Any]) -> str:
    """Return the fields of an audit as one HTML page.

    The same audit gives the same text. Its content security policy allows one style sheet and one
    script, by their digests, and no connection: even text that broke out would run nothing.
    """
    css = Markup(_asset(REPORT / "page.css") + _asset(HERE / "page.css"))  # noqa: S704 - our files
    js = Markup(_asset(HERE / "page.js"))  # noqa: S704
    shown = [f for f in audit["findings"] if f.severity is not Severity.SKIPPED]
    html = (
        _environment()
        .get_template("page.html.j2")
        .render(
            audit=audit,
            intake=audit["intake"],
            findings=sorted(shown, key=lambda f: -f.severity),
            skipped=[f for f in audit["findings"] if f.severity is Severity.SKIPPED],
            counts=[(s.word, sum(f.severity is s for f in shown)) for s in ORDER],
            most=_NAMED,
            css=css,
            js=js,
            policy=_policy(css, js),
        )
    )
    return html.translate(wording.CONTROLS).encode("utf-8", "replace").decode("utf-8")


def _environment() -> SandboxedEnvironment:
    environment = SandboxedEnvironment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": wording.count,
        "value": _value,
        "ends": _ends,
        "draw": charts.draw,
        "numbers": _numbers,
    }
    return environment


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


def _asset(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _policy(css: str, js: str) -> str:
    def digest(text: str) -> str:
        hashed = hashlib.sha256(text.encode()).digest()
        return f"'sha256-{base64.b64encode(hashed).decode()}'"

    return (
        f"default-src 'none'; style-src {digest(css)}; script-src {digest(js)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
