"""`prefactory judge-examples`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.run import BudgetName, BudgetTokens, BudgetUsd, Prices


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("judge-examples")(judge_examples)


def judge_examples(
    dataset: Annotated[
        str,
        typer.Argument(
            help="Pairs whose chosen answer is known to be better, or answers with known scores "
            "(--rubric): a file, folder, URL or hub id, or NAME[@VERSION].",
            metavar="DATASET",
        ),
    ],
    judge: Annotated[
        str,
        typer.Option(
            help="The judge: '{engine: server, base_url: ..., model: ...}', or a file of that.",
            metavar="ENGINE",
        ),
    ],
    rubric: Annotated[
        str | None,
        typer.Option(
            help="For labelers.Rubric: its fields without the judge, "
            "'{attributes: [{name: helpfulness}]}', or a file of them.",
            metavar="FIELDS",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="YAML file for `examples:` of a judge.")] = Path(
        "judge_examples.yaml"
    ),
    shots: Annotated[int, typer.Option(help="Examples of a set.", min=1, max=24)] = 4,
    sets: Annotated[int, typer.Option(help="Sets that are tried.", min=1)] = 8,
    rows: Annotated[
        int, typer.Option(help="Rows that choose among the sets, and as many held out.", min=2)
    ] = 100,
    seed: Annotated[int, typer.Option(help="Seed of all draws.")] = 0,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Write the file even if the examples do not help.")
    ] = False,
    budget_usd: BudgetUsd = None,
    budget_tokens: BudgetTokens = None,
    budget_name: BudgetName = None,
    prices: Prices = None,
) -> None:
    """Choose examples for a judge by their effect on rows whose label is known.

    Writes them, with the evidence, to a file for `examples:` of labelers.Judge and
    JudgePairs, or of labelers.Rubric. Exit code 1 where no set helps on held-out rows.
    """
    from pipelines.api import read
    from pipelines.examples import choose
    from pipelines.settings import Settings
    from prefactory.engines.accounts import budget_of
    from prefactory.errors import ConfigError

    budget = budget_of(budget_usd, budget_tokens, budget_name)
    settings = Settings(budget=budget, prices=prices)
    chosen = choose(read(dataset), judge, settings, shots, sets, rows, seed, rubric)
    typer.echo(str(chosen))
    if not chosen.helps and not anyway:
        typer.echo("They do not help, so nothing is written; --anyway writes them.", err=True)
        raise typer.Exit(1)
    try:
        out.write_text(chosen.yaml(), "utf-8")
    except OSError as error:
        raise ConfigError(f"--out {out}: it can't be written: {error}") from error
    typer.echo(f"examples: {out}")
