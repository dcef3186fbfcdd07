"""Read a version folder batch by batch: memory does not grow with the texts of the dataset."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from catalog.arrow_folder import Table
from prefactory.tables import Shape

FOLDERS = {Shape.PAIRS: "pairs", Shape.RESPONSES: "responses", Shape.PROMPTS: "prompts"}
EXAMPLES = 5


def tables(folder: Path) -> dict[Shape, Table]:
    """The tables of a version that its report shows, pairs first; absent ones are left out."""
    tables_of = {shape: Table(folder / name, shape) for shape, name in FOLDERS.items()}
    return {shape: table for shape, table in tables_of.items() if table.columns}


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
