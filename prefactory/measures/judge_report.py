"""What can be said about judges from their votes: bias by place, consistency, agreement.

Votes are in the columns that `labelers.Judge` and `labelers.JudgePairs` leave on pairs. Only pairs
that were decided and kept are published, so columns flatter a biased judge; the facts of the
judging stage in the manifest, made here too, count all questions.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from scipy.special import chdtrc

from prefactory.errors import DataError
from prefactory.measures.agreement import (
    Estimate,
    cohen_kappa,
    krippendorff_alpha,
    plain,
    ratio,
    share,
)

VOTES = ("judge", "round", "place", "answer", "weight", "fault")
TIE = -1
_COLUMNS = ("question", "answers", "votes")


def judge_report(table: pl.DataFrame, name: str = "judge") -> dict[str, Any]:
    """Statistics of the judges of a published version.

    Args:
        table: PAIRS with the columns `<name>_question`, `<name>_answers` and `<name>_votes`, as
            `labelers.Judge` and `labelers.JudgePairs` add them.
        name: prefix of the columns.

    Returns:
        JSON data: what `vote_report` says of all questions, each once, and `label` if there is
        `<name>_prefers`: how often the judges agree with the label as it came, and how often they
        decide. Pairs that `labelers.Relabel` turned count as contradicted; those that it dropped
        are in the ledger only.

    Raises:
        DataError: the columns are not there.
    """
    missing = [f"{name}_{c}" for c in _COLUMNS if f"{name}_{c}" not in table.columns]
    if missing:
        raise DataError(
            f"these pairs were not judged: column {missing[0]!r} is missing; labelers.Judge and "
            "labelers.JudgePairs add it"
        )
    report = vote_report(votes_of(table, name))
    if f"{name}_prefers" in table.columns:
        report["label"] = _label(table, name)
    return report


def votes_of(table: pl.DataFrame, name: str = "judge") -> pl.DataFrame:
    """The votes in the columns of pairs, one row each, those of a question once.

    Returns:
        `question`, `answers` and the fields of a vote, sorted by question, judge and round.
    """
    columns = {c: pl.col(f"{name}_{c}") for c in _COLUMNS}
    rows = table.select(**columns).unique("question", keep="first", maintain_order=True)
    rows = rows.filter(pl.col("votes").list.len() > 0)
    return rows.explode("votes").unnest("votes").sort("question", "judge", "round")


def vote_report(votes: pl.DataFrame) -> dict[str, Any]:
    """Statistics of votes.

    Args:
        votes: `question` (String), `answers` (how many were shown), `judge` (number), `round`,
            `place` (of the preferred answer, from 0; null: a tie or invalid), `answer` (-1: a
            tie; null: invalid) and `fault` (why it is invalid), one row for each vote.

    Returns:
        JSON data: `questions`, `votes`, `valid`, `ties`, `faults` (counts by reason); `position`,
        `self_consistency`, `between_judges`; and `judges`, the same for each alone if there are
        several. Intervals are 95%, questions are taken as independent.
    """
    votes = votes.sort("question", "judge", "round")
    report = {**_counts(votes), "position": position_bias(votes)}
    report["self_consistency"] = self_consistency(votes).plain()
    numbers = votes["judge"].unique().sort().to_list()
    if len(numbers) > 1:
        report["between_judges"] = between_judges(votes)
        report["judges"] = [
            {
                "judge": judge,
                **_counts(own := votes.filter(pl.col("judge") == judge)),
                "position": position_bias(own),
                "self_consistency": self_consistency(own).plain(),
            }
            for judge in numbers
        ]
    return report


def _counts(votes: pl.DataFrame) -> dict[str, Any]:
    faults = votes.filter(pl.col("fault").is_not_null()).group_by("fault").len().sort("fault")
    return {
        "questions": votes["question"].n_unique(),
        "votes": votes.height,
        "valid": votes.height - votes["answer"].null_count(),
        "ties": votes.filter(pl.col("answer") == TIE).height,
        "faults": dict(faults.iter_rows()),
    }


def position_bias(votes: pl.DataFrame) -> dict[str, Any]:
    """How often votes go to each place, against what would be if places did not matter.

    Every answer stands in every place equally often, so a judge that looks at answers alone votes
    for each of k places in 1 / k of its votes.

    Returns:
        `bias`, the greatest distance of a place's share from 1 / k (of several k the mean by
        votes; always the first place: 1 - 1 / k); `p_value` of a chi-square test of equal shares,
        votes taken as independent (careful: votes on one question by rotation are spread more
        evenly than that); `first`, the share of the first place with its interval, and
        `first_expected`; `places`, the shares by number of answers and place.
    """
    named = votes.filter(pl.col("place").is_not_null())
    if named.is_empty():
        nothing: dict[str, Any] = {"bias": None, "p_value": None, "first_expected": None}
        return {**nothing, "first": ratio(np.zeros(0), np.zeros(0)).plain(), "places": []}
    sizes = named.group_by("answers").agg(total=pl.len()).sort("answers")
    grid = sizes.with_columns(place=pl.int_ranges(pl.col("answers"))).explode("place")
    seen = named.group_by("answers", place=pl.col("place").cast(pl.Int64)).agg(n=pl.len())
    grid = grid.join(seen, on=["answers", "place"], how="left").sort("answers", "place")
    grid = grid.with_columns(
        n=pl.col("n").fill_null(0), expected=pl.col("total") / pl.col("answers")
    )
    off = (pl.col("n") - pl.col("expected")).abs()
    worst = float(grid.group_by("answers").agg(off=off.max())["off"].to_numpy().sum())
    statistic = float((grid.select(off**2 / pl.col("expected")).to_numpy()).sum())
    freedom = grid.height - sizes.height
    places = [
        {"answers": k, "place": place, "votes": n, "share": plain(n / total)}
        for k, total, place, n in grid.select("answers", "total", "place", "n").iter_rows()
    ]
    return {
        "bias": plain(worst / named.height),
        "p_value": plain(float(chdtrc(freedom, statistic))),
        "first": share(named["place"] == 0, named["question"]).plain(),
        "first_expected": plain(float((1 / named["answers"].to_numpy()).mean())),
        "places": places,
    }


def self_consistency(votes: pl.DataFrame) -> Estimate:
    """Share of two valid votes of one judge on one question that say the same, over all such two.

    In other orders of the answers a judge that looks at answers alone says the same again.
    """
    valid = votes.filter(pl.col("answer").is_not_null())
    by_option = valid.group_by("question", "judge", "answer").agg(n=pl.len().cast(pl.Float64))
    n = pl.col("n")
    counted = by_option.group_by("question", "judge").agg(
        same=(n * (n - 1)).sum() / 2, of=n.sum() * (n.sum() - 1) / 2
    )
    counted = counted.sort("question", "judge")
    return ratio(counted["same"].to_numpy(), counted["of"].to_numpy(), counted["question"])


def verdicts(votes: pl.DataFrame) -> pl.DataFrame:
    """What each judge alone says on each question: the answer that most of its votes name.

    Returns:
        `question`, `judge`, `said` (-1: a tie; null: two answers have most votes, or none has),
        sorted.
    """
    options = votes.group_by("question", "judge", "answer").agg(n=pl.len())
    known = pl.col("answer").is_not_null()
    top = options.filter(known).filter(pl.col("n") == pl.col("n").max().over("question", "judge"))
    named = top.group_by("question", "judge").agg(
        said=pl.when(pl.len() == 1).then(pl.col("answer").first())
    )
    every = votes.select("question", "judge").unique()
    return every.join(named, on=["question", "judge"], how="left").sort("question", "judge")


def between_judges(votes: pl.DataFrame) -> dict[str, Any]:
    """Agreement of the judges' own verdicts: Krippendorff's alpha, and Cohen's kappa of every two.

    Returns:
        `alpha` (nominal, verdicts may be missing) and `pairs`: `one`, `other`, `agreement`,
        `kappa`.
    """
    of_judges = verdicts(votes)
    wide = of_judges.pivot("judge", index="question", values="said", sort_columns=True)
    judges = [c for c in wide.columns if c != "question"]
    pairs = [
        {
            "one": int(first),
            "other": int(second),
            "agreement": share(wide[first] == wide[second]).plain(),
            "kappa": cohen_kappa(wide[first], wide[second]).plain(),
        }
        for first, second in combinations(judges, 2)
    ]
    alpha = krippendorff_alpha(of_judges["question"], of_judges["said"])
    return {"alpha": alpha.plain(), "pairs": pairs}


def _label(table: pl.DataFrame, name: str) -> dict[str, Any]:
    """How the judges' preference stands to the label of pairs, as it was before any turning."""
    prefers = table[f"{name}_prefers"]
    if "relabelled" in table.columns:
        before = prefers.replace({"chosen": "rejected", "rejected": "chosen"})
        prefers = before.zip_with(table["relabelled"].fill_null(value=False), prefers)
    counts = dict(prefers.value_counts().iter_rows())
    decided = prefers.is_in(["chosen", "rejected"])
    agrees = (prefers == "chosen").filter(decided)
    return {
        "pairs": table.height,
        "agrees": counts.get("chosen", 0),
        "contradicts": counts.get("rejected", 0),
        "tie": counts.get("tie", 0),
        "undecided": counts.get(None, 0),
        "agreement": share(agrees, table["prompt_id"].filter(decided)).plain(),
    }
