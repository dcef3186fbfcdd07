"""Small charts of how something went over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from prefactory.pages.svg import el, figure, text_at
from prefactory.pages.wording import tick

WIDTH, HEIGHT = 320, 150
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 26


@dataclass(frozen=True)
class Trend:
    """A chart with its title.

    Attributes:
        title: what is drawn.
        chart: SVG.
    """

    title: str
    chart: Markup


def trend(title: str, points: Sequence[tuple[str, float | None]], digits: int = 0) -> Trend | None:
    """Draw values in their order; None if fewer than two are known.

    Args:
        title: what is drawn.
        points: (name, value); an unknown value leaves a gap.
        digits: of the values, after the point.
    """
    known = [value for _, value in points if value is not None]
    if len(known) < 2:
        return None
    low, high = min(0.0, *known), max(known)
    span = (high - low) or 1.0
    base = HEIGHT - BOTTOM

    def x(i: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * i / max(len(points) - 1, 1)

    def y(value: float) -> float:
        return base - (base - TOP) * (value - low) / span

    drawn: list[Markup] = []
    for level in (low, low + span / 2, low + span):
        drawn += [
            el("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(level), y2=y(level), class_="grid"),
            text_at(
                LEFT - 5, y(level) + 4, f"{level:.{digits}f}" if digits else tick(level), "end"
            ),
        ]
    line = [(x(i), y(v)) for i, (_, v) in enumerate(points) if v is not None]
    way = " ".join(f"{'L' if i else 'M'}{a:.1f} {b:.1f}" for i, (a, b) in enumerate(line))
    drawn.append(el("path", d=way, class_="whisker", fill="none"))
    for i, (name, value) in enumerate(points):
        if value is not None:
            tip = el("title", f"{name}: {value:,.{digits}f}")
            drawn.append(el("circle", tip, cx=x(i), cy=y(value), r=3.5, class_="dot"))
    drawn += [
        text_at(x(0), HEIGHT - 8, points[0][0], "start"),
        text_at(x(len(points) - 1), HEIGHT - 8, points[-1][0], "end"),
    ]
    said = "; ".join(
        f"{n} {'not known' if v is None else f'{v:,.{digits}f}'}" for n, v in points[-12:]
    )
    return Trend(title, figure(WIDTH, HEIGHT, f"{title}. {said}", *drawn))
