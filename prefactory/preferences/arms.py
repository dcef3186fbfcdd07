"""Does a selection pay? A cheap head trained on all rows, on those kept and on as many random ones.

The head is Bradley-Terry on standardised differences. Each arm is fitted to the training clusters
and judged on the pairs of the clusters held out, so that what was selected is never what judges.
**A selection that was learned from labels has to be learned again from the training rows alone**:
chosen once over all rows it carries the labels of the held-out ones into the training set, and
gains seven points on pure noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from prefactory.measures.calibration import Floats
from prefactory.preferences import bradley_terry
from prefactory.preferences.bradley_terry import root_mean_square
from prefactory.preferences.clustered import Estimate, Ints, clustered_mean, hits
from prefactory.preferences.folds import NONE, cluster_folds
from prefactory.preferences.stack import COLUMNS, VECTORS, Differences

SEEDS = 5
DIRECTIONS = 128
"""Principal directions of the vectors that the head sees: cheap fits (our choice)."""
VISIBLE = 2.8
"""Standard errors of a gain that is seen with a power of .80 at 5 %."""

Bools = NDArray[np.bool_]
Signs = NDArray[np.float64]
Select = Callable[[Bools], Signs]
"""`(training rows, Bool[n]) -> Float64[n]`: 1 for a row that is kept, -1 for one that is kept
turned round, 0 for the others; rows outside the training rows are not looked at."""


@dataclass(frozen=True)
class Gains:
    """What a selection gains, on held-out rows.

    Attributes:
        accuracy: by arm (`all`, `kept`, `random`), mean over seeds and rows.
        against_all, against_random: gain of the kept rows, in shares of the held-out rows.
        kept: share of the rows that is kept, mean over folds.
        differ: share of held-out rows on which the arms `kept` and `all` disagree.
        partitions: draws of the folds.
    """

    accuracy: dict[str, float]
    against_all: Estimate
    against_random: Estimate
    kept: float
    differ: float
    partitions: int

    @property
    def visible(self) -> float:
        """Smallest gain against all rows that would be seen (power .80 at 5 %)."""
        return VISIBLE * self.against_all.se

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, rounded so that the last bits of a processor don't show."""
        found = {
            "accuracy": self.accuracy,
            "against_all": self.against_all.as_dict(),
            "against_random": self.against_random.as_dict(),
            "kept": self.kept,
            "differ": self.differ,
            "smallest_visible": self.visible if np.isfinite(self.visible) else None,
            "partitions": self.partitions,
        }
        return dict(_rounded(found))


def _rounded(value: Any) -> Any:  # noqa: ANN401 - plain data
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def design(data: Differences) -> tuple[Floats, Floats]:
    """Columns of the head, and the penalty of each times the number of rows.

    Columns are over their root mean square, vectors then turned onto their `DIRECTIONS` largest
    principal directions (not centred, without looking at a label).

    Returns:
        Float64[n, D] and Float64[D].
    """
    columns = data.columns / root_mean_square(data.columns)
    vectors = data.vectors / root_mean_square(data.vectors) if data.vectors.shape[1] else None
    if vectors is None or not len(columns):
        return columns, np.full(columns.shape[1], COLUMNS)
    gram = vectors.T @ vectors
    directions = np.linalg.eigh(gram)[1][:, ::-1][:, :DIRECTIONS]
    turned = vectors @ directions
    every = np.concatenate([turned, columns], axis=1)
    return every, np.repeat([VECTORS, COLUMNS], [turned.shape[1], columns.shape[1]])


def compare(
    data: Differences,
    clusters: Ints,
    select: Select,
    judged: Bools,
    *,
    pool: Bools | None = None,
    seed: int = 0,
    partitions: int = SEEDS,
) -> Gains | None:
    """Train three arms on the training clusters of each fold and judge them on the others.

    Args:
        data: differences of n pairs as labelled.
        clusters: of near-duplicate prompts, Int64[n].
        select: chooses among training rows; called once a fold.
        judged: rows to judge on, such as those without damage.
        pool: rows of the arm `all`, of which the random ones are drawn too; by default every row.
        seed: of the folds and the random arm.
        partitions: draws of the folds; the random arm has `SEEDS` draws in any case, at least one
            of each.

    Returns:
        The gains; None with fewer than two clusters, or where nothing is kept or judged.
    """
    with threadpool_limits(1, user_api="blas"):  # bits must not depend on the cores
        every = np.ones(len(data), dtype=bool) if pool is None else pool
        return _compare(data, clusters, select, (judged, every), seed, partitions)


