"""Rows leave that add least information: ISA, Information-based Sub-sampling for Alignment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from filters.selection import information as info
from filters.selection.baseline import Measure, against_random
from filters.selection.mixture import (
    Axes,
    Covariance,
    Density,
    auto_dims,
    axes_of,
    fit_mixture,
    projected,
    sums_of,
)
from filters.selection.subsample import Subsample, decided, numbered
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError
from prefactory.measures import exact
from prefactory.measures.portable import logsumexp
from prefactory.step import State
from prefactory.step.exchange import Concluded, Rounds
from prefactory.tables import ROW_ID, SIDES, Shape, question_and_answer, shape_of

Floats = NDArray[np.float64]


class Elements(NamedTuple):
    """Distinct responses, and where the rows find theirs.

    Attributes:
        ids: String[m].
        vectors: Float32[m, d].
        desirable: Float64[m], 1 desirable, 0 not, between if sources differ, NaN if unknown.
        of_rows: Int64[n, 1] for RESPONSES, Int64[n, 2] (chosen, rejected) for PAIRS.
    """

    ids: pl.Series
    vectors: NDArray[np.float32]
    desirable: Floats
    of_rows: NDArray[np.int64]


class ISA(Rounds, Subsample):
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

    Of more than `sample` answers the mixture is fitted to so many, drawn by seed and id, and all
    get their likelihood: with p parameters it is expected to be p / 2 `sample` nats an answer below
    what the best fit to all would reach (Akaike 1973, as samples grow): .016 at the defaults'
    4,289. The fit is rounds over runs of rows, with the same bits however these are cut; no worker
    holds more than `--fit-rows` rows of vectors, that sample, and ids and a few numbers of all
    rows.

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
        sample: answers that the mixture is fitted to, at most.
        encoder: sentence encoder.

    Example:
        - filters.ISA: {fraction: 0.1}
    """

    version: ClassVar[int] = 3

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
    sample: int = Field(default=1 << 17, ge=10)
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

    def look(self, parts: pl.DataFrame, known: State | None, ctx: Context) -> State:
        """Sums of a run's answers, then those that the mixture is fitted to, then likelihoods."""
        if not parts.height:
            return State(info={"d": 0})
        elements = _elements(parts)
        draws = ctx.uniform(elements.ids, "sample").to_numpy()
        if known is None:
            sums = sums_of(elements.vectors)
            first = np.sort(draws)[: self.sample]
            tables = {"draws": pl.DataFrame({"draw": first}), "sums": _halves(sums)}
            return State(tables, {"d": elements.vectors.shape[1], "answers": len(draws)})
        axes = _axes(known)
        if "mixture" not in known.tables:
            few = draws <= known.info["last"]
            points = projected(elements.vectors[few], axes)
            columns = {"id": elements.ids.filter(few), "point": _column(points)}
            return State({"points": pl.DataFrame(columns).with_columns(
                desirable=pl.Series(elements.desirable[few])
            )}, {"d": known.info["d"]})  # fmt: skip
        found = _density(known).parts(projected(elements.vectors, axes))
        answers = {
            "id": elements.ids,
            "loglik": logsumexp(found),
            "component": found.argmax(axis=1),
        }
        names = [c for c in ("tokens", "group_by", "desirable") if c in parts.columns]
        rows = parts.select(pl.col(parts.columns[0]).alias("row_id"), *names)
        sides = {f"answer_{i}": elements.ids.gather(at) for i, at in enumerate(elements.of_rows.T)}
        tables = {"answers": pl.DataFrame(answers), "rows": rows.with_columns(**sides)}
        return State(tables, {"d": known.info["d"]})

    def conclude(self, looks: Sequence[State], known: State | None, ctx: Context) -> Concluded:
        """Principal components, then the mixture, then the choice.

        Returns:
            in the end the table `rows` (see `filters.selection.subsample.ROWS`) and the facts of
            the fit: sizes, dimensions, mixture weights, convergence, entropy, quantiles of
            `loglik`.
        """
        looks = [look for look in looks if look.info["d"]]
        if not looks:
            none = np.zeros(0)
            ids = pl.Series([], dtype=pl.String)
            state = State({"rows": decided(ids, none > 0, none, none)}, {"n": 0, "k": 0})
            return Concluded(state, last=True)
        if known is None:
            return Concluded(self._projection(looks), last=False)
        if "mixture" not in known.tables:
            return Concluded(self._mixture(looks, known, ctx), last=False)
        return Concluded(self._chosen(looks, known, ctx), last=True)

    def _projection(self, looks: Sequence[State]) -> State:
        d, answers = looks[0].info["d"], sum(look.info["answers"] for look in looks)
        draws = np.sort(np.concatenate([look.tables["draws"]["draw"].to_numpy() for look in looks]))
        sums = exact.total(
            exact.Whole(*(look.tables["sums"][half].to_numpy().reshape(d + 1, d + 1)
                          for half in exact.Whole._fields))
            for look in looks
        )  # fmt: skip
        axes = axes_of(sums, auto_dims(answers, d) if self.dims == "auto" else min(self.dims, d))
        tables = {"mean": pl.DataFrame({"mean": axes.mean})}
        if axes.basis is not None:
            tables["axes"] = pl.DataFrame({"axis": _column(axes.basis)})
        last = float(draws[min(self.sample, draws.size) - 1])
        return State(tables, {"d": d, "answers": answers, "last": last, "kept": axes.kept})

    def _mixture(self, looks: Sequence[State], known: State, ctx: Context) -> State:
        drawn = pl.concat([look.tables["points"] for look in looks]).sort("id")
        points, desirable = drawn["point"].to_numpy(), drawn["desirable"].to_numpy()
        components = max(1, min(self.n_components, len(points) // 2))
        start = None
        if self.init == "labels" and components == 2:
            share = np.where(np.isnan(desirable), 0.5, desirable)
            start = np.stack([1.0 - share, share], axis=1)
        mixture = fit_mixture(
            points,
            components,
            seed=int(ctx.rng("mixture").integers(1 << 32)),
            covariance=self.covariance,
            restarts=self.restarts,
            responsibilities=start,
        )
        density, r = Density.of(mixture), points.shape[1]
        table = pl.DataFrame({"weight": density.weights, "mean": _column(density.means),
                              "root": _column(density.roots.reshape(-1, r * r))})  # fmt: skip
        info = {"fitted": len(points), "converged": mixture.converged_, "n_iter": mixture.n_iter_}
        return State({**known.tables, "mixture": table}, {**known.info, **info})

    def _chosen(self, looks: Sequence[State], known: State, ctx: Context) -> State:
        runs = pl.concat([look.tables["rows"] for look in looks])
        parts = runs.sort("row_id")
        answers = pl.concat([look.tables["answers"] for look in looks]).sort("id")
        numbers = answers.select("id").with_row_index("n")
        sides = [c for c in parts.columns if c.startswith("answer_")]
        of_rows = np.stack(
            [
                parts.select(id=side).join(numbers, on="id", how="left", maintain_order="left")["n"]
                for side in sides
            ],
            axis=1,
        ).astype(np.int64)
        ids, n = parts["row_id"], parts.height
        element_loglik = answers["loglik"].to_numpy()
        scaled = info.scale(element_loglik, self.scaling)
        change = info.information(scaled, self.mode)
        score, loglik = change[of_rows[:, 0]], element_loglik[of_rows[:, 0]]
        if len(sides) == 2:
            other = of_rows[:, 1]
            score = info.combine(score, change[other], self.pair_rule)
            loglik = np.minimum(loglik, element_loglik[other])
        outlier = info.trimmed(loglik, self.trim)
        weights = known.tables["mixture"]["weight"].to_list()
        groups = self._groups(parts, answers["component"].to_numpy(), of_rows, len(weights))
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
            "answers": answers.height,
            "fitted": known.info["fitted"],
            "dims": [known.info["d"], len(known.tables["mixture"]["mean"][0])],
            "variance_kept": known.info["kept"],
            "components": len(weights),
            "weights": weights,
            "converged": known.info["converged"],
            "n_iter": known.info["n_iter"],
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
        table = decided(ids, chosen, score, loglik, outlier)
        in_runs = runs.select("row_id").join(table, on="row_id", how="left", maintain_order="left")
        return State({"rows": in_runs}, facts)

    def _groups(
        self,
        parts: pl.DataFrame,
        component: NDArray[np.int64],
        of_rows: NDArray[np.int64],
        components: int,
    ) -> NDArray[np.int64]:
        if self.quotas == "component":
            base = components ** np.arange(of_rows.shape[1])
            return numbered(pl.Series(component[of_rows] @ base))
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
        vectors = parts["response"].to_numpy()
        return Elements(parts.to_series(0), vectors, desirable, np.arange(n)[:, None])
    ids = pl.concat([parts["chosen_id"].alias("id"), parts["rejected_id"].alias("id")])
    distinct, first, inverse = np.unique(ids.to_numpy(), return_index=True, return_inverse=True)
    vectors = np.concatenate([parts[side].to_numpy() for side in SIDES])[first]
    chosen = np.bincount(inverse[:n], minlength=distinct.size)
    desirable = chosen / np.bincount(inverse)
    return Elements(pl.Series(distinct), vectors, desirable, inverse.reshape(2, n).T)


def _column(matrix: Floats) -> pl.Series:
    return pl.Series(matrix, dtype=pl.Array(pl.Float64, matrix.shape[1]))


def _halves(sums: exact.Whole) -> pl.DataFrame:
    return pl.DataFrame({"high": sums.high.ravel(), "low": sums.low.ravel()})


def _axes(known: State) -> Axes:
    basis = known.tables["axes"]["axis"].to_numpy() if "axes" in known.tables else None
    return Axes(known.tables["mean"]["mean"].to_numpy(), basis, known.info["kept"])


def _density(known: State) -> Density:
    table = known.tables["mixture"]
    means = table["mean"].to_numpy()
    roots = table["root"].to_numpy().reshape(len(means), means.shape[1], means.shape[1])
    return Density(table["weight"].to_numpy(), means, roots)


def _quantiles(loglik: Floats) -> dict[str, float]:
    shares = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
    return dict(zip(map(str, shares), np.quantile(loglik, shares).tolist(), strict=True))
