"""Scorers of pairs by blocks of features: vectors under one penalty, plain columns under another.

Penalties are `VECTORS / n` and `COLUMNS / n` for n training rows: priors of a fixed width, under
which margins of rows that were left out come out as log odds (our choice). Forms:

- `statistics`: plain columns only;
- `joint`: all columns in one fit;
- `stack`: a head on the vectors, then a fit on the plain columns and the head's margin. Within the
  training rows the head's margins are out of fold: with in-sample ones its weight is far too large;
- `auto`: of the three the simplest whose log loss by cross-validation within the training rows is
  not above the least by more than one standard error of the paired difference (the one-standard-
  error rule of Breiman et al., 1984; that the error is cluster-robust is our choice). The forms
  are so close on most sets that the least loss alone picks by luck.

All are additive: a margin is the difference of two scores, `sum_j weight_j feature_j / scale_j`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from prefactory.measures.calibration import Floats, calibration_errors, logistic_slope
from prefactory.preferences import bradley_terry
from prefactory.preferences.bradley_terry import root_mean_square
from prefactory.preferences.clustered import Estimate, Ints, clustered_mean, codes, hits
from prefactory.preferences.folds import NONE, cluster_folds

Form = Literal["auto", "stack", "joint", "statistics"]
Fixed = Literal["statistics", "joint", "stack"]
VECTORS, COLUMNS = 3000.0, 40.0
CHOICE = 3000
"""Rows that a form is chosen on at most (our choice): it takes 35 fits."""
INNER = 1
"""Added to the seed for the folds within the training rows."""


@dataclass(frozen=True)
class Differences:
    """Features of chosen minus features of rejected, or those of single answers.

    Attributes:
        vectors: Float64[n, D], D may be 0.
        columns: Float64[n, m], plain columns: statistics and outside scores.
    """

    vectors: Floats
    columns: Floats

    def __len__(self) -> int:
        return len(self.columns)

    def take(self, rows: NDArray[Any]) -> Differences:
        """Some rows, by place or by mask."""
        return Differences(self.vectors[rows], self.columns[rows])

    def turned(self, rows: NDArray[np.bool_]) -> Differences:
        """The same pairs with some of them turned round (Bool[n])."""
        sign = np.where(rows, -1.0, 1.0)[:, None]
        return Differences(self.vectors * sign, self.columns * sign)


@dataclass(frozen=True)
class Rows:
    """What a fit sees.

    Attributes:
        data: differences of n pairs as labelled.
        clusters: cluster of each row, Int64[n].
        targets: probability that the label is right, Float64[n].
        weights: Float64[n].
    """

    data: Differences
    clusters: Ints
    targets: Floats
    weights: Floats

    @classmethod
    def of(
        cls,
        data: Differences,
        clusters: pl.Series | NDArray[Any],
        targets: Floats | None = None,
        weights: Floats | None = None,
    ) -> Rows:
        """Rows whose labels are right and weigh alike, unless it is said otherwise."""
        ones = np.ones(len(data))
        return cls(
            data,
            codes(clusters),
            ones if targets is None else targets,
            ones if weights is None else weights,
        )

    def __len__(self) -> int:
        return len(self.data)

    def take(self, rows: NDArray[Any]) -> Rows:
        """Some rows, by place or by mask."""
        return Rows(
            self.data.take(rows), self.clusters[rows], self.targets[rows], self.weights[rows]
        )


@dataclass(frozen=True)
class Model:
    """Weights of an additive scorer, on features over their scales.

    Attributes:
        form: which of the forms it is.
        vector_weights, vector_scales: Float64[D].
        column_weights, column_scales: Float64[m].
    """

    form: Fixed
    vector_weights: Floats
    vector_scales: Floats
    column_weights: Floats
    column_scales: Floats

    def scores(self, features: Differences) -> Floats:
        """Score rows of features, or their margins from differences: Float64[n].

        Row by row, so that a score does not depend on what it is computed with.
        """
        vectors, columns = self.vector_weights, self.column_weights
        found = np.einsum("nd,d->n", features.columns, columns / self.column_scales)
        if vectors.any():
            found = found + np.einsum("nd,d->n", features.vectors, vectors / self.vector_scales)
        return np.asarray(found, np.float64)

    def times(self, slope: float) -> Model:
        """The model with every weight times a slope."""
        return replace(
            self,
            vector_weights=self.vector_weights * slope,
            column_weights=self.column_weights * slope,
        )


def fit(rows: Rows, form: Form = "auto", seed: int = 0) -> Model:
    """Fit a scorer on all rows.

    Args:
        rows: pairs as labelled, in an order that is fixed by their ids.
        form: see the head of this module. Without vectors it is `statistics`.
        seed: of the folds within.
    """
    with threadpool_limits(1, user_api="blas"):  # bits must not depend on the cores
        return _fit(rows, form, seed)


def _fit(rows: Rows, form: Form, seed: int) -> Model:
    if not rows.data.vectors.shape[1]:
        form = "statistics"
    if form == "auto":
        form = choose(rows, seed)
    return _FITS[form](rows, seed)


def choose(rows: Rows, seed: int = 0) -> Fixed:
    """The simplest form whose cross-validated log loss is the least, or within an error of it.

    Order: statistics, joint, stack. "Within" is by one cluster-robust standard error of the paired
    difference. Of more than `CHOICE` rows it looks at so many, drawn by the seed.
    """
    if len(rows) > CHOICE:
        drawn = np.random.default_rng([seed, len(rows)]).permutation(len(rows))[:CHOICE]
        rows = rows.take(np.sort(drawn))
    fold = cluster_folds(rows.clusters, seed + INNER)
    names: tuple[Fixed, ...] = ("statistics", "joint", "stack")
    if (fold == NONE).any():
        return "statistics"
    losses = {name: np.zeros(len(rows)) for name in names}
    for k in np.unique(fold):
        train, held = rows.take(fold != k), rows.take(fold == k)
        for name in names:
            margins = _FITS[name](train, seed).scores(held.data)
            losses[name][fold == k] = held.weights * bradley_terry.log_loss(margins, held.targets)
    least = losses[min(names, key=lambda name: losses[name].sum())]
    worse = ((name, clustered_mean(losses[name] - least, rows.clusters)) for name in names)
    return next(name for name, loss in worse if not loss.value > loss.se)


def _level(columns: Floats, rows: Rows, constant: float | Floats) -> tuple[Floats, Floats]:
    """Weights and scales of one fit."""
    scales = root_mean_square(columns)
    penalty = np.asarray(constant) / len(rows)
    weights = bradley_terry.fit(columns / scales, penalty, rows.targets, rows.weights)
    return weights, scales


def _statistics(rows: Rows, seed: int) -> Model:
    weights, scales = _level(rows.data.columns, rows, COLUMNS)
    none = np.zeros(rows.data.vectors.shape[1])
    return Model("statistics", none, np.ones_like(none), weights, scales)


def _joint(rows: Rows, seed: int) -> Model:
    d, m = rows.data.vectors.shape[1], rows.data.columns.shape[1]
    every = np.concatenate([rows.data.vectors, rows.data.columns], axis=1)
    weights, scales = _level(every, rows, np.repeat([VECTORS, COLUMNS], [d, m]))
    return Model("joint", weights[:d], scales[:d], weights[d:], scales[d:])


def _stack(rows: Rows, seed: int) -> Model:
    fold = cluster_folds(rows.clusters, seed + INNER)
    margins = np.zeros(len(rows))
    for k in np.unique(fold[fold != NONE]):
        train = rows.take(fold != k)
        head, size = _level(train.data.vectors, train, VECTORS)
        margins[fold == k] = rows.data.vectors[fold == k] @ (head / size)
    columns = np.concatenate([rows.data.columns, margins[:, None]], axis=1)
    weights, scales = _level(columns, rows, COLUMNS)
    head, size = _level(rows.data.vectors, rows, VECTORS)
    return Model("stack", head * weights[-1] / scales[-1], size, weights[:-1], scales[:-1])


_FITS = {"statistics": _statistics, "joint": _joint, "stack": _stack}


@dataclass(frozen=True)
class CrossFit:
    """Margins of rows by models that did not see them.

    Attributes:
        margins: Float64[n], NaN where no model left the row out.
        fold: Int64[n], `NONE` where no model left the row out.
        models: by fold.
    """

    margins: Floats
    fold: Ints
    models: dict[int, Model]


def cross_fit(rows: Rows, form: Form = "auto", seed: int = 0, fold: Ints | None = None) -> CrossFit:
    """Fit on four fifths of the clusters and score the fifth that was left out, five times.

    Args:
        rows: pairs as labelled, in an order that is fixed by their ids.
        form: of the fits; `auto` chooses within each training part.
        seed: of the folds.
        fold: which part each row is in, Int64[n], if the clusters do not say: accuracies that are
            reported come from folds of clusters.
    """
    fold = cluster_folds(rows.clusters, seed) if fold is None else fold
    margins = np.full(len(rows), np.nan)
    models = {}
    with threadpool_limits(1, user_api="blas"):
        for k in np.unique(fold[fold != NONE]):
            held = fold == k
            models[int(k)] = _fit(rows.take(~held), form, seed)
            margins[held] = models[int(k)].scores(rows.data.take(held))
    return CrossFit(margins, fold, models)


@dataclass(frozen=True)
class Skill:
    """How well margins of held-out rows agree with the labels.

    Attributes:
        accuracy: with its interval; a tie counts one half.
        slope: what makes the margins log odds (see `logistic_slope`).
        ece: expected calibration error of the margins times the slope, over both orders.
    """

    accuracy: Estimate
    slope: float
    ece: float

    @property
    def teaches_nothing(self) -> bool:
        """Whether the labels teach nothing that the scorer can see.

        So it is where the slope is not above 0, or the accuracy is less than one standard error
        above one half, or nothing was held out.
        """
        better = self.accuracy.value - 0.5 >= self.accuracy.se  # False for NaN
        return not (self.slope > 0 and better)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "accuracy": self.accuracy.as_dict(),
            "slope": self.slope,
            "ece": self.ece if np.isfinite(self.ece) else None,
            "teaches_nothing": self.teaches_nothing,
        }


def skill(margins: Floats, clusters: pl.Series | NDArray[Any]) -> Skill:
    """Measure margins of held-out rows as labelled; NaN margins are left out.

    Args:
        margins: Float64[n].
        clusters: which rows belong together, length n.
    """
    there = ~np.isnan(margins)
    kept = margins[there]
    accuracy = clustered_mean(hits(kept), codes(clusters)[there])
    slope = logistic_slope(kept)
    ece = calibration_errors(slope * kept).ece if len(kept) else np.nan
    return Skill(accuracy, slope, ece)
