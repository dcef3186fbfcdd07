"""`prefactory merge | frontier`: models that were trained become one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines.cli.catalog import AsJson
from pipelines.terminal import write_json

On = Annotated[
    str | None,
    typer.Option(
        help="NAME[@VERSION] or a file whose held-out pairs measure [that of the first model]."
    ),
]
Out = Annotated[Path | None, typer.Option(help="Folder to make [in PREFACTORY_HOME/models].")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(merge)
    app.command()(frontier)


def merge(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL[=WEIGHT]...",
            help="Folders, names in PREFACTORY_HOME/models, hub ids; without weights all alike.",
        ),
    ],
    how: Annotated[
        Literal["average", "slerp", "ties"],
        typer.Option(help="Mean of the weights, mean on the sphere, or what agrees in sign."),
    ] = "average",
    align: Annotated[
        bool, typer.Option("--align", help="Bring neurons into the order of the first model.")
    ] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="Of adapters: write a plain model, not an adapter.")
    ] = False,
    rank: Annotated[
        int | None, typer.Option(help="Of a merged adapter, at most [the sum: exact].", min=1)
    ] = None,
    density: Annotated[
        float, typer.Option(help="Share of the changes that ties keeps.", min=0.0, max=1.0)
    ] = 0.2,
    base: Annotated[
        str | None, typer.Option(help="Model that ties measures changes from [the common one].")
    ] = None,
    points: Annotated[
        int, typer.Option(help="Places between two models to measure, ends included.", min=0)
    ] = 0,
    on: On = None,
    out: Out = None,
    batch_size: Annotated[int, typer.Option(help="Conversations per forward pass.", min=1)] = 8,
    max_length: Annotated[int, typer.Option(help="Tokens of a conversation.", min=2)] = 1024,
    as_json: AsJson = False,
) -> None:
    """Merge models into one, beside their ensemble and what lies between them.

    Adapters of one base become one adapter, which is exactly the weighted sum of what they change.
    """
    from pipelines.settings import Settings
    from pipelines.training.merging import merge as run
    from prefactory.errors import ConfigError

    if not 0 < density <= 1 or points > 101:
        raise ConfigError("--density is above 0, up to 1; --points up to 101")
    options: dict[str, object] = {
        "how": how, "align": align, "plain": plain, "rank": rank, "density": density, "base": base,
        "points": points, "batch": batch_size, "max_length": max_length,
    }  # fmt: skip
    done = run(models, options, on, out, Settings())
    if as_json:
        write_json({"path": str(done.path), **done.facts}, ensure_ascii=True)
    else:
        typer.echo(done.summary)


def frontier(
    adapters: Annotated[
        list[str],
        typer.Argument(
            metavar="OBJECTIVE=ADAPTER...",
            help="An adapter for each objective: folders, or names in PREFACTORY_HOME/models.",
        ),
    ],
    user: Annotated[
        list[str] | None,
        typer.Option(help="OBJECTIVE=WEIGHT of a user, whose merge is chosen; repeatable."),
    ] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            help="OBJECTIVE=MODEL that scores answers; repeatable [held-out pairs: sign_ columns]."
        ),
    ] = None,
    on: On = None,
    steps: Annotated[int, typer.Option(help="Weights are this many steps from 0 to 1.", min=1)] = 5,
    utility: Annotated[
        Literal["linear", "chebyshev"],
        typer.Option(help="Weighted sum, or the least of level / weight, which reaches dents."),
    ] = "linear",
    out: Annotated[
        Path | None, typer.Option(help="Folder to write the chosen merge into, as an adapter.")
    ] = None,
    svg: Annotated[Path | None, typer.Option(help="Write a picture to this file.")] = None,
    rows: Annotated[int | None, typer.Option(help="That many held-out pairs [all].", min=1)] = None,
    max_tokens: Annotated[int, typer.Option(help="Of an answer.", min=1)] = 256,
    batch_size: Annotated[int, typer.Option(help="Conversations per forward pass.", min=1)] = 8,
    max_length: Annotated[int, typer.Option(help="Tokens of a conversation.", min=2)] = 1024,
    seed: Annotated[int, typer.Option(help="Of all draws.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Show what merges of adapters reach on each objective, and choose one for a user.

    Rewards over the simplex of weights, what the plane through the adapters would say, which are
    dominated, the hypervolume; and a choice that is measured on prompts that did not choose it.
    """
    from pipelines.settings import Settings
    from pipelines.training.merging import merge as run
    from pipelines.training.simplex import Explore, explore
    from prefactory.errors import ConfigError
    from prefactory.folders import new_file
    from prefactory.overrides import split

    wanted = dict(map(split, user or []))
    if any(isinstance(v, bool) or not isinstance(v, int | float) for v in wanted.values()):
        raise ConfigError("--user: write OBJECTIVE=WEIGHT, such as helpful=0.7")
    if out is not None and not wanted:
        raise ConfigError("--out writes the merge for a user: --user OBJECTIVE=WEIGHT")
    named = {name: str(value) for name, value in map(split, adapters)}
    scorers = {name: str(value) for name, value in map(split, reward or [])}
    asked = Explore(
        named, wanted or None, scorers, on, steps, utility, rows, max_tokens, batch_size,
        max_length, seed,
    )  # fmt: skip
    found, users = explore(asked, Settings())
    if svg is not None:
        with new_file(svg) as file:
            file.write(f"{found.chart()}\n".encode())
    if out is not None and found.chosen is not None:
        words = [f"{m}={w!r}" for m, w in zip(named.values(), found.chosen.weights, strict=True)]
        options: dict[str, object] = {"batch": batch_size, "max_length": max_length}
        run(words, options, on, out, Settings())
    if as_json:
        facts = {**found.as_dict(), "map": None if users is None else users.as_dict()}
        write_json(facts, ensure_ascii=True)
        return
    for line in [*found.lines(), *([users.line()] if users is not None else [])]:
        typer.echo(line)
    if out is not None:
        typer.echo(f"adapter  {out}")
