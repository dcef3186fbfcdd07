"""`prefactory evaluate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.catalog import AsJson


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(evaluate)
    app.command()(promote)
    app.command()(heads)


def evaluate(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL... DATA",
            help="Models (folders, names in PREFACTORY_HOME/models, hub ids), then NAME[@VERSION], "
            "a file or a folder of pairs.",
        ),
    ],
    table: Annotated[str, typer.Option(help="Table of a version.")] = "pairs",
    split: Annotated[str, typer.Option(help="Split of a version.")] = "test",
    rows: Annotated[int | None, typer.Option(help="That many of the pairs [all].")] = None,
    batch_size: Annotated[int, typer.Option(help="Conversations per forward pass.")] = 8,
    max_length: Annotated[int, typer.Option(help="Tokens of a conversation.")] = 1024,
    seed: Annotated[int, typer.Option(help="Of the draw and of the tests.")] = 0,
    page: Annotated[Path | None, typer.Option(help="HTML page to write.")] = None,
    as_json: AsJson = False,
) -> None:
    """Hold models against pairs: accuracy by source and length, calibration, paired tests."""
    from pipelines.settings import Settings
    from pipelines.training.evaluation import evaluate as run
    from prefactory.errors import ConfigError

    *models, data = words
    if not models:
        raise ConfigError("evaluate MODEL... DATA: name a model, and the pairs after it")
    found = run(
        models, data, Settings(), table, split, rows, batch_size, max_length, seed
    )  # fmt: skip
    if page is not None:
        page.write_text(found.page(), encoding="utf-8")
    if as_json:
        sys.stdout.write(json.dumps(found.as_dict(), indent=2) + "\n")
    else:
        typer.echo(found.text())
        if page is not None:
            typer.echo(f"  page {page}")


def promote(
    model: Annotated[str, typer.Argument(help="A folder, or a name in PREFACTORY_HOME/models.")],
    data: Annotated[str, typer.Argument(help="NAME or NAME@VERSION whose test split decides.")],
    margin: Annotated[float, typer.Option(help="By how much it must be better.")] = 0.01,
    batch_size: Annotated[int, typer.Option(help="Conversations per forward pass.")] = 8,
    max_length: Annotated[int, typer.Option(help="Tokens of a conversation.")] = 1024,
) -> None:
    """Make a model the one of a dataset, if it is better on held-out pairs (exit 1 if not)."""
    from pipelines.settings import Settings
    from pipelines.training.promotion import promote as run

    done = run(model, data, margin, Settings(), batch_size, max_length)
    typer.echo(done.text)
    if not done.promoted:
        raise typer.Exit(1)


def heads(
    model: Annotated[Path, typer.Argument(help="Folder of a model of `prefactory train mah`.")],
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    weights: Annotated[list[str], typer.Argument(help="objective=weight, such as help=0.7.")],
) -> None:
    """Write one plain model for given weights of the objectives."""
    from prefactory.errors import ConfigError
    from prefactory.overrides import nested
    from trainers.heads import plain_model

    found = nested(weights)
    if wrong := [k for k, v in found.items() if not isinstance(v, int | float)]:
        raise ConfigError(f"the weight of {wrong[0]} is no number")
    plain_model(model, found, out)
    typer.echo(f"{out}: {', '.join(f'{k} {v:g}' for k, v in found.items())}")
