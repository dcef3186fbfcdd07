"""Each person's votes held against those of the others: skill, place, length, pace, gold rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from prefactory.measures.agreement import (
    Estimate,
    cohen_kappa,
    krippendorff_alpha,
    plain,
    ratio,
)  # fmt: skip
from prefactory.preferences.clustered import clustered_mean, hits
from prefactory.votes.ballots import FOR, SKIP, Ballots, ballots, standing
from prefactory.votes.consensus import Consensus, consensus

FAST = 3.0
"""A person whose median answer takes less than one part in so many of the others' is an outlier."""
FEW = 20
"""Votes below which nothing is said against a person."""
LEANS = 0.05
"""A share of first-shown, or longer, answers is remarked upon when so far off, beyond its interval.
All three limits are our choice."""


@dataclass(frozen=True)
class Agreement:
    """How far people agree.

    Attributes:
        alpha: Krippendorff's, nominal, the classes first, second, tie and bad; by prompt.
        pairwise: share of pairs of votes on a row that are equal, by prompt.
        why: why there is no alpha; empty if there is one.
    """

    alpha: Estimate
    pairwise: Estimate
    why: str

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"alpha": self.alpha.plain(), "pairwise": self.pairwise.plain(), "why": self.why}


def agreement(annotations: pl.DataFrame, clusters: pl.DataFrame | None = None) -> Agreement:
    """Agreement of all people on the votes that count; "can't judge" counts as no vote.

    Args:
        annotations: see `prefactory.votes.ballots.standing`.
        clusters: `row_id` and `cluster` (prompts); by default each row is one of its own.
    """
    votes = standing(annotations).filter(pl.col("vote") != SKIP).select("row_id", "person", "vote")
    votes = _with_clusters(votes, clusters).sort("row_id", "person")
    alpha = krippendorff_alpha(votes["row_id"], votes["vote"], groups=votes["cluster"])
    counted = votes.group_by("row_id", "cluster", maintain_order=True).agg(
        n=pl.len().cast(pl.Float64),
        same=(pl.col("vote").value_counts().struct.field("count").cast(pl.Float64) ** 2).sum(),
    )
    counted = counted.filter(pl.col("n") > 1)
    n, same = counted["n"].to_numpy(), counted["same"].to_numpy()
    pairwise = ratio(same - n, n * (n - 1), counted["cluster"])
    why = ""
    if votes["person"].n_unique() < 2:
        why = "one person: nobody to agree with"
    elif not counted.height:
        why = "no row has two votes"
    elif votes.join(counted, on="row_id", how="semi")["vote"].n_unique() < 2:
        why = "no variation: all votes are equal"
    return Agreement(alpha, pairwise, why)


def kappas(annotations: pl.DataFrame, clusters: pl.DataFrame | None = None) -> pl.DataFrame:
    """Cohen's kappa of every two people on the rows that both voted on.

    Args:
        annotations: see `prefactory.votes.ballots.standing`.
        clusters: `row_id` and `cluster` (prompts); by default each row is one of its own.

    Returns:
        `one`, `two` (String), `n` (rows of both, Int64), `agreement` (share of equal votes) and
        `kappa` with `low` and `high`, clustered (null where nothing varies); most rows first.
    """
    votes = standing(annotations).filter(pl.col("vote") != SKIP).select("row_id", "person", "vote")
    votes = _with_clusters(votes, clusters).sort("row_id", "person")
    both = votes.join(votes.drop("cluster"), on="row_id", suffix="_two").filter(
        pl.col("person") < pl.col("person_two")
    )
    rows = []
    for (one, two), part in both.partition_by("person", "person_two", as_dict=True).items():
        told = cohen_kappa(part["vote"], part["vote_two"], groups=part["cluster"])
        same = float((part["vote"] == part["vote_two"]).to_numpy().mean())
        ends = (plain(v) for v in (told.value, told.low, told.high))
        rows.append((one, two, part.height, same, *ends))
    kinds = dict.fromkeys(("agreement", "kappa", "low", "high"), pl.Float64)
    schema = {"one": pl.String, "two": pl.String, "n": pl.Int64, **kinds}
    found = pl.DataFrame(rows, schema=schema, orient="row")
    return found.sort("n", "one", "two", descending=[True, False, False])


