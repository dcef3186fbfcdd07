"""Who decides the weights of several objectives: the prompt, the need, or each answer's worst."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.optimize import minimize
from scipy.special import logsumexp, xlogy
from threadpoolctl import threadpool_limits

from labelers.combine import scoring
from labelers.combine.normalise import moments
from labelers.combine.scoring import Floats, Ints
from labelers.heads import ridge
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError, DataError
from prefactory.measures import portable
from prefactory.step import Labeler, Scope, State
from prefactory.tables import SCORE, SIDES, Shape, last_user_text

Name = Annotated[str, Field(min_length=1)]
_SIDES = {Shape.RESPONSES: ("",), Shape.PAIRS: tuple(f"{side}_" for side in SIDES)}
_OWN = {
    "pro": {"target", "preference", "mixing", "penalty", "folds", "encoder"},
    "tri_factor": {"goals", "risk", "floor"},
}


class Adapter(NamedTuple):
    """Softmax of a linear head: weights Float64[K, d] and intercepts Float64[K]."""

    weights: Floats
    intercepts: Floats

    def predict(self, vectors: NDArray[np.float32]) -> Floats:
        """Weights of K objectives, Float64[n, K] with rows that sum to 1, each from its own row."""
        heads = zip(self.weights, self.intercepts, strict=True)
        logits = [ridge.predict(vectors, w, float(b)) for w, b in heads]
        result: Floats = portable.softmax(np.stack(logits, axis=1))
        return result


def softmax_weights(rewards: Floats, temperature: float = 1.0, mixing: float = 0.0) -> Floats:
    """Labels of PRO (arXiv:2511.10656): `(1 - e) softmax(r / T) + e / K`, Float64[n, K].

    Args:
        rewards: Float64[n, K], normalised, of the preferred answer, or its margins (ours).
        temperature: T > 0.
        mixing: e in [0, 1]; ours, against weights that collapse on one objective.
    """
    equal = mixing / rewards.shape[1]
    result: Floats = (1 - mixing) * portable.softmax(rewards / temperature) + equal
    return result


def divergence(targets: Floats, weights: Floats) -> Floats:
    """KL(targets || weights) of each row in nats: Float64[n, K] twice -> Float64[n]."""
    result: Floats = (xlogy(targets, targets) - xlogy(targets, weights)).sum(axis=1)
    return result


def fit_adapter(vectors: NDArray[np.float32], targets: Floats, penalty: float = 1e-3) -> Adapter:
    """Softmax head of least mean KL(w* || f(x)) + penalty / 2 |W|^2, convex, by L-BFGS.

    Args:
        vectors: Float32[n, d], frozen embeddings of prompts; W acts on them centred, and scaled
            to a mean squared length of 1.
        targets: Float64[n, K], rows sum to 1.
        penalty: >= 0.
    """
    (n, d), k = vectors.shape, targets.shape[1]
    x = vectors.astype(np.float64)
    mean = x.mean(axis=0)
    x -= mean
    scale = math.sqrt(float((x**2).sum()) / n) or 1.0
    x /= scale

    def loss(flat: Floats) -> tuple[float, Floats]:
        w, b = flat[: k * d].reshape(k, d), flat[k * d :]
        logits = x @ w.T + b
        logs = logits - logsumexp(logits, axis=1, keepdims=True)
        error = (np.exp(logs) - targets) / n
        value = -float((targets * logs).sum()) / n + penalty / 2 * float((w**2).sum())
        return value, np.concatenate([(error.T @ x + penalty * w).ravel(), error.sum(axis=0)])

    options = {"maxiter": 2000, "ftol": 1e-14, "gtol": 1e-9}
    with threadpool_limits(1, user_api="blas"):  # bits must not depend on the cores
        flat = minimize(loss, np.zeros(k * (d + 1)), jac=True, method="L-BFGS-B", options=options).x
    weights = flat[: k * d].reshape(k, d) / scale
    return Adapter(weights, flat[k * d :] - (weights * mean).sum(axis=1))


def tri_factor(
    z: Floats,
    goals: Floats,
    risk: Floats,
    temperature: float = 1.0,
    floor: float = 0.0,
    previous: Floats | None = None,
    decay: float = 0.9,
) -> Floats:
    """Weights by weakness x risk x redundancy, after the words of arXiv:2602.11661; formulas ours.

    Weakness is `sigmoid((goal - mean z) / T)`, redundancy `1 / (1 + sum of positive correlations
    with the others)`.

    Args:
        z: Float64[n, K] on a frozen scale, no NaN, n > 0.
        goals: wanted mean of each, Float64[K].
        risk: prior, Float64[K], above 0 (1, and more for what must not fail).
        temperature: T > 0.
        floor: least weight, at most 1 / K.
        previous: weights to go on from, Float64[K]: `decay` previous + (1 - `decay`) new.
        decay: in [0, 1].

    Returns:
        Float64[K], each at least `floor`; they sum to 1.
    """
    spread = np.array([moments(column)[1] for column in z.T])
    unit = (z - z.mean(axis=0)) / np.where(spread > 0, spread, math.inf)
    alike = np.maximum([[(a * b).mean() for b in unit.T] for a in unit.T], 0.0)
    np.fill_diagonal(alike, 0.0)
    weakness = portable.logistic((goals - z.mean(axis=0)) / temperature)
    weights = weakness * risk / (1 + alike.sum(axis=1))
    weights = weights / weights.sum()
    if previous is not None:
        weights = decay * previous + (1 - decay) * weights
    result: Floats = floor + (1 - floor * len(weights)) * weights / weights.sum()
    return result


def soft_min(values: Floats, temperature: float = 1.0) -> Floats:
    """Pessimistic score -T log mean_k exp(-z_k / T): the mean (T large) to the least (T small).

    Values Float64[n, K] on one scale, NaN where not scored; T > 0; returns Float64[n].
    """
    result: Floats = -temperature * portable.logsumexp(-values / temperature)
    return result + temperature * portable.log(values.shape[1])


def pareto_rank(values: Floats, groups: Ints) -> Ints:
    """Non-dominated sorting within groups: 0 on the front, 1 on the front of the rest, ...

    An answer is dominated by another of its group that is nowhere lower and somewhere higher.

    Args:
        values: Float64[n, K].
        groups: Int64[n], not falling.

    Returns:
        Int64[n]; -1 where a value is missing. Work grows with the squared size of groups.
    """
    left = np.asarray(~np.isnan(values).any(axis=1))
    lower, higher = _dominations(np.where(left[:, None], values, np.nan), groups)
    rank = np.full(len(values), -1, np.int64)
    while left.any():
        front = left.copy()
        front[lower] = False
        rank[front] = rank.max() + 1
        left &= ~front
        keep = left[lower] & left[higher]
        lower, higher = lower[keep], higher[keep]
    return rank


def _dominations(values: Floats, groups: Ints) -> tuple[Ints, Ints]:
    """All (i, j) of a group where j dominates i; NaN compares as false."""
    first = np.searchsorted(groups, groups, "left")
    size = np.searchsorted(groups, groups, "right") - first
    i = np.repeat(np.arange(len(groups)), size)
    j = first[i] + np.arange(len(i)) - (np.cumsum(size) - size)[i]
    worse, somewhere = np.ones(len(i), bool), np.zeros(len(i), bool)
    for column in values.T:
        worse &= column[j] >= column[i]
        somewhere |= column[j] > column[i]
    worse &= somewhere
    return i[worse], j[worse]


class Weigh(Labeler):
    """Add `score_<name>`: objectives of one scale (see `labelers.Normalise`), weighed by a method.

    - `pro`: by the prompt. A softmax head on its frozen embedding predicts the weights that the
      preferred answers of other prompts reveal: softmax of their rewards (`target: chosen`, as
      PRO, arXiv:2511.10656) or of their margin over the other answers (`margin`, ours and the
      default: PRO gives least weight to what scores worst, such as harmlessness where it matters).
      On pairs the label says which answer is preferred; on responses, and on pairs if named, the
      objective `preference` does. Every prompt is weighed by a head fitted without its fold.
    - `tri_factor`: by the dataset's weakness, risk and redundancy, see `tri_factor`.
    - `soft_min`: by the answer's own worst objectives, see `soft_min`.
    - `pareto`: by nothing; the score is minus the Pareto rank among the answers of the prompt.

    Null where an objective is not scored.

    Attributes:
        name: of the new objective.
        objectives: to be weighed.
        method: see above.
        temperature: of the softmax, the weakness or the soft minimum, in units of the objectives.
        target, preference, encoder: for `pro`, see above.
        mixing: for `pro`: share of equal weights in the labels.
        penalty: for `pro`, of the head; see `fit_adapter`.
        folds: for `pro`; 1 weighs all prompts by the head of all.
        goals, risk, floor: for `tri_factor`: wanted mean (default 0), prior (1), least weight.

    Example:
        - labelers.Weigh: {name: reward, objectives: [helpfulness, relevance], method: soft_min}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES, Shape.PAIRS)
    scope: ClassVar[Scope] = "dataset"

    name: str = Field(min_length=1)
    objectives: tuple[Name, ...] = Field(min_length=1)
    method: Literal["pro", "tri_factor", "soft_min", "pareto"]
    target: Literal["chosen", "margin"] = "margin"
    preference: str | None = None
    temperature: float = Field(default=1.0, gt=0)
    mixing: float = Field(default=0.0, ge=0, le=1)
    penalty: float = Field(default=1e-3, ge=0)
    folds: int = Field(default=5, ge=1)
    encoder: Encoder = Encoder()
    goals: dict[Name, float] = Field(default={})
    risk: dict[Name, Annotated[float, Field(gt=0)]] = Field(default={})
    floor: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _validate(self) -> Self:
        if len(set(self.objectives)) != len(self.objectives) or self.name in self.objectives:
            raise ValueError("objectives: name each once, and not the new one")
        for field in sorted(set.union(*_OWN.values()) - _OWN.get(self.method, set())):
            if getattr(self, field) != type(self).model_fields[field].default:
                raise ValueError(f"{field} is not for {self.method}")
        if strange := {*self.goals, *self.risk} - set(self.objectives):
            raise ValueError(f"goals and risk name {', '.join(sorted(strange))}: no objective")
        if self.floor * len(self.objectives) > 1:
            raise ValueError(f"floor: at most 1/{len(self.objectives)}")
        return self

    def opens_engines(self) -> bool:
        """Only `pro` needs the encoder."""
        return self.method == "pro"

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The scores of the objectives, and of `preference` (Float64)."""
        if self.method == "pro" and shape != Shape.PAIRS and self.preference is None:
            raise ConfigError("pro needs to know which answer is preferred: name a preference")
        names = [*self.objectives, *([self.preference] if self.preference else [])]
        return {f"{s}{SCORE}{o}": pl.Float64() for o in dict.fromkeys(names) for s in _SIDES[shape]}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`score_<name>`, on pairs one for each side (Float64)."""
        return {f"{side}{SCORE}{self.name}": pl.Float64() for side in _SIDES[shape]}

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to answers: `row_id`, `prompt_id`, `unit` (pair or prompt), scores.

        For `pro` the first row of a prompt has its `vector` (List(Float32)).
        """
        rows = self._rows(table)
        if self.method != "pro":
            return rows
        rows = rows.join(self._vectors(table, ctx), on="prompt_id", maintain_order="left")
        first = pl.int_range(pl.len()).over("prompt_id") == 0
        return rows.with_columns(pl.when(first).then(pl.col("vector").arr.to_list()))

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Learn the weights.

        Returns:
            State; info of `tri_factor`: `scored` answers, `weights`; of `pro`: `prompts`, mean
            `labels`, and on prompts left out `kl` of the head and `kl_constant` of the mean label.
            Table `heads` of `pro`: fold, intercept, weights by objective.

        Raises:
            DataError: nothing to learn from.
        """
        parts = parts.sort("prompt_id", "unit", "row_id")
        if self.method == "pro":
            return self._fit_heads(parts, ctx)
        if self.method != "tri_factor":
            return State()
        once = parts.unique("row_id", keep="first", maintain_order=True)
        z = once.select(self._columns()).drop_nulls()
        if not z.height:
            raise DataError("labelers.Weigh: no answer has a score of every objective")
        goals = np.array([self.goals.get(o, 0.0) for o in self.objectives])
        risk = np.array([self.risk.get(o, 1.0) for o in self.objectives])
        weights = tri_factor(z.to_numpy(), goals, risk, self.temperature, self.floor)
        weights_of = dict(zip(self.objectives, weights.tolist(), strict=True))
        return State(info={"scored": z.height, "weights": weights_of})

    def _fit_heads(self, parts: pl.DataFrame, ctx: Context) -> State:
        known = parts.select("prompt_id", "vector").drop_nulls().unique("prompt_id")
        prompts = self._wanted(parts).join(known, on="prompt_id", maintain_order="left")
        if not prompts.height:
            raise DataError("labelers.Weigh: no prompt has a preferred and another scored answer")
        vectors = np.stack(prompts["vector"].to_list()).astype(np.float32)
        rewards = prompts.select(self._columns()).to_numpy()
        targets = softmax_weights(rewards, self.temperature, self.mixing)
        fold = self._fold(prompts["prompt_id"], ctx)
        heads, kl = [], np.zeros(2)
        for number in range(self.folds):
            out = fold == number
            seen = ~out if (~out).any() else np.ones_like(out)
            head = fit_adapter(vectors[seen], targets[seen], self.penalty)
            kl[0] += divergence(targets[out], head.predict(vectors[out])).sum()
            kl[1] += divergence(targets[out], targets[seen].mean(axis=0)[None]).sum()
            array = pl.Series(head.weights, dtype=pl.Array(pl.Float64, vectors.shape[1]))
            of = {"objective": self.objectives, "intercept": head.intercepts, "weights": array}
            heads.append(pl.DataFrame(of).with_columns(fold=pl.lit(number)))
        labels = dict(zip(self.objectives, targets.mean(axis=0).tolist(), strict=True))
        mean_kl = dict(zip(("kl", "kl_constant"), (kl / len(targets)).tolist(), strict=True))
        info = {"prompts": len(targets), "labels": labels, **mean_kl}
        return State({"heads": pl.concat(heads)}, info)

    def _wanted(self, parts: pl.DataFrame) -> pl.DataFrame:
        """`prompt_id` and, by objective, the preferred answers' mean reward or margin."""
        grade, reward = pl.col("grade"), pl.col(self._columns())
        value = reward.filter(grade == grade.max()).mean()
        if self.target == "margin":
            value -= reward.filter(grade == grade.min()).mean()
        scored = parts.drop_nulls(["grade", *self._columns()])
        scored = scored.filter(grade.max().over("unit") > grade.min().over("unit"))
        units = scored.group_by("prompt_id", "unit", maintain_order=True).agg(value)
        return units.group_by("prompt_id", maintain_order=True).agg(reward.mean())

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Score every answer."""
        rows = self._rows(table).unique("row_id", keep="first", maintain_order=True)
        z = rows.select(pl.col(self._columns()).fill_null(math.nan)).to_numpy()
        if self.method == "pareto":
            rank = pareto_rank(z, rows["prompt_id"].rle_id().cast(pl.Int64).to_numpy())
            score = np.where(rank < 0, np.nan, -rank)
        elif self.method == "soft_min":
            score = soft_min(z, self.temperature)
        elif self.method == "tri_factor":
            weights = ctx.fitted.info["weights"]
            score = scoring.weighted_sum(z, np.array([weights[o] for o in self.objectives]))
        else:
            weighted = rows.join(self._weights(table, ctx), on="prompt_id", maintain_order="left")
            score = scoring.weighted_sum(z * weighted["weights"].to_numpy(), np.ones(z.shape[1]))
        new = rows.select("row_id", pl.Series("score", score + 0.0).fill_nan(None))
        columns = {}
        for side in _sides(table):
            ids = table.select(row_id=f"{side or 'response_'}id")
            joined = ids.join(new, on="row_id", how="left", maintain_order="left")
            columns[f"{side}{SCORE}{self.name}"] = joined["score"]
        return pl.DataFrame(columns)

    def _weights(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """`prompt_id` and `weights` (Array(Float64, K)) of prompts, each by its fold's head."""
        prompts, heads = self._vectors(table, ctx), ctx.fitted.tables["heads"]
        vectors, fold = prompts["vector"].to_numpy(), self._fold(prompts["prompt_id"], ctx)
        weights = np.empty((len(vectors), len(self.objectives)))
        for number in range(self.folds):
            head, at = heads.filter(pl.col("fold") == number), fold == number
            of = Adapter(head["weights"].to_numpy(), head["intercept"].to_numpy())
            weights[at] = of.predict(vectors[at])
        array = pl.Series("weights", weights, pl.Array(pl.Float64, weights.shape[1]))
        return prompts.select("prompt_id", array)

    def _vectors(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """`prompt_id` and `vector` (Array(Float32, d)) of the last user message of prompts."""
        if ctx.embed is None:
            raise ConfigError("labelers.Weigh needs an encoder for pro and this run has none")
        prompts = table.unique("prompt_id", keep="first").sort("prompt_id")
        vectors = ctx.embed(
            self.encoder, prompts.select(last_user_text(pl.col("prompt"))).to_series()
        )
        array = pl.Series("vector", vectors, pl.Array(pl.Float32, vectors.shape[1]))
        return prompts.select("prompt_id", array)

    def _rows(self, table: pl.DataFrame) -> pl.DataFrame:
        """Answers in order: ids, `unit` and `grade` of a preference, finite scores."""
        parts = []
        for side in _sides(table):
            grade = pl.lit(1.0 if side == "chosen_" else 0.0)
            if self.preference:
                grade = pl.col(f"{side}{SCORE}{self.preference}")
            scores = [pl.col(f"{side}{column}").alias(column) for column in self._columns()]
            row_id = pl.col(f"{side or 'response_'}id").alias("row_id")
            unit = pl.col("pair_id" if side else "prompt_id").alias("unit")
            finite = [pl.when(c.is_finite()).then(c) for c in (grade.alias("grade"), *scores)]
            parts.append(table.select(row_id, unit, "prompt_id", *finite))
        return pl.concat(parts).sort("prompt_id", "unit", "row_id")

    def _columns(self) -> list[str]:
        return [f"{SCORE}{objective}" for objective in self.objectives]

    def _fold(self, prompts: pl.Series, ctx: Context) -> Ints:
        return (ctx.uniform(prompts, "fold").to_numpy() * self.folds).astype(np.int64)


def _sides(table: pl.DataFrame) -> tuple[str, ...]:
    return _SIDES[Shape.PAIRS if "pair_id" in table.columns else Shape.RESPONSES]
