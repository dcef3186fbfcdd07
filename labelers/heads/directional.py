"""Directional correction of an embedding reward: a learned or a measured bias direction taken out.

`guided` and `learn_direction` are stage 1 of D2-Align (arXiv:2512.24146) for rewards that are the
cosine of two embeddings. `bias_direction` and `without_direction` are our analogue for rewards with
a linear head on hidden states; call that directional debiasing, not D2-Align.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from labelers.combine import scoring
from labelers.combine.scoring import Floats, Ints
from prefactory.errors import DataError
from prefactory.near.vectors import lengths, unit

OMEGA = 1.5
Vectors = NDArray[np.floating]


def guided(queries: Vectors, direction: Vectors, omega: float = OMEGA) -> Floats:
    """Queries moved along a direction: e- + omega (e+ - e-), e+- = unit(e +- direction).

    Args:
        queries: [n, d].
        direction: b, [d]; 0 leaves the queries as they are (at unit length).
        omega: 1 gives e+, 0 gives e-; beyond 1 it extrapolates (the paper's 1.5).

    Returns:
        Float64[n, d], not of unit length where the direction is not 0.
    """
    e = np.asarray(queries, np.float64)
    plus, minus = unit(e + direction), unit(e - direction)
    result: Floats = minus + omega * (plus - minus)
    return result


def guided_reward(
    queries: Vectors, answers: Vectors, direction: Vectors, omega: float = OMEGA
) -> Floats:
    """Cosine of answers with guided queries: [n, d] twice and [d] -> Float64[n] in [-1, 1]."""
    product = unit(guided(queries, direction, omega)) * unit(np.asarray(answers, np.float64))
    result: Floats = product.sum(axis=1)
    return result


def learn_direction(
    queries: Vectors, answers: Vectors, omega: float = OMEGA, penalty: float = 0.0
) -> Floats:
    """Direction of the largest mean guided reward of a frozen policy's answers: where it drifts to.

    Ours: L-BFGS from a small step towards the mean answer, where the paper takes 2000 steps of its
    generator's optimiser; and a penalty on |b|^2.

    Args:
        queries: [n, d].
        answers: [n, d], those that the policy gives.
        omega: see `guided`.
        penalty: >= 0.

    Returns:
        b, Float64[d].
    """
    e, a = np.asarray(queries, np.float64), unit(np.asarray(answers, np.float64))
    if e.shape != a.shape or not len(e):
        raise DataError(f"queries {e.shape} and answers {a.shape} do not fit")

    def loss(b: Floats) -> tuple[float, Floats]:
        value, gradient = 0.0, np.zeros_like(b)
        plus, minus = e + b, e - b
        long_plus, long_minus = lengths(plus), lengths(minus)
        mixed = minus / long_minus * (1 - omega) + plus / long_plus * omega
        long = lengths(mixed)
        unit = mixed / long
        cosine = (unit * a).sum(axis=1, keepdims=True)
        back = (a - cosine * unit) / long
        for side, size, share in ((plus, long_plus, omega), (minus, long_minus, omega - 1)):
            along = side / size
            across = back - (back * along).sum(axis=1, keepdims=True) * along
            gradient -= share * (across / size).mean(axis=0)
        value = penalty * float((b**2).sum()) - float(cosine.mean())
        return value, gradient + 2 * penalty * b

    start = 0.01 * a.mean(axis=0)
    with threadpool_limits(1, user_api="blas"):
        optimum = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000})
    result: Floats = optimum.x
    return result


def within_prompts(hidden: Vectors, nuisance: Vectors, groups: Ints) -> tuple[Floats, Floats]:
    """Hidden states and nuisance less their mean of the prompt: Float64[n, d], Float64[n].

    Args:
        hidden: [n, d].
        nuisance: [n], no NaN.
        groups: prompt number 0 .. G - 1, Int64[n].
    """
    columns = np.column_stack([np.asarray(hidden, np.float64), nuisance])
    centred = columns - scoring.grouped(columns, groups).mean[groups]
    return centred[:, :-1], centred[:, -1]


def bias_direction(cross: Floats, spread: float, raw: float) -> Floats:
    """Unit direction along which hidden states move with a nuisance (length, format) in a prompt.

    Least squares of the states on the nuisance, both of `within_prompts`.

    Args:
        cross: sum of the states times the nuisance, Float64[d].
        spread: sum of the squared nuisance.
        raw: the same, of the nuisance as it was.

    Returns:
        Float64[d]; 0 where the nuisance does not vary within any prompt.
    """
    if spread <= 1e-12 * raw:
        return np.zeros_like(cross)
    return unit(cross / spread)


def without_direction(hidden: Vectors, direction: Vectors) -> Floats:
    """Hidden states less their part along a direction: h - b (b' h) / |b|^2, Float64[n, d].

    A linear reward w'h of the result does not move when h moves along b. A direction of 0 leaves
    the states as they are.
    """
    h, b = np.asarray(hidden, np.float64), np.asarray(direction, np.float64)
    square = float((b**2).sum())
    part = (h * b).sum(axis=1, keepdims=True) / (square or 1.0)
    result: Floats = h - part * b
    return result
