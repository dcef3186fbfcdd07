"""What people said of single answers and prompts: ratings, orders, tags, labels of steps, reasons.

Votes on pairs are in `prefactory.votes.verdicts`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import orjson
import polars as pl

from prefactory.measures.calibration import Floats
from prefactory.preferences.clustered import codes
from prefactory.tables import SCORE

ROUNDS = 100
STILL = 1e-9
LENIENCE = 1.0
"""Ratings that a person's lenience is shrunk by: of one rating half of it is believed."""
DRAWN = 0.5
"""Games that each answer has won and lost against an average one before anybody ranked it."""
STEP_LABELS = {"right": 1.0, "neutral": 0.0, "wrong": -1.0}
"""As in PRM800K (arXiv 2305.20050)."""
REASONS = {"right": 1.0, "partly": 0.5, "wrong": 0.0}


def spoken(annotations: pl.DataFrame, task: str) -> pl.DataFrame:
    """The votes of a task that count: blind, on no training or gold row, no decision."""
    return annotations.filter(
        (pl.col("task") == task)
        & pl.col("counts")
        & (pl.col("purpose") == "work")
        & (pl.col("role") != "decision")
        & ~pl.col("informed")
        & (pl.col("vote") != "skip")
    )


def _told(votes: pl.DataFrame, key: str) -> Iterator[tuple[str, str, object]]:
    """(row id, person, what the answer holds under a key), where it holds it."""
    rows = votes.filter(pl.col("answer").is_not_null())
    for row_id, person, answer in rows.select("row_id", "person", "answer").iter_rows():
        value = orjson.loads(answer).get(key)
        if value:
            yield row_id, person, value


def ratings(annotations: pl.DataFrame) -> pl.DataFrame:
    """Ratings of single answers as scores.

    A rating is the answer's score, the person's lenience, and noise (two-way additive model);
    lenience is shrunk towards 0 and is 0 in the mean over ratings. With one person a score is the
    rating.

    Returns:
        `row_id`, `human_votes` (Int64, people), and for each attribute `score_human_<attribute>`
        (Float64, on the scale of the ratings) and `human_se_<attribute>` (Float64, its standard
        error; null with one rating).
    """
    given: dict[str, list[tuple[str, str, float]]] = defaultdict(list)
    people: dict[str, set[str]] = defaultdict(set)
    for row_id, person, told in _told(spoken(annotations, "rate"), "ratings"):
        people[row_id].add(person)
        for name, value in told.items() if isinstance(told, Mapping) else ():
            given[name].append((row_id, person, float(value)))
    found = pl.DataFrame(
        {"row_id": list(people), "human_votes": [len(p) for p in people.values()]},
        schema={"row_id": pl.String, "human_votes": pl.Int64},
    )
    for name in sorted(given):
        found = found.join(_score(name, given[name]), on="row_id", how="left")
    return found.sort("row_id")


def _score(name: str, given: list[tuple[str, str, float]]) -> pl.DataFrame:
    table = pl.DataFrame(given, schema=["row_id", "person", "value"], orient="row")
    rows = table["row_id"].unique().sort()
    row, person = codes(table["row_id"]), codes(table["person"])
    value = table["value"].to_numpy().astype(np.float64)
    scores, noise = additive(row, person, value)
    asked = np.bincount(row)
    se = np.where(asked > 1, noise / np.sqrt(np.maximum(asked, 1)), np.nan)
    return pl.DataFrame({"row_id": rows, f"{SCORE}human_{name}": scores}).with_columns(
        pl.Series(f"human_se_{name}", se).fill_nan(None)
    )


def additive(row: np.ndarray, person: np.ndarray, value: Floats) -> tuple[Floats, float]:
    """Scores of rows, Float64[rows], and the spread of the noise, of the two-way model."""
    asked, voted = np.bincount(row), np.bincount(person)
    lenience = np.zeros(len(voted))
    scores = np.zeros(len(asked))
    for _ in range(ROUNDS):
        before = scores
        scores = np.bincount(row, value - lenience[person]) / asked
        lenience = np.bincount(person, value - scores[row]) / (voted + LENIENCE)
        lenience -= (lenience * voted).sum() / voted.sum()
        if np.abs(scores - before).max() < STILL:
            break
    left = value - scores[row] - lenience[person]
    free = max(len(value) - len(asked) - len(voted) + 1, 1)
    return scores, float(np.sqrt((left**2).sum() / free))


