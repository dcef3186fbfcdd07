"""`prefactory dialogues`: what the dialogues of a version show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from pipelines.cli.catalog import AsJson
from pipelines.terminal import write_json

Data = Annotated[str, typer.Argument(help="NAME, NAME@VERSION, a file, a folder or a hub id.")]


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("dialogues")(show_dialogues)


def show_dialogues(data: Data, as_json: AsJson = False) -> None:
    """Measure the dialogues of generators.Dialogues.

    Ratings turn by turn, how often the target names what is true
    (`diagnosis: true`), and of votes TAS, FAS, FCR and VSF; with 95%
    intervals, cases taken as independent.
    """
    from pipelines.api import read
    from prefactory.measures.dialogue_report import dialogue_report

    found = dialogue_report(read(data))
    if as_json:
        write_json(found)
        return
    typer.echo("\n".join(_page(found)))


def _page(found: Mapping[str, Any]) -> Iterator[str]:
    from prefactory.measures.dialogue_report import MEASURES
    from prefactory.pages.wording import num, with_interval

    yield f"{found['dialogues']:,} dialogues with rows, of {found['cases']:,} cases"
    ratings, diagnosis, votes = found["ratings"], found["diagnosis"], found["votes"]
    if ratings:
        yield f"a turn adds {with_interval(ratings['slope'], num)} to the rating (1 to 10)"
        for point in ratings["curve"]:
            n = point["rating"]["n"]
            yield f"  turn {point['turn']:>3}  {with_interval(point['rating'], num)}  of {n:,}"
    if diagnosis:
        yield f"what is true is named exactly        {with_interval(diagnosis['exact'])}"
        yield f"exactly or closely                   {with_interval(diagnosis['close'])}"
        for point in diagnosis["curve"]:
            yield f"  by turn {point['turn']:>3}  {with_interval(point['named'])}"
    for cell in (diagnosis or ratings or {"cells": []})["cells"]:
        rate = cell.get("exact") or cell["rating"]
        form = with_interval(rate) if "exact" in cell else with_interval(rate, num)
        yield f"  {cell['cell']}  {form}"
    if votes:
        yield from (f"{name}  {with_interval(votes[name])}" for name in MEASURES)
        yield from (f"won by {team}: {n:,} dialogues" for team, n in votes["winners"].items())
