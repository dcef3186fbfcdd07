"""`prefactory values list | show | check`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from pipelines.cli.catalog import AsJson
from pipelines.terminal import write_json

if TYPE_CHECKING:
    from catalog.values import ValueSystem

Name = Annotated[str, typer.Argument(help="Name of a value system, or a YAML or JSON file.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(help="Value systems: list, show, check.", no_args_is_help=True)
    group.command("list")(list_systems)
    group.command()(show)
    group.command()(check)
    app.add_typer(group, name="values")


def list_systems(as_json: AsJson = False) -> None:
    """List the value systems that come with prefactory."""
    from catalog.values import load, names

    systems = [load(name) for name in names()]
    if as_json:
        rows = [{**_head(s), "leaves": len(s.leaves)} for s in systems]
        write_json(rows)
        return
    table = Table("name", "kind", "levels", "nodes", "title", box=None)
    for system in systems:
        counts = _per_level(system)
        mark = " (sensitive)" if system.sensitive else ""
        table.add_row(
            system.system, system.kind, " / ".join(system.levels), " / ".join(map(str, counts)),
            system.title + mark,
        )  # fmt: skip
    Console(highlight=False).print(table)


def show(name: Name, as_json: AsJson = False) -> None:
    """Show a value system as a tree."""
    from catalog.values import load

    system = load(name)
    if as_json:
        write_json(system.model_dump(mode="json"))
        return
    console = Console(highlight=False)
    console.print(f"[bold]{escape(system.title)}[/] ({system.system}, {system.kind})")
    for text in (system.source, system.note):
        if text:
            console.print(text, markup=False)
    tree = Tree(" / ".join(system.levels))
    _grow(tree, system, None)
    console.print(tree)


def check(name: Name) -> None:
    """Check a value system; exit code 2 and every mistake with its line if there is one."""
    from catalog.values import load

    system = load(name)
    counts = zip(system.levels, _per_level(system), strict=True)
    typer.echo(
        f"{system.system} is fine: {', '.join(f'{n} of level {level}' for level, n in counts)}"
    )
    silent = [leaf for leaf in system.leaves if not system.by_id[leaf].say]
    if silent and system.kind in ("values", "preferences", "personality"):
        typer.echo(
            f"{len(silent)} of {len(system.leaves)} have no `say` and are asked for by their label "
            f"(for example {silent[0]}: {system.phrases(silent[0])[0]!r})"
        )


def _head(system: ValueSystem) -> dict[str, object]:
    return system.model_dump(mode="json", exclude={"nodes"})


def _per_level(system: ValueSystem) -> list[int]:
    depths = [len(system.ancestors(node.id)) for node in system.nodes]
    return [depths.count(i + 1) for i in range(len(system.levels))]


def _grow(tree: Tree, system: ValueSystem, parent: str | None) -> None:
    for node_id in system.children.get(parent, ()):
        node = system.by_id[node_id]
        about = f" - {node.definition}" if node.definition else ""
        against = f" [dim](against {', '.join(node.opposes)})[/]" if node.opposes else ""
        text = f"{escape(node.label)} [dim]{escape(node.id)}[/]{escape(about)}{against}"
        _grow(tree.add(text), system, node_id)
