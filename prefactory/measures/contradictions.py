"""Overall scores that their aspects do not bear out: the "10 that was a 1" of UltraFeedback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from prefactory.errors import DataError
from prefactory.measures.score_columns import answers
from prefactory.tables import SCORE, objectives

LIMIT = 0.4
"""Share of the scale by which an overall score may differ from the mean of its aspects."""
LEVELS = 21
"""Whole-number scores of at most so many levels are taken for ratings."""
OVERALL = ("overall", "overall_score")
"""What an overall score is called."""
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Contradictions:
    """Answers whose overall score contradicts the mean of its aspects.

    Attributes:
        overall: the objective that is doubted.
        aspects: the objectives whose mean it is held against.
        scales: worst and best of each, by which all are put on [0, 1].
        limit: share of the scale beyond which a gap is a contradiction.
        checked: distinct answers that have all scores.
        rows: the contradictions, largest gap first: ids if there, `overall` (raw), `overall_unit`,
            `aspects_unit` (both on [0, 1]) and `gap`, above 0 where the overall score is too high.
    """

    overall: str
    aspects: tuple[str, ...]
    scales: dict[str, tuple[float, float]]
    limit: float
    checked: int
    rows: pl.DataFrame


def contradictions(
    table: pl.DataFrame,
    overall: str,
    aspects: Sequence[str],
    scales: Mapping[str, tuple[float, float]] | None = None,
    limit: float = LIMIT,
) -> Contradictions:
    """Find extreme overall scores that the aspects do not bear out: the "10 that was a 1".

    UltraFeedback has 2,628 overall scores of 10 of which many were meant as 1 (see its README). Its
    own rule, |overall / 2 - mean aspects| > 2, is `scales` of (0, 10) and (0, 5) with the default
    limit. Without `scales` each objective runs from its least to its greatest score here (ours).

    Args:
        table: pairs, or RESPONSES with `score_<o>`; every distinct answer counts once.
        overall: objective to doubt.
        aspects: objectives in which higher is better.
        scales: by objective, worst and best.
        limit: in shares of the scale.

    Raises:
        DataError: an objective is not there, or there is no aspect.
    """
    flat = answers(table)
    names = [overall, *aspects]
    missing = [o for o in names if f"{SCORE}{o}" not in flat.columns]
    if missing or not aspects:
        raise DataError(f"no scores of {', '.join(missing) or 'any aspect'} to compare {overall}")
    score = {o: pl.col(f"{SCORE}{o}").cast(pl.Float64) for o in names}
    ids = [c for c in ("prompt_id", "response_id") if c in flat.columns]
    whole = pl.all_horizontal([s.is_finite() for s in score.values()]).fill_null(value=False)
    rows = flat.select(*ids, *(s.alias(o) for o, s in score.items()), whole=whole).filter("whole")
    known = {o: (scales or {}).get(o) or _range(rows[o]) for o in names}
    unit = {o: (pl.col(o) - lo) / ((hi - lo) or 1.0) for o, (lo, hi) in known.items()}
    mean = pl.mean_horizontal([unit[o] for o in aspects])
    judged = rows.select(
        *ids, overall=pl.col(overall), overall_unit=unit[overall], aspects_unit=mean
    ).with_columns(gap=pl.col("overall_unit") - pl.col("aspects_unit"))
    wrong = judged.filter(pl.col("gap").abs() > limit + _ROUNDING)
    wrong = wrong.sort(pl.col("gap").abs(), descending=True, maintain_order=True)
    return Contradictions(overall, tuple(aspects), known, limit, rows.height, wrong)


def _range(values: pl.Series) -> tuple[float, float]:
    low, high = values.min(), values.max()
    return (0.0, 1.0) if low is None else (float(low), float(high))  # type: ignore[arg-type]


def aspects_of(table: pl.DataFrame, overall: str) -> list[str]:
    """Objectives that an overall score can be held against: ratings that rise with it (ours).

    A rating has whole numbers on 2 to 21 levels. One that correlates negatively with the overall
    score over distinct answers (verbosity, say) has another direction and is left out.
    """
    flat = answers(table)
    others = [o for o in objectives(flat.columns) if o != overall]
    ratings = [o for o in others if _is_rating(flat[f"{SCORE}{o}"])]
    return [o for o in ratings if _rises_with(flat, overall, o)]


def _is_rating(values: pl.Series) -> bool:
    there = values.cast(pl.Float64).filter(values.is_finite()).drop_nulls()
    whole = bool((there == there.round()).all())
    low, high = _range(there)
    return whole and 0 < high - low < LEVELS


def _rises_with(flat: pl.DataFrame, a: str, b: str) -> bool:
    x, y = pl.col("x"), pl.col("y")
    both = flat.select(x=f"{SCORE}{a}", y=f"{SCORE}{b}").cast(pl.Float64)
    both = both.filter(x.is_finite() & y.is_finite())
    return bool(
        both.select((((x - x.mean()) * (y - y.mean())).sum() > 0).fill_null(value=False)).item()
    )
