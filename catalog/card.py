"""The card of a version: README.md with Hugging Face front matter, made from the manifest."""

from __future__ import annotations

import html
from typing import Any

import yaml

from catalog.manifest import Manifest, StageRecord
from catalog.sources.account import account_lines
from prefactory.measures import judge_watch

SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)


def size_category(rows: int) -> str:
    """Hugging Face size category of a number of rows."""
    return next((name for limit, name in SIZES if rows < limit), "10M<n<100M")


def card(manifest: Manifest) -> str:
    """Write the card: front matter, how to load, what is in it, where it came from, what left."""
    main = "pairs" if "pairs" in manifest.tables else next(iter(manifest.tables))
    parts = [
        "---\n" + yaml.safe_dump(_front(manifest, main), sort_keys=False) + "---\n",
        f"# {manifest.name} {manifest.version}\n",
        *(
            f"> **Warning:** {html.escape(s, quote=False)}\n"
            for s in judge_watch.failed(manifest.stages)
        ),
        html.escape(manifest.description, quote=False),
        f"Content digest `{manifest.content_digest}`, recipe `{manifest.recipe_fingerprint}`, "
        f"seed {manifest.seed}.\n",
        "## Load\n",
        "```python\nfrom datasets import load_from_disk\n\n"
        f'{main} = load_from_disk("{manifest.name}/{manifest.version}/{main}")\n```\n',
        "## Tables\n",
        _tables(manifest),
        _images(manifest, main),
        "## What came in and what left\n",
        "Every row that is not here has a line in `ledger.parquet` with its reason.\n",
        _stages(manifest.stages),
        "## Sources\n",
        _sources(manifest),
        "## Rebuild\n",
        "`prefactory run recipe.yaml` with the same sources gives the same content digest.\n",
    ]
    return "\n".join(p for p in parts if p)


def _front(manifest: Manifest, main: str) -> dict[str, Any]:
    rows = sum(manifest.tables[main].splits.values())
    front: dict[str, Any] = {
        "pretty_name": manifest.name,
        "size_categories": [size_category(rows)],
        "task_categories": ["image-text-to-text" if _pictured(manifest) else "text-generation"],
        "tags": ["preference", "dpo", "reward-model", "prefactory"],
        "configs": [
            {
                "config_name": name,
                "data_files": [
                    {"split": split, "path": f"{name}/{split}/*.arrow"} for split in record.splits
                ],
                **({"default": True} if name == main else {}),
            }
            for name, record in manifest.tables.items()
        ],
    }
    if manifest.license:
        front = {"license": manifest.license.lower(), **front}
    return front


def _pictured(manifest: Manifest) -> bool:
    return any("images" in record.columns for record in manifest.tables.values())


def _images(manifest: Manifest, main: str) -> str:
    if not _pictured(manifest):
        return ""
    return (
        "`images` holds the pictures of a prompt, in order, as `datasets.Image`; the mark "
        "`<image>` stands at each one's place in `prompt`. For trainers: "
        f"`prefactory export {manifest.name}@{manifest.version} --layout trl`"
        + (".\n" if main == "pairs" else f" --table {main}.\n")
    )


def _tables(manifest: Manifest) -> str:
    lines = ["| table | split | rows | columns |", "|---|---|--:|---|"]
    for name, record in manifest.tables.items():
        for split, rows in record.splits.items():
            columns = ", ".join(f"`{c}`" for c in record.columns)
            lines.append(f"| {name} | {split} | {rows:,} | {columns} |")
    return "\n".join(lines) + "\n"


def _stages(stages: list[StageRecord]) -> str:
    lines = ["| stage | rows in | rows out | dropped |", "|---|--:|--:|---|"]
    for stage in stages:
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in stage.reasons.items())
        lines.append(f"| {stage.label} | {stage.rows_in:,} | {stage.rows_out:,} | {reasons} |")
    return "\n".join(lines) + "\n"


def _sources(manifest: Manifest) -> str:
    lines = ["| source | layout | licence | files |", "|---|---|---|--:|"]
    for source in manifest.sources:
        licence = source.get("license") or "not stated"
        files = len(source.get("files", []))
        name, layout = source.get("name", ""), source.get("layout", "")
        lines.append(f"| {name} | {layout} | {licence} | {files} |")
    for source in manifest.sources:
        if columns := source.get("columns"):
            told = "; ".join(line.strip() for line in account_lines(columns))
            lines.append(f"\nColumns of {source.get('name', '')}: {told}.")
    return "\n".join(lines) + "\n"
