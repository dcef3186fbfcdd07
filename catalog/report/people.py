"""What people said of a version's rows: counts, and the pairs that they turned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from catalog.arrow_folder import Table
from prefactory.tables import Shape, text_of

SHOWN = 20
"""Turned pairs and edits that the page names."""
LONGEST = 160


@dataclass(frozen=True)
class People:
    """What the report says of a review.

    Attributes:
        votes, people: votes that count, and how many people gave them.
        counts: what became of the rows that they saw.
        changed: prompt and what was done, of the first rows that were changed.
    """

    votes: int
    people: int
    counts: tuple[tuple[str, int], ...]
    changed: tuple[tuple[str, str], ...]


def read(folder: Path, ledger: pl.DataFrame) -> People | None:
    """The section of a version with a table `annotations`; None if it has none.

    Args:
        folder: of the version.
        ledger: counts by step and reason (`catalog.report.read.ledger`).
    """
    said, pairs = (Table(folder / name, Shape.PAIRS) for name in ("annotations", "pairs"))
    if not said.columns or "human_turned" not in pairs.columns:
        return None
    parts = list(said.batches(["person", "counts"]))
    if not parts:  # a table without a vote: the first round of a loop
        return None
    votes = pl.concat(parts).filter("counts")
    wanted = ["prompt", "human_votes", "human_turned", "human_edit", "label_source"]
    rows = pl.concat(
        [
            batch.with_columns(prompt=text_of(pl.col("prompt")).str.slice(0, LONGEST))
            for batch in pairs.batches(wanted)
        ]
    )
    own, human = rows.filter(~pl.col("human_edit")), pl.col("label_source") == "human"
    seen = own.filter(pl.col("human_votes") > 0)
    gone = ledger.filter(pl.col("reason").str.starts_with("human_")).select("reason", "n")
    counts = {
        "label confirmed": seen.filter(human & ~pl.col("human_turned")).height,
        "label turned round": seen.filter("human_turned").height,
        "nothing decided": seen.filter(~human).height,
        "edited answers as new pairs": rows.filter("human_edit").height,
        **{f"dropped: {reason}": n for reason, n in gone.iter_rows()},
        "not seen by anybody": own.height - seen.height,
    }
    changed = rows.filter(pl.col("human_turned") | pl.col("human_edit")).head(SHOWN)
    what = ["edited" if edit else "turned round" for edit in changed["human_edit"]]
    return People(
        votes.height,
        votes["person"].n_unique(),
        tuple(counts.items()),
        tuple(zip(changed["prompt"], what, strict=True)),
    )
