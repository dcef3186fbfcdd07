"""Linear probes: can chosen and rejected answers be told apart, on prompts never seen?

After "More is Less" (arXiv 2504.02193), whose exact probe is not public; this one is ours: L2
logistic regression (C = 1) on standardised columns, five folds cut by prompt, every pair judged by
a probe that saw no pair of its prompt. With fewer than ten rows for each column, embeddings are
first reduced to their 50 principal directions, found on the training folds.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from audit.features import COUNTS, FLAGS
from audit.finding import Metric
from audit.stats import auc, share

FOLDS = 5
DIRECTIONS = 50
BUCKETS = 1 << 14
WORD_SIZE = 0.05
"""Size of a word beside a style column of unit size: more only learns the training folds' words."""
MOST_BOOST = 10.0
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_WORD = r"[\p{L}\p{N}\p{M}']+|[^\s\p{L}\p{N}]"


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

    def split(
        self, held: NDArray[np.bool_], label: NDArray[np.bool_], *, centre: bool
    ) -> tuple[Any, Any]:
        """Columns of the other rows and of these, scaled by the others (CSR if there are words).

        Dense columns get unit size. Then every column grows by the ratio of its size to its spread
        within the sides: it is 1 for what says nothing, and large for a mark that hardly varies on
        a side, which a ridge would otherwise shrink like any other rare word (ours).
        """
        sign = np.where(label[~held], 1.0, -1.0)
        train, test = self.dense[~held], self.dense[held]
        middle = train.mean(axis=0) if centre else np.zeros(train.shape[1])
        size = np.sqrt(((train - middle) ** 2).mean(axis=0))
        size[size < 1e-12] = 1.0
        train, test = (train - middle) / size, (test - middle) / size
        boost = _boost((train**2).mean(axis=0), (train * sign[:, None]).mean(axis=0))
        train, test = train * boost, test * boost
        if self.words is not None:
            return self._with_words(held, sign, train, test, centre=centre)
        if train.shape[1] > DIRECTIONS and train.shape[0] < 10 * train.shape[1]:
            directions = np.linalg.eigh(train.T @ train)[1][:, ::-1][:, :DIRECTIONS]
            train, test = train @ directions, test @ directions
        return train, test

    def _with_words(
        self, held: NDArray[np.bool_], sign: Floats, train: Floats, test: Floats, *, centre: bool
    ) -> tuple[Any, Any]:
        train_words, test_words = self.words[~held], self.words[held]
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


@dataclass(frozen=True)
class Probe:
    """What a probe achieves on prompts that it never saw.

    Attributes:
        accuracy: share judged right (a tie counts one half).
        area: AUC of the decision values.
        decision: decision value of every row, above 0 for chosen; paired: of every pair, above 0
            where the probe agrees with the label.
    """

    accuracy: Metric
    area: Metric
    decision: Floats


def paired(chosen: Columns, rejected: Columns, folds: Ints, prompts: Ints) -> Probe:
    """Tell which of two answers was chosen from the difference of their columns.

    Prompt content cancels out. There is no intercept: the sides have no prior.

    Args:
        chosen: n answers.
        rejected: the answers that they were chosen over.
        folds: fold of every pair.
        prompts: prompt number of every pair.
    """
    sign = np.where(np.arange(folds.size) % 2 == 0, 1.0, -1.0)  # the fit is the same for any signs
    gaps = (chosen - rejected).signed(sign)
    decision = _out_of_fold(gaps, sign > 0, folds, intercept=False) * sign
    right = (np.sign(decision) + 1) / 2
    both = np.concatenate([decision, -decision])
    truth = np.arange(both.size) < decision.size
    return Probe(share(right, prompts), auc(both, truth, np.unique(prompts).size), decision)


def pointwise(columns: Columns, label: NDArray[np.bool_], folds: Ints, prompts: Ints) -> Probe:
    """Tell chosen from rejected answers one at a time.

    Args:
        columns: n answers.
        label: whether each was chosen.
        folds: fold of every answer.
        prompts: its prompt number.
    """
    decision = _out_of_fold(columns, label, folds, intercept=True)
    right = np.where(decision == 0, 0.5, (decision > 0) == label)
    return Probe(share(right, prompts), auc(decision, label, np.unique(prompts).size), decision)


def _out_of_fold(
    columns: Columns, label: NDArray[np.bool_], folds: Ints, *, intercept: bool
) -> Floats:
    """Decision value of every row by a probe that saw the other folds; 0 if it can't learn."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    decision = np.zeros(folds.size)
    for fold in np.unique(folds):
        held = folds == fold
        if np.unique(label[~held]).size < 2:
            continue
        train, test = columns.split(held, label, centre=intercept)
        model = LogisticRegression(C=1.0, solver="newton-cg", fit_intercept=intercept, tol=1e-6)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(train, label[~held])
        decision[held] = np.round(model.decision_function(test), 9)
    return decision


def surface(texts: pl.Series, style: pl.DataFrame) -> Columns:
    """What an answer looks like, without what it means: style, opening words and word counts.

    Args:
        texts: String [N].
        style: `style_features` of the texts.

    Returns:
        Dense: log counts, densities and flags. Words: the first three together, and all words and
        signs, hashed.
    """
    words = [_hashed(texts, 3), _hashed(texts, None)]
    return Columns(_style(style), sparse.hstack(words, format="csr"))


def _style(style: pl.DataFrame) -> Floats:
    counts = [*COUNTS, "markdown", "chars", "words", "sentences", "lines"]
    chars = pl.col("chars").clip(lower_bound=1)
    columns = style.select(
        *[(pl.col(c) + 1).log().alias(c) for c in counts],
        *[(100 * pl.col(c) / chars).alias(f"{c}_density") for c in (*COUNTS, "markdown")],
        *[pl.col(c).cast(pl.Float64) for c in FLAGS],
        word_length=pl.col("chars") / pl.col("words").clip(lower_bound=1) / 5,
    ).to_numpy()
    return np.asarray(columns, dtype=np.float64)


def _hashed(texts: pl.Series, first: int | None) -> Any:  # noqa: ANN401 - scipy has no types
    """Which hashed words a text holds (the first ones together as one if `first`), CSR of 1."""
    word = pl.col("w")
    words = texts.rename("w").to_frame().select(word.str.to_lowercase().str.extract_all(_WORD))
    if first is not None:
        words = words.select(w=pl.concat_list(word.list.head(first).list.join(" ")))
    rows = words.with_row_index("row").explode("w").drop_nulls()
    cells = rows.select("row", column=word.hash(0) % BUCKETS).unique().sort("row", "column")
    at = (cells["row"].to_numpy(), cells["column"].to_numpy())
    return sparse.csr_matrix((np.ones(cells.height), at), shape=(texts.len(), BUCKETS))
