"""`prefactory compare A B` and `prefactory enough NAME`: which pairs teach more, and how many."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipelines.cli.catalog import AsJson
from pipelines.terminal import write_json

Data = Annotated[str, typer.Argument(help="NAME, NAME@VERSION, a file, a folder or a hub id.")]
Seed = Annotated[int, typer.Option(help="Of samples, folds and draws.", min=0)]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(compare)
    app.command()(enough)


def compare(
    a: Data,
    b: Data,
    judge: Annotated[
        str | None, typer.Option(help="Pairs to judge on; clusters of A and B are left out.")
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Compare two versions or files of pairs: which teaches more, and what changed.

    A cheap head is trained on A, on B and on as many random pairs of A, and
    judged on held-out pairs: of --judge, else of A (optimistic, if B was
    selected with those labels in view). It sees sentence vectors where all
    texts have some in the home, else text statistics; no model is loaded.
    """
    from audit.loading import version_of
    from pipelines.api import read
    from pipelines.settings import Settings
    from pipelines.vectors import embedder, known
    from pipelines.versus import cost_per_row, versus

    settings = Settings()
    tables = (read(a), read(b))
    vectors = (embedder(settings), known(settings))
    found = versus(*tables, None if judge is None else read(judge), seed, vectors)
    found["cost"] = {
        side: cost_per_row(version_of(name, settings.catalog), table.height)
        for side, name, table in zip(("a", "b"), (a, b), tables, strict=True)
    }
    _write(found, as_json, _page(found))


def enough(
    data: Data,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Sentence vectors beside text statistics.")
    ] = False,
    repeats: Annotated[int, typer.Option(help="Of the curve.", min=3)] = 10,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Say how many pairs are enough, by a learning curve of a cheap head and its plateau."""
    from pipelines.api import read
    from pipelines.enough import enough as measure
    from pipelines.settings import Settings
    from pipelines.vectors import embedder

    embed = embedder(Settings()) if embeddings else None
    found = measure(read(data), seed, embed, repeats)
    rows = zip(found["sizes"], found["accuracy"], found["se"], strict=True)
    lines = [f"{'pairs':>9}  held-out accuracy"]
    lines += [f"{n:>9,}  {mean:.3f} ± {se:.3f}" for n, mean, se in rows]
    _write(found, as_json, [*lines, "", found["sentence"]])


def _write(found: dict[str, Any], as_json: bool, lines: list[str]) -> None:
    if as_json:
        write_json(found)
    else:
        typer.echo("\n".join(lines))


def _page(found: dict[str, Any]) -> list[str]:
    from pipelines.pays import against

    n = found["pairs"]
    lines = [
        f"A {n['a']:,} pairs, B {n['b']:,}; {n['both']:,} in both, {n['turned']:,} turned round, "
        f"{n['only_a']:,} only in A, {n['only_b']:,} only in B",
        (found["teaches"] or {}).get("sentence", "Too few clusters of prompts to hold any out."),
        f"longer answer chosen: A {_share(found['longer_chosen']['a'])}, "
        f"B {_share(found['longer_chosen']['b'])}",
    ]
    lines += [f"cost of a kept pair: {_cost(found['cost'])}"]
    if found["agreement"]:
        lines += ["", f"{'labels borne out by':<32} {'A':>7} {'B':>7}"]
        lines += [_row(r["score"], *(r[s]["agreement"] for s in "ab")) for r in found["agreement"]]
        lines += [
            f"{_short(r['score'])} agrees with fewer than half of the labels of {side.upper()}"
            for r in found["agreement"]
            for side in "ab"
            if against(r[side])
        ]
    lines += _wins(found["wins"])
    for name, rows in found["shares"].items():
        lines += ["", f"{'share by ' + name:<32} {'A':>7} {'B':>7}"]
        lines += [_row(str(row["key"]), row["a"], row["b"]) for row in rows]
    for name, rows in found["examples"].items():
        lines += ["", f"{name}:"] if rows else []
        for row in rows:
            lines += [f"  {row['pair_id']}"]
            lines += [f"    {c}: {_short(row[c])}" for c in ("prompt", "chosen", "rejected")]
    return lines


def _wins(wins: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Wins of each model, and by group where there is more than one."""
    lines = []
    for name, rows in wins.items():
        if name == "model" and rows:
            lines += ["", f"{'wins of':<32} {'A':>7} {'B':>7}"]
            lines += [_row(str(row["model"]), row["a"], row["b"]) for row in rows]
        elif len({row["key"] for row in rows if name != "model"}) > 1:
            lines += ["", f"{'wins by ' + name:<32} {'A':>7} {'B':>7}"]
            for row in rows:
                group = _row(f"{_short(str(row['key']))[:15]}: {row['model']}", row["a"], row["b"])
                lines.append(group)
    return lines


def _cost(cost: dict[str, Any]) -> str:
    """Money, calls and time by pair, of A and B; a file does not say."""
    parts = []
    for side in ("a", "b"):
        told = cost[side]
        if told is None:
            parts.append(f"{side.upper()} not recorded")
            continue
        money = f"{told['usd']:.6f} US dollars" if told["priced"] else "price unknown"
        more = f", {told['reused']:,} answers reused" if told["reused"] else ""
        parts.append(
            f"{side.upper()} {money}, {told['calls']:.2f} calls, {told['seconds']:.4f} s{more}"
        )
    return "; ".join(parts)


def _short(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:100]


def _share(estimate: dict[str, Any]) -> str:
    if estimate["low"] is None:
        return f"{estimate['value']:.1%}"
    return f"{estimate['value']:.1%} ({estimate['low']:.1%} to {estimate['high']:.1%})"


def _row(name: str, a: float | None, b: float | None) -> str:
    cells = ("-" if share is None else f"{share:.1%}" for share in (a, b))
    return f"{_short(name)[:32]:<32} " + " ".join(f"{cell:>7}" for cell in cells)
