"""A square of shaded cells, one for every two objectives, as inline SVG of fixed size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from prefactory.pages.svg import el, text_at

CELL, LEFT, TOP, RIGHT = 34, 132, 92, 74
LONGEST = 20
"""Characters of an objective's name; the whole name is in the cell's tip."""


class Cell(NamedTuple):
    """What a cell shows: its text, its CSS class (`h-5` to `h5`), its tip."""

    text: str
    style: str
    tip: str


def heatmap(
    names: Sequence[str], cells: Mapping[tuple[str, str], Cell], summary: str, self_text: str
) -> Markup:
    """Draw a symmetric square.

    Args:
        names: of rows and columns, in order.
        cells: by two names, in either order.
        summary: what the picture says, for those who do not see it.
        self_text: what stands on the diagonal.
    """
    drawn: list[Markup] = []
    for i, name in enumerate(names):
        at = CELL * (i + 0.5)
        x, y = LEFT + at - 4, TOP - 8
        turned = f"rotate(-45 {x:g} {y:g})"
        drawn.append(text_at(LEFT - 8, TOP + at + 4, short(name), "end", "name"))
        drawn.append(text_at(x, y, short(name), "start", "name", turned))
        drawn.append(text_at(LEFT + at, TOP + at + 4, self_text, "middle", "self"))
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            cell = cells.get((a, b)) or cells.get((b, a))
            if i != j and cell is not None:
                drawn.append(_cell(cell, LEFT + CELL * j, TOP + CELL * i))
    width, height = LEFT + CELL * len(names) + RIGHT, TOP + CELL * len(names) + 4
    return el(
        "svg",
        el("title", summary),
        *drawn,
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
        aria_label=summary,
        class_="heatmap",
    )


def short(name: str) -> str:
    """Cut a name so that it fits beside a cell."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _cell(cell: Cell, x: float, y: float) -> Markup:
    middle = CELL / 2
    box = {"x": x + 1, "y": y + 1, "width": CELL - 2, "height": CELL - 2, "rx": 3}
    tip = el("title", cell.tip)
    text = text_at(x + middle, y + middle + 4, cell.text, "middle", "value")
    return el("g", tip, el("rect", **box, class_=cell.style), text)
