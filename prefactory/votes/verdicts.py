"""What is done with a pair's votes: keep, turn, contested, both bad, or ask on."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prefactory.measures.calibration import Floats
from prefactory.votes.ballots import BAD, DECISION, FOR, SKIP, TIE, ballots, standing
from prefactory.votes.consensus import DRAWS, Method, consensus

SURE = 0.6
"""Least posterior for a label. One vote of a person of whom nothing is known gives .73 to .75."""
MOST = 5
"""Votes after which a pair that is not sure is contested."""
CONTESTED, OPEN = "contested", "open"
VERDICTS = (*FOR, TIE, BAD, CONTESTED, OPEN)
COLUMNS: dict[str, pl.DataType] = {
    "row_id": pl.String(),
    "verdict": pl.String(),
    "posterior": pl.Float64(),
    "low": pl.Float64(),
    "high": pl.Float64(),
    "votes": pl.Int64(),
    "ties": pl.Int64(),
    "bad": pl.Int64(),
    "skips": pl.Int64(),
    "strength": pl.Float64(),
    "by": pl.String(),
    "vote_ids": pl.List(pl.String()),
}


def verdicts(
    annotations: pl.DataFrame,
    method: Method | None = None,
    sure: float = SURE,
    most: int = MOST,
    draws: int = DRAWS,
    seed: int = 0,
) -> pl.DataFrame:
    """One row for each pair that somebody voted on, sorted by id.

    Args:
        annotations: see `prefactory.votes.ballots.standing`. Rows of role `decision` are those of
            adjudicators: the last of a row that counts decides it.
        method: of the consensus.
        sure: least posterior of a label, in (.5, 1).
        most: votes for a side after which a pair that is not sure is contested.
        draws: of the intervals.
        seed: of the draws.

    Returns:
        The columns of `COLUMNS`: `verdict` (`first`, `second`, `tie` and `bad` where more than half
        of the votes say so, `contested`, else `open`); `posterior` that the first side is better,
        with its interval, null without a vote for a side; votes for a side, ties, `bad`, `skips`;
        `strength`: share of the votes that are for the label, ties and "both bad" counted as
        votes, null without a label; `by`: `votes` or `adjudicator`; `vote_ids`: all votes behind
        it, sorted (empty if votes have no `vote_id`).
    """
    if not 0.5 < sure < 1:
        raise ValueError(f"sure is above .5 and below 1, not {sure}")
    table = standing(annotations)
    found = consensus(ballots(annotations), method, draws=draws, seed=seed).table()
    ids = (
        pl.col("vote_id").sort() if "vote_id" in table.columns else pl.lit([], COLUMNS["vote_ids"])
    )
    counted = table.group_by("row_id").agg(
        firsts=(pl.col("vote") == "first").sum(),
        seconds=(pl.col("vote") == "second").sum(),
        ties=(pl.col("vote") == TIE).sum(),
        bad=(pl.col("vote") == BAD).sum(),
        skips=(pl.col("vote") == SKIP).sum(),
        vote_ids=ids if "vote_id" in table.columns else ids.first(),
    )
    rows = counted.join(found, on="row_id", how="left").sort("row_id")
    votes, p = pl.col("firsts") + pl.col("seconds"), pl.col("posterior")
    said = votes + pl.col("ties") + pl.col("bad")
    verdict = (
        pl.when(2 * pl.col("bad") > said).then(pl.lit(BAD))
        .when(2 * pl.col("ties") > said).then(pl.lit(TIE))
        .when(p >= sure).then(pl.lit("first"))
        .when(p <= 1 - sure).then(pl.lit("second"))
        .when(votes >= most).then(pl.lit(CONTESTED))
        .otherwise(pl.lit(OPEN))
    )  # fmt: skip
    rows = rows.with_columns(verdict=verdict, votes=votes, by=pl.lit("votes"))
    return _strength(_decided(rows, annotations), said).select(
        pl.col(name).cast(kind) for name, kind in COLUMNS.items()
    )


def _strength(rows: pl.DataFrame, said: pl.Expr) -> pl.DataFrame:
    hits = (
        pl.when(pl.col("verdict") == "first").then("firsts")
        .when(pl.col("verdict") == "second").then("seconds")
    )  # fmt: skip
    return rows.with_columns(strength=pl.when(said > 0).then(hits / said))


def _decided(rows: pl.DataFrame, annotations: pl.DataFrame) -> pl.DataFrame:
    """Put adjudicators' decisions in the place of what votes say."""
    if "role" not in annotations.columns:
        return rows
    told = annotations.filter((pl.col("role") == DECISION) & (pl.col("vote") != SKIP))
    told = told.filter(pl.col("counts")) if "counts" in told.columns else told
    if not told.height:
        return rows
    last = told.group_by("row_id").agg(
        decided=pl.col("vote").last(),
        decision=pl.col("vote_id").last() if "vote_id" in told.columns else pl.lit(None, pl.String),
    )
    joined = rows.join(last, on="row_id", how="full", coalesce=True).sort("row_id")
    counts = ("firsts", "seconds", "ties", "bad", "skips", "votes")
    decided = pl.col("decided").is_not_null()
    return joined.with_columns(
        *[pl.col(c).fill_null(0) for c in counts],
        verdict=pl.coalesce("decided", "verdict"),
        by=pl.when(decided).then(pl.lit("adjudicator")).otherwise("by"),
        vote_ids=pl.concat_list(
            pl.col("vote_ids").fill_null(pl.lit([], COLUMNS["vote_ids"])),
            pl.when(pl.col("decision").is_not_null())
            .then(pl.concat_list("decision"))
            .otherwise(pl.lit([], COLUMNS["vote_ids"])),
        ),
    )


def disagreement(found: pl.DataFrame) -> pl.DataFrame:
    """The rows for an adjudicator, the most undecided first: contested ones, and open ones with
    votes for both sides.

    Args:
        found: of `verdicts`.
    """  # noqa: D205 - one sentence
    split = pl.col("low").is_not_null() & (pl.col("posterior") - 0.5).abs().lt(0.5 - 1e-12)
    undecided = pl.col("verdict").is_in([CONTESTED, OPEN]) & (pl.col("votes") >= 2) & split
    kept = found.filter(undecided & (pl.col("by") == "votes"))
    return kept.sort((pl.col("posterior") - 0.5).abs(), -pl.col("votes"), "row_id")


def ask_on(
    posterior: Floats, votes: Floats, sure: float = 0.95, least: int = 2, most: int = 7
) -> NDArray[np.bool_]:
    """Which pairs need another vote: not sure yet, and votes left; Bool[t].

    Args:
        posterior: that the first side is better, with the prior if there is one.
        votes: that each pair has.
        sure: posterior at which to stop.
        least: votes that every pair gets: 2, for a single good person's vote passes `sure`; 1
            where the prior is the trust in the label, which an agreeing vote then ends.
        most: votes after which it ends in any case.
    """
    unsure = np.maximum(posterior, 1 - posterior) < sure - 1e-12
    wanted: NDArray[np.bool_] = (votes < most) & (unsure | (votes < least))
    return wanted
