"""`prefactory encoders compare | change`: which encoder reads a user's texts, and what it keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.catalog import AsJson
from pipelines.terminal import write_json

Data = Annotated[str, typer.Argument(help="NAME[@VERSION], a file or folder, with answers.")]
Rows = Annotated[int, typer.Option(help="Prompts, with all their answers.", min=4)]
Seed = Annotated[int, typer.Option(help="Of all draws.", min=0)]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(help="Sentence encoders on your texts.", no_args_is_help=True)
    group.command()(compare)
    group.command()(change)
    app.add_typer(group, name="encoders")


def compare(
    data: Data,
    encoders: Annotated[
        list[str], typer.Argument(help="minilm, folders or hub ids; the present one first.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the fused encoder, if it is admitted.")
    ] = None,
    rows: Rows = 1000,
    dim: Annotated[
        int | None, typer.Option(help="Of the fused space [32; from 5,000 texts on 64].", min=2)
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Compare encoders by the answers of your prompts, and fuse them into one.

    A fusion is admitted only if it tells answers of one prompt from others better than the best
    encoder and than all side by side, and finds texts between encoders better than a ridge map;
    with --out, exit code 1 if not.
    """
    from pipelines.settings import Settings
    from pipelines.training.encoders import compare as run

    found = run(data, encoders, Settings(), out, rows, dim, seed)
    if as_json:
        write_json(found.as_dict(), ensure_ascii=True)
    else:
        for line in found.lines():
            typer.echo(line)
    if out is not None and not found.admission.accepted:
        typer.echo(f"not admitted: {out} was not written; {encoders[0]} stays", err=True)
        raise typer.Exit(1)


def change(
    data: Data,
    old: Annotated[str, typer.Argument(help="The present encoder.")],
    new: Annotated[str, typer.Argument(help="The one that is to take its place.")],
    least: Annotated[
        float, typer.Option(help="Share of the 10 nearest texts that must stay.", min=0.0, max=1.0)
    ] = 0.5,
    rows: Rows = 1000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Check what a new encoder keeps of the neighbourhoods of your texts (exit 1 if too little).

    Duplicates, selections and topics are neighbourhoods: an encoder that keeps few of them makes
    other data of the same recipe.
    """
    from pipelines.settings import Settings
    from pipelines.training.encoders import changed, said

    found = changed(data, old, new, Settings(), rows, seed)
    kept = found.kept(least)
    if as_json:
        facts = {"overlap": found.overlap.as_dict(), "chance": found.chance,
                 "structure": found.structure, "least": least, "kept": kept}  # fmt: skip
        write_json(facts, ensure_ascii=True)
    else:
        typer.echo(f"{old} -> {new}: {said(found)}")
    if not kept:
        typer.echo(f"the lower end is below {least:g}: {old} stays", err=True)
        raise typer.Exit(1)
