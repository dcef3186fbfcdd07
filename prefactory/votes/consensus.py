"""From votes to a posterior per label: Dawid-Skene by the side shown, with a prior for each person.

The two labels of a pair mirror each other, so there is no prior for a side, and a person has one
skill, not a table of confusions (Dawid and Skene 1979, with the prior of a Bayesian one-coin
model; the prior's numbers are our choice). With `position` a person may also lean to what is shown
first: log odds of a vote are `skill * label + lean * shown`.

Posteriors are a few points too sure at few votes a pair: what is printed beside them is an interval
over **people**. A bootstrap that draws people with copies does not give one: a copy always agrees
with its original, so whoever is drawn thrice sets the consensus. Each draw is therefore a part of
the people, without copies (delete-d jackknife; the part is our choice). They alone make a
consensus; every person's skill is measured against it, and drawn from what so many votes can tell;
and each pair's own votes are weighed by these skills.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from scipy.special import expit, log_expit, logit

from prefactory.measures.calibration import Floats
from prefactory.votes.ballots import Ballots

RIGHT, WRONG = 2.0, 1.0
"""Prior of a skill: Beta(2, 1)."""
START, LEAST, MOST = 0.75, 0.02, 0.98
ENOUGH, ROUNDS = 1e-6, 500
NEWTON = 3
ALPHA = 1.0
"""Mean of the prior of a person's log odds of being right, N(1, 1); a lean has N(0, 1)."""
DRAWS = 200
LEVEL = 0.95
PART = 0.7
"""Share of the people in a draw; distances from the whole fit are scaled accordingly."""
ROUGH = 1e-3
"""Change at which the fit of a draw ends: it begins at the whole fit."""

Method = Literal["position", "one-coin", "majority"]


@dataclass(frozen=True)
class Consensus:
    """What votes come to.

    Attributes:
        rows: ids of pairs, sorted.
        posterior: P(the first stored side is better), Float64[t]; .5 without a vote.
        low, high: ends of its interval of 95 % over people, Float64[t]; NaN without one.
        people: names, sorted.
        skill: P(a person's vote is for the better side), both places alike, Float64[p]; NaN by
            majority.
        lean: log odds that a person adds to what is shown first, Float64[p]; 0 if not modelled.
        method: that was used.
    """

    rows: pl.Series
    posterior: Floats
    low: Floats
    high: Floats
    people: pl.Series
    skill: Floats
    lean: Floats
    method: Method

    def label(self) -> Floats:
        """+1, -1, or 0 where the posterior is one half: Float64[t]."""
        found: Floats = np.sign(np.round(self.posterior - 0.5, 12))
        return found

    def table(self) -> pl.DataFrame:
        """`row_id`, `posterior`, `low`, `high`."""
        names = ("posterior", "low", "high")
        columns = {name: getattr(self, name) for name in names}
        return pl.DataFrame({"row_id": self.rows.cast(pl.String), **columns}).with_columns(
            pl.col("low", "high").fill_nan(None)
        )


@dataclass(frozen=True)
class _People:
    """Log odds of each person: of being right, and of what is shown first, Float64[p] each."""

    alpha: Floats
    beta: Floats


