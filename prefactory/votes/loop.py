"""One round of a loop of people and a cheap scorer: what looks wrong next, and when to stop.

People check rows, a scorer learns from what they say, and its doubts say what they check next
(after the loop of Skywork-Reward-V2, arXiv 2507.01352; numbers are our choice).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prefactory.measures.calibration import Floats
from prefactory.near.vectors import unit
from prefactory.preferences import trust
from prefactory.preferences.shares import Interval
from prefactory.preferences.stack import Rows

WEIGHT = 2.0
"""Of a row that people checked, in the fit; others weigh 1."""
RETRIEVAL = 0.5
"""What likeness to a wrong row counts, beside the normed score."""
Z = 1.64
BLOCK = 2048


def soft(rows: Rows, posterior: Floats) -> Rows:
    """Rows with each label as right as people say: targets and weights.

    Args:
        rows: pairs as labelled.
        posterior: P(label is right) by people, NaN where nobody was asked, Float64[n].
    """
    checked = ~np.isnan(posterior)
    targets = np.where(checked, posterior, rows.targets)
    weights = np.where(checked, WEIGHT, rows.weights)
    return Rows(rows.data, rows.clusters, targets, weights)


def suspicion(
    rows: Rows,
    posterior: Floats,
    copies: NDArray[np.int64] | None = None,
    seed: int = 0,
    extra: Mapping[str, Floats] | None = None,
) -> Floats:
    """Score of each label as given, from a fit that knows what people said; lower is more suspect.

    Rows whose label people contradict are turned round for the fit, and their score is that of the
    turned label.

    Args:
        rows: pairs as labelled at first.
        posterior: P(that label is right) by people, NaN where nobody was asked, Float64[n].
        copies: see `prefactory.preferences.trust.by_rows`.
        seed: of the folds.
        extra: other margins of the labels as given.

    Returns:
        Sum of normed margins, Float64[n].
    """
    turn = posterior < 0.5  # False for NaN
    sign = np.where(turn, -1.0, 1.0)
    right = np.where(turn, 1 - posterior, posterior)
    now = soft(Rows(rows.data.turned(turn), rows.clusters, rows.targets, rows.weights), right)
    signals = {"rows": trust.by_rows(now, copies, seed), "dynamics": trust.dynamics(now)}
    return trust.total(signals | {name: v * sign for name, v in (extra or {}).items()})


def likeness(vectors: NDArray[np.float32], wrong: NDArray[np.bool_]) -> Floats:
    """Largest cosine of each row's difference of answers with that of a row that was wrong.

    Args:
        vectors: chosen minus rejected, **as labelled at first**, Float32[n, d].
        wrong: rows whose first label people contradict, Bool[n].

    Returns:
        Float64[n] in [-1, 1]; 0 without a wrong row. A wrong row is like itself: look at others.
    """
    if not wrong.any():
        return np.zeros(len(vectors))
    units = unit(vectors)
    known = units[wrong]
    parts = [
        (units[start : start + BLOCK] @ known.T).max(axis=1)
        for start in range(0, len(units), BLOCK)
    ]
    return np.concatenate(parts).astype(np.float64)


def retrieval(score: Floats, likeness: Floats) -> Floats:
    """`score - .5 likeness`: lower is to be asked about earlier, Float64[n]."""
    found: Floats = score - RETRIEVAL * likeness
    return found


@dataclass(frozen=True)
class Batch:
    """What people said of the rows of one part of a round.

    Attributes:
        wrong: rows whose label they contradict.
        checked: rows that they decided.
    """

    wrong: int
    checked: int

    @property
    def share(self) -> float:
        """Share wrong; NaN without rows."""
        return self.wrong / self.checked if self.checked else np.nan


def no_better(suspects: Batch, random: Batch) -> bool:
    """Whether suspects hold no more wrong labels than random rows, by 1.64 standard errors."""
    if not suspects.checked or not random.checked:
        return False
    whole = (suspects.wrong + random.wrong) / (suspects.checked + random.checked)
    se = np.sqrt(whole * (1 - whole) * (1 / suspects.checked + 1 / random.checked))
    return bool(suspects.share <= random.share + Z * se)


def why_stop(
    estimates: Sequence[Interval | None],
    rounds: Sequence[tuple[Batch, Batch]],
    target: float,
    left: int | None = None,
) -> str:
    """Why a loop should stop now; empty if it should go on. Never because "no suspects are left".

    Args:
        estimates: share of wrong labels by the random part of each round.
        rounds: (suspects, random) of each round.
        target: share of wrong labels that is good enough.
        left: votes that the budget has left; None without a budget.
    """
    if estimates and estimates[-1] is not None and estimates[-1].high < target:
        return (
            f"at most {estimates[-1].high:.1%} of the labels are wrong, and {target:.1%} is good "
            "enough"
        )
    if len(rounds) >= 2 and all(no_better(*batch) for batch in rounds[-2:]):
        return (
            "the last two batches of suspects held no more wrong labels than random rows: the "
            "queue knows nothing more"
        )
    if left is not None and left <= 0:
        return "the budget of votes is used up"
    return ""