def orders(annotations: pl.DataFrame) -> pl.DataFrame:
    """Orders of a prompt's answers as strengths (Bradley and Terry; ties are half a win each).

    Each answer begins with half a game won and half a game lost against an average one, so that
    strengths are finite.

    Returns:
        `row_id` (of the answer), `score_human_rank` (Float64, log strength, 0 in the mean over the
        answers of a prompt), `human_votes` (Int64, people who ranked it).
    """
    given: dict[str, list[dict[str, int]]] = defaultdict(list)
    for prompt, _, told in _told(spoken(annotations, "rank"), "order"):
        if isinstance(told, dict):
            given[prompt].append(told)
    rows: list[tuple[str, float, int]] = []
    for said in given.values():
        names = sorted({name for order in said for name in order})
        wins = np.zeros((len(names), len(names)))
        for order in said:
            rank = np.array([order.get(name, np.nan) for name in names])
            wins += np.where(rank[:, None] < rank, 1.0, 0.0) + np.where(
                rank[:, None] == rank, 0.5, 0.0
            )
        np.fill_diagonal(wins, 0.0)
        strengths = strength(wins)
        rows += zip(names, strengths.tolist(), [len(said)] * len(names), strict=True)
    schema = {"row_id": pl.String, f"{SCORE}human_rank": pl.Float64, "human_votes": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row").sort("row_id")


def strength(wins: Floats) -> Floats:
    """Log strengths of a Bradley-Terry model with mean 0 (Hunter 2004, doi 10.1214/aos/1079120141).

    Args:
        wins: of the row's answer over the column's, Float64[n, n].
    """
    games, won = wins + wins.T, wins.sum(axis=1) + DRAWN
    power = np.ones(len(wins))
    for _ in range(10 * ROUNDS):
        before = power
        met = (games / (power[:, None] + power)).sum(axis=1) + 2 * DRAWN / (power + 1)
        power = won / met
        power = power / np.exp(np.log(power).mean())
        if np.abs(np.log(power / before)).max() < STILL:
            break
    found: Floats = np.log(power)
    return found


def tags(annotations: pl.DataFrame) -> pl.DataFrame:
    """Tags that more than half of the people gave, of the list and of their own.

    Returns:
        `row_id`, `human_tags` (List(String), sorted), `human_agreement` (Float64, share of pairs of
        a person and a tag that hold with the result, over the tags that anybody gave; null where
        nobody gave one), `human_votes` (Int64).
    """
    votes = spoken(annotations, "tags")
    people = dict(votes.group_by("row_id").len().sort("row_id").iter_rows())
    given: dict[str, dict[str, int]] = {row_id: defaultdict(int) for row_id in people}
    for key in ("tags", "own_tags"):
        for row_id, _, told in _told(votes, key):
            for tag in {" ".join(str(t).lower().split()) for t in _listed(told)}:
                given[row_id][tag] += 1
    rows = []
    for row_id, counts in given.items():
        asked = people[row_id]
        held = [tag for tag, n in sorted(counts.items()) if 2 * n > asked]
        with_it = [max(n, asked - n) if 2 * n != asked else n for n in counts.values()]
        share = sum(with_it) / (asked * len(counts)) if counts else None
        rows.append((row_id, held, share, asked))
    schema: dict[str, Any] = {
        "row_id": pl.String, "human_tags": pl.List(pl.String), "human_agreement": pl.Float64,
        "human_votes": pl.Int64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")


def _listed(told: object) -> list[object]:
    return list(told) if isinstance(told, list) else []


def steps(annotations: pl.DataFrame) -> pl.DataFrame:
    """Labels of an answer's steps: what most people said of each; of as many the worse one.

    Returns:
        `row_id`, `step_labels` (List(Float64): 1 right, 0 neutral, -1 wrong), `human_agreement`
        (Float64, share of the labels that are those), `human_votes` (Int64). Answers that people
        saw in another number of steps than most did are told by those who agree on the number.
    """
    given: dict[str, list[list[float]]] = defaultdict(list)
    for row_id, _, told in _told(spoken(annotations, "steps"), "steps"):
        given[row_id].append([STEP_LABELS[str(label)] for label in _listed(told)])
    rows = []
    for row_id, said in given.items():
        sizes = [len(labels) for labels in said]
        size = max(sorted(set(sizes)), key=sizes.count)
        table = np.array([labels for labels in said if len(labels) == size])
        counts = np.array([(table == value).sum(axis=0) for value in (-1.0, 0.0, 1.0)])
        held = counts.argmax(axis=0) - 1.0  # the first of the largest is the worse label
        rows.append((row_id, held.tolist(), float(counts.max(axis=0).mean() / len(table)),
                     len(table)))  # fmt: skip
    schema: dict[str, Any] = {
        "row_id": pl.String, "step_labels": pl.List(pl.Float64), "human_agreement": pl.Float64,
        "human_votes": pl.Int64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row").sort("row_id")


def reasons(annotations: pl.DataFrame) -> pl.DataFrame:
    """How right people find a judge's reason.

    Returns:
        `row_id`, `human_rationale` (Float64, mean of right 1, partly .5, wrong 0), `human_votes`.
    """
    votes = spoken(annotations, "rationale").filter(pl.col("vote").is_in(list(REASONS)))
    value = pl.col("vote").replace_strict(REASONS, return_dtype=pl.Float64)
    return (
        votes.group_by("row_id")
        .agg(human_rationale=value.mean(), human_votes=pl.len().cast(pl.Int64))
        .sort("row_id")
    )


OF_TASK: dict[str, Callable[[pl.DataFrame], pl.DataFrame]] = {
    "rate": ratings, "rank": orders, "tags": tags, "steps": steps, "rationale": reasons,
}  # fmt: skip
"""Task of a review -> what its votes come to, a row for each row that people decided."""
