"""What an audit says: metrics with intervals, examples, charts, and findings with a severity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

import numpy as np
import polars as pl

from prefactory.images.marks import unnamed

Unit = Literal["share", "count", "number"]


class Severity(IntEnum):
    """How bad a finding is. `SKIPPED` is no verdict: the check does not apply to this data."""

    SKIPPED = -1
    OK = 0
    NOTE = 1
    WARNING = 2
    FAULT = 3

    @property
    def word(self) -> str:
        """The severity as people read it."""
        return "not applicable" if self is Severity.SKIPPED else self.name.lower()


NAMED = {"row": pl.String, "where": pl.String, "note": pl.String}
"""Columns of the rows that a finding names."""


def flagged(
    rows: Iterable[int] | pl.Series, notes: str | Sequence[str] | pl.Series
) -> pl.DataFrame:
    """Rows that show a finding: `row` (Int64, places in the table) and `note` (String).

    Args:
        rows: places in the table, in the order in which to show them.
        notes: what is wrong with each, or with all.
    """
    at = pl.Series("row", np.asarray(rows, dtype=np.int64))
    if isinstance(notes, str):
        return at.to_frame().with_columns(note=pl.lit(notes))
    return at.to_frame().with_columns(pl.Series("note", notes, dtype=pl.String))


@dataclass(frozen=True, slots=True)
class Metric:
    """One measured number.

    Attributes:
        value: the number; None where it is undefined on this data.
        low, high: ends of its 95 % interval; None where it has none (counts of a whole table).
        n: rows, prompts or answers that it was measured on.
        unit: `share` (0 to 1, shown in percent), `count`, or `number`.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    unit: Unit = "number"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; numbers keep ten significant digits, what is not finite is null."""
        ends = None if self.low is None else [_plain(self.low), _plain(self.high)]
        return {"value": _plain(self.value), "ci": ends, "n": self.n, "unit": self.unit}


@dataclass(frozen=True, slots=True)
class Example:
    """One row that shows a finding.

    Attributes:
        row: row id (`pair_id`, `response_id`, `prompt_id`), or the place in the source.
        where: `source_id`, that is file and line where the source is a file.
        note: what is wrong with it.
        texts: (name, excerpt) of the prompt and the answers.
    """

    row: str
    where: str
    note: str
    texts: tuple[tuple[str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        texts = [{"name": name, "text": unnamed(text)} for name, text in self.texts]
        return {"row": self.row, "where": self.where, "note": self.note, "texts": texts}


@dataclass(frozen=True, slots=True)
class Chart:
    """Data of one chart.

    Attributes:
        kind: `shares` (a dot with its interval per label, `reference` marked), `bars` (a bar per
            label), or `sides` (two dots per label: chosen, then rejected).
        title: what is shown.
        rows: (label, values): `shares` (value, low, high), `bars` (value,), `sides` (chosen,
            rejected).
        reference: value that a healthy set has, if there is one.
        unit: of the values.
    """

    kind: Literal["shares", "bars", "sides"]
    title: str
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]
    reference: float | None = None
    unit: Unit = "share"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        rows = [{"label": label, "values": [_plain(v) for v in vs]} for label, vs in self.rows]
        return {
            "kind": self.kind,
            "title": self.title,
            "unit": self.unit,
            "reference": self.reference,
            "rows": rows,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """What a check measured, before it is judged.

    Attributes:
        headline: one sentence with the number that matters.
        metrics: by name; the part before a colon is in the check's `metrics`.
        examples: at most five rows.
        charts: what to draw.
        notes: what a reader must know to read the numbers right (samples, methods, what is ours).
        rows: all rows that show it, see `flagged`; without `examples` the first five are shown.
        left_out: rows that the reader left out and that show it: `row_id` (file and line), `note`.
        recipe: YAML lines of steps that mend it; the check's own ones if None.
        choices: lines that mend it too, but take rows which are not at fault.
        skipped: why the check does not apply; then nothing else counts.
        unmeasured: metrics that could not be taken here, name -> why.
    """

    headline: str = ""
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    charts: tuple[Chart, ...] = ()
    notes: tuple[str, ...] = ()
    rows: pl.DataFrame | None = None
    left_out: pl.DataFrame | None = None
    recipe: tuple[str, ...] | None = None
    choices: tuple[str, ...] = ()
    skipped: str | None = None
    unmeasured: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, judged.

    Attributes:
        check, title: its name and its heading.
        severity: the worst of its limited metrics.
        because: the metric that set the severity, and the limit it broke; empty if ok.
        report: what was measured.
        why: why it matters.
        recipe: YAML lines that mend it; empty if there is nothing to mend.
        rows: all rows that show it: `row` (id; null where the reader left it out), `where`
            (file and line of the source) and `note`, String.
    """

    check: str
    title: str
    severity: Severity
    because: str
    report: Report
    why: str
    recipe: tuple[str, ...]
    rows: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=NAMED), compare=False)

    @property
    def headline(self) -> str:
        """One sentence: what was found, or why the check does not apply."""
        skipped = self.report.skipped
        return self.report.headline if skipped is None else f"not applicable: {skipped}"

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """What was measured, by name."""
        return self.report.metrics

    @property
    def examples(self) -> tuple[Example, ...]:
        """Rows that show it."""
        return self.report.examples

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            "check": self.check,
            "title": self.title,
            "severity": self.severity.word,
            "because": self.because,
            "headline": self.headline,
            "metrics": {name: metric.to_dict() for name, metric in self.metrics.items()},
            "unmeasured": dict(self.report.unmeasured),
            "rows": self.rows.height,
            "examples": [example.to_dict() for example in self.examples],
            "charts": [chart.to_dict() for chart in self.report.charts],
            "notes": list(self.report.notes),
            "why": self.why,
            "recipe": list(self.recipe),
        }


def _plain(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.10g}")
