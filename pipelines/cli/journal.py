"""`prefactory journal`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pipelines.cli.catalog import AsJson
from pipelines.terminal import write_json

if TYPE_CHECKING:
    import polars as pl

    from pipelines.journal import Wanted


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(journal)


def journal(
    where: Annotated[
        Path | None,
        typer.Argument(
            metavar="RECIPE|HOME",
            help="Recipe file, whose answers are meant, or a home; by default all of the home.",
        ),
    ] = None,
    step: Annotated[str | None, typer.Option(help="Of this step: labelers.Rubric, Rubric.")] = None,
    model: Annotated[str | None, typer.Option(help="Of this model.")] = None,
    reason: Annotated[
        str | None,
        typer.Option(
            help="That could not be used for this reason (unparseable, truncated, ...), or `any`."
        ),
    ] = None,
    show: Annotated[int, typer.Option(help="Print so many answers, word for word.", min=0)] = 0,
    drop: Annotated[
        bool, typer.Option("--drop", help="Drop them: the next run asks again, and pays again.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List, count and drop the answers of models that are kept, by step, model or reason."""
    from pipelines.journal import Wanted, answers, drop_answers
    from pipelines.settings import Settings
    from prefactory.errors import ConfigError

    settings, recipe = Settings(), None
    if where is not None and where.is_dir():
        settings = Settings(where, bucket=None)
    elif where is not None:
        recipe = _recipe_name(where)
    wanted = Wanted(recipe, step, model, reason)
    if drop and wanted == Wanted() and where is None:
        raise ConfigError("--drop wants to know which: name a recipe, --step, --model or --reason")
    found = wanted.of(answers(settings))
    dropped = drop_answers(settings, found) if drop else 0
    if as_json:
        write_json(_machine(found, show, dropped), ensure_ascii=True)
    else:
        _print(found, show, drop, settings.home, where if recipe else None, wanted)


def _recipe_name(path: Path) -> str:
    from pipelines.build import load_recipe

    return load_recipe(path, []).name


def _machine(found: pl.DataFrame, show: int, dropped: int) -> dict[str, Any]:
    from pipelines.journal import counted

    shown = {"shown": found.head(show).to_dicts()} if show else {}
    return {"answers": counted(found).to_dicts(), "dropped": dropped, **shown}


def _print(
    found: pl.DataFrame, show: int, drop: bool, home: Path, recipe: Path | None, wanted: Wanted
) -> None:
    from pipelines.journal import counted

    console = Console(highlight=False, soft_wrap=True)
    if found.is_empty():
        console.print(f"no such answers in {home / 'journal'}", markup=False)
        return
    names = ("recipe", "step", "role", "model", "could not be used", "answers", "tokens in", "out")
    table = Table(*names, box=None)
    for row in counted(found).iter_rows():
        table.add_row(*(f"{v:,}" if isinstance(v, int) else _cell(v) for v in row))
    console.print(table)
    for one in found.head(show).iter_rows(named=True):
        console.print(
            f"\n--- {one['step'] or '?'} {one['model']} {one['key']}"
            + (f"\n{one['reason']}: {one['detail']}" if one["reason"] else "")
            + f"\n{one['text']}",
            markup=False,
        )
    if drop:
        again = f"prefactory run {recipe}" if recipe else "the next run"
        console.print(f"dropped {found.height:,} answers; {again} asks for them again")
    elif wanted.reason is None and found["reason"].is_not_null().any():
        target = recipe or home
        console.print(f"\nprefactory journal {target} --reason any --drop  drops what was no use")


def _cell(value: str | None) -> str:
    return "-" if value is None else value.replace("[", "\\[")
