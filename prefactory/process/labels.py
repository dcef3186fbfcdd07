"""Labels of steps as probabilities that a step is right, and how well somebody finds wrong ones.

Sources differ: true and false (0 is wrong), shares of rollouts that end right (0 to 1), or 1, 0 and
-1 as in PRM800K and our reviews, in which 0 is neutral. A source that has a label below 0 is read
as the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import polars as pl

Neutral = Literal["right", "wrong", "leave"]
STEPS, LABELS = "steps", "step_labels"


def signed_sources(batches: Iterable[pl.DataFrame], labels: str = LABELS) -> list[str | None]:
    """Sources whose labels are 1, 0 and -1, sorted; null is one of them.

    Args:
        batches: with `source` and the labels, List(Float64).
        labels: their column.
    """
    below = (
        batch.filter(pl.col(labels).list.min() < 0)["source"].unique().to_list()
        for batch in batches
    )
    found = {source for sources in below for source in sources}
    return sorted(found, key=lambda source: (source is None, source or ""))


def chances(
    signed: Sequence[str | None], neutral: Neutral = "right", labels: str = LABELS
) -> pl.Expr:
    """Probability that each step is right, List(Float64) in [0, 1]; null: nothing is said of it.

    Args:
        signed: sources whose labels are 1, 0 and -1.
        neutral: what a 0 of these is. PRM800K counts it as right (arXiv 2305.20050).
        labels: column of the labels, beside `source`.
    """
    step = pl.element()
    half = {"right": 1.0, "wrong": 0.0, "leave": None}[neutral]
    middle = pl.lit(half, dtype=pl.Float64)
    of_signs = pl.col(labels).list.eval(pl.when(step == 0).then(middle).otherwise((step + 1) / 2))
    signs = pl.col("source").is_in([s for s in signed if s is not None]).fill_null(None in signed)
    return pl.when(signs).then(of_signs).otherwise(pl.col(labels))


def first_error(chance: Sequence[float | None], limit: float = 0.5) -> int:
    """Place of the first step that is below a limit, from 0; -1 if none is."""
    return next((i for i, c in enumerate(chance) if c is not None and c < limit), -1)


def found_errors(right: Sequence[int], said: Sequence[int]) -> dict[str, float]:
    """How well first errors are found (ProcessBench, arXiv 2412.06559).

    Args:
        right: place of the first wrong step of each answer, -1 where there is none.
        said: the same, as somebody says.

    Returns:
        `first_error`: share of the wrong answers whose place is hit; `no_error`: share of the right
        ones that are called right; `first_error_f1`: their harmonic mean. NaN without such answers.
    """
    truth, told = np.asarray(right, dtype=np.int64), np.asarray(said, dtype=np.int64)
    hit, wrong = truth == told, truth >= 0
    error = float(hit[wrong].mean()) if wrong.any() else float("nan")
    clean = float(hit[~wrong].mean()) if (~wrong).any() else float("nan")
    total = error + clean
    f1 = 2 * error * clean / total if total > 0 else 0.0 if total == 0 else float("nan")
    return {"first_error": error, "no_error": clean, "first_error_f1": f1}
