"""What dialogues show: ratings turn by turn, how often the truth was named, and how votes went.

Everything is in the columns that `generators.Dialogues` leaves. A dialogue without a row is not
there, so a judge that tells no candidate from another hides it; `make: responses` keeps all.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl

from prefactory.errors import DataError
from prefactory.measures.agreement import Estimate, share, standard_error

_Z = 1.959963984540054
NEEDED = ("dialogue_id", "cell", "turn_meta", "transcript")
MEASURES = ("TAS", "FAS", "FCR", "VSF")


def dialogue_report(table: pl.DataFrame) -> dict[str, Any]:
    """Measure dialogues.

    Args:
        table: PAIRS or RESPONSES of `generators.Dialogues`. Dialogues of one case
            (`source_prompt_id`, if it is there) count together in every interval.

    Returns:
        JSON data: `dialogues`, `cases`; `ratings` (see `rating_curve`); `diagnosis` (see
        `diagnosis_rates`); `votes` (see `vote_measures`). What is not there is None.

    Raises:
        DataError: the rows are of no dialogues.
    """
    missing = [c for c in NEEDED if c not in table.columns]
    if missing:
        raise DataError(
            f"these rows are of no dialogues: column {missing[0]!r} is missing; "
            "generators.Dialogues adds it"
        )
    dialogues = dialogues_of(table)
    turns = turns_of(dialogues)
    return {
        "dialogues": dialogues.height,
        "cases": dialogues["case"].n_unique(),
        "ratings": rating_curve(turns),
        "diagnosis": diagnosis_rates(dialogues, turns),
        "votes": vote_measures(dialogues, turns),
    }


def dialogues_of(table: pl.DataFrame) -> pl.DataFrame:
    """One row each: `dialogue`, `case`, `cell`, `turn_meta`, and what may be missing."""
    case = "source_prompt_id" if "source_prompt_id" in table.columns else "dialogue_id"
    optional: dict[str, pl.DataType] = {
        "diagnosis": pl.String(), "diagnosis_turn": pl.Int64(), "winner": pl.String()
    }  # fmt: skip
    more = [
        pl.col(c) if c in table.columns else pl.lit(None, dtype=d).alias(c)
        for c, d in optional.items()
    ]
    one = table.select("cell", "turn_meta", *more, dialogue="dialogue_id", case=case).unique(
        "dialogue", keep="first", maintain_order=True
    )
    return one.sort("dialogue")


def turns_of(dialogues: pl.DataFrame) -> pl.DataFrame:
    """All turns: `dialogue`, `case`, `cell` and the fields of `turn_meta`."""
    rows = dialogues.select("dialogue", "case", "cell", "turn_meta")
    return rows.filter(pl.col("turn_meta").list.len() > 0).explode("turn_meta").unnest("turn_meta")


def mean(values: pl.Series, cases: pl.Series) -> Estimate:
    """A mean with a normal 95% interval, cases being independent of each other."""
    n = values.len()
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, math.nan, 0)
    numbers = values.to_numpy().astype(np.float64)
    value = float(numbers.mean())
    error = standard_error((numbers - value) / n, cases)
    return Estimate(value, error, value - _Z * error, value + _Z * error, n)


def rating_curve(turns: pl.DataFrame) -> dict[str, Any] | None:
    """How the judge rates the target's turns, the first, the second, and so on.

    What is rated is all that the target might have said there: the mean of its candidates. Later
    turns are of the dialogues that came so far, so `slope` compares turns within dialogues.

    Returns:
        `curve`: `turn` (of the target's, from 1) and `rating`, an estimate on the judge's scale;
        `slope`: mean over dialogues of two turns or more of what a turn adds, by least squares;
        `cells`: of each cell of the grid `cell` and `rating`. None where nothing was rated.
    """
    rated = turns.filter(pl.col("rating").is_not_null()).sort("dialogue", "turn")
    if rated.is_empty():
        return None
    rated = rated.with_columns(place=pl.int_range(1, pl.len() + 1).over("dialogue"))
    curve = [
        {"turn": int(str(place)), "rating": mean(part["rating"], part["case"]).plain()}
        for (place,), part in rated.sort("place", "dialogue").group_by("place", maintain_order=True)
    ]
    x, y = pl.col("place") - pl.col("place").mean(), pl.col("rating") - pl.col("rating").mean()
    slopes = (
        rated.group_by("dialogue", "case")
        .agg(n=pl.len(), slope=(x * y).sum() / (x**2).sum())
        .filter(pl.col("n") > 1)
        .sort("dialogue")
    )
    cells = [
        {"cell": str(cell), "rating": mean(part["rating"], part["case"]).plain()}
        for (cell,), part in rated.sort("cell", "dialogue", "turn").group_by(
            "cell", maintain_order=True
        )
    ]
    return {
        "curve": curve,
        "slope": mean(slopes["slope"], slopes["case"]).plain(),
        "cells": cells,
    }


def diagnosis_rates(dialogues: pl.DataFrame, turns: pl.DataFrame) -> dict[str, Any] | None:
    """How often the target named what is true, exactly or closely, and by which of its turns.

    Returns:
        `exact` and `close` (exact or close), estimates; `curve`: by the target's `turn` (from 1)
        the share of all dialogues in which it was named (exact or close) by then; `cells`: of each
        cell `cell`, `exact`, `close`. None where nobody was asked.
    """
    asked = dialogues.filter(pl.col("diagnosis").is_not_null())
    if asked.is_empty():
        return None
    own = turns.filter(pl.col("rating").is_not_null()).sort("dialogue", "turn")
    places = own.select("dialogue", "turn", place=pl.int_range(1, pl.len() + 1).over("dialogue"))
    placed = asked.join(
        places, left_on=["dialogue", "diagnosis_turn"], right_on=["dialogue", "turn"], how="left"
    ).sort("dialogue")
    last = int(str(places["place"].max() or 0))
    return {
        **_named(asked),
        "curve": [
            {
                "turn": k,
                "named": share(
                    (placed["place"] <= k).fill_null(value=False), placed["case"]
                ).plain(),
            }
            for k in range(1, last + 1)
        ],
        "cells": [
            {"cell": str(cell), **_named(part)}
            for (cell,), part in asked.sort("cell", "dialogue").group_by(
                "cell", maintain_order=True
            )
        ],
    }


def _named(asked: pl.DataFrame) -> dict[str, Any]:
    exact, close = (asked["diagnosis"].is_in(kinds) for kinds in (["exact"], ["exact", "close"]))
    return {
        "exact": share(exact, asked["case"]).plain(),
        "close": share(close, asked["case"]).plain(),
    }


def vote_measures(dialogues: pl.DataFrame, turns: pl.DataFrame) -> dict[str, Any] | None:
    """How teams vote, after The Traitors: of each dialogue, then the mean over dialogues.

    A vote of which every voter is of the hidden team is one by night, every other one by day.

    Returns:
        `TAS`, `FAS`: how far the hidden team agrees by night, and the others by day: mean over
        votes of (votes for the most voted for) / (valid votes). `FCR`: mean over votes by day of
        the share of the others' valid votes that are for somebody of the hidden team. `VSF`: of a
        voter's valid votes of one kind after its first the share that name another than the one
        before; a first vote changes nothing. Each is an estimate; `n` counts the dialogues that
        have a value, and there is no interval of one case. `winners`: winning team -> dialogues.
        None where nobody voted.
    """
    votes = ballots_of(turns)
    if votes.is_empty():
        return None
    own = of_each(votes).sort("dialogue")
    found: dict[str, Any] = {}
    for name in MEASURES:
        there = own.filter(pl.col(name).is_not_null() & pl.col(name).is_not_nan())
        found[name] = mean(there[name], there["case"]).plain()
    winners = (
        dialogues.filter(pl.col("winner").is_not_null())["winner"].value_counts().sort("winner")
    )
    return {**found, "winners": dict(winners.iter_rows())}


def ballots_of(turns: pl.DataFrame) -> pl.DataFrame:
    """All valid votes: `dialogue`, `case`, `turn`, `night`, and the fields of a vote."""
    if "votes" not in turns.columns:
        return pl.DataFrame()
    held = turns.filter(pl.col("votes").list.len() > 0)
    held = held.with_columns(
        night=pl.col("votes").list.eval(pl.element().struct.field("hidden").all()).list.first()
    )
    rows = (
        held.select("dialogue", "case", "turn", "night", "votes").explode("votes").unnest("votes")
    )
    return rows.filter(pl.col("voted").is_not_null()).sort("dialogue", "turn", "voter")


def of_each(votes: pl.DataFrame) -> pl.DataFrame:
    """`MEASURES` of each dialogue, null where it has no such vote.

    Args:
        votes: as `ballots_of` gives them.
    """
    by_day = ~pl.col("night")
    of_others = votes.filter(by_day & ~pl.col("hidden"))
    of_hidden = votes.filter(pl.col("night"))
    changed = votes.sort("dialogue", "voter", "night", "turn").with_columns(
        before=pl.col("voted").shift(1).over("dialogue", "voter", "night", order_by="turn")
    )
    table = votes.select("dialogue", "case").unique().sort("dialogue")
    parts = {
        "TAS": _agreed(of_hidden),
        "FAS": _agreed(of_others),
        "FCR": _mean_over_votes(of_others, pl.col("voted_hidden").mean()),
        "VSF": changed.filter(pl.col("before").is_not_null())
        .group_by("dialogue")
        .agg(value=(pl.col("voted") != pl.col("before")).mean()),
    }
    for name, part in parts.items():
        table = table.join(part.rename({"value": name}), on="dialogue", how="left")
    return table


def _agreed(votes: pl.DataFrame) -> pl.DataFrame:
    return _mean_over_votes(votes, pl.col("voted").unique_counts().max() / pl.len())


def _mean_over_votes(votes: pl.DataFrame, value: pl.Expr) -> pl.DataFrame:
    each = votes.group_by("dialogue", "turn").agg(value=value).sort("dialogue", "turn")
    return each.group_by("dialogue", maintain_order=True).agg(pl.col("value").mean())
