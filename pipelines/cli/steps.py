"""`prefactory steps | schema | init`: what there is, for people and for editors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape
from rich.table import Table

from pipelines.cli.ask import known
from pipelines.cli.source import (
    Carry,
    Encoding,
    Ignore,
    LabelSource,
    Separator,
    Values,
    mapping_of,
    meanings_of,
    source_spec,
)
from pipelines.terminal import write_json

if TYPE_CHECKING:
    from pipelines.steps import StepPage


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(steps)
    app.command()(schema)
    app.command()(init)


def steps(
    name: Annotated[
        str | None, typer.Argument(help="One step, such as filters.ISA or ISA.", metavar="[NAME]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """List the steps, or show one: fields, defaults, columns, an example and its paper."""
    from dataclasses import asdict

    from pipelines.steps import describe, step_classes, step_page

    pages = [step_page(name)] if name else [describe(cls) for cls in step_classes().values()]
    if as_json:
        data = [asdict(page) for page in pages]
        write_json(data[0] if name else data, ensure_ascii=True)
        return
    console = Console(highlight=False)
    if name:
        _show(pages[0], console)
        return
    table = Table("step", "what it does", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for page in pages:
        table.add_row(page.name, escape(page.summary))
    console.print(table)
    console.print("\nprefactory steps NAME shows one whole.")


def _show(page: StepPage, console: Console) -> None:
    papers = "".join(f"  https://arxiv.org/abs/{p}" for p in page.papers)
    console.print(f"[bold]{page.name}[/]  ({page.kind}; takes {', '.join(page.shapes)}){papers}\n")
    console.print(Markdown(f"{page.summary}\n\n{page.text}"))
    table = Table("field", "takes", "default", "", box=None, header_style="bold", pad_edge=False)
    for f in page.fields:
        takes = f"{f.type} {f.limits}".strip()
        default = "(required)" if f.default is None else f.default
        table.add_row(f.name, *(escape(text) for text in (takes, default, f.text)))
    console.print()
    console.print(table)
    for title, columns in (("Reads", page.reads), ("Adds", page.adds)):
        if columns:
            console.print(f"\n[bold]{title}[/] {', '.join(columns)}")
    console.print("\n[bold]Example[/]")
    console.print(page.example, markup=False)


def schema(
    out: Annotated[Path | None, typer.Option(help="Write to this file, not to the screen.")] = None,
) -> None:
    """Write a JSON Schema of recipes, for editors that complete and check YAML."""
    from pipelines.schema import recipe_schema

    text = json.dumps(recipe_schema(), indent=2) + "\n"
    if out is None:
        sys.stdout.write(text)
    else:
        out.write_text(text, "utf-8")
        Console(highlight=False).print(
            f"{out}: put `# yaml-language-server: $schema={out}` on the first line of a recipe",
            markup=False,
        )


def init(
    source: Annotated[str, typer.Argument(help="File, folder, glob, URL or hub id.")],
    out: Annotated[Path, typer.Option(help="The recipe to write.")] = Path("recipe.yaml"),
    layout: Annotated[str, typer.Option(help="Layout, if the detected one is wrong.")] = "auto",
    mapping: Annotated[
        list[str] | None, typer.Option("--map", help="our_column=their.column, repeatable.")
    ] = None,
    values: Values = None,
    carry: Carry = None,
    ignore: Ignore = None,
    label_source: LabelSource = None,
    encoding: Encoding = None,
    separator: Separator = None,
) -> None:
    """Start a recipe for a source that is looked at first; it runs as it is written."""
    from pipelines.starter import starter
    from prefactory.errors import ConfigError

    if out.exists():
        raise ConfigError(f"{out} is there already; name another file with --out, or remove it")
    fields = {
        "path": source,
        "layout": layout,
        "mapping": mapping_of(mapping),
        "values": meanings_of(values),
        "carry": carry or [],
        "ignore": ignore or [],
        "label_source": label_source,
        "encoding": encoding,
        "separator": separator,
    }
    spec = source_spec(known(fields))
    recipe = starter(spec, out)
    out.write_text(recipe.text, "utf-8")
    console = Console(highlight=False)
    console.print(recipe.seen, markup=False)
    console.print(f"\n{out} written. Next:", markup=False)
    for command in ("plan", "run"):
        console.print(f"  prefactory {command} {out}", markup=False)
