"""Two objectives against each other: where chosen and rejected answers lie, and who is in front.

The first picture is drawn here, so that the page shows it without its script; `pareto.js` draws the
same from the same numbers when the reader chooses other objectives.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl
from markupsafe import Markup

from catalog.arrow_folder import Table
from catalog.report.stats import nice
from prefactory.pages.svg import el, figure, text_at
from prefactory.pages.wording import count, num, percent, tick
from prefactory.tables import ROW_ID, SCORE, SIDES, Shape

MOST = 300
"""Rows of the plot: the first pairs by id, which are hashes, so a sample without favour."""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 400, 340, 50, 14, 12, 44
PAD = 0.05
"""Room around the points, in shares of their range."""
RADIUS, LARGEST, LEAST_AHEAD = 2.6, 13.0, 5.0
"""Of a mark for one answer (area grows with the answers at a place), the largest, the front's."""
_TOO_LARGE = 1e300  # to be drawn; NaN is not below it either

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Points:
    """Scores of a sample of rows.

    Attributes:
        names: K objectives.
        sides: name of a side (`chosen`, `rejected`, or `answer`) -> K lists of n scores or None.
        rows: n.
        of: rows of the table.
    """

    names: tuple[str, ...]
    sides: dict[str, list[list[float | None]]]
    rows: int
    of: int

    def at(self, side: str, x: int, y: int) -> Iterator[Point | None]:
        """The points of a side in row order; None where a score is missing."""
        xs, ys = self.sides[side][x], self.sides[side][y]
        for a, b in zip(xs, ys, strict=True):
            yield None if a is None or b is None else (a, b)


def read(saved: Table, names: Sequence[str], of: int, most: int = MOST) -> Points:
    """Read the scores of the first rows by id, batch by batch."""
    row_id = ROW_ID[saved.shape]
    sides = {side: f"{side}_" for side in SIDES} if saved.shape == Shape.PAIRS else {"answer": ""}
    wanted = [f"{p}{SCORE}{o}" for p in sides.values() for o in names]
    here = [c for c in wanted if c in saved.columns]
    kept: pl.DataFrame | None = None
    for batch in saved.batches([row_id, *here]):
        both = batch if kept is None else pl.concat([kept, batch])
        kept = both.sort(row_id).head(most)
    scores = {side: [_column(kept, f"{p}{SCORE}{o}") for o in names] for side, p in sides.items()}
    return Points(tuple(names), scores, 0 if kept is None else kept.height, of)


def _column(rows: pl.DataFrame | None, name: str) -> list[float | None]:
    if rows is None or name not in rows.columns:
        return [None] * (0 if rows is None else rows.height)
    values = rows[name].cast(pl.Float64, strict=False).to_list()
    return [float(f"{v:.5g}") if v is not None and abs(v) < _TOO_LARGE else None for v in values]


