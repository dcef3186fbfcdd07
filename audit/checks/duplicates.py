"""Rows, prompts and answers that are there more than once."""

from __future__ import annotations

import polars as pl

from audit.check import Check
from audit.finding import Metric, Report, Severity, flagged
from audit.limits import LIMITS
from audit.subject import Subject


def run(subject: Subject) -> Report:
    """Count exact copies after folding, and near copies of prompts and answers."""
    keys = subject.keys.with_columns(row=pl.int_range(pl.len()))
    columns = [c for c in keys.columns if c != "row"]
    rank = pl.int_range(pl.len()).over(columns)
    copies = keys.with_columns(rank=rank, first=pl.col("row").min().over(columns))
    extra = copies.filter(pl.col("rank") > 0)
    spelled = keys.select("prompt", id=subject.table["prompt_id"]).unique()
    again = spelled.height - spelled["prompt"].n_unique()
    sizes = copies.group_by(columns).len()
    metrics = {
        "rows": Metric(extra.height / subject.height, n=subject.height, unit="share"),
        "respelled_prompts": Metric(again / spelled.height, n=spelled.height, unit="share"),
        "largest_group": Metric(float(sizes["len"].to_numpy().max()), unit="count"),
        "rows_per_prompt": Metric(subject.height / max(subject.n_prompts, 1)),
    }
    first = copies.filter(pl.len().over(columns) > 1).sort("first", "row")
    exact = f"{extra.height:,} of {subject.height:,} rows repeat an earlier row"
    told = exact if extra.height else "no row is there twice"
    return Report(
        headline=f"{told}; {again:,} prompts differ from another only in case or white space",
        metrics=metrics,
        recipe=('- filters.ExactDuplicates: {"on": row}',) if extra.height else (),
        choices=_one_spelling(subject, metrics["respelled_prompts"]),
        rows=flagged(first["row"], _notes(subject, first)),
    )


def _one_spelling(subject: Subject, respelled: Metric) -> tuple[str, ...]:
    """Too many prompts in several spellings: what lets one of each stay takes good rows as well."""
    if LIMITS["duplicates.respelled_prompts"].severity(respelled) is Severity.OK:
        return ()
    stays = "one pair of each prompt stays" if subject.paired else "one spelling stays"
    return (f'- filters.ExactDuplicates: {{"on": prompt}}   # {stays}',)


def _notes(subject: Subject, copies: pl.DataFrame) -> pl.Series:
    place = subject.table["source_id"].fill_null(subject.row_ids).gather(copies["first"])
    return copies.with_columns(place=place).select(
        note=pl.when(pl.col("row") == pl.col("first"))
        .then(pl.lit("the first of its copies"))
        .otherwise(pl.format("a copy of {}", "place"))
    )["note"]


CHECK = Check(
    name="duplicates",
    title="Duplicates",
    why="Copies are weight that nobody chose: they are learned first and memorised, and more rows "
    "of the same prompt teach little (Tulu 3 found 64k unique prompts worth 383k with repeats).",
    metrics={
        "rows": "share of rows that repeat an earlier row (case and white space folded)",
        "respelled_prompts": "share of prompts that differ from another in case or space only",
        "largest_group": "copies of the row that is there most often",
        "rows_per_prompt": "rows for each prompt, on average",
    },
    run=run,
    faulty_rows=True,
)
