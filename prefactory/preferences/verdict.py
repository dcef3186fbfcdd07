"""What an outside opinion says of labels: they agree, are turned round, or run against it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import expit

from prefactory.measures.calibration import Floats
from prefactory.preferences import bradley_terry
from prefactory.preferences.bradley_terry import root_mean_square
from prefactory.preferences.clustered import Estimate, clustered_mean, codes, hits

ROWS, CLUSTERS, ENOUGH = 50, 10, 200
"""Rows and clusters for any verdict, and rows for calling labels inverted."""
RIDGE = 1e-6
ALIKE = 0.98
"""Above this uncentred correlation the opinion says nothing beyond length."""
CLEARLY_AGAINST = -2.0

Verdict = Literal["unknown", "agrees", "inverted", "against"]


@dataclass(frozen=True)
class Opinion:
    """A verdict and what it rests on.

    Attributes:
        verdict: `agrees`; `inverted`: against the opinion beyond what length explains;
            `against`: by length alone (brevity on purpose, an adversarial set, or inverted);
            `unknown`: too few rows, or the interval has one half in it.
        agreement: share of rows in which the opinion is that of the label.
        given_length: t value of the opinion's coefficient beside the log length gap; 0 where the
            two can't be told apart.
        shorter: share of rows in which the shorter answer is the chosen one, a tie one half.
    """

    verdict: Verdict
    agreement: Estimate
    given_length: float
    shorter: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "verdict": self.verdict,
            "agreement": self.agreement.as_dict(),
            "given_length": self.given_length,
            "shorter": self.shorter if np.isfinite(self.shorter) else None,
        }


def judge(margins: Floats, length: Floats, clusters: pl.Series | NDArray[Any]) -> Opinion:
    """Judge labels by the margins of a scorer that has not seen them. The rules are ours.

    Args:
        margins: of the scorer for each pair as labelled, Float64[n]; NaN is left out.
        length: log length of chosen minus that of rejected, Float64[n].
        clusters: which rows belong together, length n.
    """
    there = ~np.isnan(margins)
    margins, length, group = margins[there], length[there], codes(clusters)[there]
    agreement = clustered_mean(hits(margins), group)
    t = t_given_length(margins, length, group)
    shorter = float(hits(-length).mean()) if len(length) else np.nan
    return Opinion(_verdict(agreement, t), agreement, t, shorter)


def _verdict(agreement: Estimate, t: float) -> Verdict:
    few = agreement.n < ROWS or agreement.clusters < CLUSTERS
    if few or not (agreement.low > 0.5 or agreement.high < 0.5):
        return "unknown"
    if agreement.low > 0.5:
        return "agrees"
    return "inverted" if t < CLEARLY_AGAINST and agreement.n >= ENOUGH else "against"


def t_given_length(margins: Floats, length: Floats, clusters: NDArray[np.int64]) -> float:
    """The t value of the margins in a Bradley-Terry fit beside length, with clustered errors."""
    z = np.stack([margins, length], axis=1)
    if not len(z):
        return 0.0
    z = z / root_mean_square(z)
    if abs(float((z[:, 0] * z[:, 1]).mean())) > ALIKE:
        return 0.0
    w = bradley_terry.fit(z, RIDGE)
    p = expit(z @ w)
    n, group = len(z), codes(clusters)
    g = int(group.max()) + 1
    if g < 2:
        return 0.0
    curve = (z * (p * (1 - p))[:, None]).T @ z / n + RIDGE * np.eye(2)
    pull = np.stack([np.bincount(group, weights=(1 - p) * z[:, j]) for j in (0, 1)], axis=1) / n
    bread = np.linalg.inv(curve)
    variance = bread @ (pull.T @ pull) @ bread * g / (g - 1)
    se = float(np.sqrt(variance[0, 0]))
    return float(w[0]) / se if se > 0 else 0.0
