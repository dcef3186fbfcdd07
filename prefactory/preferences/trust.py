"""Which labels are wrong: signals, their sum, and the probability that a label is right.

A signal is a margin of each label as given, over its root mean square and not centred, for its sign
is its meaning. Damaged rows stay out of every fit: a head that has seen garbled or off-topic chosen
answers learns that they are good.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from threadpoolctl import threadpool_limits

from prefactory.measures.calibration import Floats
from prefactory.preferences.bradley_terry import root_mean_square
from prefactory.preferences.clustered import Ints
from prefactory.preferences.folds import cluster_folds
from prefactory.preferences.stack import CrossFit, Differences, Rows, cross_fit

STEPS, RATE = 30, 0.05
PENALTIES = (3.0, 0.1)
"""Of `dynamics`: of vectors and of columns."""
ROUNDS, CHANGE = 15, 0.001
"""Of `refit`."""
STEEPEST = 20.0
LEAST_ROWS = 100
"""With fewer rows nothing is fitted to the data itself."""
PLANTED, TOP = 0.1, 0.1


def normed(margins: Floats) -> Floats:
    """Margins over their root mean square, not centred; NaN becomes 0 (no opinion)."""
    known = margins[~np.isnan(margins)]
    scale = root_mean_square(known[:, None])[0] if len(known) else 1.0
    return np.nan_to_num(margins / scale)


def by_rows(rows: Rows, copies: NDArray[Any] | None = None, seed: int = 0) -> Floats:
    """Margins of joint fits by folds of rows: Float64[n].

    Sharper than folds of clusters where wrong labels are scattered, blind where all rows of a
    prompt are wrong alike.

    Args:
        rows: pairs as labelled.
        copies: which rows are copies of one pair (in either order): they share a fold.
        seed: of the folds.
    """
    fold = cluster_folds(np.arange(len(rows)) if copies is None else copies, seed)
    return cross_fit(rows, "joint", seed, fold).margins


@dataclass(frozen=True)
class Dynamics:
    """How fast early steps of gradient ascent come to believe labels.

    In-sample on purpose and far from fitted (training dynamics: arXiv 2009.10795, 2001.10528; the
    steps, the rate and the penalties are ours).

    Attributes:
        weights: before each step, Float64[steps, D].
        scales: of the columns, with their penalties, Float64[D].
    """

    weights: Floats
    scales: Floats

    @classmethod
    def of(cls, rows: Rows) -> Dynamics:
        """Follow 30 steps on some rows."""
        blocks = (rows.data.vectors, rows.data.columns)
        scales = np.concatenate(
            [
                root_mean_square(block) * np.sqrt(penalty)
                for block, penalty in zip(blocks, PENALTIES, strict=True)
            ]
        )
        z = np.concatenate(blocks, axis=1) / scales
        weights = np.zeros((STEPS, z.shape[1]))
        with threadpool_limits(1, user_api="blas"):  # bits must not depend on the cores
            for step in range(STEPS - 1):
                pull = 1 - expit(z @ weights[step])
                weights[step + 1] = weights[step] + RATE * (pull @ z) / len(z)
        return cls(weights, scales)

    def margins(self, data: Differences) -> Floats:
        """Log odds of the mean probability of each label over the steps: Float64[n]."""
        z = np.concatenate([data.vectors, data.columns], axis=1) / self.scales
        with threadpool_limits(1, user_api="blas"):
            p = expit(z @ self.weights.T).mean(axis=1)
        found: Floats = logit(np.clip(p, 1e-12, 1 - 1e-12))
        return found


def dynamics(rows: Rows) -> Floats:
    """`Dynamics` of rows on themselves: Float64[n]."""
    return Dynamics.of(rows).margins(rows.data)


def votes(for_label: Floats, against: Floats) -> Floats:
    """Margin of votes for and against the label, of judges or repeated draws: Float64[n]."""
    found: Floats = np.log((for_label + 1) / (against + 1))
    return found


def total(signals: Mapping[str, Floats]) -> Floats:
    """Sum of the normed signals, in equal parts (our choice: nothing is there to fit them on)."""
    parts = [normed(signals[name]) for name in sorted(signals)]
    return np.sum(parts, axis=0) if parts else np.zeros(0)


def trust(score: Floats, slope: float, rate: float) -> Floats:
    """Probability that each label is right: it follows a Bradley-Terry model and is then turned.

    Args:
        score: margin of each label as given, Float64[n].
        slope: that makes it log odds; at or below 0 every label has `1 - rate`.
        rate: share of wrong labels, in [0, 1).

    Returns:
        `(1 - e) sigmoid(m) / ((1 - e) sigmoid(m) + e sigmoid(-m))`, Float64[n].
    """
    odds = logit(np.clip(1 - rate, 1e-9, 1 - 1e-9))
    found: Floats = expit(odds + max(slope, 0.0) * score)
    return found


def refit(
    rows: Rows, fold: Ints, seed: int, rate: float, known: bool = False
) -> tuple[float, CrossFit]:
    """Fit again and again with each label as right as it is trusted (EM), joint, by folds.

    A label's probability of being right becomes its target, and the mean doubt the share of wrong
    labels, until that moves by less than .001 or 15 rounds are done. In each round the margins are
    scaled to most likelihood under the share of that round: the penalty shrinks them, and without
    it the share goes to 0 (our choice). It is found too low where the features explain little.

    Args:
        rows: pairs as labelled.
        fold: of each row, Int64[n].
        seed: of the fits.
        rate: share of wrong labels to begin with.
        known: keep that share, since it was measured.

    Returns:
        The share, and the last fits.
    """
    found = cross_fit(rows, "joint", seed, fold)
    for _ in range(ROUNDS):
        margins = np.nan_to_num(found.margins)
        right = trust(margins, _slope(margins, rate), rate)
        before, rate = rate, rate if known else float(np.mean(1 - right))
        soft = Rows(rows.data, rows.clusters, right, rows.weights)
        found = cross_fit(soft, "joint", seed, fold)
        if abs(rate - before) < CHANGE and not known:
            break
    return rate, found


def _slope(margins: Floats, rate: float) -> float:
    """What makes margins the log odds of the right answer, if so many labels are turned round."""
    share = max(rate, 1e-4)

    def loss(slope: float) -> float:
        return -float(np.log(share + (1 - 2 * share) * expit(slope * margins)).sum())

    found = minimize_scalar(loss, bounds=(0.0, STEEPEST), method="bounded")
    return float(found.x)


def auc(suspicion: Floats, wrong: NDArray[np.bool_]) -> tuple[float, float]:
    """Area under the curve of a ranking of wrong labels, and Hanley and McNeil's (1982) error.

    Args:
        suspicion: higher is more suspect, Float64[n].
        wrong: Bool[n].

    Returns:
        Area (a tie counts one half) and standard error; NaN unless both kinds are there.
    """
    n1, n0 = int(wrong.sum()), int((~wrong).sum())
    if not n1 or not n0:
        return np.nan, np.nan
    ranks = pl.Series(suspicion).rank().to_numpy()
    a = float((ranks[wrong].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    spread = a * (1 - a) + (n1 - 1) * (q1 - a * a) + (n0 - 1) * (q2 - a * a)
    return a, float(np.sqrt(spread / (n1 * n0)))


def precision_in_top(suspicion: Floats, wrong: NDArray[np.bool_], share: float = TOP) -> float:
    """Share of wrong labels among the most suspect rows; ties by place."""
    count = max(round(share * len(suspicion)), 1)
    return float(wrong[np.argsort(-suspicion, kind="stable")[:count]].mean())


@dataclass(frozen=True)
class SelfTest:
    """How well swaps that were planted into the data itself are ranked.

    The plants are wrong labels on top of those that are there, so the fits are a little worse than
    on the data as it is, and a plant on a wrong label makes it right: with a share e of wrong
    labels the area between wrong and right ones is (auc - e) / (1 - 2 e), `at_rate`.

    Attributes:
        auc, se: of the ranking, mean of the draws, and its standard error.
        planted: share of rows that were turned.
        precision: share of plants in the most suspect rows, by the share of rows that are taken.
        draws: how often it was done.
    """

    auc: float
    se: float
    planted: float
    precision: dict[float, float]
    draws: int

    def at_rate(self, rate: float) -> float:
        """The area, if so many labels were wrong before; at most 1."""
        return min((self.auc - rate) / (1 - 2 * rate), 1.0)

    def precision_at(self, share: Floats) -> Floats:
        """Precision by the share of rows that is taken, in straight lines between the known."""
        found: Floats = np.interp(share, list(self.precision), list(self.precision.values()))
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        precision = {f"{share:g}": value for share, value in self.precision.items()}
        return {
            "auc": self.auc,
            "auc_se": self.se,
            "planted": self.planted,
            "precision": precision,
            "draws": self.draws,
        }


SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
Score = Callable[[NDArray[np.bool_], int], Floats]
"""`(which rows to turn round, seed) -> margin of each label as then given`."""


def self_test(score: Score, n: int, seed: int = 0, draws: int = 2) -> SelfTest:
    """Turn a random tenth of the rows round, score all anew, and see how the turned ones rank.

    Args:
        score: computes all signals anew with some rows turned round.
        n: rows without damage, at least 20.
        seed: of the draws.
        draws: how many.
    """
    areas, errors, precisions = [], [], []
    for draw in range(draws):
        turned = np.zeros(n, np.bool_)
        rng = np.random.default_rng([seed, draw, n])
        turned[rng.permutation(n)[: max(round(PLANTED * n), 1)]] = True
        suspicion = -score(turned, seed + draw)
        area, error = auc(suspicion, turned)
        areas.append(area)
        errors.append(error)
        precisions.append([precision_in_top(suspicion, turned, share) for share in SHARES])
    mean = np.mean(precisions, axis=0)
    return SelfTest(
        auc=float(np.mean(areas)),
        se=float(np.sqrt(np.mean(np.square(errors)) / draws)),
        planted=max(round(PLANTED * n), 1) / n,
        precision={share: float(p) for share, p in zip(SHARES, mean, strict=True)},
        draws=draws,
    )
