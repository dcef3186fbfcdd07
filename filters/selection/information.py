"""Information of each element of a dataset, and the choice of a budget of elements by it.

ISA, Information-based Sub-sampling for Alignment (arXiv:2411.10545): a likelihood under a Gaussian
mixture is scaled to l', p = exp(l'), and an element counts by how much the entropy of the dataset
changes without it. The paper's wording allows three readings of that change, which don't agree;
all three are here. Everything is a pure function of Float64 arrays.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mode = Literal["pointwise_raw", "pointwise_normalised", "leave_one_out"]
Scaling = Literal["unit", "minus_one"]
PairRule = Literal["mean", "sum", "min", "max"]

FLAT = 1e-9
"""Relative span below which log-likelihoods count as all the same."""


def scale(loglik: Floats, scaling: Scaling = "unit") -> Floats:
    """Scale log-likelihoods to l' in [0, 1] (`unit`) or [-1, 0] (`minus_one`, so that p <= 1).

    Args:
        loglik: Float64[n], finite.
        scaling: the target interval; its upper end is the likeliest element.

    Returns:
        Float64[n]; all at the upper end when the span of `loglik` is nothing but rounding.
    """
    if not loglik.size:
        return loglik.copy()
    low, high = float(loglik.min()), float(loglik.max())
    offset = 1.0 if scaling == "minus_one" else 0.0
    if high - low <= FLAT * max(1.0, abs(low), abs(high)):
        return np.full(loglik.size, 1.0 - offset)
    return (loglik - low) / (high - low) - offset


def entropy(scaled: Floats, normalised: bool = True) -> float:
    """Entropy of the dataset in nats: of q = p / sum(p), or the raw -sum(p log p) of the paper.

    Args:
        scaled: Float64[n], l' of `scale`; p = exp(l').
        normalised: whether p is brought to sum to 1 first.
    """
    if not scaled.size:
        return 0.0
    p = np.exp(scaled)
    weighted = float(p @ scaled)
    if not normalised:
        return -weighted
    total = float(p.sum())
    return float(np.log(total) - weighted / total)


def information(scaled: Floats, mode: Mode) -> Floats:
    """Change of the entropy when each element is removed, in nats.

    - `pointwise_raw`: p is not normalised, so the change is exactly -p log p = -l' exp(l'). It
      falls strictly with the likelihood: the most informative elements are the least likely ones.
    - `pointwise_normalised`: -q log q with q = p / sum(p), of the whole dataset. It rises with the
      likelihood (while q < 1/e): the most informative elements are the likeliest.
    - `leave_one_out`: H(X) - H(X without x), p normalised again without x. Not monotone.

    Args:
        scaled: Float64[n], l' of `scale`.
        mode: the reading.

    Returns:
        Float64[n].
    """
    p = np.exp(scaled)
    if mode == "pointwise_raw":
        return np.asarray(-p * scaled)
    if scaled.size < 2:
        return np.zeros(scaled.size)
    total = p.sum()
    if mode == "pointwise_normalised":
        q = p / total
        return np.asarray(-q * (scaled - np.log(total)))
    weighted = p @ scaled
    rest = total - p
    without = np.log(rest) - (weighted - p * scaled) / rest
    return np.asarray(np.log(total) - weighted / total - without)


def combine(chosen: Floats, rejected: Floats, rule: PairRule) -> Floats:
    """Score pairs by the scores of their two sides: two Float64[n] -> Float64[n]."""
    sides = np.stack([chosen, rejected])
    if rule == "min":
        return np.asarray(sides.min(axis=0))
    if rule == "max":
        return np.asarray(sides.max(axis=0))
    return np.asarray(sides.sum(axis=0) / (2.0 if rule == "mean" else 1.0))


def trimmed(loglik: Floats, share: float) -> NDArray[np.bool_]:
    """Mark the elements below a quantile of the log-likelihood: Float64[n] -> Bool[n].

    The quantile is an element itself (the lower of two), so that fewer than 1 / share elements,
    or elements that are all the same, lose none.
    """
    if not loglik.size or share <= 0:
        return np.zeros(loglik.size, dtype=bool)
    return np.asarray(loglik < np.quantile(loglik, share, method="lower"))


def quotas(sizes: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Share out k places in proportion to group sizes, by largest remainder.

    Args:
        sizes: Int64[g], group sizes, sum n > 0.
        k: places, 0 <= k <= n.

    Returns:
        Int64[g], sums to k, none above its size; equal remainders go to the earlier group.
    """
    n = int(sizes.sum())
    places, remainders = sizes * k // n, sizes * k % n
    order = np.argsort(-remainders, kind="stable")
    places[order[: k - int(places.sum())]] += 1
    return places


