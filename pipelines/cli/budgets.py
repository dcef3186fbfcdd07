"""`prefactory budgets`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.cli.catalog import AsJson
from pipelines.terminal import write_json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(budgets)


def budgets(
    drop: Annotated[
        str | None, typer.Option(help="Forget what was spent under this name.", metavar="NAME")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List what was spent under each name of `--budget-name`, here or in PREFACTORY_STORE."""
    from pipelines.settings import Settings
    from prefactory.errors import ConfigError
    from prefactory.sharing import slices, spending

    settings = Settings()
    folder, bucket = settings.home / "budgets", settings.shared
    try:
        if bucket is not None:
            if drop is not None:
                slices.drop(bucket, drop)
            found = slices.everything(bucket)
        else:
            if drop is not None:
                spending.drop(folder, drop)
            found = spending.everything(folder)
    except OSError as error:
        raise ConfigError(f"{folder} can't be read: {error}") from error
    if as_json:
        plain = {
            name: {"tokens": spent.tokens, "usd": spent.usd, "held_tokens": spent.held_tokens,
                   "held_usd": spent.held_usd}
            for name, spent in found.items()
        }  # fmt: skip
        write_json(plain, ensure_ascii=True)
        return
    table = Table("budget", "tokens", "US dollars", "kept back for calls in flight")
    for name, spent in found.items():
        held = f"{spent.held_tokens:,} tokens, {spent.held_usd:.4f} US dollars"
        table.add_row(escape(name), f"{spent.tokens:,}", f"{spent.usd:.4f}", held)
    console = Console(highlight=False, soft_wrap=True)
    where = bucket.url if bucket is not None else folder
    console.print(table if found else f"no budget has a name in {where}", markup=False)