def _compare(
    data: Differences,
    clusters: Ints,
    select: Select,
    rows: tuple[Bools, Bools],
    seed: int,
    partitions: int,
) -> Gains | None:
    z, penalty = design(data)
    (judged, pool), n = rows, len(data)
    found = {arm: np.zeros((partitions, n)) for arm in ("all", "kept", "random")}
    differ, shares = np.zeros((partitions, n)), []
    draws = -(-SEEDS // partitions)
    for s in range(partitions):
        fold = cluster_folds(clusters, seed + s)
        for k in np.unique(fold[fold != NONE]):
            train, held = fold != k, (fold == k) & judged
            signs = np.where(train, select(train), 0.0)
            known = train & pool
            shares.append(float((signs != 0).sum() / max(known.sum(), 1)))
            every = margins_of(z, penalty, known.astype(np.float64), held)
            kept = margins_of(z, penalty, signs, held)
            found["all"][s, held], found["kept"][s, held] = hits(every), hits(kept)
            differ[s, held] = (every > 0) != (kept > 0)
            rows_of_fold = (known, signs, held)
            found["random"][s, held] = _random(z, penalty, rows_of_fold, seed + s, draws)
    there = judged & (cluster_folds(clusters, seed) != NONE)
    if not there.any() or not sum(shares):
        return None
    mean = {arm: values.mean(axis=0)[there] for arm, values in found.items()}
    group = clusters[there]
    return Gains(
        {arm: float(values.mean()) for arm, values in mean.items()},
        clustered_mean(mean["kept"] - mean["all"], group),
        clustered_mean(mean["kept"] - mean["random"], group),
        float(np.mean(shares)),
        float(differ.mean(axis=0)[there].mean()),
        partitions,
    )


def _random(
    z: Floats, penalty: Floats, rows: tuple[Bools, Signs, Bools], seed: int, draws: int
) -> Floats:
    """Hits of random rows, as many as are kept; mean of some draws."""
    train, signs, held = rows
    places, count = np.flatnonzero(train), int((signs != 0).sum())
    total = np.zeros(int(held.sum()))
    for draw in range(draws):
        rng = np.random.default_rng([seed, draw, len(places), count])
        picked = np.zeros(len(z))
        picked[rng.permutation(places)[:count]] = 1.0
        total += hits(margins_of(z, penalty, picked, held))
    return total / draws


def margins_of(z: Floats, penalty: Floats, signs: Signs, held: Bools) -> Floats:
    """Margins of held-out rows by a head fitted to the rows with a sign."""
    rows = np.flatnonzero(signs)
    if not rows.size:
        return np.zeros(int(held.sum()))
    w = bradley_terry.fit(z[rows] * signs[rows, None], penalty / rows.size)
    margins: Floats = z[held] @ w
    return margins


def said(gains: Gains, nested: bool, what: str = "Kept {} of the pairs") -> str:
    """The gains in one sentence, with intervals of 95 %; `what` says what the share is of."""

    def points(estimate: Estimate) -> str:
        if not np.isfinite(estimate.se):
            return f"{100 * estimate.value:+.1f} points"
        low, high = 100 * estimate.low, 100 * estimate.high
        return f"{100 * estimate.value:+.1f} points ({low:+.1f} to {high:+.1f})"

    text = (
        f"{what.format(f'{gains.kept:.0%}')}: {points(gains.against_all)} against all, "
        f"{points(gains.against_random)} against as many random ones ("
        f"{gains.against_all.n:,} held-out pairs, judged by the labels as they are"
    )
    if not nested:
        text += "; not nested: optimistic"
    if gains.differ == 0:
        text += "; the heads judge all of them alike"
    elif np.isfinite(gains.visible):
        text += f"; a gain below {100 * gains.visible:.1f} points can't be seen here"
    return text + ")."
