"""Votes as arrays: who voted for which side of which pair, and which side was shown first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prefactory.errors import DataError
from prefactory.measures.calibration import Floats
from prefactory.preferences.clustered import Ints, codes

FOR = {"first": 1.0, "second": -1.0}
TIE, BAD, SKIP, WITHDRAWN = "tie", "bad", "skip", "withdrawn"
CHOICES = (*FOR, TIE, BAD, SKIP)
DECISION = "decision"
"""Role of rows that are an adjudicator's decision and not one vote among others."""
Ties = Literal["out", "half"]


@dataclass(frozen=True)
class Ballots:
    """Votes for a side, sorted by pair and person.

    Attributes:
        rows: ids of the pairs, sorted, each once, String[t].
        people: names, sorted, each once, String[p].
        row: number of each vote's pair, Int64[n].
        person: number of its person, Int64[n].
        vote: +1 for the first stored side, -1 for the second, Float64[n].
        shown: +1 where the first stored side was shown first, -1 where the second was, 0 where
            that is not known, Float64[n].
        weight: of each vote, Float64[n]; 1 but for halves of ties.
    """

    rows: pl.Series
    people: pl.Series
    row: Ints
    person: Ints
    vote: Floats
    shown: Floats
    weight: Floats

    def __len__(self) -> int:
        return len(self.vote)

    def take(self, kept: NDArray[np.bool_]) -> Ballots:
        """Some of the votes, of the same pairs and people (Bool[n])."""
        parts = ("row", "person", "vote", "shown", "weight")
        return replace(self, **{name: getattr(self, name)[kept] for name in parts})

    def without(self, person: int) -> Ballots:
        """All votes but those of one person, by number."""
        return self.take(self.person != person)

    def votes_a_row(self) -> Floats:
        """Weight of the votes on each pair, Float64[t]."""
        found: Floats = np.bincount(self.row, self.weight, len(self.rows)).astype(np.float64)
        return found

    @property
    def randomised(self) -> bool:
        """Whether the order was drawn: either side stood first in a tenth of the votes or more.

        With a fixed order the place can't be told from the label (the tenth is our choice).
        """
        if not len(self):
            return False
        ahead = float((self.shown > 0).mean())
        behind = float((self.shown < 0).mean())
        return min(ahead, behind) >= 0.1


def standing(annotations: pl.DataFrame) -> pl.DataFrame:
    """The votes that count: the revision that holds of each person, blind, on no training row.

    Decisions of adjudicators are no votes, nor is what was taken back, changed after the machine's
    label was seen, or said of another task than a pair.

    Args:
        annotations: `row_id`, `person`, `vote`; and where they are there the other columns of
            ANNOTATIONS (`prefactory.tables`).

    Raises:
        DataError: a column is missing, or a vote is none of `CHOICES`.
    """
    missing = [c for c in ("row_id", "person", "vote") if c not in annotations.columns]
    if missing:
        raise DataError(f"votes need a column {missing[0]!r}; there are {annotations.columns}")
    conditions = {
        "counts": pl.col("counts").fill_null(value=True),
        "role": pl.col("role").fill_null("") != DECISION,
        "purpose": pl.col("purpose").fill_null("") != "training",
        "informed": ~pl.col("informed").fill_null(value=False),
        "task": pl.col("task").fill_null("pair") == "pair",
        "vote": pl.col("vote") != WITHDRAWN,
    }
    kept = annotations.filter(c for name, c in conditions.items() if name in annotations.columns)
    odd = kept.filter(~pl.col("vote").is_in(CHOICES) & pl.col("vote").is_not_null())
    if odd.height:
        raise DataError(
            f"a vote on {odd['row_id'][0]} is {odd['vote'][0]!r}; it is one of {', '.join(CHOICES)}"
        )
    return kept.filter(pl.col("vote").is_not_null())


def ballots(annotations: pl.DataFrame, ties: Ties = "out") -> Ballots:
    """The votes of a table that are for a side.

    Args:
        annotations: see `standing`; `first_shown` (Boolean: the first stored side stood first) if
            it is known.
        ties: `out` leaves them out; `half` counts half a vote for either side. "Both bad" and
            "can't judge" are never votes for a side.

    Raises:
        DataError: a person has two votes that count on one pair, or see `standing`.
    """
    table = standing(annotations)
    doubled = table.filter(pl.struct("row_id", "person").is_duplicated())
    if doubled.height:
        who, what = doubled["person"][0], doubled["row_id"][0]
        raise DataError(
            f"{who} has several votes that count on {what}; mark all but one as replaced"
        )
    shown = pl.lit(None, pl.Boolean)
    if "first_shown" in table.columns:
        shown = pl.col("first_shown").cast(pl.Boolean)
    wanted = table.select(
        "row_id",
        "person",
        "vote",
        side=pl.col("vote").replace_strict(FOR, default=None, return_dtype=pl.Float64),
        shown=(2 * shown.cast(pl.Float64) - 1).fill_null(0.0),
        weight=pl.lit(1.0),
    )
    votes = wanted.filter(pl.col("side").is_not_null())
    if ties == "half":
        tied = wanted.filter(pl.col("vote") == TIE).with_columns(weight=pl.lit(0.5))
        halves = [tied.with_columns(side=pl.lit(sign)) for sign in (1.0, -1.0)]
        votes = pl.concat([votes, *halves])
    votes = votes.sort("row_id", "person", "side")
    rows, people = (votes[c].unique().sort() for c in ("row_id", "person"))
    return Ballots(
        rows,
        people,
        codes(votes["row_id"]),
        codes(votes["person"]),
        *(votes[c].to_numpy().astype(np.float64) for c in ("side", "shown", "weight")),
    )


def of_arrays(
    row: NDArray[Any], person: NDArray[Any], vote: Floats, shown: Floats | None = None
) -> Ballots:
    """Ballots of numbers: rows and people from 0, votes +1 or -1 (for simulations)."""
    order = np.lexsort((person, row))
    n = len(vote)
    return Ballots(
        pl.Series(np.arange(int(row.max(initial=-1)) + 1)).cast(pl.String),
        pl.Series(np.arange(int(person.max(initial=-1)) + 1)).cast(pl.String),
        row[order].astype(np.int64),
        person[order].astype(np.int64),
        vote[order].astype(np.float64),
        (np.zeros(n) if shown is None else shown[order]).astype(np.float64),
        np.ones(n),
    )
