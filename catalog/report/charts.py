"""Charts of the report as inline SVG: no script, no fonts, colours by class from page.css."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
from markupsafe import Markup

from catalog.report.stats import Bins, Share, nice
from prefactory.pages.svg import el, figure, text_at
from prefactory.pages.wording import MINUS, count, num, percent, tick

WIDTH, HEIGHT = 360, 226
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 42
_BASE = HEIGHT - BOTTOM
_SPAN = WIDTH - LEFT - RIGHT


@dataclass(frozen=True, slots=True)
class Series:
    """Values to draw as one histogram; `style` is the CSS class of its colour."""

    name: str
    style: str
    values: pl.Series


def histogram(series: Sequence[Series], bins: Bins, x_label: str, y_label: str) -> Markup:
    """Draw histograms over each other, each as a share of its own values."""
    counts = [bins.counts(s.values) for s in series]
    shares = [[c / (sum(binned) or 1) for c in binned] for binned in counts]
    top = _top(max((max(s) for s in shares), default=0.0))
    summary = f"Histogram of {x_label}. " + " ".join(_in_words(s) for s in series)
    drawn = [
        el("path", d=_steps(share, top), class_=f"area {s.style}")
        for s, share in zip(series, shares, strict=True)
    ]
    return figure(
        WIDTH,
        HEIGHT,
        summary,
        *_y_axis(top, y_label),
        *drawn,
        *_x_axis(bins, x_label),
        *_hits(series, counts, bins),
    )


def differences(values: pl.Series, bins: Bins) -> Markup:
    """Draw length differences of pairs (chosen minus rejected), split in colour at zero."""
    counts = bins.counts(values)
    total = sum(counts) or 1
    top = _top(max(counts) / total)
    width = _SPAN / bins.n
    bars = []
    for i, n in enumerate(counts):
        height = (_BASE - TOP) * n / total / top
        low, high = bins.edge(i), bins.edge(i + 1)
        style = "chosen" if low + high > 0 else "rejected"
        tip = f"{tick(low)} to {tick(high)} characters: {count(n)} pairs ({percent(n / total)})"
        x = LEFT + i * width
        box = {"x": x + 0.5, "y": _BASE - height, "width": max(width - 1, 0.5), "height": height}
        bars.append(el("rect", el("title", tip), **box, class_=f"solid {style}"))
    longer = int((values > 0).sum())
    summary = (
        f"Length of the chosen minus length of the rejected answer. Chosen is longer in "
        f"{count(longer)} and shorter in {count(values.len() - longer)} of the pairs that differ."
    )
    label = f"chosen {MINUS} rejected, characters"
    return figure(
        WIDTH, HEIGHT, summary, *_y_axis(top, "share of pairs"), *bars, *_x_axis(bins, label)
    )


def longer_wins(groups: Sequence[tuple[str, Share]]) -> Markup:
    """Draw how often the longer answer was chosen, by length difference, with 95% intervals."""
    slot = _SPAN / max(len(groups), 1)
    marks: list[Markup] = []
    sentences = []
    for i, (label, share) in enumerate(groups):
        x = LEFT + (i + 0.5) * slot
        marks.append(text_at(x, _BASE + 14, label, "middle"))
        if share.share is None:
            continue
        sentences.append(f"{label} characters: {percent(share.share)} of {count(share.of)} pairs")
        tip = f"{sentences[-1]} (95% interval {percent(share.low)} to {percent(share.high)})"
        bar = {"x1": x, "x2": x, "y1": _y(share.low), "y2": _y(share.high)}
        dot = el("circle", cx=x, cy=_y(share.share), r=4.5, class_="dot")
        marks.append(el("g", el("title", tip), el("line", **bar, class_="whisker"), dot))
    half = el("line", x1=LEFT, x2=WIDTH - RIGHT, y1=_y(0.5), y2=_y(0.5), class_="half")
    below = text_at(
        LEFT + _SPAN / 2, HEIGHT - 6, "length difference, characters", "middle", "label"
    )
    summary = "Share of pairs whose longer answer was chosen. " + "; ".join(sentences)
    return figure(WIDTH, HEIGHT, summary, *_y_axis(1.0, "longer chosen"), half, *marks, below)


def interval(share: Share) -> Markup:
    """Draw one share with its interval on a line from 0 to 100% with a mark at 50%."""
    summary = f"{percent(share.share)}, 95% interval {percent(share.low)} to {percent(share.high)}"
    return el(
        "svg",
        el("line", x1=0, x2=100, y1=8, y2=8, class_="axis"),
        el("line", x1=50, x2=50, y1=2, y2=14, class_="half"),
        el("line", x1=share.low * 100, x2=share.high * 100, y1=8, y2=8, class_="whisker"),
        el("circle", cx=(share.share or 0.0) * 100, cy=8, r=2.2, class_="dot"),
        viewBox="-4 0 108 16",
        role="img",
        aria_label=summary,
        class_="mini",
    )


def stacked(parts: Sequence[tuple[str, str, int]], total: int) -> Markup:
    """Draw one horizontal bar of parts (name, CSS class, rows), `total` rows wide at full width."""
    rects = []
    at = 0.0
    for name, style, rows in parts:
        if rows <= 0 or total <= 0:
            continue
        width = max(1000 * rows / total, 3.0)
        tip = el("title", f"{name}: {count(rows)} rows")
        rects.append(el("rect", tip, x=at, y=0, width=width, height=10, class_=style))
        at += width
    summary = ", ".join(f"{name} {count(rows)}" for name, _, rows in parts)
    return el(
        "svg",
        *rects,
        viewBox=f"0 0 {max(1000.0, at):.0f} 10",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"Rows: {summary}",
        class_="stack",
    )


def score_bar(value: float | None, low: float, high: float, style: str) -> Markup:
    """Draw one score as a bar between the least and the greatest of its objective; none if null."""
    span = high - low
    share = 1.0
    if value is not None and span > 0 and math.isfinite(span):
        share = (value - low) / span
    width = 0.0 if value is None else max(100 * share, 1.0)
    fill = el("rect", x=0, y=0, width=width, height=6, class_=f"solid {style}")
    track = el("rect", x=0, y=0, width=100, height=6, class_="track")
    box = {"viewBox": "0 0 100 6", "preserveAspectRatio": "none"}
    return el("svg", track, fill, **box, aria_hidden="true", class_="scorebar")


def _in_words(series: Series) -> str:
    values = series.values.drop_nulls()
    mean, median = values.mean(), values.median()
    if not isinstance(mean, int | float) or not isinstance(median, int | float):
        return f"{series.name}: no values."
    return f"{series.name}: {count(values.len())} values, mean {num(mean)}, median {num(median)}."


def _y(share: float) -> float:
    return _BASE - (_BASE - TOP) * share


def _top(share: float) -> float:
    step = nice(share / 5)
    return 1.0 if step is None else math.ceil(share / step - 1e-9) * step


def _steps(shares: Sequence[float], top: float) -> str:
    width = _SPAN / len(shares)
    path = [f"M{LEFT} {_BASE}"]
    for i, share in enumerate(shares):
        path.append(f"V{_y(share / top):.1f}H{LEFT + (i + 1) * width:.1f}")
    return "".join(path) + f"V{_BASE}Z"


def _hits(series: Sequence[Series], counts: list[list[int]], bins: Bins) -> list[Markup]:
    width = _SPAN / bins.n
    hits = []
    for i in range(bins.n):
        bin_counts = "; ".join(
            f"{s.name} {count(c[i])} ({percent(c[i] / (sum(c) or 1))})"
            for s, c in zip(series, counts, strict=True)
        )
        whole = bins.width == 1 and not bins.start.is_integer()
        low, high = bins.edge(i), bins.edge(i + 1)
        span = tick(low + 0.5) if whole else f"{tick(low)} to {tick(high)}"
        box = {"x": LEFT + i * width, "y": TOP, "width": width, "height": _BASE - TOP}
        hits.append(el("rect", el("title", f"{span}: {bin_counts}"), **box, class_="hit"))
    return hits


def _y_axis(top: float, label: str) -> list[Markup]:
    drawn = []
    step = nice(top / 5 * (1 - 1e-9)) or 0.25
    for i in range(round(top / step) + 1):
        y = _y(i * step / top)
        style = "grid" if i else "axis"
        drawn.append(el("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_=style))
        drawn.append(text_at(LEFT - 6, y + 3.5, f"{tick(float(f'{100 * i * step:.3g}'))}%", "end"))
    middle = (TOP + _BASE) / 2
    turn = f"rotate(-90 10 {middle:g})"
    return [*drawn, text_at(10, middle, label, "middle", "label", transform=turn)]


def _x_axis(bins: Bins, label: str) -> list[Markup]:
    whole = bins.width == 1 and not bins.start.is_integer()
    shift = 0.5 if whole else 0.0
    last = bins.n - 1 if whole else bins.n
    stride = next(s for s in (1, 2, 3, 4, 5, 10, 20) if last / s <= 7)
    first = 0 if whole else round(-bins.start / bins.width) % stride
    drawn = []
    for i in range(first, last + 1, stride):
        x = LEFT + (i + shift) * _SPAN / bins.n
        value = bins.edge(i) + shift
        drawn.append(el("line", x1=x, x2=x, y1=_BASE, y2=_BASE + 4, class_="axis"))
        drawn.append(text_at(x, _BASE + 15, tick(float(f"{value:.6g}")), "middle"))
    return [*drawn, text_at(LEFT + _SPAN / 2, HEIGHT - 6, label, "middle", "label")]
