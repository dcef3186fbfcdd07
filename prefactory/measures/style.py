"""Style of answers apart from their topic: vectors, distances to a persona's anchor, drift.

After ConsiStyle (arXiv:2505.20626), which takes style from an anchor inside a diffusion model; the
text form is ours. Two blocks make a style vector: what a sentence vector has that the prompt's does
not explain (ridge regression, fitted on other prompts), and counts of the text that neither its
length nor the prompt's counts explain.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prefactory.near.shingles import I64
from prefactory.near.vectors import Floats, unit

RIDGE = 1.0
"""Weight of the penalty, in units of rows."""
PERMUTATIONS = 199


def ridge_residual(prompts: Floats, answers: Floats, folds: I64, penalty: float = RIDGE) -> Floats:
    """What the vectors of answers have that those of their prompts do not explain.

    Args:
        prompts: Float[n, d].
        answers: Float[n, e].
        folds: Int64[n]; the regression for a fold is fitted on the other folds. Rows of one prompt
            must be in one fold. Where a fold is alone, the means of all rows are taken off.
        penalty: on the coefficients; the intercept is free.

    Returns:
        Float64[n, e].
    """
    x, y = np.asarray(prompts, dtype=np.float64), np.asarray(answers, dtype=np.float64)
    rest = np.empty_like(y)
    for fold in np.unique(folds):
        mine = folds == fold
        others = ~mine if (~mine).any() else mine
        x_mean, y_mean = x[others].mean(axis=0), y[others].mean(axis=0)
        centred = x[others] - x_mean
        gram = centred.T @ centred + penalty * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, centred.T @ (y[others] - y_mean))
        rest[mine] = y[mine] - y_mean - (x[mine] - x_mean) @ weights
    return rest


def counted_residual(counts: Floats, of_prompts: Floats, lengths: Floats) -> Floats:
    """Standardised counts, less what the log length and the prompt's same count explain.

    Args:
        counts: Float[n, s] of answers.
        of_prompts: Float[n, s] of their prompts.
        lengths: Float[n], logarithms.

    Returns:
        Float64[n, s]; 0 for a count that is the same everywhere.
    """
    z, asked = standardised(counts), standardised(of_prompts)
    length = standardised(lengths[:, None])[:, 0]
    rest = np.zeros_like(z)
    for column in range(z.shape[1]):
        design = np.column_stack([length, asked[:, column]])
        weights = np.linalg.lstsq(design, z[:, column], rcond=None)[0]
        rest[:, column] = z[:, column] - design @ weights
    return np.where(np.abs(rest) < 1e-9, 0.0, rest)


def standardised(values: Floats) -> Floats:
    """Columns less their mean, over their deviation; 0 where that is 0: Float64[n, s]."""
    gap = values - values.mean(axis=0)
    deviation = gap.std(axis=0)
    return np.asarray(gap / np.where(deviation > 1e-12, deviation, np.inf))


def scaled(block: Floats) -> Floats:
    """A block whose rows have mean square length 1; zeros stay."""
    square = float((block**2).sum(axis=1).mean()) if block.size else 0.0
    return block / np.sqrt(square) if square > 1e-12 else np.zeros_like(block)


class Anchors(NamedTuple):
    """Styles of P personas.

    Attributes:
        mean: of all their anchors, Float64[e].
        own: each anchor less that mean, Float64[P, e].
    """

    mean: Floats
    own: Floats


def anchors(vectors: Floats, persona: I64, count: int) -> Anchors:
    """The mean of the unit vectors of each persona's anchor answers, less the mean of all anchors.

    Args:
        vectors: Float64[m, e] of the anchor answers.
        persona: Int64[m], 0 to P - 1.
        count: P.
    """
    each = np.zeros((count, vectors.shape[1]))
    np.add.at(each, persona, unit(vectors))
    each /= np.maximum(np.bincount(persona, minlength=count), 1)[:, None]
    mean = each.mean(axis=0)
    return Anchors(mean, each - mean)


def distances(vectors: Floats, against: Floats, mean: Floats) -> Floats:
    """1 - cosine of unit vectors, less the mean of all anchors, and an anchor each.

    Args:
        vectors: Float64[n, e].
        against: Float64[n, e], anchors less their mean.
        mean: Float64[e].

    Returns:
        Float64[n] in [0, 2].
    """
    return np.asarray(1 - (unit(unit(vectors) - mean) * unit(against)).sum(axis=1))


def third_anchors(own: Floats, third: Floats, count: int) -> Floats:
    """Anchors of third personas for the control (ours): less the mean of all but the own persona.

    Anchors less their mean sum to 0, so that those of others lean away from the own one, and would
    call the answer that is nearer to it the farther one; here that is mended.

    Args:
        own: Float64[n, e], anchors less their mean.
        third: Float64[n, e], of another persona each.
        count: personas, P > 1.

    Returns:
        Float64[n, e].
    """
    return np.asarray(third + own / (count - 1))


def burrows_delta(left: Floats, right: Floats) -> Floats:
    """Burrows' Delta: the mean absolute difference of standardised counts, Float64[n].

    Known answer: (1, 0, -1) and (0, 0, 1) have 1.
    """
    return np.asarray(np.abs(left - right).mean(axis=1))


class Drift(NamedTuple):
    """How distances change over a dialogue.

    Attributes:
        slope: least squares, per turn.
        p: share of permutations of the turns with a slope as great, one-sided, the dialogue itself
            among them.
    """

    slope: float
    p: float


def drift(turns: Floats, values: Floats, rng: np.random.Generator) -> Drift:
    """The drift of one dialogue. Known answer: 0, .1, ..., .7 has the slope .1.

    Args:
        turns: Float64[n], not all equal.
        values: Float64[n], distances.
        rng: draws the permutations.
    """
    gap = turns - turns.mean()
    weights = gap / (gap**2).sum()
    slope = float(weights @ values)
    drawn = rng.permuted(np.tile(values, (PERMUTATIONS, 1)), axis=1) @ weights
    return Drift(slope, (1 + int((drawn >= slope - 1e-12).sum())) / (1 + PERMUTATIONS))


def alike(own: Floats, most: float) -> NDArray[np.bool_]:
    """Personas whose anchor has a cosine of `most` or more with another one's: Bool[P]."""
    directions = unit(own)
    cosine = directions @ directions.T
    np.fill_diagonal(cosine, -1)
    return np.asarray(cosine.max(axis=1, initial=-1) >= most)
