"""A page of tables and charts about votes: one HTML file that loads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from prefactory.errors import ConfigError
from prefactory.pages.page import environment, render
from prefactory.pages.svg import el, figure, text_at
from prefactory.pages.wording import percent

HERE = Path(__file__).parent
WIDTH, HEIGHT = 560, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 30, 46


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: heading.
        text: paragraphs before the table.
        head: names of the table's columns; the first is that of the rows.
        rows: cells, as text.
        chart: SVG.
    """

    title: str
    text: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    chart: Markup | None = None


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The page; the same values give the same text."""
    return render(
        environment(HERE, {}), "page.html.j2", [HERE / "page.css"], [],
        title=title, lead=lead, sections=sections,
    )  # fmt: skip


def write(path: Path, text: str) -> None:
    """Write a page.

    Raises:
        ConfigError: the file can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"{str(path)!r} can't be written: {error.strerror}") from error


def loop_page(name: str, sections: Sequence[Section]) -> str:
    """The report of a loop."""
    lead = "What people said, and how many labels are wrong by the random part of each round."
    return page(f"Loop {name}", lead, sections)


def intervals(points: Sequence[tuple[str, float, float, float]], label: str) -> Markup:
    """Draw values with their intervals in a row, joined by a line.

    Args:
        points: (name, value, low, high), shares in [0, 1].
        label: of the vertical axis.
    """
    base, span = HEIGHT - BOTTOM, WIDTH - LEFT - RIGHT
    top = min(1.0, max(0.05, 1.1 * max((p[3] for p in points), default=0.05)))

    def y(value: float) -> float:
        return base - (base - TOP) * min(value, top) / top

    def x(i: int) -> float:
        return LEFT + span * (i + 0.5) / max(len(points), 1)

    drawn = []
    for step in range(5):
        at = top * step / 4
        drawn += [
            el("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(at), y2=y(at), class_="grid"),
            text_at(LEFT - 6, y(at) + 4, percent(at), "end"),
        ]
    path = " ".join(f"{'L' if i else 'M'}{x(i):.1f} {y(p[1]):.1f}" for i, p in enumerate(points))
    if len(points) > 1:
        drawn.append(el("path", d=path, class_="trend"))
    for i, (name, value, low, high) in enumerate(points):
        tip = f"{name}: {percent(value)}, between {percent(low)} and {percent(high)}"
        drawn += [
            el("line", x1=x(i), x2=x(i), y1=y(low), y2=y(high), class_="bar"),
            el("circle", el("title", tip), cx=x(i), cy=y(value), r=4, class_="dot"),
            text_at(x(i), base + 18, name[:14], "middle"),
        ]
    drawn.append(text_at(LEFT, TOP - 14, label, "start", "label"))
    summary = f"{label}. " + "; ".join(
        f"{n} {percent(v)} ({percent(a)} to {percent(b)})" for n, v, a, b in points
    )
    return figure(WIDTH, HEIGHT, summary, *drawn)
