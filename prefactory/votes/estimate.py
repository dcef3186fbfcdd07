"""The share of wrong labels, from the random part of a review: the number to trust."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from prefactory.preferences.shares import Interval, stratified
from prefactory.votes.ballots import standing

RANDOM = "random"
DECIDED = ("first", "second", "tie", "bad")


@dataclass(frozen=True)
class WrongLabels:
    """Share of labels that people contradict, in all rows that could have been drawn.

    Attributes:
        share: with its interval; None where `why` says why.
        checked: rows of the random part that people decided.
        undecided: rows of it whose votes decide nothing; they are left out.
        why: empty if there is a share.
    """

    share: Interval | None
    checked: int
    undecided: int
    why: str

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        found = None if self.share is None else self.share.as_dict()
        return {
            "share": found,
            "checked": self.checked,
            "undecided": self.undecided,
            "why": self.why,
        }


def wrong_labels(
    annotations: pl.DataFrame,
    found: pl.DataFrame,
    population: Mapping[str, int] | None = None,
) -> WrongLabels:
    """Estimate the share of wrong labels from rows that were drawn at random, by stratum.

    A queue of suspects is no sample: its rows, and gold rows, do not enter. A label is wrong where
    the verdict is `second`; a tie or two bad answers do not make it wrong.

    Args:
        annotations: with `queue`, `stratum` and `inclusion` as a review writes them.
        found: of `prefactory.votes.verdicts.verdicts`.
        population: rows of each stratum; by default the voted rows over their inclusion
            probability, which is right once the whole part was asked about.
    """
    needed = {"queue", "stratum", "inclusion"}
    if not needed <= set(annotations.columns):
        return WrongLabels(None, 0, 0, "the votes do not say how their rows were drawn")
    drawn = standing(annotations).filter(pl.col("queue") == RANDOM)
    drawn = drawn.unique("row_id", keep="first").select("row_id", "stratum", "inclusion")
    rows = drawn.join(found.select("row_id", "verdict"), on="row_id", how="inner")
    rows = rows.with_columns(pl.col("stratum").fill_null("all"))
    known = rows.filter(pl.col("verdict").is_in(DECIDED))
    undecided = rows.height - known.height
    if not known.height:
        return WrongLabels(None, 0, undecided, "no row of the random part is decided yet")
    counted = known.group_by("stratum").agg(
        n=pl.len(),
        wrong=(pl.col("verdict") == "second").sum(),
        size=(pl.len() / pl.col("inclusion").first()).round().cast(pl.Int64),
    )
    counted = counted.with_columns(pl.col("size").fill_null(pl.col("n")))
    sizes = dict(zip(counted["stratum"], counted["size"], strict=True)) | dict(population or {})
    empty = sorted(set(sizes) - set(counted["stratum"]))
    if empty:
        why = f"no row of stratum {empty[0]!r} is decided yet"
        return WrongLabels(None, known.height, undecided, why)
    parts = {r["stratum"]: r for r in counted.to_dicts()}
    names = sorted(sizes)
    share = stratified(
        [parts[s]["wrong"] for s in names],
        [parts[s]["n"] for s in names],
        [max(sizes[s], parts[s]["n"]) for s in names],
    )
    return WrongLabels(share, known.height, undecided, "")
