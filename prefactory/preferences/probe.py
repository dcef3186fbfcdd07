"""Linear probes: can chosen and rejected answers be told apart, on prompts never seen?

After "More is Less" (arXiv 2504.02193), whose exact probe is not public; this one is ours: L2
logistic regression (C = 1) on standardised columns, in folds cut by prompt, every pair judged by a
probe that saw no pair of its prompt. With fewer than ten rows for each column, embeddings are first
reduced to their 50 principal directions, found on the training folds.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

DIRECTIONS = 50
WORD_SIZE = 0.05
"""Size of a word beside a style column of unit size: more only learns the training folds' words."""
MOST_BOOST = 10.0
LEAST = 40
"""Answers of a side that a probe needs."""
PAIRED_LIMIT = 0.70
POINTWISE_LIMIT = 0.65
"""Accuracies of a probe, pair by pair and answer by answer, above which the audit says so (ours,
after arXiv 2504.02193)."""
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Columns:
    """What a probe reads of n answers.

    Attributes:
        dense: Float64[n, d], standardised by the probe.
        words: CSR [n, w], 1 where a word is there; None if there are none.
    """

    dense: Floats = field(repr=False)
    words: Any = field(default=None, repr=False)

    def __sub__(self, other: Columns) -> Columns:
        """Columns of the first answers minus those of the second."""
        words = None if self.words is None else self.words - other.words
        return Columns(self.dense - other.dense, words)

    def signed(self, sign: Floats) -> Columns:
        """Every row times its sign."""
        words = None if self.words is None else sparse.diags(sign) @ self.words
        return Columns(self.dense * sign[:, None], words)

    def below(self, other: Columns) -> Columns:
        """The rows of the first, then those of the second."""
        words = None if self.words is None else sparse.vstack([self.words, other.words], "csr")
        return Columns(np.concatenate([self.dense, other.dense]), words)

    def take(self, rows: Ints) -> Columns:
        """Some rows, by place."""
        return Columns(self.dense[rows], None if self.words is None else self.words[rows])

    def split(self, learns: Bools, held: Bools, label: Bools, *, centre: bool) -> tuple[Any, Any]:
        """Columns of rows to learn from and of rows to judge, scaled by the first (CSR if words).

        Dense columns get unit size. Then every column grows by the ratio of its size to its spread
        within the sides: it is 1 for what says nothing, and large for a mark that hardly varies on
        a side, which a ridge would otherwise shrink like any other rare word (ours).
        """
        sign = np.where(label[learns], 1.0, -1.0)
        train, test = self.dense[learns], self.dense[held]
        middle = train.mean(axis=0) if centre else np.zeros(train.shape[1])
        size = np.sqrt(((train - middle) ** 2).mean(axis=0))
        size[size < 1e-12] = 1.0
        train, test = (train - middle) / size, (test - middle) / size
        boost = _boost((train**2).mean(axis=0), (train * sign[:, None]).mean(axis=0))
        train, test = train * boost, test * boost
        if self.words is not None:
            words = (self.words[learns], self.words[held])
            return _with_words(words, sign, train, test, centre=centre)
        if train.shape[1] > DIRECTIONS and train.shape[0] < 10 * train.shape[1]:
            directions = np.linalg.eigh(train.T @ train)[1][:, ::-1][:, :DIRECTIONS]
            train, test = train @ directions, test @ directions
        return train, test


def _with_words(
    words: tuple[Any, Any], sign: Floats, train: Floats, test: Floats, *, centre: bool
) -> tuple[Any, Any]:
    train_words, test_words = words
    mean = np.asarray(train_words.mean(axis=0)).ravel()
    square = np.asarray(train_words.multiply(train_words).mean(axis=0)).ravel()
    toward = (train_words.T @ sign) / sign.size
    if centre:
        square, toward = square - mean**2, toward - mean * sign.mean()
    scale = sparse.diags(WORD_SIZE * _boost(square, toward))
    pairs = ((train, train_words @ scale), (test, test_words @ scale))
    return tuple(sparse.hstack([sparse.csr_matrix(d), w], "csr") for d, w in pairs)


def _boost(square: Floats, toward: Floats) -> Floats:
    """Size of columns over their spread within the sides, 1 to `MOST_BOOST`.

    Args:
        square: mean square of each column.
        toward: mean of each column times the side (1 and -1).
    """
    within = np.maximum(square - toward**2, square / MOST_BOOST**2)
    return np.sqrt(np.divide(square, within, out=np.ones_like(square), where=within > 0))


def paired_decisions(
    chosen: Columns, rejected: Columns, folds: Ints, fitted: Bools | None = None
) -> Floats:
    """Tell which of two answers was chosen from the difference of their columns.

    Prompt content cancels out. There is no intercept: the sides have no prior.

    Args:
        chosen: n answers.
        rejected: the answers that they were chosen over.
        folds: fold of every pair.
        fitted: Bool[n], pairs that probes may learn from; by default all.

    Returns:
        Float64[n], above 0 where a probe that did not see the pair's fold agrees with the label.
    """
    sign = np.where(np.arange(folds.size) % 2 == 0, 1.0, -1.0)  # the fit is the same for any signs
    gaps = (chosen - rejected).signed(sign)
    return _out_of_fold(gaps, sign > 0, folds, fitted, intercept=False) * sign


def pointwise_decisions(
    columns: Columns, label: Bools, folds: Ints, fitted: Bools | None = None
) -> Floats:
    """Tell chosen from rejected answers one at a time.

    Args:
        columns: n answers.
        label: whether each was chosen.
        folds: fold of every answer.
        fitted: Bool[n], answers that probes may learn from; by default all.

    Returns:
        Float64[n], above 0 for chosen.
    """
    return _out_of_fold(columns, label, folds, fitted, intercept=True)


def _out_of_fold(
    columns: Columns, label: Bools, folds: Ints, fitted: Bools | None, *, intercept: bool
) -> Floats:
    """Decision value of every row by a probe that saw the other folds; 0 if it can't learn."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    decision = np.zeros(folds.size)
    for fold in np.unique(folds):
        held = folds == fold
        learns = ~held if fitted is None else fitted & ~held
        if np.unique(label[learns]).size < 2:
            continue
        train, test = columns.split(learns, held, label, centre=intercept)
        model = LogisticRegression(C=1.0, solver="newton-cg", fit_intercept=intercept, tol=1e-6)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(train, label[learns])
        decision[held] = np.round(model.decision_function(test), 9)
    return decision
