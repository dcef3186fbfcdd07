"""Where a version, or one row of it, comes from and what was made of it, as text and as SVG.

A graph of boxes in layers: sources and parents first, then the stages, the version, and what was
made of that. Of a row: its record, what each stage did with it, the calls whose answers stand in
it, and the votes of judges (a call each) and people on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
from markupsafe import Markup

from catalog.explain import Explained
from catalog.history.removal import parents
from catalog.versions import Catalog, Version
from prefactory.pages.svg import el, text_at
from prefactory.tables import Shape

WIDE, HIGH, GAP_X, GAP_Y, CHARS = 250, 44, 46, 14, 38
STYLE = (
    "rect{fill:#fff;stroke:#555}text{font:12px sans-serif;fill:#111}"
    ".detail{font-size:10px;fill:#555}path{fill:none;stroke:#888}.source{fill:#eef6ff}.version{fill:#e9f7ec}.call,.vote{fill:#fff7e0}"
)


@dataclass(frozen=True)
class Node:
    """A box.

    Attributes:
        kind: source, version, stage, model, review, record, row, call or vote.
        label: its first line.
        detail: its second line.
    """

    kind: str
    label: str
    detail: str = ""


@dataclass
class Lineage:
    """Boxes and what goes from where to where.

    Attributes:
        nodes: in reading order: every edge goes forward.
        edges: pairs of places in `nodes`.
    """

    nodes: list[Node] = field(default_factory=list)
    edges: list[tuple[int, int]] = field(default_factory=list)

    def add(self, node: Node, *before: int) -> int:
        """Add a box behind others; return its place."""
        self.nodes.append(node)
        place = len(self.nodes) - 1
        self.edges += [(b, place) for b in before]
        return place

    def lines(self) -> list[str]:
        """A line a box, those before it named."""
        lines = []
        for place, node in enumerate(self.nodes):
            before = [self.nodes[a].label for a, b in self.edges if b == place]
            come = f"  <- {', '.join(before)}" if before else ""
            lines.append(
                f"{node.kind:8} {node.label}{f': {node.detail}' if node.detail else ''}{come}"
            )
        return lines

    def to_dict(self) -> dict[str, object]:
        """As plain JSON data."""
        nodes = [{"kind": n.kind, "label": n.label, "detail": n.detail} for n in self.nodes]
        return {"nodes": nodes, "edges": [list(edge) for edge in self.edges]}

    def svg(self) -> str:
        """A picture that stands by itself: no script, no fonts, all text escaped."""
        layers = self._layers()
        rows: dict[int, int] = {}
        at: list[tuple[int, int]] = []
        for layer in layers:
            row = rows[layer] = rows.get(layer, -1) + 1
            at.append((12 + layer * (WIDE + GAP_X), 12 + row * (HIGH + GAP_Y)))
        width = max((x for x, _ in at), default=0) + WIDE + 12
        height = max((y for _, y in at), default=0) + HIGH + 12
        drawn = [self._arrow(at[a], at[b]) for a, b in self.edges]
        drawn += [_box(node, *place) for node, place in zip(self.nodes, at, strict=True)]
        picture = el(
            "svg", el("title", "lineage"), el("style", Markup(STYLE)), *drawn,  # noqa: S704 - ours
            xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {width} {height}",
            width=width, height=height, role="img",
        )  # fmt: skip
        return f"{picture}\n"

    def _layers(self) -> list[int]:
        """How many boxes stand before each on the longest way."""
        layers = [0] * len(self.nodes)
        for a, b in sorted(self.edges, key=lambda edge: edge[1]):
            layers[b] = max(layers[b], layers[a] + 1)
        return layers

    @staticmethod
    def _arrow(a: tuple[int, int], b: tuple[int, int]) -> Markup:
        x, y, to_x, to_y = a[0] + WIDE, a[1] + HIGH // 2, b[0], b[1] + HIGH // 2
        half = (x + to_x) // 2
        return el("path", d=f"M{x} {y}C{half} {y} {half} {to_y} {to_x} {to_y}")


def _box(node: Node, x: int, y: int) -> Markup:
    return el(
        "g",
        el("title", f"{node.kind} {node.label} {node.detail}"),
        el("rect", x=x, y=y, width=WIDE, height=HIGH, rx=4, class_=node.kind),
        text_at(x + 8, y + 18, _short(f"{node.kind} {node.label}"), "start", "label"),
        text_at(x + 8, y + 34, _short(node.detail, CHARS + 8), "start", "detail"),
    )


def _short(text: str, most: int = CHARS) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def of_version(
    version: Version, catalog: Catalog, users: Mapping[str, Sequence[str]] | None = None
) -> Lineage:
    """Sources and parents, stages, the version, and what was made of it.

    Args:
        version: which.
        catalog: of its parents and children.
        users: ref -> what else was made of a version: models and reviews, as `model NAME`.
    """
    manifest, graph = version.manifest, Lineage()
    begins = [
        graph.add(Node("version", p.ref, f"digest {p.manifest.content_digest[:12]}"))
        for p in parents(version, catalog)
    ]
    for source in manifest.sources:
        files = len(source.get("files", []))
        known = f"{files} file(s), licence {source.get('license') or 'not stated'}"
        begins.append(graph.add(Node("source", str(source.get("name")), known)))
    last: tuple[int, ...] = tuple(begins)
    for stage in manifest.stages:
        dropped = sum(stage.reasons.values())
        gone = f", {dropped:,} dropped" if dropped else ""
        told = f"{stage.rows_in:,} -> {stage.rows_out:,} {stage.shape}{gone}"
        calls = sum(int(u.get("calls", 0)) for u in stage.usage)
        told += f", {calls:,} calls" if calls else ""
        last = (graph.add(Node("stage", stage.label, told), *last),)
    tables = ", ".join(f"{n} {sum(t.splits.values()):,}" for n, t in manifest.tables.items())
    own = graph.add(
        Node("version", version.ref, f"{tables}; digest {manifest.content_digest[:12]}"), *last
    )
    for other in catalog:
        if other.ref != version.ref and version.ref in {p.ref for p in parents(other, catalog)}:
            graph.add(Node("version", other.ref, "made from it"), own)
    for user in (users or {}).get(version.ref, ()):
        kind, _, name = user.partition(" ")
        graph.add(Node(kind, name), own)
    return graph


def of_row(
    version: Version, row: Explained, calls: pl.DataFrame, votes: pl.DataFrame | None = None
) -> Lineage:
    """The way of one row: its record, the stages, calls whose answers it holds, votes on it.

    Args:
        version: of the row.
        row: what `Version.explain` says of it.
        calls: answers with `step`, `role`, `model`, `key`.
        votes: rows of ANNOTATIONS; None: those of the version's own table.
    """
    graph = Lineage()
    begin = graph.add(Node("record", row.source or "not known"))
    last: tuple[int, ...] = (begin,)
    asked, judged = calls.to_dicts(), _judged(version, row)
    made = [r for r in row.relatives if r.relation != "named by"]
    parent_nodes = [graph.add(Node("row", f"{r.relation} {r.row_id[:12]}", r.fate)) for r in made]
    for verdict in row.verdicts:
        calls_here = [c for c in asked if c["step"] == verdict.stage]
        if verdict.verdict == "not reached" or (verdict.verdict == "earlier" and not calls_here):
            continue
        own = [
            graph.add(Node("call", f"{c['model']} ({c['role']})", f"answer {c['key'][:16]}"))
            for c in calls_here
        ]
        own += [graph.add(vote) for vote in judged.get(verdict.stage, ())]
        why = ": ".join(w for w in (verdict.verdict, verdict.reason, verdict.detail) if w)
        more = parent_nodes if verdict.verdict == "made" else []
        last = (graph.add(Node("stage", verdict.stage, why), *last, *more, *own),)
    name = f"{row.shape.removesuffix('s')} {row.row_id}"
    cast = [
        graph.add(
            Node("vote", f"{v['person']}: {v['vote']}", f"review {v['review']}, {v['at']:%Y-%m-%d}")
        )
        for v in (_votes(version, row.row_id) if votes is None else votes).to_dicts()
    ]
    own_place = graph.add(Node("row", name, row.fate), *last, *cast)
    for relative in row.relatives:
        if relative.relation == "named by":
            graph.add(Node("row", relative.row_id[:12], relative.fate), own_place)
    return graph


def _judged(version: Version, row: Explained) -> dict[str, list[Node]]:
    """The judges' votes that a published pair carries, by the stage that asked for them."""
    table = version.manifest.tables.get(row.shape)
    columns = {} if table is None else table.columns
    asked = {
        s.label: (f"{s.info['name']}_", s.info["models"])
        for s in version.manifest.stages
        if "models" in s.info and f"{s.info.get('name')}_votes" in columns
    }
    if row.shape != Shape.PAIRS.value or not asked:
        return {}
    rows = version.frame(row.shape).filter(pl.col("pair_id") == row.row_id).collect()
    return {
        label: [_vote(vote, pair, pair[f"{own}answers"], models) for vote in pair[f"{own}votes"]]
        for pair in rows.to_dicts()
        for label, (own, models) in asked.items()
        if pair[f"{own}votes"]
    }


def _vote(
    vote: Mapping[str, Any], pair: Mapping[str, Any], answers: int, models: Sequence[str]
) -> Node:
    """One vote; of two answers the one that it names is told by its side."""
    said, judge = vote["answer"], vote["judge"]
    sides = sorted(("chosen", "rejected"), key=lambda side: str(pair[f"{side}_id"]))
    if vote["fault"] is not None or said is None:
        what = str(vote["fault"])
    elif said < 0:
        what = "tie"
    else:
        what = sides[said] if answers == len(sides) else f"answer {said + 1} of {answers}"
    place = "" if vote["place"] is None else f", shown in place {vote['place'] + 1}"
    name = models[judge] if judge < len(models) else f"judge {judge}"
    return Node("vote", f"{name}: {what}", f"order {vote['round'] + 1}{place}")


def _votes(version: Version, row_id: str) -> pl.DataFrame:
    if "annotations" not in version.manifest.tables:
        return pl.DataFrame()
    return (
        version.frame("annotations")
        .filter(pl.col("row_id") == row_id)
        .select("person", "vote", "review", "at")
        .collect()
    )
