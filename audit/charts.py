"""Charts of findings as rows of inline SVG: a label, a picture, the numbers as text."""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup

from audit.finding import Chart, Unit
from catalog.report.stats import nice
from prefactory.pages.svg import el
from prefactory.pages.wording import count, num, percent

WIDTH, HEIGHT, PAD = 220.0, 18.0, 5.0
_MIDDLE = HEIGHT / 2
_LEAST = 0.02


@dataclass(frozen=True, slots=True)
class Drawn:
    """A chart ready for the page: (label, picture, numbers) per row, and the ends of its axis."""

    title: str
    kind: str
    rows: tuple[tuple[str, Markup, str], ...]
    ends: tuple[str, str, str]


def draw(chart: Chart) -> Drawn:
    """Draw a chart on an axis that all of its rows share."""
    low, high = _axis(chart)
    rows = []
    for label, values in chart.rows:
        numbers = _numbers(chart, values)
        parts = _marks(chart, values, low, high)
        picture = el(
            "svg",
            *parts,
            viewBox=f"{-PAD:g} 0 {WIDTH + 2 * PAD:g} {HEIGHT:g}",
            role="img",
            aria_label=f"{label}: {numbers}",
            class_="row",
        )
        rows.append((label, picture, numbers))
    middle = chart.reference
    marked = "" if middle is None or not low < middle < high else value(middle, chart.unit)
    return Drawn(
        chart.title,
        chart.kind,
        tuple(rows),
        (value(low, chart.unit), marked, value(high, chart.unit)),
    )


def value(x: float | None, unit: Unit) -> str:
    """Write a value in its unit."""
    if unit == "share":
        return percent(x).replace("-", "\N{MINUS SIGN}")
    return count(x) if unit == "count" else num(x)


def _numbers(chart: Chart, values: tuple[float | None, ...]) -> str:
    first = value(values[0], chart.unit)
    if chart.kind == "sides":
        return f"{first} / {value(values[1], chart.unit)}"
    if len(values) == 3 and values[1] is not None:
        return f"{first} ({value(values[1], chart.unit)} to {value(values[2], chart.unit)})"
    return first


def _axis(chart: Chart) -> tuple[float, float]:
    """Ends of the axis: 0 to 1 around a reference of 1/2, else round numbers around or above 0."""
    if chart.unit == "share" and chart.reference == 0.5:
        return 0.0, 1.0
    numbers = [v for _, values in chart.rows for v in values if v is not None and math.isfinite(v)]
    least = _LEAST if chart.unit == "share" else 1.0
    low, high = min([0.0, *numbers]), max([0.0, *numbers])
    if chart.reference == 0:
        low, high = min(low, -high), max(high, -low)
    step = nice(max(high - low, least) / 4) or least
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step or step


def _marks(chart: Chart, values: tuple[float | None, ...], low: float, high: float) -> list[Markup]:
    def x(v: float) -> float:
        return WIDTH * (min(max(v, low), high) - low) / (high - low)

    line = el("line", x1=0.0, x2=WIDTH, y1=_MIDDLE, y2=_MIDDLE, class_="grid")
    parts = [line]
    if chart.reference is not None and low <= chart.reference <= high:
        at = x(chart.reference)
        parts.append(el("line", x1=at, x2=at, y1=1.0, y2=HEIGHT - 1, class_="half"))
    present = [v for v in values if v is not None]
    if not present:
        return parts
    if chart.kind == "bars":
        width = max(x(present[0]) - x(0.0), 1.0)
        box = {"x": x(0.0), "y": 3.0, "width": width, "height": HEIGHT - 6}
        return [*parts, el("rect", **box, class_="solid single")]
    if chart.kind == "sides":
        return [*parts, *_sides(values, x)]
    if len(values) == 3 and values[1] is not None and values[2] is not None:
        ends = {"x1": x(values[1]), "x2": x(values[2]), "y1": _MIDDLE, "y2": _MIDDLE}
        parts.append(el("line", **ends, class_="whisker"))
    return [*parts, el("circle", cx=x(present[0]), cy=_MIDDLE, r=3.6, class_="dot")]


def _sides(values: tuple[float | None, ...], x) -> list[Markup]:  # type: ignore[no-untyped-def]  # noqa: ANN001
    parts = []
    first, second = values[0], values[1]
    if first is not None and second is not None:
        parts.append(el("line", x1=x(first), x2=x(second), y1=_MIDDLE, y2=_MIDDLE, class_="link"))
    if second is not None:
        box = {"x": x(second) - 3.2, "y": _MIDDLE - 3.2, "width": 6.4, "height": 6.4}
        parts.append(el("rect", **box, class_="solid rejected"))
    if first is not None:
        parts.append(el("circle", cx=x(first), cy=_MIDDLE, r=3.8, class_="solid chosen"))
    return parts