def mix_quotas(shares: Floats, most: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Share out k places by shares and largest remainder; what a kind can't fill others take.

    Args:
        shares: Float64[g], above 0; brought to sum to 1.
        most: Int64[g], places that each kind can fill.
        k: places.

    Returns:
        Int64[g], sums to k or to the sum of `most`; equal remainders go to the earlier kind.
    """
    places = np.zeros_like(most)
    while (left := min(k, int(most.sum())) - int(places.sum())) > 0:
        open_kinds = np.flatnonzero(places < most)
        wanted = left * shares[open_kinds] / shares[open_kinds].sum()
        given = np.floor(wanted + 1e-9).astype(np.int64)
        more = np.argsort(-(wanted - given), kind="stable")[: left - int(given.sum())]
        given[more] += 1
        places[open_kinds] += np.minimum(given, most[open_kinds] - places[open_kinds])
    return places


def systematic(weights: Floats, draws: Floats, k: int, start: float) -> NDArray[np.bool_]:
    """A sample of k in which each element has a chance of k times its weight, at most 1.

    Madow 1949: elements stand in a random order, each as long as its chance, and every whole number
    after a random start falls on one. What chances above 1 leave over goes to the others.

    Args:
        weights: Float64[n], not negative.
        draws: Float64[n], the random order.
        k: elements of the sample; fewer are drawn if fewer have a weight.
        start: in [0, 1).

    Returns:
        Bool[n].
    """
    chance, whole = np.zeros(weights.size), np.zeros(weights.size, dtype=bool)
    while (left := k - int(whole.sum())) > 0 and (rest := ~whole & (weights > 0)).any():
        chance = np.where(rest, weights * left / weights[rest].sum(), 0.0)
        if not (over := chance >= 1.0).any():
            break
        whole |= over
        chance = np.zeros(weights.size)
    order = np.argsort(draws, kind="stable")
    ends = np.floor(np.cumsum(chance[order]) + start + 1e-9)
    hit = np.zeros(weights.size, dtype=bool)
    hit[order] = np.diff(ends, prepend=np.floor(start)) > 0
    return hit | whole


def gumbel_keys(weights: Floats, uniform: Floats) -> Floats:
    """Keys whose k largest are a sample without replacement by weight (Gumbel-top-k).

    Vieira 2014; Kool et al. 2019 (arXiv:1903.06059).

    Args:
        weights: Float64[n], finite, not negative; weight 0 comes after every other.
        uniform: Float64[n] in [0, 1), one independent draw per element.
    """
    tiny = 2.0**-54
    gumbel = -np.log(-np.log(np.maximum(uniform, tiny)))
    return np.asarray(np.log(np.maximum(weights, 1e-300)) + gumbel)


def select(
    keys: Floats,
    k: int,
    uniform: Floats,
    groups: NDArray[np.int64] | None = None,
    last: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Choose exactly min(k, n) elements: those with the largest keys, by group quotas.

    Args:
        keys: Float64[n]; larger is chosen first.
        k: budget; everything stays if it is n or more.
        uniform: Float64[n], breaks ties between equal keys (larger first).
        groups: Int64[n], group numbers from 0; each group gets a share in proportion to its size.
        last: Bool[n], elements that are chosen only when their group has no others left.

    Returns:
        Bool[n].
    """
    n = keys.size
    if k >= n or k <= 0:
        return np.full(n, k > 0)
    groups = np.zeros(n, dtype=np.int64) if groups is None else groups
    last = np.zeros(n, dtype=bool) if last is None else last
    sizes = np.bincount(groups).astype(np.int64)
    order = np.lexsort((-uniform, -keys, last, groups))
    rank = np.arange(n) - (np.cumsum(sizes) - sizes)[groups[order]]
    chosen = np.zeros(n, dtype=bool)
    chosen[order] = rank < quotas(sizes, k)[groups[order]]
    return chosen
