"""Pictures of an evaluation: calibration, matrices, lines over checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from prefactory.measures.calibration import Floats, reliability
from prefactory.pages.svg import el, figure, text_at

WIDTH, HEIGHT = 320, 190
LEFT, RIGHT, TOP, BOTTOM = 40, 10, 12, 34
COLORS = ("chosen", "rejected", "single", "r1", "r2")
"""Classes of `page.css` and of the keys of a legend; a line and its key have one."""


def calibration(name: str, margins: Floats) -> Markup:
    """Share of wins against the predicted probability, over both orders of every pair.

    Args:
        name: of the model.
        margins: Float64[n], NaN left out. The size of a dot grows with the pairs in its bin.
    """
    there = margins[~np.isnan(margins)]
    marks, told = [], []
    if len(there):
        table = reliability(there)
        most = int(table["n"].max() or 1)  # type: ignore[arg-type]  # counts
        for row in table.iter_rows(named=True):
            p, y, n = row["mean_p"], row["mean_y"], row["n"]
            said = f"predicted {p:.2f}, observed {y:.2f}, {n} of both orders"
            told.append(said)
            radius = 2.5 + 4.5 * math.sqrt(n / most)
            place = {"cx": _x(p), "cy": _y(y), "r": radius}
            marks.append(el("circle", el("title", said), **place, class_="dot"))
    line = {"x1": _x(0), "y1": _y(0), "x2": _x(1), "y2": _y(1)}
    return figure(
        WIDTH, HEIGHT, f"Calibration of {name}. {'; '.join(told)}",
        *_frame("predicted probability"), el("line", **line, class_="half"), *marks,
    )  # fmt: skip


def lines(
    title: str, ends: tuple[str, str], at: Sequence[float], series: Mapping[str, Sequence[float]]
) -> Markup:
    """Shares over checkpoints, one line each.

    Args:
        title: what is drawn.
        ends: name of the first and of the last checkpoint.
        at: place of each checkpoint, 0 to 1.
        series: name -> shares, 0 to 1, one a checkpoint; NaN leaves a gap.
    """
    drawn = []
    for color, (name, values) in zip(COLORS, series.items(), strict=False):
        points = [(x, v) for x, v in zip(at, values, strict=True) if math.isfinite(v)]
        way = " ".join(f"{'L' if k else 'M'}{_x(x):.1f} {_y(v):.1f}"
                       for k, (x, v) in enumerate(points))  # fmt: skip
        drawn.append(el("path", el("title", name), d=way, class_=f"way {color}"))
        for x, v in points:
            tip = el("title", f"{name}: {v:.2f}")
            place = {"cx": _x(x), "cy": _y(v), "r": 3}
            drawn.append(el("circle", tip, **place, class_=f"point {color}"))
    said = "; ".join(f"{n} {v[0]:.2f} to {v[-1]:.2f}" for n, v in series.items() if len(v))
    names = [
        text_at(_x(0), HEIGHT - 6, ends[0], "start"), text_at(_x(1), HEIGHT - 6, ends[1], "end"),
    ]  # fmt: skip
    return figure(WIDTH, HEIGHT, f"{title}. {said}", *_frame(""), *drawn, *names)


def _x(share: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * share


def _y(share: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)


def _frame(below: str) -> list[Markup]:
    """Lines at every quarter, their numbers, and what lies along the bottom."""
    parts = []
    for level in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts += [
            el("line", x1=_x(0), x2=_x(1), y1=_y(level), y2=_y(level), class_="grid"),
            text_at(LEFT - 6, _y(level) + 4, f"{level:g}", "end"),
        ]
    if below:
        marks = [text_at(_x(v), HEIGHT - BOTTOM + 14, f"{v:g}", "middle") for v in (0.0, 0.5, 1.0)]
        parts += [*marks, text_at(_x(0.5), HEIGHT - 4, below, "middle", "label")]
    return parts