def consensus(
    votes: Ballots,
    method: Method | None = None,
    prior: Floats | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Consensus:
    """Posterior of each label with its interval.

    Args:
        votes: for a side.
        method: `position` (by default where the order was randomised), `one-coin` (else), or
            `majority`: the share of the votes, all people alike, without an interval.
        prior: P(the first side is better) before any vote, Float64[t]; one half by default. It
            moves labels, and with them the skills.
        draws: of parts of the people; 0 leaves the intervals out. Fewer than three people have
            none.
        seed: of the draws.
    """
    method = method or ("position" if votes.randomised else "one-coin")
    size = len(votes.rows)
    low, high = np.full(size, np.nan), np.full(size, np.nan)
    rows, names = votes.rows, votes.people
    if method == "majority":
        share, none = _majority(votes), np.zeros(len(names))
        return Consensus(rows, share, low, high, names, none + np.nan, none, method)
    odds = np.zeros(size) if prior is None else logit(np.clip(prior, 1e-9, 1 - 1e-9))
    start = _People(np.full(len(names), logit(START)), np.zeros(len(names)))
    posterior, people = _fit(votes, votes.weight, odds, method, start, ENOUGH)
    if draws and len(names) > 2:
        found = _draws(votes, odds, method, people, draws, seed)
        ends = (1 - LEVEL) / 2
        low, high = np.quantile(found, [ends, 1 - ends], axis=0)
        low, high = np.minimum(low, posterior), np.maximum(high, posterior)
    skill, lean = expit(people.alpha), people.beta
    return Consensus(rows, posterior, low, high, names, skill, lean, method)


def _majority(votes: Ballots) -> Floats:
    total = votes.votes_a_row()
    ahead = np.bincount(votes.row, votes.weight * (votes.vote > 0), minlength=len(total))
    share: Floats = np.divide(ahead, total, out=np.full(len(total), 0.5), where=total > 0)
    return share


def _posterior(votes: Ballots, weight: Floats, odds: Floats, people: _People) -> Floats:
    a, b = people.alpha[votes.person], people.beta[votes.person] * votes.shown
    push = log_expit(votes.vote * (a + b)) - log_expit(votes.vote * (b - a))
    found: Floats = expit(odds + np.bincount(votes.row, weight * push, minlength=len(odds)))
    return found


def _fit(
    votes: Ballots,
    weight: Floats,
    odds: Floats,
    method: Method,
    people: _People,
    end: float,
) -> tuple[Floats, _People]:
    """EM until no posterior moves by as much as `end`."""
    posterior = np.full(len(odds), 0.5)
    for _ in range(ROUNDS):
        now = _posterior(votes, weight, odds, people)
        people = _measure(votes, weight, now, method, people)[0]
        moved, posterior = float(np.abs(now - posterior).max(initial=0.0)), now
        if moved < end:
            break
    return posterior, people


def _measure(
    votes: Ballots, weight: Floats, posterior: Floats, method: Method, people: _People
) -> tuple[_People, Floats]:
    """People against a consensus; and what a draw needs: `[hits, count]`, or variances."""
    size, first = len(people.alpha), posterior[votes.row]
    if method == "position":
        return _newton(votes, weight, first, people)
    right = np.where(votes.vote > 0, first, 1 - first)
    count = np.bincount(votes.person, weight, minlength=size)
    hits = np.bincount(votes.person, weight * right, minlength=size)
    skill = (hits + 0.5 + RIGHT - 1) / (count + RIGHT + WRONG - 1)
    alpha = logit(np.clip(skill, LEAST, MOST))
    return _People(alpha, people.beta), np.stack([hits, count])


def _draws(
    votes: Ballots, odds: Floats, method: Method, whole: _People, draws: int, seed: int
) -> Floats:
    """Posteriors as other people would have made them: Float64[draws, t]."""
    rng = np.random.default_rng(seed)
    size = len(votes.people)
    kept = min(max(round(PART * size), 1), size - 1)
    scale = np.sqrt(kept / (size - kept))
    found = np.empty((draws, len(odds)))
    for i in range(draws):
        among = np.zeros(size)
        among[rng.permutation(size)[:kept]] = 1.0
        made = _fit(votes, votes.weight * among[votes.person], odds, method, whole, ROUGH)[0]
        people, told = _measure(votes, votes.weight, made, method, whole)
        off = _noise(rng, method, people, told)
        drawn = _People(
            whole.alpha + scale * (people.alpha - whole.alpha) + off[0],
            whole.beta + scale * (people.beta - whole.beta) + off[1],
        )
        found[i] = _posterior(votes, votes.weight, odds, drawn)
    return found


def _noise(
    rng: np.random.Generator, method: Method, people: _People, told: Floats
) -> tuple[Floats, Floats]:
    """What so many votes leave open of each person's log odds."""
    if method == "position":
        spread = np.sqrt(told)
        return spread[0] * rng.normal(size=len(spread[0])), spread[1] * rng.normal(
            size=len(spread[1])
        )
    hits, count = told
    drawn = rng.beta(hits + 0.5 + RIGHT - 1, np.maximum(count - hits, 0) + WRONG - 0.5)
    off = logit(np.clip(drawn, LEAST, MOST)) - people.alpha
    return off, np.zeros(len(off))


def _newton(
    votes: Ballots, weight: Floats, first: Floats, people: _People
) -> tuple[_People, Floats]:
    """Three steps on the expected log likelihood of each person with its priors, and variances."""
    alpha, beta, size = people.alpha, people.beta, len(people.alpha)

    def by_person(values: Floats) -> Floats:
        return np.bincount(votes.person, weight * values, size).astype(np.float64)

    for _ in range(NEWTON):
        a, b = alpha[votes.person], beta[votes.person] * votes.shown
        z = [votes.vote * (b + a), votes.vote * (b - a)]
        share = [first, 1 - first]
        off = [s * expit(-x) * votes.vote for s, x in zip(share, z, strict=True)]
        bend = [s * expit(x) * expit(-x) for s, x in zip(share, z, strict=True)]
        slope_a = ALPHA - alpha + by_person(off[0] - off[1])
        slope_b = -beta + by_person((off[0] + off[1]) * votes.shown)
        curve_a = 1 + by_person(bend[0] + bend[1])
        curve_b = 1 + by_person((bend[0] + bend[1]) * votes.shown**2)
        both = by_person((bend[0] - bend[1]) * votes.shown)
        det = curve_a * curve_b - both**2
        alpha = alpha + (curve_b * slope_a - both * slope_b) / det
        beta = beta + (curve_a * slope_b - both * slope_a) / det
    return _People(alpha, beta), np.stack([curve_b / det, curve_a / det])
