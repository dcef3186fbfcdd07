"""`prefactory audit`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from pipelines.cli.run import BudgetName, BudgetTokens, BudgetUsd, Prices
from pipelines.cli.source import (
    Carry,
    Encoding,
    Ignore,
    ImageFolder,
    ImageHost,
    LabelSource,
    Separator,
    images_of,
    mapping_of,
)
from pipelines.terminal import write_json

if TYPE_CHECKING:
    from pipelines.judged import Cost

Dataset = Annotated[
    str,
    typer.Argument(
        help="File, folder, glob, URL or hub id; or NAME[@VERSION] or the folder of a version.",
        metavar="DATASET",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(audit)


def audit(
    dataset: Dataset,
    out: Annotated[
        Path | None, typer.Option(help="Folder for audit.html and audit.json [audit-NAME].")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the JSON; write no files unless --out is given.")
    ] = False,
    gates: Annotated[
        Path | None, typer.Option(help="Gates (YAML): exit code 1 if one fails.")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(help="Benchmark whose prompts must not be in the data; repeatable."),
    ] = None,
    values: Annotated[
        str | None,
        typer.Option(
            help="Value system or risk taxonomy whose coverage to measure: a name or a file.",
            metavar="NAME|FILE",
        ),
    ] = None,
    embeddings: Annotated[
        bool, typer.Option(help="Embed a sample: separability, topics, diversity.")
    ] = True,
    rows: Annotated[
        int | None, typer.Option(help="Audit about so many rows, drawn by prompt.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all draws.")] = 0,
    table: Annotated[
        str | None, typer.Option(help="Table of a version [pairs, responses or prompts].")
    ] = None,
    layout: Annotated[str, typer.Option(help="Layout, if the detected one is wrong.")] = "auto",
    mapping: Annotated[
        list[str] | None, typer.Option("--map", help="our_column=their.column, repeatable.")
    ] = None,
    carry: Carry = None,
    ignore: Ignore = None,
    label_source: LabelSource = None,
    encoding: Encoding = None,
    separator: Separator = None,
    image_folder: ImageFolder = None,
    image_host: ImageHost = None,
    split: Annotated[str | None, typer.Option(help="Split of a hub or disk dataset.")] = None,
    config: Annotated[str | None, typer.Option(help="Configuration of a hub dataset.")] = None,
    write_recipe: Annotated[
        Path | None,
        typer.Option(help="Write the cures of faulty rows as one recipe, and try it on the data."),
    ] = None,
    suspects: Annotated[
        bool,
        typer.Option("--suspects", help="The recipe also drops the least trusted fifth of labels."),
    ] = False,
    judge: Annotated[
        str | None,
        typer.Option(
            help="Ask a model about a sample of the labels, in both orders: "
            "'{engine: server, base_url: ..., model: ...}', or a file of that.",
            metavar="ENGINE",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Model whose chat template to render the pairs with: what does it leave out?",
            metavar="FOLDER|ID",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Model to be trained: how likely are the answers under it, beside its own?",
            metavar="FOLDER|ID",
        ),
    ] = None,
    sample: Annotated[int, typer.Option(help="Pairs that judge and reference see.", min=1)] = 200,
    budget_usd: BudgetUsd = None,
    budget_tokens: BudgetTokens = None,
    budget_name: BudgetName = None,
    prices: Prices = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask the judge without asking you first.")
    ] = False,
    home: Annotated[
        Path | None,
        typer.Option(help="Publish the mended rows there [--write-recipe: a temporary folder]."),
    ] = None,
) -> None:
    """Look for faults in preference data: a page for people, JSON for machines, gates."""
    from audit import summary
    from pipelines.api import audit as run

    given = {
        "carry": carry,
        "ignore": ignore,
        "label_source": label_source,
        "encoding": encoding,
        "separator": separator,
    }
    more: dict[str, Any] = {name: value for name, value in given.items() if value}
    more |= images_of(image_folder, image_host)

    stderr = Console(stderr=True, highlight=False)
    with stderr.status("audit") if stderr.is_terminal else nullcontext() as status:

        def progress(title: str) -> None:
            if status:
                status.start()  # the question about the cost ends it
                status.update(title)

        def approve(cost: Cost) -> None:
            if status:
                status.stop()
            _approve(cost, stderr, ask=stderr.is_terminal and sys.stdin.isatty() and not yes)

        result = run(
            dataset, rows=rows, seed=seed, embeddings=embeddings, against=against or (),
            values=values, gates=gates, table=table, progress=progress,
            layout=layout, mapping=mapping_of(mapping), split=split, config=config,
            judge=judge, tokenizer=tokenizer, reference=reference, sample=sample,
            budget_usd=budget_usd, budget_tokens=budget_tokens, budget_name=budget_name,
            prices=prices, approve=approve, **more,
        )  # fmt: skip
    text = result.to_json()
    folder = out if out is not None or as_json else Path(f"audit-{_slug(result.name)}")
    if folder is not None:
        _write(folder, {"audit.json": text, "audit.html": result.page})
        result.rows_named().write_parquet(folder / "findings.parquet")
    _keep(dataset, {"audit.json": text, "audit.html": result.page})
    if as_json:
        write_json(json.loads(text))
    else:
        console = Console(highlight=False, soft_wrap=True)
        console.print(summary(result, min(console.width, 120)), markup=False)
        console.print(f"\npage  {folder / 'audit.html'}", markup=False)  # type: ignore[operator]
        console.print(f"json  {folder / 'audit.json'}", markup=False)  # type: ignore[operator]
        console.print(f"rows  {folder / 'findings.parquet'}", markup=False)  # type: ignore[operator]
    if write_recipe is not None:
        from pipelines.mend import mend

        source = {"path": dataset, "layout": layout, "mapping": mapping_of(mapping)}
        fields = {**source, **more, "split": split, "config": config}
        done = mend(
            result, _source(dataset, table, fields), write_recipe, suspects=suspects, home=home,
            options={"seed": seed, "embeddings": embeddings, "against": against or (),
                     "values": values},
        )  # fmt: skip
        stderr.print(done.summary(), markup=False, soft_wrap=True)
    if result.failures:
        raise typer.Exit(1)


def _approve(cost: Cost, stderr: Console, *, ask: bool) -> None:
    """Print what the judge will cost and, if `ask`, whether to go on."""
    from prefactory.errors import StoppedError

    stderr.print(str(cost), markup=False, soft_wrap=True)
    if ask and cost.calls > cost.reused and not typer.confirm("Ask the judge?", err=True):
        raise StoppedError("the judge was asked nothing")


def _source(dataset: str, table: str | None, fields: Mapping[str, object]) -> dict[str, object]:
    """The `source:` of a recipe that reads what was audited; of a version the folder of a table."""
    from audit.loading import version_of
    from pipelines.settings import Settings

    version = version_of(dataset, Settings().catalog)
    if version is not None:
        name = table or next(iter(version.manifest.tables))
        return {"path": str(version.path / name)}
    given = {k: v for k, v in fields.items() if v and not (k == "layout" and v == "auto")}
    path = Path(dataset).expanduser()
    return {**given, "path": str(path.absolute()) if path.exists() else dataset}


def _slug(name: str) -> str:
    return re.sub(r"[^\w.@-]+", "-", name).strip("-.") or "data"


def _keep(dataset: str, files: dict[str, str]) -> None:
    """Keep the newest audit of a version in its home, where `prefactory serve` shows it."""
    from audit.loading import version_of
    from pipelines.settings import Settings

    settings = Settings()
    version = version_of(dataset, settings.catalog)
    if version is not None and version.path.resolve().parents[1] == settings.catalog.root.resolve():
        name, number = version.manifest.name, version.manifest.version
        _write(settings.home / "audits" / name / number, files)


def _write(folder: Path, files: dict[str, str]) -> None:
    from prefactory.errors import ConfigError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, "utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"--out {str(folder)!r} can't be written: {error.strerror}") from error
