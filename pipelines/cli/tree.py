"""`prefactory tree`: the search trees of a version, in the terminal or as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from pipelines.cli.catalog import AsJson, Ref
from pipelines.terminal import write_json

if TYPE_CHECKING:
    from catalog.report.trees import Kept, SearchTree

LISTED = 20
"""Trees in the list."""
CELLS = 8
"""Characters of a bar."""


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("tree")(show_tree)


def show_tree(
    ref: Ref,
    prompt: Annotated[
        str | None, typer.Option(help="Id of a prompt, raw or new, or how it begins.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write the trees to this file as a page of its own.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Whole texts, not their beginnings.")
    ] = False,
    rewriter: Annotated[
        bool,
        typer.Option("--rewriter", help="How often its steps win, and what a pair cost."),
    ] = False,
    against: Annotated[
        str | None, typer.Option(help="With --rewriter: a version grown by another rewriter.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the search trees of generators.InstructionSearch.

    Lists them and draws the first, or the one of a prompt: what was tried
    where, mean score, visits, and the way to the chosen instruction (*).
    """
    if rewriter or against is not None:
        _rewriters([ref, *([against] if against is not None else [])], as_json)
        return
    from catalog.report.tree_page import MOST, page
    from catalog.report.trees import count_trees, read_trees
    from pipelines.settings import Settings

    version = Settings().catalog.get(ref)
    most = None if prompt is not None else MOST if html is not None else LISTED
    trees = read_trees(version, prompt, most)
    total = count_trees(version) if prompt is None else len(trees)
    if as_json:
        rows = [
            {"prompt_id": k.prompt_id, "source_id": k.source_id, **k.tree.model_dump(mode="json")}
            for k in trees
        ]
        write_json(rows, indent=1)
        return
    if html is not None:
        _write(html, page(trees, version.ref, total))
        typer.echo(f"{min(len(trees), MOST)} of {total} trees of {version.ref}: {html}")
        return
    console = Console(highlight=False)
    if prompt is None:
        _list(console, trees, total)
    for index, kept in enumerate(trees if prompt is not None else trees[:1]):
        if index or prompt is None:
            console.print()
        _draw(console, kept, full)


def _rewriters(refs: list[str], as_json: bool) -> None:
    """The rewriters of one or two versions."""
    from catalog.report import rewriters
    from catalog.report.trees import read_trees
    from pipelines.settings import Settings
    from prefactory.pages.wording import with_interval

    versions = [Settings().catalog.get(ref) for ref in refs]
    found = {v.ref: rewriters.of_version(v) for v in versions}
    gain = None
    if len(versions) == 2:
        gain = rewriters.difference(*(read_trees(v) for v in versions))
    if as_json:
        told = {"versions": found, "difference": gain}
        write_json(told)
        return
    for name, report in found.items():
        typer.echo(name)
        for sentence in rewriters.sentences(report):
            typer.echo(f"  {sentence}")
        for row in report["principles"]:
            typer.echo(f"  {row['principle']}: {with_interval(row['better'])} better")
    if gain is not None:
        typer.echo(f"Steps of the first win more often by {with_interval(gain)}")


def _write(path: Path, text: str) -> None:
    from prefactory.errors import ConfigError

    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"--html {path}: it can't be written: {error}") from error


def _list(console: Console, trees: list[Kept], total: int) -> None:
    table = Table("prompt", "nodes", "deep", "raw", "best", "chosen", "instruction", box=None)
    for kept in trees:
        tree = kept.tree
        chosen = None if tree.chosen is None else tree.nodes[tree.chosen].mean
        table.add_row(
            kept.prompt_id[:12],
            str(len(tree.nodes)),
            str(max(tree.depths)),
            _number(tree.nodes[0].mean),
            _number(tree.nodes[tree.best].mean),
            _number(chosen),
            Text(_excerpt(tree.nodes[0].text, 48)),
        )
    console.print(table)
    if total > len(trees):
        console.print(f"{len(trees)} of {total:,} trees; --prompt shows another")


def _draw(console: Console, kept: Kept, full: bool) -> None:
    from catalog.report.tree_page import DEEPEST

    tree = kept.tree
    console.print(f"[bold]{kept.prompt_id}[/]  {escape(_excerpt(kept.source_id, 60))}")
    drawn = {0: Tree(_label(tree, 0, full), guide_style="dim")}
    for index, node in enumerate(tree.nodes[1:], 1):
        parent = drawn.get(node.parent or 0)
        if parent is not None and tree.depths[index] <= DEEPEST:
            drawn[index] = parent.add(_label(tree, index, full))
    console.print(drawn[0])
    if tree.failed:
        failures = ", ".join(f"{action} ({reason})" for action, reason, _ in tree.failed)
        console.print(f"failed: {escape(failures)}")


def _label(tree: SearchTree, index: int, full: bool) -> Text:
    node = tree.nodes[index]
    marked = index in tree.marked
    filled = round(CELLS * tree.share(index))
    label = Text(f"{'*' if marked else ' '}{index} ", style="green" if marked else "")
    label.append(node.action, style="bold green" if marked else "bold")
    label.append(f" {'#' * filled}{'.' * (CELLS - filled)}", style="cyan")
    label.append(f" {_number(node.mean)}")
    if node.fresh:
        label.append(f" (again {_number(node.fresh_mean)})")
    label.append(f", {node.visits} visit{'s' if node.visits != 1 else ''}", style="dim")
    for role, where in (("chosen", tree.chosen), ("rejected", tree.rejected)):
        if index == where:
            label.append(f" {role}", style="bold green" if role == "chosen" else "bold red")
    label.append(f"\n{node.text if full else _changed(tree, index)}", style="" if marked else "dim")
    label.no_wrap, label.overflow = not full, "ellipsis"
    return label


def _changed(tree: SearchTree, index: int) -> str:
    from catalog.report.tree_page import changed

    return changed(tree, index)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _excerpt(text: str, limit: int) -> str:
    from catalog.report.tree_page import excerpt

    return excerpt(text, limit)