def front(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats or equals on both axes, by rising x (and falling y), each once."""
    ahead: list[Point] = []
    for x, y in sorted(set(points), reverse=True):
        if not ahead or y > ahead[-1][1]:
            ahead.append((x, y))
    return ahead[::-1]


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: from the scores' least to their greatest, with room around and round ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Axis:
        """The axis of some scores; of a constant or of nothing one unit around it."""
        low, high = min(values, default=0.0), max(values, default=1.0)
        size = max(abs(low), abs(high))
        step = nice((high - low) / 4) if high - low > 1e-9 * size else None
        if step is None:
            half = max(0.5, size / 20)
            low, high, step = low - half, high + half, nice(half) or half
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        room = (high - low) * PAD
        ticks = tuple(float(f"{i * step:.12g}") for i in range(first, last + 1))
        return cls(low - room, high + room, ticks)

    def position(self, value: float) -> float:
        """Where a value lies, 0 to 1."""
        return (value - self.low) / (self.high - self.low)


def plot(points: Points, x: int, y: int) -> Markup:
    """Draw objectives x and y (their places among the names) against each other."""
    points_of = {side: [p for p in points.at(side, x, y) if p] for side in points.sides}
    every = [p for side in points_of.values() for p in side]
    across, up = (Axis.of([p[i] for p in every]) for i in (0, 1))
    ahead = front(every)
    marks: list[Markup] = []
    for side, own_points in points_of.items():
        for point, n in sorted(Counter(own_points).items()):
            marks.append(_mark(side, point, n, point in ahead, (across, up)))
    axes = _axes(across, up, points.names[x], points.names[y])
    summary = f"{points.names[y]} against {points.names[x]}. {sentence(points, x, y)}"
    drawn = [*axes, *([_line(ahead, across, up)] if ahead else []), *marks]
    return figure(WIDTH, HEIGHT, summary, el("g", *drawn))


def sentence(points: Points, x: int, y: int) -> str:
    """Say in words what the plot shows; `pareto.js` says it in the same words."""
    points_of = {side: [p for p in points.at(side, x, y) if p] for side in points.sides}
    every = [p for side in points_of.values() for p in side]
    ahead = set(front(every))
    on = {side: sum(p in ahead for p in own_points) for side, own_points in points_of.items()}
    by_side = f" ({', '.join(f'{count(n)} {s}' for s, n in on.items())})" if len(on) > 1 else ""
    text = f"{count(sum(on.values()))} of {count(len(every))} answers lie on the Pareto front"
    text += f"{by_side}."
    if len(points.sides) < 2:
        return text
    chosen, rejected = (points.at(side, x, y) for side in SIDES)
    both = [(c, r) for c, r in zip(chosen, rejected, strict=True) if c and r]
    better = sum(_beats(c, r) for c, r in both)
    worse = sum(_beats(r, c) for c, r in both)
    apart = sum((c[0] - r[0]) * (c[1] - r[1]) < 0 for c, r in both)
    if not both:
        return text
    shares = [percent(n / len(both)) for n in (better, worse, apart)]
    return (
        f"{text} Of {count(len(both))} pairs the chosen answer is ahead on one and not behind on "
        f"the other in {shares[0]}, the rejected one in {shares[1]}, and the two objectives pull "
        f"apart in {shares[2]}."
    )


def _beats(a: Point, b: Point) -> bool:
    return a != b and a[0] >= b[0] and a[1] >= b[1]


def front_rows(points: Points, x: int, y: int) -> list[tuple[str, str, str]]:
    """The front as a table, from the greatest x: both scores, and how many answers lie there."""
    counts_of = {side: Counter(p for p in points.at(side, x, y) if p) for side in points.sides}
    ahead = front([p for counts in counts_of.values() for p in counts])
    rows = []
    for point in reversed(ahead):
        there = [f"{count(n[point])} {side}" for side, n in counts_of.items() if n[point]]
        rows.append((num(point[0]), num(point[1]), ", ".join(there)))
    return rows


def data(points: Points, x: int, y: int) -> str:
    """What `pareto.js` draws from, as JSON."""
    box = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT}
    box |= {"top": TOP, "bottom": BOTTOM}
    marks = {"radius": RADIUS, "largest": LARGEST, "leastAhead": LEAST_AHEAD, "pad": PAD}
    known = {"names": points.names, "sides": points.sides, "shown": [x, y], **marks, "box": box}
    return json.dumps(known, separators=(",", ":"))


def _across(axis: Axis, value: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * axis.position(value)


def _up(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * axis.position(value)


def _mark(side: str, point: Point, n: int, ahead: bool, axes: tuple[Axis, Axis]) -> Markup:
    x, y = _across(axes[0], point[0]), _up(axes[1], point[1])
    r = max(min(RADIUS * math.sqrt(n), LARGEST), LEAST_AHEAD if ahead else 0.0)
    style = f"mark {side}{' ahead' if ahead else ''}"
    many = f" ({count(n)} answers)" if n > 1 else ""
    where = f"{tick(point[0])}, {tick(point[1])}"
    tip = el("title", f"{side} at {where}{many}{', on the front' if ahead else ''}")
    if side == "rejected":  # a diamond, so that colour is not all that tells the sides apart
        points = f"{x:.2f},{y - r:.2f} {x + r:.2f},{y:.2f} {x:.2f},{y + r:.2f} {x - r:.2f},{y:.2f}"
        return el("polygon", tip, points=points, class_=style)
    return el("circle", tip, cx=x, cy=y, r=r, class_=style)


def _line(ahead: Sequence[Point], across: Axis, up: Axis) -> Markup:
    path = [f"M{LEFT} {_up(up, ahead[0][1]):.2f}"]
    for i, (x, y) in enumerate(ahead):
        path.append(f"V{_up(up, y):.2f}" if i else "")
        path.append(f"H{_across(across, x):.2f}")
    path.append(f"V{HEIGHT - BOTTOM}")
    return el("path", d="".join(path), class_="front")


def _axes(across: Axis, up: Axis, x_name: str, y_name: str) -> list[Markup]:
    base, end = HEIGHT - BOTTOM, WIDTH - RIGHT
    drawn = []
    for value in up.ticks:
        y = _up(up, value)
        drawn.append(el("line", x1=LEFT, x2=end, y1=y, y2=y, class_="grid"))
        drawn.append(text_at(LEFT - 6, y + 3.5, tick(value), "end"))
    for value in across.ticks:
        x = _across(across, value)
        drawn.append(el("line", x1=x, x2=x, y1=TOP, y2=base, class_="grid"))
        drawn.append(text_at(x, base + 15, tick(value), "middle"))
    drawn.append(el("line", x1=LEFT, x2=end, y1=base, y2=base, class_="axis"))
    middle = (TOP + base) / 2
    turn = f"rotate(-90 12 {middle:g})"
    drawn.append(text_at((LEFT + end) / 2, HEIGHT - 8, x_name, "middle", "label"))
    drawn.append(text_at(12, middle, y_name, "middle", "label", turn))
    return drawn