def report(
    annotations: pl.DataFrame, found: Consensus | None = None, facts: pl.DataFrame | None = None
) -> pl.DataFrame:
    """A row for each person.

    Args:
        annotations: see `prefactory.votes.ballots.standing`; with `first_shown` and `ms` (of the
            answer) where they are known.
        found: consensus of these votes, for `skill` and `lean`; computed if it is None.
        facts: of rows, by `row_id`: `cluster` (prompts), `longer` (+1: the first side is longer,
            -1: the second), `gold` (`first` or `second`); each where it is known.

    Returns:
        `person`; `votes`, `ties`, `bad`, `skips` (Int64); `agreement`, `agreement_low`, `_high`:
        with the posterior **without that person**; `skill`, `lean`: of the model; `first`,
        `first_low`, `first_high`: share of the votes for what was shown first; `longer`, `_low`,
        `_high`: share of votes for the longer answer minus the others' on the same rows;
        `seconds`: median; `gold_right`, `gold` (Int64); `late`: agreement in the later half of the
        votes minus that in the earlier (fatigue); `remarks` (list of String).
    """
    votes = ballots(annotations)
    found = consensus(votes, draws=0) if found is None else found
    table = standing(annotations)
    counts = table.group_by("person").agg(
        votes=pl.col("vote").is_in(list(FOR)).sum().cast(pl.Int64),
        ties=(pl.col("vote") == "tie").sum().cast(pl.Int64),
        bad=(pl.col("vote") == "bad").sum().cast(pl.Int64),
        skips=(pl.col("vote") == SKIP).sum().cast(pl.Int64),
        seconds=(pl.col("ms").median() / 1000)
        if "ms" in table.columns
        else pl.lit(None, pl.Float64),
    )
    rows = [_of(i, votes, facts) for i in range(len(votes.people))]
    skills = pl.DataFrame(
        {"person": found.people, "skill": found.skill, "lean": found.lean}
    ).with_columns(pl.col("skill").fill_nan(None))
    late = _fatigue(annotations, votes, found)
    measured = pl.DataFrame(rows, schema=_SCHEMA, orient="row")
    joined = counts.join(measured, on="person", how="left").join(skills, on="person", how="left")
    joined = joined.join(late, on="person", how="left")
    joined = joined.join(_gold(table, facts), on="person", how="left").sort("person")
    pace = joined["seconds"].median()
    return joined.with_columns(remarks=_remarks(pace if isinstance(pace, float) else None))


_SCHEMA = {
    "person": pl.String,
    **{
        f"{name}{end}": pl.Float64
        for name in ("agreement", "first", "longer")
        for end in ("", "_low", "_high")
    },
}


def _of(person: int, votes: Ballots, facts: pl.DataFrame | None) -> tuple[Any, ...]:
    """What is measured of one person: the columns of `_SCHEMA`."""
    mine = votes.take(votes.person == person)
    others = consensus(votes.without(person), draws=0).label()
    clusters = _with_clusters(
        pl.DataFrame({"row_id": votes.rows.cast(pl.String)}), _part(facts, "cluster")
    )["cluster"].to_numpy()
    known = others[mine.row] != 0
    agreed = hits(mine.vote * others[mine.row])[known]
    placed = mine.shown != 0
    first = hits(mine.vote * mine.shown)[placed]
    estimates = [
        ratio(agreed, np.ones(len(agreed)), _series(clusters[mine.row[known]])),
        ratio(first, np.ones(len(first)), _series(clusters[mine.row[placed]])),
    ]
    cells = [cell for e in estimates for cell in (plain(e.value), plain(e.low), plain(e.high))]
    return (votes.people[person], *cells, *_longer(person, votes, facts, clusters))


def _longer(
    person: int, votes: Ballots, facts: pl.DataFrame | None, clusters: np.ndarray
) -> tuple[float | None, ...]:
    """Votes for the longer side minus those of the others on the same rows, with its interval."""
    known = _part(facts, "longer")
    if known is None:
        return None, None, None
    table = pl.DataFrame({"row_id": votes.rows.cast(pl.String)})
    side = table.join(known, on="row_id", how="left", maintain_order="left")["longer"]
    longer = side.cast(pl.Float64).fill_null(0.0).to_numpy()
    mine = votes.person == person
    size = len(longer)
    taken = hits(votes.vote * longer[votes.row])
    others = np.bincount(votes.row[~mine], taken[~mine], minlength=size)
    count = np.bincount(votes.row[~mine], minlength=size)
    at = mine & (longer[votes.row] != 0) & (count[votes.row] > 0)
    if not at.any():
        return None, None, None
    off = taken[at] - others[votes.row[at]] / count[votes.row[at]]
    told = clustered_mean(off, clusters[votes.row[at]])
    return plain(told.value), plain(told.low), plain(told.high)


