"""Many scores of an answer as one: pure functions on Float64 arrays, NaN where not scored.

Shapes: n answers, K objectives, G prompts. Every result depends on its own row, or on the rows of
its prompt in the order given, never on how many other rows are in the array, so that shards of any
size give the same bits (which a BLAS product does not promise).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prefactory.measures import portable

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Preset = Literal["helpsteer2-70b", "helpsteer2-340b"]

_ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
PRESETS: dict[str, dict[str, float]] = {
    "helpsteer2-70b": dict(zip(_ATTRIBUTES, (0.65, 0.8, 0.45, 0.55, -0.4), strict=True)),
    "helpsteer2-340b": dict(zip(_ATTRIBUTES, (0.3, 0.74, 0.46, 0.47, -0.33), strict=True)),
}
"""Published weights of HelpSteer2's attributes (0 to 4), from the model cards of
Llama3-70B-SteerLM-RM and Nemotron-4-340B-Reward (Wang et al. 2024, arXiv:2406.08673)."""

QUANTILE = 0.85
Z_QUANTILE = 1.0364
"""A "good enough" answer: the 85th percentile, in a normal distribution mean + 1.0364 sd."""
ENOUGH = 5
"""Answers to a prompt from which on its own standard deviation is trusted alone."""


class Groups(NamedTuple):
    """Per prompt and objective: how many scores, their mean, their sum of squared deviations.

    Attributes:
        scored: Float64[G, K].
        mean: Float64[G, K], 0 where nothing is scored.
        squares: Float64[G, K].
    """

    scored: Floats
    mean: Floats
    squares: Floats


def log_sigmoid(z: Floats) -> Floats:
    """log(1 / (1 + exp(-z))): finite for every finite z, any shape."""
    result: Floats = -portable.softplus(-np.asarray(z, dtype=np.float64))
    return result


def weighted_sum(values: Floats, weights: Floats, skip: bool = False) -> Floats:
    """Weighted sum over objectives.

    Args:
        values: Float64[n, K], NaN where not scored.
        weights: Float64[K].
        skip: leave missing objectives out and scale the rest by sum |w| / sum |w present|, so that
            sums of few and of all objectives compare; else any NaN makes NaN.

    Returns:
        Float64[n]; NaN where a row has nothing to sum.
    """
    n, k = values.shape
    total, present = np.zeros(n), np.zeros(n)
    for i in range(k):
        there = ~np.isnan(values[:, i]) if skip else np.ones(n, dtype=bool)
        total += np.where(there, weights[i] * values[:, i], 0.0)
        present += np.where(there, abs(weights[i]), 0.0)
    if not skip:
        return total
    whole = sum(abs(float(weight)) for weight in weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = total * np.where(present == whole, 1.0, whole / present)
    return np.where(present > 0, scaled, np.nan)


def log_sigmoid_sum(
    values: Floats,
    weights: Floats,
    reference: Floats,
    scale: Floats,
    skip: bool = False,
) -> Floats:
    """Soft logical AND: sum_k w_k log sigmoid((r_k - reference_k) / scale_k).

    Transform of "Transforming and Combining Rewards" (Wang et al. 2024, arXiv:2402.00742): with
    unit scales and weights, the log probability that the answer is good in every objective.

    Args:
        values: Float64[n, K].
        weights: Float64[K], not negative.
        reference: reward of a good enough answer, Float64[K] or Float64[n, K].
        scale: Float64[K], above 0.
        skip: see `weighted_sum`.

    Returns:
        Float64[n], at most 0.
    """
    return weighted_sum(log_sigmoid((values - reference) / scale), weights, skip)


def grouped(values: Floats, groups: Ints) -> Groups:
    """Count, mean and squared deviations of each objective in each prompt.

    Args:
        values: Float64[n, K].
        groups: Int64[n], prompt number 0 .. G - 1 of every answer.
    """
    there = ~np.isnan(values)
    count = _sums(there.astype(np.float64), groups)
    mean = _sums(np.where(there, values, 0.0), groups) / np.maximum(count, 1.0)
    deviation = np.where(there, values - mean[groups], 0.0)
    return Groups(count, mean, _sums(deviation**2, groups))


def pooled_sd(stats: Groups) -> Floats:
    """Pooled within-prompt standard deviation: Float64[K], NaN if no prompt has two scores."""
    freedom = np.maximum(stats.scored - 1.0, 0.0).sum(axis=0)
    with np.errstate(invalid="ignore"):
        result: Floats = np.sqrt(stats.squares.sum(axis=0) / freedom)
    return result


def prompt_reference(values: Floats, groups: Ints, pooled: Floats) -> Floats:
    """Reward of a good enough answer to each prompt: mean + 1.0364 sd of the prompt's answers.

    A prompt with m < 5 scores gets the variance ((m - 1) s^2 + (5 - m) pooled^2) / 4, which is the
    pooled one at m = 1 and its own (n - 1) one at m = 5. That shrinkage is our choice; the paper
    leaves the estimate open.

    Args:
        values: Float64[n, K].
        groups: Int64[n].
        pooled: pooled within-prompt sd, Float64[K].

    Returns:
        Float64[n, K], the reference of each answer's prompt.
    """
    stats = grouped(values, groups)
    lacking = np.maximum(ENOUGH - np.maximum(stats.scored, 1.0), 0.0)
    freedom = np.maximum(stats.scored - 1.0, 0.0) + lacking
    variance = (stats.squares + lacking * pooled**2) / freedom
    result: Floats = (stats.mean + Z_QUANTILE * np.sqrt(variance))[groups]
    return result


def _sums(values: Floats, groups: Ints) -> Floats:
    """Sum of rows by group, in row order: Float64[n, K] -> Float64[G, K]."""
    size = int(groups.max()) + 1 if groups.size else 0
    columns = [np.bincount(groups, column, size) for column in values.T]
    return np.stack(columns, axis=1) if columns else np.zeros((size, 0))
