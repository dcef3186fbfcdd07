"""`prefactory train reward | dpo | raco`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli.catalog import AsJson, Ref

if TYPE_CHECKING:
    from pydantic import BaseModel

Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value options of the method, such as beta=0.05.")
]
Model = Annotated[str | None, typer.Option(help="Model to start from: a folder or a hub id.")]
Table = Annotated[str, typer.Option(help="Table with the pairs, such as goal_pairs.")]
Out = Annotated[Path | None, typer.Option(help="Folder to make [in PREFACTORY_HOME/models].")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(help="Train on a published version.", no_args_is_help=True)
    group.command()(reward)
    group.command()(dpo)
    group.command()(raco)
    app.add_typer(group, name="train")


def reward(
    ref: Ref,
    overrides: Overrides = None,
    backend: Annotated[
        str,
        typer.Option(
            help="stack (text statistics and vectors), embedding (vectors; both CPU minutes) or"
            " trl (a transformer)."
        ),
    ] = "trl",
    model: Model = None,
    table: Table = "pairs",
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Train a reward model."""
    from prefactory.errors import ConfigError

    methods = {"stack": "preference-stack", "embedding": "embedding-reward", "trl": "reward"}
    if backend not in methods:
        raise ConfigError(f"--backend {backend!r}: choose stack, embedding or trl")
    method = methods[backend]
    if backend != "trl" and model is not None:
        raise ConfigError(
            "--model goes with --backend trl; for another encoder write encoder.model=NAME"
        )
    _train(method, ref, overrides or [], model, table, out, as_json)


def dpo(
    ref: Ref,
    overrides: Overrides = None,
    model: Model = None,
    table: Table = "pairs",
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Train a policy by direct preference optimisation."""
    _train("dpo", ref, overrides or [], model, table, out, as_json)


def raco(
    ref: Ref,
    overrides: Overrides = None,
    model: Model = None,
    table: Table = "pairs",
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Train a policy on objectives that disagree on the same pair (sign_ columns)."""
    _train("raco", ref, overrides or [], model, table, out, as_json)


def _train(
    method: str,
    ref: str,
    overrides: list[str],
    model: str | None,
    table: str,
    out: Path | None,
    as_json: bool,
) -> None:
    from pipelines.settings import Settings
    from pipelines.training import METHODS, train
    from prefactory.errors import ConfigError
    from prefactory.overrides import nested

    settings = Settings()
    version = settings.catalog.get(ref)
    fields = nested(overrides)
    if method not in ("embedding-reward", "preference-stack"):
        if model is None and "model" not in fields:
            raise ConfigError("--model is missing: the folder or hub id of the model to start from")
        fields |= {"model": model} if model is not None else {}
    config = _config(METHODS[method], fields)
    trained = train(method, config, version, settings, out, table)
    if as_json:
        data = {"path": str(trained.path), **trained.facts}
        sys.stdout.write(json.dumps(data, indent=2) + "\n")
    else:
        typer.echo(trained.summary)


def _config(cls: type[BaseModel], fields: dict[str, Any]) -> BaseModel:
    import pydantic

    from prefactory.errors import ConfigError
    from prefactory.recipe import sentence

    try:
        return cls.model_validate(fields)
    except pydantic.ValidationError as error:
        items = error.errors(include_url=False)
        problems = [sentence(cls, dict(item)) for item in items]
        if any(p.startswith("unknown key") and "did you mean" not in p for p in problems):
            problems.append("options are: " + ", ".join(cls.model_fields))
        raise ConfigError(problems) from error
