"""Read a version folder batch by batch: memory does not grow with the texts of the dataset."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from prefactory.errors import CatalogError
from prefactory.tables import Shape

FOLDERS = {Shape.PAIRS: "pairs", Shape.RESPONSES: "responses", Shape.PROMPTS: "prompts"}
EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Saved:
    """One table of a version as it lies on disk (`datasets.DatasetDict.save_to_disk`)."""

    shape: Shape
    columns: tuple[str, ...]
    splits: dict[str, tuple[Path, ...]]

    def batches(self, columns: list[str], split: str | None = None) -> Iterator[pl.DataFrame]:
        """Yield the record batches of some columns, of one split or of all, in file order."""
        names = list(self.splits) if split is None else [split]
        for path in (path for name in names for path in self.splits[name]):
            with pa.memory_map(str(path)) as source, _stream(source, path) as reader:
                for batch in reader:
                    frame = pl.from_arrow(batch.select(columns))
                    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a batch is a frame
                    yield frame


def _stream(source: pa.MemoryMappedFile, path: Path) -> pa.ipc.RecordBatchStreamReader:
    try:
        return pa.ipc.open_stream(source)
    except pa.ArrowInvalid as error:
        raise CatalogError(f"{path} is not an Arrow stream file: {error}") from error


def manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a version.

    Raises:
        CatalogError: if there is none, or it is not a JSON object.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise CatalogError(f"{folder} holds no dataset version: {path.name} is missing")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CatalogError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise CatalogError(f"{path} is not a JSON object")
    return found


def tables(folder: Path) -> dict[Shape, Saved]:
    """Find the tables of a version, pairs first; a table that is not there is left out."""
    found = {shape: _table(folder / name, shape) for shape, name in FOLDERS.items()}
    return {shape: saved for shape, saved in found.items() if saved is not None}


def _table(folder: Path, shape: Shape) -> Saved | None:
    listing = folder / "dataset_dict.json"
    names = (
        json.loads(listing.read_text(encoding="utf-8"))["splits"]
        if listing.is_file()
        else sorted(path.name for path in folder.glob("*") if path.is_dir())
    )
    splits = {name: tuple(sorted((folder / name).glob("data-*.arrow"))) for name in names}
    first = next((path for paths in splits.values() for path in paths), None)
    if first is None:
        return None
    with pa.memory_map(str(first)) as source, _stream(source, first) as reader:
        return Saved(shape, tuple(reader.schema.names), splits)


def ledger(folder: Path) -> pl.DataFrame:
    """Count the ledger's rows by step and reason, with the first rows of each as examples.

    Returns:
        Columns `step`, `reason`, `n` and `examples` (list of {row_id, detail}), sorted by step and
        reason; no rows if there is no ledger.
    """
    empty = pl.DataFrame(
        schema={
            "step": pl.String,
            "reason": pl.String,
            "n": pl.UInt32,
            "examples": pl.List(pl.Struct({"row_id": pl.String, "detail": pl.String})),
        }
    )
    path = folder / "ledger.parquet"
    if not path.is_file():
        return empty
    rows = pl.scan_parquet(path, row_index_name="_at")
    by = ("step", "reason")
    groups = (
        rows.select("_at", *by).group_by(by).agg(n=pl.len(), _at=pl.col("_at").bottom_k(EXAMPLES))
    ).collect()
    if groups.is_empty():
        return empty
    wanted = groups.explode("_at").get_column("_at")
    examples = (
        rows.filter(pl.col("_at").is_in(wanted.implode()))
        .with_columns(pl.col("row_id", "detail").cast(pl.String).fill_null("").str.slice(0, 300))
        .collect()
        .sort("_at")
        .group_by(by, maintain_order=True)
        .agg(examples=pl.struct("row_id", "detail"))
    )
    counted = groups.drop("_at").join(examples, on=by, how="left", nulls_equal=True)
    return counted.with_columns(pl.col(by).fill_null("")).sort(by)
