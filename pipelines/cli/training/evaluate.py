"""`prefactory evaluate | drift | promote | heads`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.catalog import AsJson
from pipelines.terminal import write_json

if TYPE_CHECKING:
    from trainers.evaluate.drift import Drift
    from trainers.evaluate.report import Evaluation


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(evaluate)
    app.command()(drift)
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
    seed: Annotated[int, typer.Option(help="Of the draw, of answers and of the tests.")] = 0,
    judge: Annotated[
        str | None,
        typer.Option(
            help="Models answer the prompts, and this engine compares their answers in both "
            "orders: YAML, or a file of that."
        ),
    ] = None,
    risk: Annotated[
        str | None,
        typer.Option(help="Column with a dimension of Flames: --judge labels the harm of answers."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(help="Models answer the prompts; R3 against this column, such as chosen."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Of an answer.")] = 256,
    temperature: Annotated[float, typer.Option(help="Of answers; 0: the likeliest tokens.")] = 0.0,
    page: Annotated[Path | None, typer.Option(help="HTML page to write.")] = None,
    as_json: AsJson = False,
) -> None:
    """Hold models against pairs, or let them answer the prompts.

    Accuracy by source and length, calibration, sections of RewardBench and
    RM-Bench, paired tests; with --judge win rates in both orders and with equal
    lengths, with --risk Flames' harmless rates; with --reference R3.
    """
    from pipelines.settings import Settings
    from pipelines.training.answering import Asked
    from pipelines.training.evaluation import evaluate as run
    from prefactory.engines.base import SamplingParams
    from prefactory.errors import ConfigError

    *models, data = words
    if not models:
        raise ConfigError("evaluate MODEL... DATA: name a model, and the pairs after it")
    asked = None
    if judge is not None or risk is not None or reference is not None:
        sampling = SamplingParams(temperature=temperature, max_tokens=max_tokens)
        asked = Asked(judge, risk, reference, sampling)
    found = run(
        models, data, Settings(), table, split, rows, batch_size, max_length, seed, asked
    )  # fmt: skip
    _write(found, page, as_json)


def _write(found: Evaluation | Drift, page: Path | None, as_json: bool) -> None:
    """The page, and what was found for people or machines."""
    if page is not None:
        page.write_text(found.page(), encoding="utf-8")
    if as_json:
        write_json(found.as_dict(), ensure_ascii=True)
    else:
        typer.echo(found.text())
        if page is not None:
            typer.echo(f"  page {page}")


def drift(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL... QUESTIONS",
            help="A model trained here with keep_checkpoints, or several models in the order of "
            "training; then NAME[@VERSION] or a file of questions.",
        ),
    ],
    judge: Annotated[
        str | None,
        typer.Option(
            help="Engine that tells stances: YAML, or a file of that [a small English lexicon]."
        ),
    ] = None,
    topic: Annotated[str, typer.Option(help="Column with the topic of a question.")] = "topic",
    samples: Annotated[int, typer.Option(help="Answers to each question.", min=1)] = 5,
    temperature: Annotated[float, typer.Option(help="Of answers.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(help="Of an answer.")] = 256,
    rows: Annotated[int | None, typer.Option(help="That many of the questions [all].")] = None,
    seed: Annotated[int, typer.Option(help="Of all draws.")] = 0,
    page: Annotated[Path | None, typer.Option(help="HTML page to write.")] = None,
    as_json: AsJson = False,
) -> None:
    """Follow the stances that a model takes over the checkpoints of its training.

    Support, neutral, oppose or refusal, by topic: signed magnitude, size and
    time of the drift, with intervals by drawing questions anew.
    """
    from pipelines.settings import Settings
    from pipelines.training.drift import drift as run
    from prefactory.engines.base import SamplingParams
    from prefactory.errors import ConfigError

    *models, questions = words
    if not models:
        raise ConfigError("drift MODEL... QUESTIONS: name a model, and the questions after it")
    sampling = SamplingParams(temperature=temperature, max_tokens=max_tokens)
    found = run(models, questions, Settings(), judge, topic, samples, sampling, rows, seed)
    _write(found, page, as_json)


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
    from trainers.objectives.heads import plain_model

    found = nested(weights)
    if wrong := [k for k, v in found.items() if not isinstance(v, int | float)]:
        raise ConfigError(f"the weight of {wrong[0]} is no number")
    plain_model(model, found, out)
    typer.echo(f"{out}: {', '.join(f'{k} {v:g}' for k, v in found.items())}")
