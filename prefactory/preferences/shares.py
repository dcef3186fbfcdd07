"""The share of wrong labels: from margins as far as they can say, and from rows that were checked.

Turning a pair mirrors its margin, so that with wrong share e margins have the density
`f(m) = (1 - e) g(m) + e g(-m)`. For every e up to a bound there is a g that fits (mixture
proportions: arXiv 1603.02501): one scorer gives the bound, and a number only where the curve of a
Bradley-Terry model and rows that it is sure of allow one. A sample that somebody checks gives the
number to trust.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import expit, ndtri

from prefactory.measures.calibration import Floats
from prefactory.preferences.clustered import Ints, clustered_mean, codes

Z = float(ndtri(0.975))
GRID = np.arange(46) / 100
"""Shares that are tried."""
SLOPES = np.concatenate([[0.0], np.geomspace(0.02, 30, 90)])
DRAWS = 200
LIKELY = 1.92
"""Shares within so much of the best log likelihood are in the interval: chi-square .95 / 2."""
CONFIDENT = 0.1
"""Share of the rows, those with the largest margins, from which the bound is read."""
LEAST_ROWS, LEAST_AUC, WIDEST = 400, 0.75, 0.25
CHUNK = 2048


@dataclass(frozen=True)
class Interval:
    """A share with its interval of 95 %."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """Plain data for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class WrongShare:
    """What one scorer says of the share of wrong labels.

    Attributes:
        bound: upper limit under symmetric errors, None without rows.
        estimate: None where `refused` says why there is none.
        refused: "" or a sentence.
    """

    bound: float | None
    estimate: Interval | None
    refused: str

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        found = None if self.estimate is None else self.estimate.as_dict()
        return {"bound": self.bound, "estimate": found, "refused": self.refused}


def wrong_share(
    margins: Floats, clusters: pl.Series | NDArray[Any], auc: float | None, seed: int = 0
) -> WrongShare:
    """Bound and, where the data can tell, estimate the share of wrong labels.

    Args:
        margins: of held-out rows (folds of clusters), about log odds; NaN is left out.
        clusters: which rows belong together, length n.
        auc: with which planted swaps are ranked by such margins; None if it is not known. Plants
            on labels that are wrong already make them right, which is undone at the estimate.
        seed: of the bootstrap.
    """
    there = ~np.isnan(margins)
    kept, group = margins[there], codes(codes(clusters)[there])
    if not len(kept):
        return WrongShare(None, None, "no row could be judged by a model that had not seen it")
    bound = upper_bound(kept, group)
    if len(kept) < LEAST_ROWS:
        return WrongShare(bound, None, f"{len(kept)} rows are fewer than {LEAST_ROWS}")
    estimate = profile(kept, group, seed)
    ranked = None if auc is None else (auc - estimate.value) / (1 - 2 * estimate.value)
    if ranked is None or ranked < LEAST_AUC:
        said = "unknown" if ranked is None else f"{ranked:.2f}"
        return WrongShare(
            bound, None, f"planted swaps are ranked with AUC {said}, below {LEAST_AUC}"
        )
    if estimate.high - estimate.low > WIDEST + 1e-9:
        ends = f"[{estimate.low:.2f}, {estimate.high:.2f}]"
        return WrongShare(bound, None, f"the interval, {ends}, is wider than {WIDEST}")
    return WrongShare(bound, estimate, "")


def upper_bound(margins: Floats, clusters: Ints) -> float:
    """Upper end of the share of disagreeing rows in the tenth that the scorer is surest of."""
    count = max(int(np.ceil(CONFIDENT * len(margins))), 1)
    surest = np.argsort(-np.abs(margins), kind="stable")[:count]
    wrong = (margins[surest] < 0).astype(np.float64)
    ends = [wilson(int(wrong.sum()), count).high, clustered_mean(wrong, clusters[surest]).high]
    return float(min(np.nanmax(ends), 1.0))


def profile(margins: Floats, clusters: Ints, seed: int = 0) -> Interval:
    """Share of most likelihood under `P(label) = e + (1 - 2 e) sigmoid(b margin)`, b >= 0.

    The interval is that of the profile, one step wider on both sides, or that of a bootstrap over
    clusters if there are clusters of several rows and it is wider.
    """
    group = codes(clusters)
    count = int(group.max()) + 1
    draws = np.ones((1, count))
    if count < len(margins):
        drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), DRAWS)
        draws = np.concatenate([draws, drawn])
    best = _profiles(margins, draws[:, group])
    shares = GRID[np.argmax(best, axis=1)]
    likely = GRID[best[0] >= best[0].max() - LIKELY]
    ends = max(likely[0] - 0.01, 0.0), likely[-1] + 0.01
    if len(shares) > 1:
        drawn_ends = np.quantile(shares[1:], [0.025, 0.975])
        if drawn_ends[1] - drawn_ends[0] > ends[1] - ends[0]:
            ends = tuple(drawn_ends)
    return Interval(float(shares[0]), float(ends[0]), float(ends[1]))


def _profiles(margins: Floats, weights: Floats) -> Floats:
    """Best log likelihood for each share under each weighting of the rows: Float64[draws, 46]."""
    total = np.zeros((len(weights), len(GRID), len(SLOPES)))
    for start in range(0, len(margins), CHUNK):
        rows = slice(start, start + CHUNK)
        p = expit(np.outer(margins[rows], SLOPES))
        for i, e in enumerate(GRID):
            total[:, i] += weights[:, rows] @ np.log(e + (1 - 2 * e) * p)
    best: Floats = total.max(axis=2)
    return best


