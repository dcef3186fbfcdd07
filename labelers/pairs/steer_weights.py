"""SteerLM 2.0 weights: how much each answer tells of the answers that have wanted attributes."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Self

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from labelers.combine.scoring import Floats, Ints
from prefactory.context import Context
from prefactory.measures import portable
from prefactory.step import Labeler, Scope
from prefactory.tables import SCORE, Shape

Name = Annotated[str, Field(min_length=1)]
Positive = Annotated[float, Field(gt=0)]


def grouped_softmax(logits: Floats, groups: Ints) -> Floats:
    """Softmax within groups: Float64[n] and Int64[n] (0 .. G - 1) -> Float64[n], NaN where NaN.

    A group's weights depend on its own rows in their order alone.
    """
    there = ~np.isnan(logits)
    size = int(groups.max()) + 1 if groups.size else 0
    top = np.full(size, -np.inf)
    np.maximum.at(top, groups[there], logits[there])
    shares = np.where(there, portable.exp(np.where(there, logits - top[groups], 0.0)), 0.0)
    total = np.bincount(groups, shares, size)
    return np.where(there, shares / np.where(total > 0, total, 1.0)[groups], np.nan)


class SteerWeights(Labeler):
    """Add `weight_<name>`: self-normalised importance weights of SteerLM 2.0 (arXiv:2406.08673).

    `w = softmax_i(log P(a | x, y_i) + log P(y_i | x) - log Q(y_i | a, x))` over the answers to a
    prompt: weights toward what the model would say if it had the attributes `a`, of answers that Q
    wrote. They sum to 1. `log P(a | x, y)` is a Gaussian around the scored attributes,
    `-(a - score)^2 / (2 spread^2)`, which is ours: the paper's attribute model gives probabilities.

    The log-probabilities are scores, such as two `labelers.Likelihood` with prefixes or
    `labelers.ImplicitReward` with `beta: 1`, which is their difference. Sums over long answers
    differ by hundreds and put all weight on one answer; means over tokens, or a temperature, don't.
    Without them P wrote the answers itself, and they cancel. An only answer has weight 1.

    A weight is null where a score is missing; the others' sum to 1 without it.

    Attributes:
        target: objective -> wanted value, in its units.
        spread: sd of the Gaussians, in units of each objective: one for all, or by objective.
        prior: objective with log P(y | x), or with the whole log-ratio; null: none.
        proposal: objective with log Q(y | a, x); null: none.
        temperature: divides the logits.
        name: of the column.

    Example:
        - labelers.SteerWeights: {target: {helpfulness: 4, verbosity: 2}}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    scope: ClassVar[Scope] = "prompt"

    target: dict[Name, float] = Field(min_length=1)
    spread: Positive | dict[Name, Positive] = 1.0
    prior: Name | None = None
    proposal: Name | None = None
    temperature: float = Field(default=1.0, gt=0)
    name: Name = "steer"

    @model_validator(mode="after")
    def _validate_spread(self) -> Self:
        if isinstance(self.spread, dict) and set(self.spread) != set(self.target):
            raise ValueError(f"spread: give one for each of {', '.join(self.target)}")
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The scores of the attributes and log-probabilities (Float64)."""
        more = [o for o in (self.prior, self.proposal) if o is not None]
        return {f"{SCORE}{o}": pl.Float64() for o in (*self.target, *more)}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`weight_<name>` (Float64 in [0, 1])."""
        return {f"weight_{self.name}": pl.Float64()}

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Weigh the answers of RESPONSES against the others of their prompt."""
        scores = [pl.col(c) for c in self.needs(Shape.RESPONSES)]
        rows = table.with_row_index("row").select(
            "row",
            "prompt_id",
            "response_id",
            *(pl.when(c.is_finite()).then(c).otherwise(math.nan) for c in scores),
        )
        rows = rows.sort("prompt_id", "response_id")
        logits = np.zeros(table.height)
        for objective, wanted in sorted(self.target.items()):
            sd = self.spread[objective] if isinstance(self.spread, dict) else self.spread
            logits -= (wanted - rows[f"{SCORE}{objective}"].to_numpy()) ** 2 / (2 * sd**2)
        if self.prior is not None:
            logits += rows[f"{SCORE}{self.prior}"].to_numpy()
        if self.proposal is not None:
            logits -= rows[f"{SCORE}{self.proposal}"].to_numpy()
        groups = rows["prompt_id"].rle_id().cast(pl.Int64).to_numpy()
        weights = np.empty(table.height)
        weights[rows["row"].to_numpy()] = grouped_softmax(logits / self.temperature, groups)
        return pl.DataFrame({f"weight_{self.name}": weights}).fill_nan(None)
