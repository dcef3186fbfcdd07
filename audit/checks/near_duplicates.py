"""Near-duplicates among rows and prompts, by MinHash and the true Jaccard index."""

from __future__ import annotations

import polars as pl

from audit.check import Check
from audit.finding import Metric, Report
from audit.near import Near, near_of
from audit.subject import EXAMPLES, Rows, Subject


def run(subject: Subject) -> Report:
    """Count rows and prompts that are nearly another one's."""
    keys = subject.keys.with_columns(row=pl.int_range(pl.len()))
    columns = [c for c in keys.columns if c != "row"]
    first = keys.unique(columns, keep="first", maintain_order=True)["row"].to_numpy()
    texts = {"prompt": subject.prompt_text} | {
        side.name: side.text for side in subject.sides if side.rows.size == subject.height
    }
    rows = near_of({name: text.gather(pl.Series(first)) for name, text in texts.items()})
    extra = rows.extra()
    one = keys.unique("prompt", keep="first", maintain_order=True)["row"].to_numpy()
    prompts = near_of({"prompt": subject.prompt_text.gather(pl.Series(one))})
    again = prompts.extra()
    metrics = {
        "rows": Metric(extra / max(first.size, 1), n=first.size, unit="share"),
        "prompts": Metric(again / max(one.size, 1), n=one.size, unit="share"),
    }
    order, notes = _examples(subject, rows, first) if extra else _examples(subject, prompts, one)
    return Report(
        headline=f"{extra:,} of {first.size:,} distinct rows are nearly another row; "
        f"{again:,} of {one.size:,} distinct prompts nearly another prompt",
        metrics=metrics,
        examples=subject.examples(order, notes),
        notes=(rows.rule,),
    )


def _examples(subject: Subject, near: Near, rows: Rows) -> tuple[list[int], list[str]]:
    order: list[int] = []
    notes: list[str] = []
    for left, right, jaccard in zip(*near.edges, strict=True):
        if len(order) >= EXAMPLES:
            break
        a, b = int(rows[left]), int(rows[right])
        place = subject.table["source_id"]
        order += [a, b]
        notes += [
            f"Jaccard index {jaccard:.2f} with {place[other] or subject.row_ids[other]}"
            for other in (b, a)
        ]
    return order, notes


CHECK = Check(
    name="near_duplicates",
    title="Near-duplicates",
    why="Reworded copies slip through exact deduplication, are learned twice, and cross from train "
    "to test.",
    metrics={
        "rows": "share of distinct rows that nearly repeat another row",
        "prompts": "share of distinct prompts that nearly repeat another prompt",
    },
    run=run,
    mends=("- filters.NearDuplicates: {}",),
)
