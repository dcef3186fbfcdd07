"""Many objectives as one score: a weighted sum, or a soft logical AND of log-sigmoids."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from labelers.combine import scoring
from labelers.pairs.reward_goal import has_goal
from prefactory.context import Context
from prefactory.errors import DataError
from prefactory.step import Labeler, Scope, State
from prefactory.step.exchange import Streamed
from prefactory.tables import SCORE, Shape

Positive = Annotated[float, Field(gt=0)]
Names = Annotated[str, Field(min_length=1)]


class Combine(Streamed, Labeler):
    """Add `score_<name>`, one score of several objectives, Float64.

    `linear` is the weighted sum. With `normalise: zscore` every objective is first standardised
    by its mean and sd over this dataset. Both are fitted once, before any answer is combined, and
    recorded in the state, so that every shard is measured by the same frozen reference; a run on
    other data fits its own. An objective without spread counts 0.

    `logsigmoid` is `sum_k w_k log sigmoid((r_k - reference_k) / scale_k)` of "Transforming and
    Combining Rewards" (Wang et al. 2024, arXiv:2402.00742): the log probability that an answer is
    good enough in all objectives at once, so that a surplus in one can't pay for a failure in
    another. It is at most 0. The transform expects rewards on the Bradley-Terry scale; as scorers
    rarely are, `scale: pooled` divides each objective by its pooled within-prompt sd (or its sd
    over the dataset if no prompt has two scored answers). That is our choice, not the paper's.

    The reference is the reward of a good enough answer:

    - `prompt`: mean + 1.0364 sd (85th percentile of a normal) of this prompt's own answers, where
      the paper takes samples of the starting policy. Below 5 answers the variance is shrunk toward
      the pooled one (see `labelers.combine.scoring.prompt_reference`). On pairs, which the run
      takes apart for this step, a prompt has few answers; with one answer the reference says
      nothing.
    - `dataset`: the 85th percentile over the dataset.
    - a mapping of objective to number.

    It must come before `labelers.RewardAugmented`, which spreads the answers of one prompt over
    several prompts.

    Attributes:
        name: of the new objective.
        method: `linear` or `logsigmoid`.
        weights: objective -> weight (not negative for `logsigmoid`), or the published HelpSteer2
            weights of a reward model, see `labelers.combine.scoring.PRESETS`; they are for
            `linear`.
        normalise: for `linear`.
        reference: for `logsigmoid`.
        scale: for `logsigmoid`: `pooled`, `none` or a mapping of objective to number.
        on_null: an answer that lacks a score (null, NaN, infinite) gets `null`, or `skip` leaves
            the objective out and scales the rest up to the full weight; null if all are missing.

    Example:
        - labelers.Combine:
            name: reward
            method: logsigmoid
            weights: {relevance: 1, repetition: 1}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    scope: ClassVar[Scope] = "dataset"

    name: str = Field(min_length=1)
    method: Literal["linear", "logsigmoid"] = "linear"
    weights: scoring.Preset | dict[Names, float]
    normalise: Literal["none", "zscore"] = "none"
    reference: Literal["prompt", "dataset"] | dict[Names, float] = "prompt"
    scale: Literal["pooled", "none"] | dict[Names, Positive] = "pooled"
    on_null: Literal["null", "skip"] = "null"

    @model_validator(mode="after")
    def _validate_weights(self) -> Self:
        weights = self.weight_of()
        if not any(weights.values()):
            raise ValueError("weights: at least one must differ from 0")
        if self.name in weights:
            raise ValueError(f"name: {self.name!r} is one of the objectives it combines")
        if self.method == "logsigmoid" and min(weights.values()) < 0:
            raise ValueError("weights: log-sigmoids are an AND, which takes no negative weight")
        for field, value in (("reference", self.reference), ("scale", self.scale)):
            if isinstance(value, dict) and set(value) != set(weights):
                raise ValueError(f"{field}: give one number for each of {', '.join(weights)}")
        return self

    @model_validator(mode="after")
    def _validate_method(self) -> Self:
        if self.method == "logsigmoid" and self.normalise != "none":
            raise ValueError("normalise is for linear; logsigmoid has reference and scale")
        if self.method == "linear" and (self.reference, self.scale) != ("prompt", "pooled"):
            raise ValueError("reference and scale are for logsigmoid; linear has normalise")
        return self

    def weight_of(self) -> dict[str, float]:
        """Objective -> weight, sorted by objective (the order of summation)."""
        known = self.weights if isinstance(self.weights, dict) else scoring.PRESETS[self.weights]
        return dict(sorted(known.items()))

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The score of every weighted objective (Float64)."""
        return {f"{SCORE}{objective}": pl.Float64() for objective in self.weight_of()}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`score_<name>` (Float64)."""
        return {f"{SCORE}{self.name}": pl.Float64()}

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard of RESPONSES to `response_id`, `prompt_id` and the K score columns.

        Raises:
            DataError: if the prompts name goals (`labelers.RewardAugmented` ran before).
        """
        if table.select(has_goal(pl.col("prompt")).any()).item():
            raise DataError(
                "these prompts name goals, which spread the answers of one prompt over several; "
                "put labelers.Combine before labelers.RewardAugmented"
            )
        return table.select("response_id", "prompt_id", *self.needs(Shape.RESPONSES))

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Learn location and scale of every objective.

        Args:
            parts: the rows of `fit_shard`.
            ctx: not used.

        Returns:
            State whose `info` has the weights, and for each objective `scored` (answers), `mean`,
            `sd` (over the dataset), `within_sd` (pooled within prompts) and `p85`.
        """
        return self.fit_stream([parts], ctx)

    def fit_stream(self, parts: Iterable[pl.DataFrame], ctx: Context) -> State:
        """The same, of shards one after the other: of each stay its numbers, and no ids."""
        read, prompts = [np.zeros((0, len(self.weight_of())))], [np.zeros(0, dtype=np.int64)]
        count = 0
        for part in parts:
            rows = part.sort("prompt_id", "response_id").unique(
                "response_id", keep="first", maintain_order=True
            )
            values, groups = self._matrix(rows)
            read.append(values)
            prompts.append(groups + count)
            count += int(groups.max(initial=-1)) + 1
        values, groups = np.concatenate(read), np.concatenate(prompts)
        within = scoring.pooled_sd(scoring.grouped(values, groups))
        objectives = {
            objective: _facts(values[:, i], float(within[i]))
            for i, objective in enumerate(self.weight_of())
        }
        return State(info={"weights": self.weight_of(), "objectives": objectives})

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Combine the scores of every answer.

        Args:
            table: RESPONSES with the K score columns; all answers of a prompt are in it.
            ctx: holds the state.

        Returns:
            `score_<name>`, same height and order; null by `on_null`.
        """
        columns = ["response_id", "prompt_id", *self.needs(Shape.RESPONSES)]
        ordered = table.select(columns).with_row_index("row").sort("prompt_id", "response_id")
        values, groups = self._matrix(ordered)
        combined = np.empty(table.height)
        combined[ordered["row"].to_numpy()] = self._combine(values, groups, ctx.fitted.info)
        return pl.DataFrame(pl.Series(f"{SCORE}{self.name}", combined)).fill_nan(None)

    def _matrix(self, ordered: pl.DataFrame) -> tuple[scoring.Floats, scoring.Ints]:
        """Scores Float64[n, K] (NaN: missing) and prompt numbers Int64[n] of rows by prompt."""
        score = pl.col(*self.needs(Shape.RESPONSES))
        finite = ordered.select(pl.when(score.is_finite()).then(score).otherwise(math.nan))
        groups = ordered["prompt_id"].rle_id().cast(pl.Int64).to_numpy()
        return finite.to_numpy(), groups

    def _combine(
        self, values: scoring.Floats, groups: scoring.Ints, info: Mapping[str, Any]
    ) -> scoring.Floats:
        objectives = list(self.weight_of())
        weights = np.array(list(self.weight_of().values()))
        facts = {
            key: np.array([info["objectives"][o][key] for o in objectives])
            for key in ("mean", "sd", "within_sd", "p85")
        }
        skip = self.on_null == "skip"
        if self.method == "linear":
            if self.normalise == "zscore":
                values = (values - facts["mean"]) / _or_one(facts["sd"])
            return scoring.weighted_sum(values, weights, skip)
        if isinstance(self.reference, dict):
            reference = np.array([self.reference[o] for o in objectives])
        elif self.reference == "dataset":
            reference = facts["p85"]
        else:
            reference = scoring.prompt_reference(values, groups, facts["within_sd"])
        if isinstance(self.scale, dict):
            scale = np.array([self.scale[o] for o in objectives])
        else:
            pooled = self.scale == "pooled"
            scale = _or_one(facts["within_sd"]) if pooled else np.ones(len(objectives))
        return scoring.log_sigmoid_sum(values, weights, reference, scale, skip)


def _facts(values: scoring.Floats, within_sd: float) -> dict[str, float | int]:
    """Location and scale of one objective; a spread of mere rounding errors counts as 0."""
    scored = values[~np.isnan(values)]
    if not scored.size:
        return {"scored": 0, "mean": 0.0, "sd": 0.0, "within_sd": 0.0, "p85": 0.0}
    noise = 1e-12 * float(np.abs(scored).max())
    sd = float(scored.std())
    within_sd = sd if math.isnan(within_sd) else within_sd
    return {
        "scored": int(scored.size),
        "mean": float(scored.mean()),
        "sd": sd if sd > noise else 0.0,
        "within_sd": within_sd if within_sd > noise else 0.0,
        "p85": float(np.quantile(scored, scoring.QUANTILE)),
    }


def _or_one(sd: scoring.Floats) -> scoring.Floats:
    """Divisors: where there is no spread, 1."""
    return np.where(sd > 0, sd, 1.0)