def _fatigue(annotations: pl.DataFrame, votes: Ballots, found: Consensus) -> pl.DataFrame:
    """Agreement with the consensus in the later half of each person's votes minus the earlier."""
    kind = {"person": pl.String, "late": pl.Float64}
    if "at" not in annotations.columns or not len(votes):
        return pl.DataFrame(schema=kind)
    labels = pl.DataFrame({"row_id": found.rows.cast(pl.String), "label": found.label()})
    table = standing(annotations).filter(pl.col("vote").is_in(list(FOR)))
    table = table.join(labels, on="row_id", how="inner").filter(pl.col("label") != 0)
    side = pl.col("vote").replace_strict(FOR, default=None, return_dtype=pl.Float64)
    half = pl.col("at").rank("ordinal").over("person") * 2 > pl.len().over("person")
    right = (side == pl.col("label")).cast(pl.Float64)
    table = table.with_columns(right=right, half=half)
    return table.group_by("person").agg(
        late=pl.col("right").filter(pl.col("half")).mean()
        - pl.col("right").filter(~pl.col("half")).mean()
    )


def _gold(table: pl.DataFrame, facts: pl.DataFrame | None) -> pl.DataFrame:
    """Gold rows that each person answered, and how many rightly."""
    known = _part(facts, "gold")
    if known is None:
        return pl.DataFrame(schema={"person": pl.String, "gold_right": pl.Int64, "gold": pl.Int64})
    asked = table.join(known, on="row_id", how="inner").filter(pl.col("vote") != SKIP)
    return asked.group_by("person").agg(
        gold_right=(pl.col("vote") == pl.col("gold")).sum().cast(pl.Int64),
        gold=pl.len().cast(pl.Int64),
    )


def _remarks(pace: float | None) -> pl.Expr:
    """What is noteworthy of each person, in words."""

    def when(condition: pl.Expr, text: pl.Expr | str) -> pl.Expr:
        said = pl.lit(text) if isinstance(text, str) else text
        return pl.when(condition & (pl.col("votes") >= FEW)).then(said)

    def percent(name: str) -> pl.Expr:
        return (100 * pl.col(name)).round().cast(pl.Int64)

    first, longer = pl.col("first"), pl.col("longer")
    placed = ((pl.col("first_low") > 0.5) | (pl.col("first_high") < 0.5)) & (
        (first - 0.5).abs() >= LEANS
    )
    told = [
        when(
            placed, pl.format("votes for what is shown first in {} % of the rows", percent("first"))
        ),
        when(
            ((pl.col("longer_low") > 0) | (pl.col("longer_high") < 0)) & (longer.abs() >= LEANS),
            pl.format("takes the longer answer {} points more than others", percent("longer")),
        ),
        when(
            pl.col("agreement_high") < 0.5,
            "votes against the others: are the keys mixed up?",
        ),
        when(
            (pl.col("agreement_low") <= 0.5) & (pl.col("agreement_high") >= 0.5),
            "does not agree with the others beyond chance",
        ),
    ]
    if pace is not None:
        told.append(
            when(
                pl.col("seconds") * FAST < pace,
                pl.format(
                    "takes {} s a vote, others {} s",
                    pl.col("seconds").round(1),
                    pl.lit(round(pace, 1)),
                ),
            )
        )
    return pl.concat_list(told).list.drop_nulls()


def _part(facts: pl.DataFrame | None, name: str) -> pl.DataFrame | None:
    if facts is None or name not in facts.columns:
        return None
    return facts.select("row_id", name).drop_nulls()


def _with_clusters(table: pl.DataFrame, clusters: pl.DataFrame | None) -> pl.DataFrame:
    if clusters is None:
        return table.with_columns(cluster=pl.col("row_id"))
    named = clusters.select("row_id", cluster=pl.col("cluster").cast(pl.String))
    joined = table.join(named, on="row_id", how="left", maintain_order="left")
    return joined.with_columns(pl.col("cluster").fill_null(pl.col("row_id")))


def _series(values: np.ndarray) -> pl.Series | None:
    return pl.Series(values) if len(values) else None
