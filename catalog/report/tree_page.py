"""Search trees as HTML: a page of its own, or a section for the report. Loads nothing, no script.

In a report: `tree_section(folder)` (None without trees) and `tree_section.css`, whose rules use the
variables of `prefactory/pages/base.css` and start with `.search-tree`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from jinja2.sandbox import SandboxedEnvironment
from markupsafe import Markup

from catalog.report.trees import Kept, SearchTree, count_trees, has_trees, read_trees
from catalog.versions import open_folder
from prefactory.pages.page import environment, readable, render
from prefactory.pages.svg import el
from prefactory.pages.wording import num

HERE = Path(__file__).parent
MOST = 50
"""Trees on a page."""
DEEPEST = 60
"""Levels that the list shows; the picture shows all."""
EXCERPT = 110
SKIPPED = 20
"""Characters that a text has in common with its parent's before an excerpt leaves them out."""
STEP_X, STEP_Y, PAD, LARGEST = 46, 58, 22, 15
"""Of the picture, pixels: between leaves, between levels, around, greatest radius."""
BAR, HIGH = 72, 8


def page(trees: Sequence[Kept], title: str, total: int | None = None) -> str:
    """Write trees as one HTML page; the same trees give the same text.

    Args:
        trees: to show; the first `MOST`.
        title: what they are of, such as a version.
        total: how many there are in all.
    """
    shown = trees[:MOST]
    return render(
        _templates(),
        "tree_page.html.j2",
        [HERE / "tree_section.css"],
        [],
        title=title,
        count=total or len(trees),
        shown=len(shown),
        section=section(shown),
    )


def section(trees: Sequence[Kept]) -> Markup:
    """Trees as markup, with every text of the data escaped; needs `tree_section.css`."""
    html = _templates().get_template("tree_section.html.j2").render(trees=trees, deepest=DEEPEST)
    return Markup(readable(html))  # noqa: S704 - autoescaped


def tree_section(folder: Path, most: int = 3) -> Markup | None:
    """The first trees of a version folder, for its report; None if it keeps none.

    Raises:
        CatalogError: the folder is no version.
        DataError: what it keeps is no tree.
    """
    version = open_folder(folder)
    if not has_trees(version) or not count_trees(version):
        return None
    return section(read_trees(version, most=most))


def picture(tree: SearchTree) -> Markup:
    """Draw a tree: area by visits, colour by mean, the way to the chosen node thick."""
    across = _across(tree)
    most = max(node.visits for node in tree.nodes) or 1
    at = [
        (PAD + STEP_X * across[index], PAD + STEP_Y * tree.depths[index])
        for index in range(len(tree.nodes))
    ]
    lines = []
    for index, node in enumerate(tree.nodes):
        if node.parent is not None:
            (x0, y0), (x1, y1) = at[node.parent], at[index]
            bend = (y0 + y1) / 2
            way = f"M{x0:.1f} {y0:.1f} C{x0:.1f} {bend:.1f} {x1:.1f} {bend:.1f} {x1:.1f} {y1:.1f}"
            lines.append(el("path", d=way, class_=_class("edge", tree, index)))
    marks = [
        _mark(tree, index, x, y, LARGEST * math.sqrt(tree.nodes[index].visits / most))
        for index, (x, y) in enumerate(at)
    ]
    width = int(2 * PAD + STEP_X * max(across) + 20)
    height = 2 * PAD + STEP_Y * max(tree.depths)
    summary = f"search tree: {len(tree.nodes)} nodes, {max(tree.depths)} deep"
    return el(
        "svg", el("title", summary), *lines, *marks, viewBox=f"0 0 {width} {height}", width=width,
        height=height, role="img", aria_label=summary,
    )  # fmt: skip


def _mark(tree: SearchTree, index: int, x: float, y: float, radius: float) -> Markup:
    node = tree.nodes[index]
    role = {tree.rejected: " rejected", tree.chosen: " chosen"}.get(index, "")
    mean = num(node.mean)
    summary = f"{index} {node.action}: {mean}, {node.visits} visits. {changed(tree, index)}"
    level = round(5 * tree.share(index))
    radius = max(radius, 4.0)
    return el(
        "g",
        el("title", summary),
        el("circle", cx=x, cy=y, r=radius, class_=f"v{level}{role}"),
        el("text", str(index), x=x + radius + 3, y=y + 4),
    )


def _class(name: str, tree: SearchTree, index: int) -> str:
    return f"{name} marked" if index in tree.marked else name


def _across(tree: SearchTree) -> list[float]:
    """Place of each node from left to right: leaves in turn, a parent between its children."""
    across = [0.0] * len(tree.nodes)
    leaves = 0
    stack = [(0, False)]
    while stack:
        index, seen = stack.pop()
        children = tree.children[index]
        if not children:
            across[index] = float(leaves)
            leaves += 1
        elif seen:
            across[index] = (across[children[0]] + across[children[-1]]) / 2
        else:
            stack.append((index, True))
            stack += [(child, False) for child in reversed(children)]
    return across


def bar(tree: SearchTree, index: int) -> Markup:
    """A node's mean between the lowest and the highest of the tree."""
    wide = max(1.0, BAR * tree.share(index))
    return el(
        "svg",
        el("rect", class_="track", width=BAR, height=HIGH, rx=2),
        el("rect", class_="fill", width=wide, height=HIGH, rx=2),
        width=BAR, height=HIGH, aria_hidden="true",
    )  # fmt: skip


def excerpt(text: str, limit: int = EXCERPT) -> str:
    """The beginning of a text on one line."""
    flat = " ".join(text[: 4 * limit].split())
    return flat if len(flat) <= limit and len(text) <= 4 * limit else f"{flat[: limit - 1]}…"


def changed(tree: SearchTree, index: int, limit: int = EXCERPT) -> str:
    """The beginning of what a node says otherwise than its parent, on one line."""
    node = tree.nodes[index]
    if node.parent is None:
        return excerpt(node.text, limit)
    both = enumerate(zip(tree.nodes[node.parent].text, node.text, strict=False))
    same = next((i for i, (a, b) in both if a != b), len(tree.nodes[node.parent].text))
    start = max(node.text.rfind(" ", 0, same + 1), node.text.rfind("\n", 0, same + 1)) + 1
    cut = start > SKIPPED and start < len(node.text)
    return f"… {excerpt(node.text[start:], limit - 2)}" if cut else excerpt(node.text, limit)


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(num(value) for value in values) or "none"


def _templates() -> SandboxedEnvironment:
    templates = environment(HERE, {"excerpt": excerpt, "numbers": _numbers})
    templates.globals |= {"picture": picture, "bar": bar, "changed": changed}
    return templates
