"""`prefactory wins`: who wins over whom, with intervals and circles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli.catalog import AsJson
from pipelines.terminal import write_json

if TYPE_CHECKING:
    import polars as pl

Data = Annotated[str, typer.Argument(help="NAME, NAME@VERSION, a file, a folder or a hub id.")]


class By(StrEnum):
    """What is compared."""

    CHOICES = "choices"
    MODEL = "model"
    VALUE = "value"


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(wins)


def wins(
    data: Data,
    by: Annotated[
        By | None,
        typer.Option(
            help="choices: values, by what each model of labelers.Choices takes; model, value: by "
            "the labels of the pairs. [choices where there are some, else model]"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show who wins over whom in pairs or dilemmas, and circles among them.

    Win rates have Wilson's 95% interval; a comparison is clear where it
    leaves one half out. Nodes that win over each other in a circle beyond
    chance have no order.
    """
    from pipelines.api import read

    table = read(data)
    by = by or (By.CHOICES if "choices" in table.columns else By.MODEL)
    found = _found(table, by)
    if as_json:
        write_json(found)
        return
    typer.echo("\n".join(_page(found)))


def _found(table: pl.DataFrame, by: By) -> dict[str, Any]:
    from prefactory.errors import DataError
    from prefactory.measures.choice_report import choice_report
    from prefactory.measures.win_graph import of_models, of_values, win_graph

    if by is By.CHOICES:
        return choice_report(table)
    columns = [f"{side}_{by}" for side in ("chosen", "rejected")]
    if missing := [c for c in columns if c not in table.columns]:
        raise DataError(
            f"there is no column {missing[0]!r}: win rates by {by} need pairs that name the {by} "
            "of both answers"
        )
    games = of_models(table) if by is By.MODEL else of_values(table)
    if games.drop_nulls(["one", "two"]).is_empty():
        raise DataError(f"no pair names the {by} of both answers")
    return win_graph(games)


def _page(found: Mapping[str, Any]) -> Iterator[str]:
    from prefactory.pages.wording import two, with_interval

    if "models" not in found:
        yield from _graph(found)
        return
    for model in found["models"]:
        yield f"{model['model']}: {model['valid']:,} valid choices of {model['asked']:,}"
        yield f"  the value that is declared first  {with_interval(model['priority'])}"
        yield f"  the option that keeps no rule     {with_interval(model['neither'])}"
        yield f"  what stands first (1/3 unbiased)  {with_interval(model['first'])}"
        yield from (f"  {line}" for line in _graph(model["graph"]))
        yield ""
    alpha, pairs = found["agreement"]["alpha"], found["agreement"]["pairs"]
    if alpha is not None:
        yield f"Krippendorff's alpha of the models: {with_interval(alpha, two)}"
    for pair in pairs:
        both = f"{pair['one']} and {pair['other']}"
        yield f"  {both} choose alike  {with_interval(pair['agreement'])}"


def _graph(graph: Mapping[str, Any]) -> Iterator[str]:
    from catalog.report.wins import sentences
    from prefactory.pages.wording import with_interval

    width = max((len(n["node"]) for n in graph["nodes"]), default=0)
    for node in graph["nodes"]:
        yield f"{node['node']:<{width}}  wins {with_interval(node['wins'])} of {node['games']:,}"
    for edge in graph["edges"]:
        mark = ">" if edge["clear"] else "~"
        rate = with_interval(edge["rate"])
        yield f"{edge['winner']:>{width}} {mark} {edge['loser']:<{width}}  {rate}"
    yield from sentences(graph)
