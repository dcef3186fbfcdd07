"""`prefactory train METHOD`: every method of training, with the same options."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cli.catalog import AsJson
from pipelines.terminal import write_json

Data = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME[@VERSION]|FILE",
        help="Published data, or a file of pairs, which is published first. None: with --smoke.",
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value options of the method, such as beta=0.05.")
]
Model = Annotated[
    str | None, typer.Option(help="Model to start from: a folder, a name in models, or a hub id.")
]
Config = Annotated[
    Path | None, typer.Option("--config", help="YAML file of options; those of TRL by its names.")
]
Table = Annotated[
    str | None, typer.Option(help="Table to read, such as goal_pairs [the method's own].")
]
Out = Annotated[Path | None, typer.Option(help="Folder to make [in PREFACTORY_HOME/models].")]
Smoke = Annotated[
    bool, typer.Option("--smoke", help="Three steps on a tiny model that is built on the spot.")
]
HELP = {
    "regression": "Train a reward model with one output an attribute.",
    "sft": "Fine-tune on the chosen answers.",
    "dpo": "Train a policy by direct preference optimisation.",
    "goal-dpo": "Train a policy on pairs that name the score to reach (goal_pairs).",
    "kto": "Train a policy on single answers, good or bad.",
    "cpo": "Train a policy by contrastive preference optimisation, without a reference.",
    "simpo": "Train a policy by SimPO, without a reference.",
    "orpo": "Train a policy by odds ratios, without a reference.",
    "mah": "Train a policy with one head an objective (dimension column).",
    "bco": "Train a policy on single answers by binary classification.",
    "poft": "Fine-tune the more, the likelier aligned models find an answer.",
    "dckd": "Train a student on what an aligned teacher says of both answers.",
    "adpa": "Train a student on an aligned teacher's advantages over its reference.",
    "stepwise": "Train a process reward model on labels of steps.",
    "pal": "Train a reward that differs between people (annotator column), on vectors.",
    "router": "Train what tells which model or judge to take for a prompt, within a cost.",
    "raco": "Train a policy on objectives that disagree on the same pair (sign_ columns).",
    "yapo": "Fit a vector to pairs that steers a model, which stays as it is (YaPO, BiPO).",
    "rdpo": "Train a policy on pairs, and on each chosen answer after a near prompt (Re-Align).",
    "more": "Train a reward model on several sources, weighted so that they conflict least.",
    "steerlm": "Fine-tune toward answers that have wanted attributes (weight_ of the answers).",
    "listwise": "Train a policy to rank all answers to a prompt, by a margin for each rank.",
}
"""Method -> the help of its command."""


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(help="Train on a published version.", invoke_without_command=True)
    group.callback()(several)
    group.command()(reward)
    for method, text in HELP.items():
        group.command(method, help=text)(_command(method))
    app.add_typer(group, name="train")


def several(
    context: typer.Context,
    launch: Annotated[
        str | None,
        typer.Option(help="Print how to train on several GPUs: ddp, fsdp, zero1, zero2 or zero3."),
    ] = None,
) -> None:
    """Train on a published version."""
    if launch is not None:
        from pipelines.training.launch import launch_text

        typer.echo(launch_text(launch))
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def _command(method: str) -> Callable[..., None]:
    def command(
        data: Data = None,
        overrides: Overrides = None,
        model: Model = None,
        config: Config = None,
        table: Table = None,
        out: Out = None,
        smoke: Smoke = False,
        as_json: AsJson = False,
    ) -> None:
        _train(method, data, overrides or [], model, config, table, out, smoke, as_json)

    return command


def reward(
    data: Data = None,
    overrides: Overrides = None,
    backend: Annotated[
        str,
        typer.Option(
            help="stack (text statistics and vectors), embedding (vectors; both CPU minutes) or"
            " trl (a transformer)."
        ),
    ] = "trl",
    model: Model = None,
    config: Config = None,
    table: Table = None,
    out: Out = None,
    smoke: Smoke = False,
    as_json: AsJson = False,
) -> None:
    """Train a reward model."""
    from prefactory.errors import ConfigError

    methods = {"stack": "preference-stack", "embedding": "embedding-reward", "trl": "reward"}
    if backend not in methods:
        raise ConfigError(f"--backend {backend!r}: choose stack, embedding or trl")
    if backend != "trl" and (model is not None or smoke):
        raise ConfigError(
            "--model and --smoke go with --backend trl; for another encoder write "
            "encoder.model=NAME"
        )
    _train(methods[backend], data, overrides or [], model, config, table, out, smoke, as_json)


def _train(
    method: str,
    ref: str | None,
    overrides: list[str],
    model: str | None,
    config: Path | None,
    table: str | None,
    out: Path | None,
    smoke: bool,
    as_json: bool,
) -> None:
    from pipelines.settings import Settings
    from pipelines.training import METHODS, checked_options, train
    from pipelines.training.data_of import version_of
    from prefactory.errors import ConfigError
    from prefactory.overrides import nested

    if ref is not None and "=" in ref and smoke:
        overrides, ref = [ref, *overrides], None
    fields = {**_file(config), **nested(overrides)}
    fields |= {"model": model} if model is not None else {}
    settings = Settings()
    if smoke:
        from pipelines.training.smoke import smoke_train

        done = smoke_train(method, METHODS[method], fields, ref, table, out, settings)
    else:
        if ref is None:
            raise ConfigError("what to train on? NAME, NAME@VERSION or a file; or --smoke")
        if "model" in METHODS[method].model_fields and "model" not in fields:
            raise ConfigError("--model is missing: the folder or hub id of the model to start from")
        checked = checked_options(METHODS[method], fields)
        done = train(method, checked, version_of(ref, settings), settings, out, table)
    if os.environ.get("RANK", "0") != "0":
        return
    if as_json:
        write_json({"path": str(done.path), **done.facts}, ensure_ascii=True)
    else:
        typer.echo(done.summary)


def _file(config: Path | None) -> dict[str, Any]:
    """Options of a YAML file; keys and numbers as in recipes."""
    from prefactory import yamllines
    from prefactory.errors import ConfigError

    if config is None:
        return {}
    try:
        data, _ = yamllines.load(config.read_text("utf-8"), config.name)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {config} can't be read: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"--config {config}: options are a mapping, `learning_rate: 1.0e-6`")
    return data