# -- from rows that somebody checked -----


def wilson(hits: int, n: int, z: float = Z) -> Interval:
    """Wilson's interval of a share of a simple random sample; [0, 1] of an empty one."""
    if not n:
        return Interval(np.nan, 0.0, 1.0)
    p = hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(p, max(float(middle - half), 0.0), min(float(middle + half), 1.0))


def stratified(wrong: Sequence[int], checked: Sequence[int], total: Sequence[int]) -> Interval:
    """Share from strata (of trust), each sampled at random.

    Args:
        wrong: wrong labels among the checked rows of each stratum.
        checked: checked rows of each; 30 or more are wanted, one at least is needed.
        total: rows of each.

    Raises:
        ValueError: if a stratum with rows has none that was checked.
    """
    x, n, big = (np.asarray(v, np.float64) for v in (wrong, checked, total))
    if (n[big > 0] < 1).any():
        raise ValueError("every stratum with rows needs a checked row")
    kept = big > 0
    x, n, big = x[kept], n[kept], big[kept]
    share = big / big.sum()
    value = float((share * x / n).sum())
    smooth = (x + 1) / (n + 2)
    variance = (share**2 * (1 - n / big) * smooth * (1 - smooth) / n).sum()
    return _clipped(value, value, Z * float(np.sqrt(variance)))


def horvitz_thompson(wrong: Floats, inclusion: Floats, total: int) -> float:
    """Share from rows with known probabilities of being checked.

    Args:
        wrong: 1 where the label was wrong, Float64[n].
        inclusion: probability with which each checked row was drawn, > 0, Float64[n].
        total: rows that could have been drawn, each with a probability above 0: a queue of
            suspects alone is no sample.
    """
    return float((wrong / inclusion).sum()) / total


LEAST_TRUTH, LEAST_POWER = 30, 0.05


def judged(
    flagged: int, n: int, true_wrong: tuple[int, int], true_right: tuple[int, int]
) -> Interval | None:
    """Share from an imperfect judge, corrected by its errors on rows with truth.

    Rogan and Gladen's correction, with the interval of Lang and Reiczigel (2014), which counts in
    that sensitivity and specificity are estimates themselves; the value is theirs too.

    Args:
        flagged: rows that the judge calls wrong, of n.
        n: judged rows, a random sample.
        true_wrong: (flagged, rows) of rows whose label is wrong.
        true_right: (not flagged, rows) of rows whose label is right.

    Returns:
        None where there are fewer than 30 rows of either kind, or the judge hardly tells them
        apart (sensitivity + specificity <= 1.05).
    """
    (a, m1), (c, m0) = true_wrong, true_right
    z2 = Z * Z
    big, p = n + z2, (flagged + z2 / 2) / (n + z2)
    se, sp = (a + 1) / (m1 + 2), (c + 1) / (m0 + 2)
    power = se + sp - 1
    if min(m1, m0) < LEAST_TRUTH or power <= LEAST_POWER:
        return None
    share = (p + sp - 1) / power
    v1, v0 = se * (1 - se) / (m1 + 2), sp * (1 - sp) / (m0 + 2)
    shift = 2 * z2 * (share * v1 - (1 - share) * v0)
    half = Z / power * np.sqrt(p * (1 - p) / big + share**2 * v1 + (1 - share) ** 2 * v0)
    return _clipped(share, share + shift, float(half))


def rogan_gladen(flagged: float, sensitivity: float, specificity: float) -> float:
    """Share behind the share that a judge of known sensitivity and specificity flags."""
    share = (flagged + specificity - 1) / (sensitivity + specificity - 1)
    return float(np.clip(share, 0.0, 1.0))


def prediction_powered(truth: Floats, predicted: Floats, rest: Floats) -> tuple[Interval, float]:
    """Share from few checked rows and a prediction for all (arXiv 2301.09633, 2311.01453).

    Below a share of .05 its interval is too narrow: take `wilson` there.

    Args:
        truth: 1 where the label is wrong, of the checked rows, Float64[n], n >= 2.
        predicted: their predictions (1 - trust), Float64[n].
        rest: predictions of the other rows, Float64[N], N >= 2.

    Returns:
        The share and the weight of the predictions, in [0, 1].
    """
    n, big = len(truth), len(rest)
    spread = float(np.var(np.concatenate([predicted, rest]), ddof=1))
    shared = float(np.cov(truth, predicted, ddof=1)[0, 1])
    weight = 0.0 if spread <= 0 else float(np.clip(shared / (spread * (1 + n / big)), 0, 1))
    value = weight * float(rest.mean()) + float((truth - weight * predicted).mean())
    variance = weight**2 * float(np.var(rest, ddof=1)) / big
    variance += float(np.var(truth - weight * predicted, ddof=1)) / n
    return _clipped(value, value, Z * float(np.sqrt(variance))), weight


def _clipped(value: float, middle: float, half: float) -> Interval:
    value, low, high = np.clip([value, middle - half, middle + half], 0.0, 1.0)
    return Interval(float(value), float(low), float(high))
