"""Near-duplicates among rows and prompts, by MinHash and the true Jaccard index."""

from __future__ import annotations

import numpy as np
import polars as pl

from audit.check import Check
from audit.finding import Metric, Report, flagged
from audit.near import Near, near_among, reduced, reduced_prompts
from audit.subject import Rows, Subject


def run(subject: Subject) -> Report:
    """Count rows and prompts that are nearly another one's."""
    keys = subject.keys.with_columns(row=pl.int_range(pl.len()))
    columns = [c for c in keys.columns if c != "row"]
    first = keys.unique(columns, keep="first", maintain_order=True)["row"].to_numpy()
    texts = {"prompt": subject.prompt_text} | {
        side.name: side.text for side in subject.sides if side.rows.size == subject.height
    }
    table = reduced({name: text.gather(pl.Series(first)) for name, text in texts.items()})
    rows = near_among(table)
    extra = rows.extra()
    one = keys.unique("prompt", keep="first", maintain_order=True)["row"].to_numpy()
    prompts = near_among(reduced_prompts(table, np.searchsorted(first, one)))
    again = prompts.extra()
    metrics = {
        "rows": Metric(extra / max(first.size, 1), n=first.size, unit="share"),
        "prompts": Metric(again / max(one.size, 1), n=one.size, unit="share"),
    }
    return Report(
        headline=f"{extra:,} of {first.size:,} distinct rows are nearly another row; "
        f"{again:,} of {one.size:,} distinct prompts nearly another prompt",
        metrics=metrics,
        rows=_named(subject, rows, first) if extra else _named(subject, prompts, one),
        notes=(rows.rule,),
    )


def _named(subject: Subject, near: Near, rows: Rows) -> pl.DataFrame:
    """Both rows of every near pair, the pairs in order, each row once."""
    left, right, jaccard = near.edges
    pairs = pl.DataFrame({"left": rows[left], "right": rows[right], "j": jaccard})
    pairs = pairs.with_row_index("pair")
    ends = [
        pairs.select(
            "pair", pl.lit(i).alias("end"), pl.col(a).alias("row"), pl.col(b).alias("o"), "j"
        )
        for i, (a, b) in enumerate((("left", "right"), ("right", "left")))
    ]
    both = pl.concat(ends).sort("pair", "end").unique("row", keep="first", maintain_order=True)
    place = subject.table["source_id"].fill_null(subject.row_ids).gather(both["o"])
    told = both.with_columns(place=place).select(
        pl.format("Jaccard index {} with {}", pl.col("j").round(2), "place")
    )
    return flagged(both["row"], told.to_series())


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
    slow=True,
    faulty_rows=True,
    mends=("- filters.NearDuplicates: {}",),
)
