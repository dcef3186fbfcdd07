"""Where scores disagree: with the label, with each other, with themselves, and how sure they are.

Every function takes a table of pairs (`chosen_score_<o>`, `rejected_score_<o>`, and, if there,
`prompt_id`, `chosen_id`, `rejected_id` of any type) and reads those columns only. A score that is
null, NaN or infinite is not there. Standard errors are cluster-robust by `prompt_id`; without that
column every pair stands alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prefactory.measures.calibration import (
    Floats,
    calibration_errors,
    logistic_slope,
    pairwise_accuracy,
)
from prefactory.measures.contradictions import OVERALL, Contradictions, aspects_of, contradictions
from prefactory.measures.score_columns import answer_pairs, answers, margins, scored
from prefactory.tables import SCORE, objectives

__all__ = [
    "Contradictions",
    "Disagreement",
    "accuracy",
    "agreement",
    "answer_pairs",
    "answers",
    "aspects_of",
    "calibration",
    "compare_orders",
    "contradictions",
    "correlations",
    "disagreement",
    "logistic_slope",
    "margins",
    "scored",
    "share_of",
]

Ints = NDArray[np.int64]


def accuracy(pairs: pl.DataFrame, names: Sequence[str] | None = None) -> pl.DataFrame:
    """How often each score puts the chosen answer first.

    Returns:
        `objective`, `n` (pairs with both scores), `ties`, `accuracy` (a tie counts one half) and
        its standard error `se`; null without pairs.
    """
    rows = []
    gaps = margins(pairs, names)
    for gap in gaps:
        there = gap.is_not_null()
        values = gap.filter(there).to_numpy()
        groups = pairs["prompt_id"].filter(there) if "prompt_id" in pairs.columns else None
        rate = pairwise_accuracy(values, groups) if len(values) else (None, None)
        rows.append((gap.name, len(values), int((values == 0).sum()), *rate))
    schema = {"objective": pl.String, "n": pl.Int64, "ties": pl.Int64}
    return pl.DataFrame(rows, schema | {"accuracy": pl.Float64, "se": pl.Float64}, orient="row")


def calibration(
    pairs: pl.DataFrame, names: Sequence[str] | None = None, bins: int = 10
) -> pl.DataFrame:
    """How far each score's margins can be believed, over both orders of every pair.

    Scores are rarely log odds, so each is first put on a logistic scale by one number that is
    fitted **on these pairs**: errors are those of a scorer that was told its scale, and slightly
    flattering. `unscaled` is the error of the margins as they are, for scorers that claim log odds.

    Returns:
        `objective`, `n`, `slope` (log odds per unit of the score), `ece`, `ace`, `mce` (see
        `prefactory.measures.calibration`) and `unscaled` (the ECE at slope 1); null without pairs.
    """
    rows: list[tuple[Any, ...]] = []
    for gap in margins(pairs, names):
        values = gap.drop_nulls().to_numpy()
        if not len(values):
            rows.append((gap.name, 0, None, None, None, None, None))
            continue
        slope = logistic_slope(values)
        errors = calibration_errors(slope * values, bins)
        raw = calibration_errors(values, bins).ece
        rows.append((gap.name, len(values), slope, errors.ece, errors.ace, errors.mce, raw))
    kinds = dict.fromkeys(("slope", "ece", "ace", "mce", "unscaled"), pl.Float64)
    return pl.DataFrame(rows, {"objective": pl.String, "n": pl.Int64, **kinds}, orient="row")


def agreement(pairs: pl.DataFrame, names: Sequence[str] | None = None) -> pl.DataFrame:
    """How often every two objectives put two answers in the same order; see `compare_orders`."""
    prompts = pairs["prompt_id"] if "prompt_id" in pairs.columns else None
    return compare_orders(margins(pairs, names), prompts)


def compare_orders(gaps: pl.DataFrame, prompts: pl.Series | None = None) -> pl.DataFrame:
    """Compare the orders that every two columns of margins give to the same pairs.

    Args:
        gaps: Float64 columns, null where not scored; only the sign counts.
        prompts: which pairs belong together.

    Returns:
        For every two columns, in order: `a`, `b`, `n` (pairs that both judge), `same` and
        `conflict` (pairs in which they strictly agree and strictly disagree), `one_tied`,
        `both_tied`, and the share `conflict_share` of n with its standard error `conflict_se`.
    """
    sign = gaps.select(pl.all().sign().cast(pl.Float32).fill_null(math.nan)).to_numpy()
    group = None if prompts is None else (prompts.rank("dense").to_numpy() - 1).astype(np.int64)
    rows = []
    for i, j in combinations(range(sign.shape[1]), 2):
        both = sign[:, i] * sign[:, j]
        there = ~np.isnan(both)
        zero = (sign[:, i] == 0) & (sign[:, j] == 0)
        n, same, against = int(there.sum()), int((both > 0).sum()), both < 0
        conflict, tied = int(against.sum()), int(zero.sum())
        share, se = share_of(against, there, group)
        names = (gaps.columns[i], gaps.columns[j])
        rows.append((*names, n, same, conflict, n - same - conflict - tied, tied, share, se))
    counts = dict.fromkeys(("n", "same", "conflict", "one_tied", "both_tied"), pl.Int64)
    shares = dict.fromkeys(("conflict_share", "conflict_se"), pl.Float64)
    return pl.DataFrame(rows, {"a": pl.String, "b": pl.String, **counts, **shares}, orient="row")


def share_of(
    hits: NDArray[np.bool_], of: NDArray[np.bool_], group: Ints | None = None
) -> tuple[float | None, float | None]:
    """Share of hits among some rows and its standard error, cluster-robust if there are groups.

    Args:
        hits: Bool[n], each of them also in `of`.
        of: Bool[n], the rows that count.
        group: Int64[n] from 0, which rows belong together.
    """
    n = int(of.sum())
    if not n:
        return None, None
    share = float(hits.sum()) / n
    off: Floats = hits[of].astype(np.float64) - share
    if group is not None:
        off = np.bincount(group[of], weights=off).astype(np.float64)
    return share, float(np.sqrt((off**2).sum())) / n


def correlations(table: pl.DataFrame, names: Sequence[str] | None = None) -> pl.DataFrame:
    """Correlation of every two objectives over distinct answers that have both.

    Args:
        table: pairs, or RESPONSES with `score_<o>`.
        names: objectives; all by default.

    Returns:
        `a`, `b`, `n`, `pearson`, `spearman` (of mean ranks); null where one of them is constant.
    """
    flat = answers(table)
    names = objectives(flat.columns) if names is None else list(names)
    score = [pl.col(f"{SCORE}{o}").cast(pl.Float64) for o in names]
    values = flat.select(
        pl.when(s.is_finite()).then(s).otherwise(None).alias(o)
        for o, s in zip(names, score, strict=True)
    )
    ranks = values.select(pl.all().rank("average"))
    rows = []
    for a, b in combinations(names, 2):
        both = values[a].is_not_null() & values[b].is_not_null()
        kept = values.select(a, b).filter(both)
        whole = both.sum() == len(values) - values[a].null_count() == values[b].count()
        ranked = ranks.select(a, b).filter(both)  # ranks among all are ranks among both, or anew
        ranked = ranked if whole else kept.select(pl.all().rank("average"))
        rows.append((a, b, kept.height, _pearson(kept, a, b), _pearson(ranked, a, b)))
    kinds = dict.fromkeys(("pearson", "spearman"), pl.Float64)
    return pl.DataFrame(
        rows, {"a": pl.String, "b": pl.String, "n": pl.Int64, **kinds}, orient="row"
    )


def _pearson(table: pl.DataFrame, a: str, b: str) -> float | None:
    if not table.height or any(table[c].min() == table[c].max() for c in (a, b)):
        return None
    x, y = (table[c].to_numpy() / max(float(table[c].abs().max()), 1e-300) for c in (a, b))  # type: ignore[arg-type]
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt(float((x * x).sum()) * float((y * y).sum()))
    return min(max(float((x * y).sum()) / size, -1.0), 1.0) if size > 0 else None


@dataclass(frozen=True)
class Disagreement:
    """All of the above about one table of pairs.

    Attributes:
        pairs: number of pairs.
        prompts: number of distinct prompts; None if the table does not say.
        objectives: those with scores on both sides.
        accuracy, calibration, agreement, correlations: see the functions of these names.
        contradictions: None if there is no overall score with at least two aspects.
    """

    pairs: int
    prompts: int | None
    objectives: tuple[str, ...]
    accuracy: pl.DataFrame
    calibration: pl.DataFrame
    agreement: pl.DataFrame
    correlations: pl.DataFrame
    contradictions: Contradictions | None

    def as_json(self) -> dict[str, Any]:
        """Plain data for machines; of the contradictions the counts, limits and scales."""
        doubt = self.contradictions
        tables = ("accuracy", "calibration", "agreement", "correlations")
        return {
            "pairs": self.pairs,
            "prompts": self.prompts,
            "objectives": list(self.objectives),
            **{name: getattr(self, name).to_dicts() for name in tables},
            "contradictions": None
            if doubt is None
            else {
                "overall": doubt.overall,
                "aspects": list(doubt.aspects),
                "scales": {o: list(scale) for o, scale in doubt.scales.items()},
                "limit": doubt.limit,
                "checked": doubt.checked,
                "found": doubt.rows.height,
                "too_high": int((doubt.rows["gap"] > 0).sum()),
            },
        }


def disagreement(
    pairs: pl.DataFrame, names: Sequence[str] | None = None, overall: str | None = None
) -> Disagreement:
    """Measure how the scores of a table of pairs (dis)agree.

    Args:
        pairs: see the head of this module.
        names: objectives; all that both sides have by default.
        overall: the objective to hold against its aspects; one of `OVERALL` if it is there.
    """
    used = scored(pairs) if names is None else list(names)
    overall = overall or next((o for o in OVERALL if o in used), None)
    aspects = [] if overall is None else [o for o in aspects_of(pairs, overall) if o in used]
    doubt = contradictions(pairs, overall, aspects) if overall and len(aspects) > 1 else None
    return Disagreement(
        pairs=pairs.height,
        prompts=pairs["prompt_id"].n_unique() if "prompt_id" in pairs.columns else None,
        objectives=tuple(used),
        accuracy=accuracy(pairs, used),
        calibration=calibration(pairs, used),
        agreement=agreement(pairs, used),
        correlations=correlations(pairs, used),
        contradictions=doubt,
    )
