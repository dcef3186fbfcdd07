"""Labels held against a judge's verdicts on a drawn sample, both orders of every pair asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from audit.finding import Metric
from audit.stats import share
from prefactory.preferences.clustered import codes
from prefactory.preferences.damage import clusters
from prefactory.preferences.shares import wilson

LEAST_DECIDED = 30
"""Pairs that a judge must have decided before its word verifies anything (ours)."""
FOLLOWS_POSITION = 0.5
"""Share of pairs from which a judge is said to go by the position (ours)."""
METRICS = {
    "judge_error": "share of the pairs that a judge decided, in both orders, against the label",
    "judge_undecided": "share of the pairs asked about that it did not decide",
    "judge_position": "share of the pairs of which it preferred the same position in both orders",
    "judge_unusable": "share of its answers that hold no verdict",
}
NOT_ASKED = "no judge was asked: name one with --judge ENGINE"


@dataclass(frozen=True)
class Judge:
    """A model that is asked about labels.

    Attributes:
        model: its name, for the report.
        ask: PAIRS and a seed -> the columns of `labelers.JudgePairs`, same height and order.
        sample: pairs that it is asked about at most.
    """

    model: str
    ask: Callable[[pl.DataFrame, int], pl.DataFrame]
    sample: int = 200


@dataclass(frozen=True)
class Judged:
    """What a judge said of a sample.

    Attributes:
        model: its name.
        rows: positions in the audited table of the pairs that it decided against the label.
        metrics: of `METRICS`.
        pairs, decided: how many it was asked about, and of how many it preferred one answer.
        population: undamaged pairs from which the sample was drawn.
    """

    model: str
    rows: tuple[int, ...]
    metrics: dict[str, Metric]
    pairs: int
    decided: int
    population: int

    @property
    def verifies(self) -> bool:
        """Whether enough pairs were decided to say something."""
        return self.decided >= LEAST_DECIDED

    @property
    def headline(self) -> str:
        """The error rate with its interval, or that nothing was decided, and why."""
        error, position = self.metrics["judge_error"], self.metrics["judge_position"].value or 0.0
        by = f", and goes by the position in {100 * position:.0f}% of the pairs"
        by = by if position >= FOLLOWS_POSITION else ""
        if error.value is None:
            return f"the judge {self.model} decided none of {self.pairs:,} pairs{by}"
        low, high = 100 * (error.low or 0.0), 100 * (error.high or 0.0)
        return (
            f"the judge {self.model} contradicts {100 * error.value:.0f}% ({low:.0f} to "
            f"{high:.0f}%) of the {self.decided:,} labels that it decided, of {self.pairs:,}{by}"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """How the numbers came about, and what they are not."""
        undecided, unusable = (
            100 * (self.metrics[name].value or 0.0)
            for name in ("judge_undecided", "judge_unusable")
        )
        return (
            f"The judge saw {self.pairs:,} pairs, a simple random sample of {self.population:,} "
            f"without damage, in both orders; {undecided:.0f}% it did not decide, {unusable:.0f}% "
            "of its answers held no verdict. A pair is decided if one answer wins in both orders.",
            "A judge is not the truth: the error rate counts its own mistakes as wrong labels, and "
            "says nothing of the pairs that it did not decide. Read fifty of the rows named.",
        )

    def unmeasured(self) -> dict[str, str]:
        """Why there is no error rate, if there is none."""
        if self.metrics["judge_error"].value is not None:
            return {}
        return {"judge_error": f"the judge {self.model} decided none of {self.pairs:,} pairs"}


def draw(
    table: pl.DataFrame, n: int, uniform: Callable[[pl.Series, str], pl.Series]
) -> pl.DataFrame:
    """At most n pairs, each as likely as any other, in the order of their ids.

    Args:
        table: PAIRS with unique ids.
        n: how many.
        uniform: (ids, salt) -> numbers in [0, 1).
    """
    key = uniform(table["pair_id"], "judge")
    return table.with_columns(_key=key).sort("_key", "pair_id").head(n).drop("_key").sort("pair_id")


def judged(judge: Judge, sample: pl.DataFrame, population: int, seed: int) -> Judged:
    """Ask a judge about a sample.

    Args:
        judge: who is asked.
        sample: PAIRS and `_row`, their positions in the audited table.
        population: of how many it was drawn.
        seed: of the orders.
    """
    found = judge.ask(sample.drop("_row"), seed)
    asked = (found["judge_reason"] != "same_text").fill_null(value=True)
    found, sample = found.filter(asked), sample.filter(asked)
    prefers = found["judge_prefers"]
    decided = prefers.is_in(["chosen", "rejected"]).fill_null(value=False)
    against = (prefers == "rejected").fill_null(value=False)
    groups = _groups(sample)
    votes = pl.DataFrame({"votes": found["judge_votes"], "group": groups}).with_row_index("row")
    votes = votes.explode("votes").drop_nulls("votes").unnest("votes")
    place = pl.col("place")
    same = (place.count() > 1) & (place.drop_nulls().n_unique() == 1)
    by_place = votes.group_by("row").agg(same=same).filter("same")["row"]
    position = np.isin(np.arange(sample.height), by_place.to_numpy())
    metrics = {
        "judge_error": _share(against.filter(decided), groups[decided.to_numpy()]),
        "judge_undecided": _share(~decided, groups),
        "judge_position": _share(position, groups),
        "judge_unusable": _share(votes["fault"].is_not_null(), votes["group"].to_numpy()),
    }
    rows = tuple(sample["_row"].filter(against).to_list())
    return Judged(judge.model, rows, metrics, sample.height, int(decided.sum()), population)


def _groups(sample: pl.DataFrame) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Cluster of near-duplicate prompts of each row, as numbers."""
    return codes(clusters(sample)) if sample.height else np.empty(0, np.int64)


def _share(hits: Any, groups: np.ndarray[Any, np.dtype[np.int64]]) -> Metric:  # noqa: ANN401
    """A share with Wilson's interval, by cluster where rows share one."""
    values = np.asarray(hits, dtype=np.float64)
    if not values.size or len(np.unique(groups)) < len(groups):
        return share(values, groups)
    found = wilson(int(values.sum()), values.size)
    return Metric(found.value, found.low, found.high, values.size, "share")
