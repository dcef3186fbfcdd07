"""`prefactory catalog list | show | verify` and `prefactory export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.terminal import write_json

Ref = Annotated[str, typer.Argument(help="NAME, NAME@VERSION or a version folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def register(app: typer.Typer) -> typer.Typer:
    """Add the commands of this module; return the group `catalog`."""
    group = typer.Typer(help="Published versions: list, show, verify.", no_args_is_help=True)
    group.command("list")(list_versions)
    group.command()(show)
    group.command()(verify)
    app.add_typer(group, name="catalog")
    app.command()(export)
    return group


def list_versions(as_json: AsJson = False) -> None:
    """List all versions of all datasets."""
    from pipelines.settings import Settings

    catalog = Settings().catalog
    versions = list(catalog)
    here = {v.ref for v in versions}
    away = [f"{n}@{v}" for n in catalog.names() for v in catalog.numbers(n)]
    away = [ref for ref in away if ref not in here] if catalog.bucket_url else []
    named = {v.ref: catalog.tags(v) for v in versions}
    if as_json:
        rows = [
            {
                "name": v.manifest.name,
                "version": v.manifest.version,
                "content_digest": v.manifest.content_digest,
                "tags": named[v.ref],
                "tables": {n: t.splits for n, t in v.manifest.tables.items()},
                "path": str(v.path),
            }
            for v in versions
        ] + [dict(zip(("name", "version"), ref.split("@"), strict=True)) for ref in away]
        write_json(rows, ensure_ascii=True)
        return
    if not versions and not away:
        typer.echo(f"no versions in {catalog.root}; `prefactory run RECIPE` publishes one")
        return
    table = Table("dataset", "version", "pairs", "responses", "digest", "tags", box=None)
    for version in versions:
        counts = {n: sum(t.splits.values()) for n, t in version.manifest.tables.items()}
        table.add_row(
            version.manifest.name,
            version.manifest.version,
            f"{counts['pairs']:,}" if "pairs" in counts else "-",
            f"{counts['responses']:,}" if "responses" in counts else "-",
            version.manifest.content_digest[:12],
            ", ".join(named[version.ref]),
        )
    Console(highlight=False).print(table)
    if away:
        typer.echo(f"only in {catalog.bucket_url}: {', '.join(away)}")


def show(ref: Ref, as_json: AsJson = False) -> None:
    """Show a version: rows, stages, sources, digest."""
    from pipelines.settings import Settings

    version = Settings().catalog.get(ref)
    manifest = version.manifest
    if as_json:
        write_json(manifest.model_dump(mode="json"), ensure_ascii=True)
        return
    console = Console(highlight=False)
    console.print(f"[bold]{version.ref}[/]  {escape(manifest.description)}")
    console.print(
        f"digest {manifest.content_digest}, licence {escape(manifest.license or 'not stated')}"
    )
    console.print(f"folder {version.path}", soft_wrap=True, markup=False)
    for name, record in manifest.tables.items():
        splits = ", ".join(f"{split} {rows:,}" for split, rows in record.splits.items())
        console.print(f"{name}: {splits}; {len(record.columns)} columns")
    table = Table("stage", "in", "out", "dropped", box=None)
    for stage in manifest.stages:
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in stage.reasons.items())
        table.add_row(
            escape(stage.label), f"{stage.rows_in:,}", f"{stage.rows_out:,}", escape(reasons)
        )
    console.print(table)


def verify(
    ref: Annotated[
        str | None, typer.Argument(help="NAME, NAME@VERSION or a version folder; by default all.")
    ] = None,
) -> None:
    """Check every file, digest and count of a version; exit code 1 if something is wrong.

    Without a version: all of them, damaged ones too, tags, models, and intermediate results.
    """
    from catalog.versions import verify as verify_version
    from pipelines.settings import Settings

    if ref is None:
        _verify_everything()
        return
    version = Settings().catalog.get(ref)
    problems = verify_version(version)
    for problem in problems:
        typer.echo(f"{version.ref}: {problem}", err=True)
    if problems:
        raise typer.Exit(1)
    rows = sum(sum(t.splits.values()) for t in version.manifest.tables.values())
    files = len(version.manifest.files)
    digest = version.manifest.content_digest
    typer.echo(f"{version.ref} is whole: {files} files, {rows:,} rows, digest {digest}")


def _verify_everything() -> None:
    from catalog.history.everything import problems
    from pipelines.settings import Settings

    settings = Settings()
    checked, wrong, models = 0, 0, settings.home / "models"
    for name, found in problems(settings.catalog, settings.store, models):
        checked += 1
        wrong += bool(found)
        for problem in found:
            typer.echo(f"{name}: {problem}", err=True)
    if wrong:
        raise typer.Exit(1)
    typer.echo(f"{settings.home} is whole: {checked:,} versions, lists of tags, models and results")


def export(
    ref: Ref,
    layout: Annotated[str, typer.Option(help="trl, trl-implicit, kto, sft, stepwise, responses.")],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    table: Annotated[
        str | None, typer.Option(help="Another table than the layout's own, such as goal_pairs.")
    ] = None,
    file_format: Annotated[
        str, typer.Option("--format", help="arrow (load_from_disk), parquet or jsonl.")
    ] = "arrow",
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Model whose chat template will write the rows: those that it makes equal or "
            "refuses are left out.",
            metavar="FOLDER|ID",
        ),
    ] = None,
    ignored_system: Annotated[
        Literal["refuse", "keep"],
        typer.Option(help="If the template leaves out system messages: refuse or keep."),
    ] = "refuse",
    carry: Annotated[
        list[str] | None,
        typer.Option(help="Another column of the table that the rows keep; repeatable."),
    ] = None,
) -> None:
    """Write a version in the layout that a trainer reads."""
    from catalog.layouts import as_rendered
    from catalog.layouts import export as export_version
    from pipelines.settings import Settings

    version = Settings().catalog.get(ref)
    shown = None
    if tokenizer is not None:
        shown = as_rendered(version, layout, tokenizer, table, ignored_system)
    counts = export_version(version, layout, out, file_format, table, shown, carry=carry or ())
    rows = ", ".join(f"{split} {n:,}" for split, n in counts.items())
    typer.echo(f"{version.ref} as {layout} in {out}: {rows}")
    for line in () if shown is None else shown.lines():
        typer.echo(line)
