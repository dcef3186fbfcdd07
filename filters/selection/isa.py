"""Rows leave that add least information: ISA, Information-based Sub-sampling for Alignment."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator
from sklearn.mixture import GaussianMixture

from filters.selection import information as info
from filters.selection.baseline import Measure, against_random
from filters.selection.mixture import (
    Covariance,
    auto_dims,
    fit_mixture,
    project,
)
from filters.selection.subsample import Subsample, decided, numbered
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError
from prefactory.near.vectors import one_thread
from prefactory.step import State
from prefactory.tables import ROW_ID, SIDES, Shape, question_and_answer, shape_of

Floats = NDArray[np.float64]


class Elements(NamedTuple):
    """Distinct responses, and where the rows find theirs.

    Attributes:
        vectors: Float32[m, d].
        desirable: Float64[m], 1 desirable, 0 not, between if sources differ, NaN if unknown.
        of_rows: Int64[n, 1] for RESPONSES, Int64[n, 2] (chosen, rejected) for PAIRS.
    """

    vectors: NDArray[np.float32]
    desirable: Floats
    of_rows: NDArray[np.int64]


class ISA(Subsample):
    """Keep a budget of the rows that carry most information under a Gaussian mixture.

    Every distinct answer is embedded with its question (last user message, line end, answer) as a
    unit vector, projected on principal components, and given a likelihood by a mixture whose
    components stand for desirable and undesirable answers. `filters.selection.information` turns
    likelihoods into entropy changes. A pair's score combines its two answers; pairs are never
    split.

    The paper (arXiv:2411.10545) leaves open which reading of the entropy change is meant, and the
    readings select opposite ends: with `pointwise_raw` and `high` the least likely answers stay,
    with `pointwise_normalised` and `high` the likeliest. That is why `mode`, `direction` and a
    trim of outliers are fields, and why a `RandomSubsample` of the same size belongs beside it.

    Exactly the budgeted number of rows stays (for `tokens` see `Subsample`). Rows below the `trim`
    quantile of the likelihood (of a pair the lower one) are chosen only if the budget can't be
    filled without them, the likeliest first. Answers that are all the same are sampled uniformly.
    Ties are broken at random.

    Reasons: `trimmed_outlier`, `not_selected`; the detail is score and log-likelihood.

    Attributes:
        mode: reading of the entropy change, see `filters.selection.information.information`.
        direction: whether rows with a `high` or a `low` change stay.
        scaling: interval of the scaled likelihood, [0, 1] (`unit`) or [-1, 0] (`minus_one`).
        trim: quantile of the log-likelihood below which rows are outliers; 0 for none.
        quotas: groups that get shares in proportion to their size: `label`, `component` (the
            likelier one; of pairs the combination of both sides'), `none`. By default `label` if
            one is set and the rows are RESPONSES, else `none`. `group_by` takes a column instead.
        select: the `top` scores, or a `sample` without replacement whose weights are the scores
            scaled to [0, 1] (Gumbel-top-k).
        pair_rule: how the scores of the two sides of a pair make one.
        dims: principal components; `auto` is at most 64, d and a twentieth of the answers.
        n_components: Gaussians of the mixture (fewer if there are under two answers for each).
        covariance: `full` or `diag`.
        restarts: k-means starts of which the likeliest fit stays.
        init: start of the fit: `kmeans`, or `labels` (desirable against undesirable; chosen
            against rejected for pairs).
        encoder: sentence encoder.

    Example:
        - filters.ISA: {fraction: 0.1}
    """

    version: ClassVar[int] = 2

    mode: info.Mode = "pointwise_raw"
    direction: Literal["high", "low"] = "high"
    scaling: info.Scaling = "unit"
    trim: float = Field(default=0.01, ge=0, lt=1)
    quotas: Literal["label", "component", "none"] | None = None
    select: Literal["top", "sample"] = "top"
    pair_rule: info.PairRule = "mean"
    dims: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    n_components: int = Field(default=2, ge=1)
    covariance: Covariance = "full"
    restarts: int = Field(default=5, ge=1)
    init: Literal["kmeans", "labels"] = "kmeans"
    encoder: Encoder = Field(default_factory=Encoder)

    @model_validator(mode="after")
    def _validate_labels(self) -> Self:
        if self.init == "labels" and self.n_components != 2:
            raise ValueError("init by labels makes 2 components; n_components must be 2")
        if self.group_by is not None and self.quotas not in (None, "none"):
            raise ValueError("set group_by or quotas, not both")
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The score of `label` (Float64) on RESPONSES, if it is set.

        Raises:
            ConfigError: for PAIRS when `quotas` go by label (a pair holds both), for RESPONSES when
                `quotas` or `init` go by labels and `label` is not set.
        """
        if shape == Shape.PAIRS and self.quotas == "label":
            raise ConfigError("quotas by label: a pair holds both labels; use component or none")
        by_label = self.quotas == "label" or self.init == "labels"
        if shape == Shape.RESPONSES and by_label and self.label is None:
            raise ConfigError("quotas or init by labels need the field label, a 0/1 objective")
        return super().needs(shape)

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Embed the answers of a shard.

        Args:
            table: RESPONSES or PAIRS.
            ctx: opens the encoder.

        Returns:
            RESPONSES: `response_id`, `response` (Array(Float32, d)), `desirable` (Boolean).
            PAIRS: `pair_id`, `chosen_id`, `rejected_id`, `chosen`, `rejected` (Array(Float32, d)).
            Both: `tokens` (Int64) and `group_by` (String), where the budget needs them.
        """
        if ctx.embed is None:
            raise ConfigError("ISA needs an encoder; this context has none")
        shape = shape_of(table)
        labels = self.label_columns(shape)
        sides = ["response"] if shape == Shape.RESPONSES else list(SIDES)
        texts = [table.select(text=question_and_answer(side)).to_series() for side in sides]
        vectors = np.asarray(ctx.embed(self.encoder, pl.concat(texts)), dtype=np.float32)
        parts = np.split(vectors, len(sides))
        dtype = pl.Array(pl.Float32, vectors.shape[1])
        embedded = [pl.Series(s, v, dtype=dtype) for s, v in zip(sides, parts, strict=True)]
        cost = self.cost_columns(shape)
        if shape == Shape.PAIRS:
            columns = table.select(ROW_ID[shape], "chosen_id", "rejected_id", *cost)
            return columns.with_columns(embedded)
        desirable = pl.col(labels[0]).fill_nan(None) > 0.5 if labels else pl.lit(None, pl.Boolean)
        columns = table.select(ROW_ID[shape], *cost, desirable=desirable)
        return columns.with_columns(embedded)

    @one_thread()
    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Fit the mixture, score every row and choose the budget.

        Args:
            parts: the rows of `fit_shard`, sorted by row id.
            ctx: its seed and step name are the randomness.

        Returns:
            State with the table `rows` (see `filters.selection.subsample.ROWS`) and the facts of
            the fit: sizes, dimensions, mixture weights, convergence, entropy, quantiles of
            `loglik`.
        """
        ids, n = parts.to_series(0), parts.height
        if not n:
            none = np.zeros(0)
            return State({"rows": decided(ids, none > 0, none, none)}, {"n": 0, "k": 0})
        elements = _elements(parts)
        points, variance = self._points(elements.vectors)
        mixture = self._mixture(points, elements.desirable, ctx)
        element_loglik = mixture.score_samples(points)
        scaled = info.scale(element_loglik, self.scaling)
        change = info.information(scaled, self.mode)
        score, loglik = change[elements.of_rows[:, 0]], element_loglik[elements.of_rows[:, 0]]
        if elements.of_rows.shape[1] == 2:
            other = elements.of_rows[:, 1]
            score = info.combine(score, change[other], self.pair_rule)
            loglik = np.minimum(loglik, element_loglik[other])
        outlier = info.trimmed(loglik, self.trim)
        groups = self._groups(parts, mixture.predict_proba(points), elements.of_rows)
        order = self._order(ids, score, loglik, outlier, ctx)
        places = self.places(parts, None if self.group_by is not None else groups)
        kept = places.again().fill(order)
        chosen = np.zeros(n, dtype=bool)
        chosen[kept] = True
        mean = Measure("mean information", "higher", lambda rows: float(score[rows].mean()))
        facts = {
            "n": n,
            "k": kept.size,
            **self.spent(parts, chosen),
            "baseline": against_random(mean, kept, places, ids, ctx),
            "answers": len(points),
            "dims": [elements.vectors.shape[1], points.shape[1]],
            "variance_kept": variance,
            "components": len(mixture.weights_),
            "weights": mixture.weights_.tolist(),
            "converged": mixture.converged_,
            "n_iter": mixture.n_iter_,
            "mode": self.mode,
            "direction": self.direction,
            "entropy": info.entropy(scaled),
            "entropy_raw": info.entropy(scaled, normalised=False),
            "loglik_quantiles": _quantiles(element_loglik),
            "outliers": int(outlier.sum()),
            "groups": np.bincount(places.group).tolist(),
            "chosen_by_group": np.bincount(
                places.group[kept], minlength=places.group.max() + 1
            ).tolist(),
        }
        return State({"rows": decided(ids, chosen, score, loglik, outlier)}, facts)

    def _points(self, vectors: NDArray[np.float32]) -> tuple[Floats, float]:
        m, d = vectors.shape
        dims = auto_dims(m, d) if self.dims == "auto" else min(self.dims, d)
        return project(vectors, dims)

    def _mixture(self, points: Floats, desirable: Floats, ctx: Context) -> GaussianMixture:
        components = max(1, min(self.n_components, len(points) // 2))
        start = None
        if self.init == "labels" and components == 2:
            share = np.where(np.isnan(desirable), 0.5, desirable)
            start = np.stack([1.0 - share, share], axis=1)
        return fit_mixture(
            points,
            components,
            seed=int(ctx.rng("mixture").integers(1 << 32)),
            covariance=self.covariance,
            restarts=self.restarts,
            responsibilities=start,
        )

    def _groups(
        self, parts: pl.DataFrame, responsibilities: Floats, of_rows: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        if self.quotas == "component":
            likelier = responsibilities.argmax(axis=1)[of_rows]
            base = responsibilities.shape[1] ** np.arange(of_rows.shape[1])
            return numbered(pl.Series(likelier @ base))
        if self.quotas in (None, "label") and "desirable" in parts.columns:
            return numbered(parts["desirable"].cast(pl.Int8))
        return np.zeros(parts.height, dtype=np.int64)

    def _order(
        self,
        ids: pl.Series,
        score: Floats,
        loglik: Floats,
        outlier: NDArray[np.bool_],
        ctx: Context,
    ) -> NDArray[np.int64]:
        keys = score if self.direction == "high" else -score
        if self.select == "sample":
            span = float(np.ptp(keys))
            weights = (keys - keys.min()) / span if span > 0 else np.ones(keys.size)
            keys = info.gumbel_keys(weights, ctx.uniform(ids, "gumbel").to_numpy())
        keys = np.where(outlier, loglik, keys)
        ties = ctx.uniform(ids, "tie").to_numpy()
        return np.lexsort((-ties, -keys, outlier)).astype(np.int64)


def _elements(parts: pl.DataFrame) -> Elements:
    """Find the distinct answers among the rows, in the order of their ids."""
    n = parts.height
    if "response" in parts.columns:
        desirable = parts["desirable"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        return Elements(parts["response"].to_numpy(), desirable, np.arange(n)[:, None])
    ids = pl.concat([parts["chosen_id"].alias("id"), parts["rejected_id"].alias("id")])
    distinct, first, inverse = np.unique(ids.to_numpy(), return_index=True, return_inverse=True)
    vectors = np.concatenate([parts[side].to_numpy() for side in SIDES])[first]
    chosen = np.bincount(inverse[:n], minlength=distinct.size)
    return Elements(vectors, chosen / np.bincount(inverse), inverse.reshape(2, n).T)


def _quantiles(loglik: Floats) -> dict[str, float]:
    shares = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
    return dict(zip(map(str, shares), np.quantile(loglik, shares).tolist(), strict=True))
