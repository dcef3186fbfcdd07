"""Density ratio of the prompts of good and of bad answers, for methods on unpaired answers."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, field_validator
from scipy.special import expit
from threadpoolctl import threadpool_limits

from labelers.combine.scoring import Floats, Ints
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError, DataError
from prefactory.preferences.trust import auc
from prefactory.step import Labeler, Scope, State
from prefactory.tables import SCORE, Shape, last_user_text

Bools = NDArray[np.bool_]
_NORMAL = 1.96


class DensityRatio(Labeler):
    """Add `density_ratio`: how much likelier an answer's prompt is among good answers than bad.

    Underlying distribution matching of BCO (arXiv:2404.04656): thumbs up and down seldom come from
    the same prompts, and then a classifier of answers learns the prompts. Bad answers are weighed
    by `p(good | prompt) / p(bad | prompt)`, so that their prompts look like those of the good ones;
    good answers have 1. `prefactory train bco` and `kto` read the column.

    p is a logistic regression with balanced classes on frozen embeddings of the last user message,
    so that the ratio is one of densities whatever the share of good answers. Whether it tells the
    classes apart is measured on prompts that it did not see: if it can't (lower end of the 95 %
    interval of its AUC at .5 or below), the prompts coincide and there is nothing to match.

    Attributes:
        objective: whose score says which answers are good; one without it has no ratio (null).
        threshold: an answer is good from this score on.
        sample: most answers of a class that the classifier sees, drawn by id.
        clip: least and greatest ratio.
        on_same: prompts that coincide are an `error`, or all ratios are `one`.
        folds: of the measurement, by prompt.
        encoder: of the prompts.

    `info`: `good`, `bad` (answers), `auc`, `auc_se`, `clipped` (share of the ratios of bad answers
    in the sample that are cut), and `matched` (false where all are 1).
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    scope: ClassVar[Scope] = "dataset"

    objective: Annotated[str, Field(min_length=1)] = "label"
    threshold: float = 0.5
    sample: int = Field(default=1024, ge=2)
    clip: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.5, 10.0)
    on_same: Literal["error", "one"] = "error"
    folds: int = Field(default=5, ge=2)
    encoder: Encoder = Encoder()

    @field_validator("clip")
    @classmethod
    def _least_first(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError("clip: the least ratio stands first")
        return value

    def takes(self) -> tuple[Shape, ...]:
        """RESPONSES: of pairs each prompt has a good and a bad answer."""
        return (Shape.RESPONSES,)

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """`score_<objective>` (Float64)."""
        return {f"{SCORE}{self.objective}": pl.Float64()}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`density_ratio` (Float64)."""
        return {"density_ratio": pl.Float64()}

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to `response_id`, `prompt_id`, `good` (null: no score) and vectors."""
        vectors = self._vectors(table, ctx)
        column = pl.Series("vector", vectors, pl.Array(pl.Float32, vectors.shape[1]))
        good = pl.col(f"{SCORE}{self.objective}") >= self.threshold
        return table.select("response_id", "prompt_id", good=good).with_columns(column)

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Fit the classifier, and measure whether it tells the classes apart.

        Args:
            parts: the rows of `fit_shard`, sorted by `response_id`.
            ctx: draws the sample by answer, and the folds by prompt.

        Returns:
            State with the table `weights` (`weight` of each dimension, the intercept last).

        Raises:
            DataError: one class has no answer; or prompts coincide, and that is an error.
        """
        rows = parts.filter(pl.col("good").is_not_null())
        counts = {good: rows.filter(pl.col("good") == good).height for good in (True, False)}
        if not all(counts.values()):
            raise DataError(
                f"labelers.DensityRatio: {counts[True]} answers are good and {counts[False]} bad "
                f"by {SCORE}{self.objective} >= {self.threshold:g}; it needs both"
            )
        drawn = rows.with_columns(ctx.uniform(rows["response_id"], "sample"))
        drawn = drawn.sort("uniform", "response_id")
        drawn = drawn.filter(pl.int_range(pl.len()).over("good") < self.sample).sort("response_id")
        x, good = drawn["vector"].to_numpy().astype(np.float64), drawn["good"].to_numpy()
        fold = (ctx.uniform(drawn["prompt_id"], "fold").to_numpy() * self.folds).astype(np.int64)
        area, error = auc(_out_of_fold(x, good, fold), good)
        matched = bool(area - _NORMAL * error > 0.5)
        if not matched and self.on_same == "error":
            raise DataError(
                "labelers.DensityRatio: the prompts of good and bad answers can't be told apart "
                f"(AUC {area:.3f} +- {error:.3f} on prompts held out), so there is nothing to "
                "match: leave the step out, and bco counts all answers alike; or on_same: one"
            )
        found = fitted(x, good) if matched else Classifier(np.zeros(x.shape[1]), 0.0)
        ratio = np.exp(found.log_odds(x[~good]))
        cut = float(((ratio < self.clip[0]) | (ratio > self.clip[1])).mean())
        info = {
            "good": counts[True], "bad": counts[False], "auc": round(area, 6),
            "auc_se": round(error, 6), "clipped": round(cut, 6), "matched": matched,
        }  # fmt: skip
        weights = pl.DataFrame({"weight": [*found.weights.tolist(), found.intercept]})
        return State({"weights": weights}, info)

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Ratios of RESPONSES; see `adds`."""
        if not table.height:
            return pl.DataFrame(schema=self.adds(Shape.RESPONSES))
        weights = ctx.fitted.tables["weights"]["weight"].to_numpy()
        found = Classifier(weights[:-1], float(weights[-1]))
        ratio = np.clip(np.exp(found.log_odds(self._vectors(table, ctx))), *self.clip)
        score = pl.col(f"{SCORE}{self.objective}")
        return table.select(
            pl.when(score >= self.threshold)
            .then(1.0)
            .when(score.is_not_null())
            .then(pl.Series(ratio))
            .cast(pl.Float64)
            .alias("density_ratio")
        )

    def _vectors(self, table: pl.DataFrame, ctx: Context) -> NDArray[np.float32]:
        if ctx.embed is None:
            raise ConfigError("labelers.DensityRatio needs an encoder and this run has none")
        texts = table.select(last_user_text(pl.col("prompt"))).to_series()
        return np.asarray(ctx.embed(self.encoder, texts), dtype=np.float32)


class Classifier(NamedTuple):
    """Log odds that an answer is good, linear in the vector of its prompt.

    Attributes:
        weights: Float64[d].
        intercept: of balanced classes.
    """

    weights: Floats
    intercept: float

    def log_odds(self, vectors: NDArray[np.floating]) -> Floats:
        """Of n rows, each from itself alone, Float64[n]."""
        rows = np.ascontiguousarray(vectors, dtype=np.float64)
        result: Floats = (rows * self.weights).sum(axis=1) + self.intercept
        return result


def fitted(vectors: Floats, good: Bools) -> Classifier:
    """Logistic regression with balanced classes and the penalty of scikit-learn's default (C = 1).

    Args:
        vectors: Float64[n, d].
        good: Bool[n], both classes.
    """
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(class_weight="balanced", solver="newton-cg", tol=1e-8)
    with threadpool_limits(1, user_api="blas"):
        model.fit(vectors, good)
    return Classifier(np.asarray(model.coef_[0], np.float64), float(model.intercept_[0]))


def _out_of_fold(vectors: Floats, good: Bools, fold: Ints) -> Floats:
    """Probability that each answer is good, by a classifier of the other folds; .5 without one."""
    out = np.full(len(good), 0.5)
    for f in np.unique(fold):
        held = fold == f
        if np.unique(good[~held]).size == 2:
            out[held] = expit(fitted(vectors[~held], good[~held]).log_odds(vectors[held]))
    return np.round(out, 9)
