"""The ledger: one row for every row that a step drops or fails, with the reason."""

from __future__ import annotations

import re

import polars as pl

PASSING = (
    r"\b(?:timeout|connection|unreachable|bad_answer|no_answer|batch_(?:expired|cancelled)"
    r"|http_(?:408|409|425|429|5\d\d))\b"
)
"""Reasons that are of the way to a model and not of the row: asked again, it may be answered."""

SCHEMA: dict[str, pl.DataType] = {
    "row_id": pl.String(),
    "step": pl.String(),
    "reason": pl.String(),
    "detail": pl.String(),
}


def entries(table: pl.DataFrame, step: str) -> pl.DataFrame:
    """Make ledger rows of a step from a table with `row_id`, `reason` and `detail`."""
    return table.select(
        pl.col("row_id").cast(pl.String),
        pl.lit(step).alias("step"),
        pl.col("reason").cast(pl.String),
        pl.col("detail").cast(pl.String),
    )


def empty() -> pl.DataFrame:
    """A ledger without rows."""
    return pl.DataFrame(schema=SCHEMA)


def count(ledger: pl.DataFrame) -> dict[str, int]:
    """Rows per reason, by reason name."""
    counts = ledger.group_by("reason").len().sort("reason")
    return dict(zip(counts["reason"], counts["len"], strict=True))


def unlabelled(columns: pl.DataFrame) -> dict[str, int]:
    """Why rows that stay got no label: counts of what a labeler says in its reasons.

    Args:
        columns: what a labeler adds; its reasons are String columns named `reason_...` (on pairs
            that were taken apart one for each side).
    """
    starts = ("reason_", "chosen_reason_", "rejected_reason_")
    names = [n for n in columns.select(pl.col(pl.String)).columns if n.startswith(starts)]
    return add_counts([count(columns.select(reason=n).drop_nulls()) for n in names])


def passing(counts: dict[str, int]) -> dict[str, int]:
    """Those of some counts whose reason may pass (`PASSING`)."""
    return {reason: n for reason, n in counts.items() if re.fullmatch(PASSING, reason)}


def add_counts(counts: list[dict[str, int]]) -> dict[str, int]:
    """Sum several counts by reason."""
    total: dict[str, int] = {}
    for by_reason in counts:
        for reason, n in by_reason.items():
            total[reason] = total.get(reason, 0) + n
    return dict(sorted(total.items()))
