"""Win rates of one side over another, with what should not count held equal: length, style.

After length-controlled AlpacaEval (arXiv:2404.04475): a logistic regression of the verdicts on the
difference in length, whose term is then set to 0. That project fits with five-fold L1 and pulls
towards a baseline; we fit once, with a small ridge, and give standard errors instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import expit

from prefactory.measures.agreement import standard_error

Floats = NDArray[np.float64]

_Z = 1.959963984540054
_STEPS = 100
_ENOUGH = 1e-12


@dataclass(frozen=True, slots=True)
class WinRate:
    """A win rate as it is, and with the controls held at 0.

    Attributes:
        raw, raw_se: mean of the verdicts.
        controlled, controlled_se: mean probability with all controls at 0.
        low, high: 95% interval of `controlled`.
        effects: log odds for one unit of each control, Float64[c].
        n: verdicts.
    """

    raw: float
    raw_se: float
    controlled: float
    controlled_se: float
    low: float
    high: float
    effects: tuple[float, ...]
    n: int


def length_control(difference: Floats) -> Floats:
    """`tanh(difference / sd)`: a difference in length as a control, Float64[n] in (-1, 1).

    Args:
        difference: length of one side minus that of the other.
    """
    spread = float(difference.std()) if len(difference) else 0.0
    if spread == 0:
        return np.zeros(len(difference))
    result: Floats = np.tanh(difference / spread)
    return result


def style_control(one: Floats, two: Floats, extra: float = 0.0) -> Floats:
    """`(one - two) / (one + two + extra)`, z-scored, as arena-hard controls style: Float64[n].

    Args:
        one: of one side, at least 0: a length (`extra` 0) or a density of Markdown (`extra` 1).
        two: of the other.
        extra: keeps small densities from counting much.
    """
    total = one + two + extra
    relative = np.divide(one - two, total, out=np.zeros(len(total)), where=total > 0)
    spread = relative.std() if len(relative) else 0.0
    result: Floats = (relative - relative.mean()) / spread if spread > 0 else np.zeros(len(total))
    return result


def controlled_win_rate(
    wins: Floats,
    controls: Floats,
    kept: Floats | None = None,
    groups: pl.Series | None = None,
    ridge: float = 1e-4,
) -> WinRate:
    """Fit `logit P(win) = b + controls * e + kept * f` and set the controls to 0.

    Args:
        wins: Float64[n] in [0, 1]; 0.5 is a tie.
        controls: Float64[n, c]; 0 must mean that both sides are equal in it (z-scored ones are 0
            at their mean).
        kept: Float64[n, k] that may explain verdicts and stay as they are (difficulty).
        groups: length n; rows of a group are not taken as independent.
        ridge: weight of half the squared effects beside the mean loss; keeps them finite where a
            control decides everything.

    Raises:
        ValueError: no rows, other lengths, or a number that is not finite or not in range.
    """
    n = len(wins)
    kept = np.zeros((n, 0)) if kept is None else kept
    if n == 0 or len(controls) != n or len(kept) != n:
        raise ValueError(f"{n} verdicts, {len(controls)} rows of controls, {len(kept)} kept")
    x = np.column_stack([np.ones(n), controls, kept])
    if not (np.isfinite(x).all() and ((wins >= 0) & (wins <= 1)).all()):
        raise ValueError("verdicts must be in [0, 1] and controls finite")
    penalty = np.full(x.shape[1], ridge)
    penalty[0] = _ENOUGH
    beta = _fit(x, wins, penalty)
    p = expit(np.einsum("ij,j->i", x, beta))
    held = x.copy()
    held[:, 1 : 1 + controls.shape[1]] = 0
    at_zero = expit(np.einsum("ij,j->i", held, beta))
    slope = np.einsum("i,ij->j", at_zero * (1 - at_zero), held) / n
    curved = np.einsum("i,ij,ik->jk", p * (1 - p), x, x) / n + np.diag(penalty)
    pull = np.linalg.solve(curved, slope)
    value = float(at_zero.mean())
    influence = ((wins - p) * np.einsum("ij,j->i", x, pull) + at_zero - value) / n
    se, raw = standard_error(influence, groups), float(wins.mean())
    return WinRate(
        raw,
        standard_error((wins - raw) / n, groups),
        value,
        se,
        max(0.0, value - _Z * se),
        min(1.0, value + _Z * se),
        tuple(float(b) for b in beta[1 : 1 + controls.shape[1]]),
        n,
    )


def length_controlled_win_rate(
    wins: Floats,
    length_difference: Floats,
    difficulty: Floats | None = None,
    groups: pl.Series | None = None,
) -> WinRate:
    """Win rate with equal lengths: `logit P = b0 + b1 tanh(dlen / sd) + b2 difficulty`, b1 to 0.

    Args:
        wins: Float64[n] in [0, 1]: 1 where this side won, 0.5 for a tie.
        length_difference: Float64[n], length of this side minus that of the other, in any unit.
        difficulty: Float64[n] or None: of the prompt, for this side.
        groups: see `controlled_win_rate`.
    """
    kept = None if difficulty is None else difficulty[:, None]
    return controlled_win_rate(wins, length_control(length_difference)[:, None], kept, groups)


def _fit(x: Floats, wins: Floats, penalty: Floats) -> Floats:
    """Newton's method on the mean logistic loss, halving steps that do not help."""
    n = len(x)

    def loss(b: Floats) -> float:
        z = np.einsum("ij,j->i", x, b)
        return float((np.logaddexp(0, z) - wins * z).mean() + (penalty * b * b).sum() / 2)

    beta: Floats = np.zeros(x.shape[1])
    now = loss(beta)
    for _ in range(_STEPS):
        p = expit(np.einsum("ij,j->i", x, beta))
        slope = np.einsum("i,ij->j", p - wins, x) / n + penalty * beta
        curved = np.einsum("i,ij,ik->jk", p * (1 - p), x, x) / n + np.diag(penalty)
        step = np.linalg.solve(curved, slope)
        scale = 1.0
        while (then := loss(beta - scale * step)) > now and scale > _ENOUGH:
            scale /= 2
        if not then < now:
            break
        beta, now = beta - scale * step, then
    return beta
