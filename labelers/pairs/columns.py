"""Columns that trainers of several objectives read from pairs: signs, dimension, beta."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import polars as pl
from pydantic import Field, field_validator, model_validator

from labelers.combine.scoring import Floats
from prefactory.context import Context
from prefactory.errors import DataError
from prefactory.measures import portable
from prefactory.step import Labeler, Scope, State
from prefactory.tables import SCORE, SIDES, Shape

Name = Annotated[str, Field(min_length=1)]
SIGN = "sign_"


def distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names, if each stands there once.

    Raises:
        ValueError: one stands there twice.
    """
    if len(set(names)) < len(names):
        raise ValueError("name each once")
    return names


def gap_of(objective: str) -> pl.Expr:
    """Chosen minus rejected score of an objective, Float64; null where one is missing."""
    chosen, rejected = (pl.col(f"{side}_{SCORE}{objective}") for side in SIDES)
    gap = chosen - rejected
    return pl.when(gap.is_finite()).then(gap)


class Signs(Labeler):
    """Add `sign_<objective>` to pairs: what each objective says of the label, as RACO reads it.

    1: the objective agrees that the chosen answer is better; -1: it puts the rejected one higher;
    0: a tie, which gives its loss no gradient (arXiv:2602.02495).

    Attributes:
        objectives: whose scores are compared.
        dead_zone: greatest gap, in units of the objective, that is a tie: one for all, or by
            objective (0 for those not named).
        on_null: a pair that lacks a score says nothing, `zero`, or gets `null`.

    Example:
        - labelers.Signs: {objectives: [helpfulness, brevity]}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PAIRS,)

    objectives: tuple[Name, ...] = Field(min_length=1)
    dead_zone: Annotated[float, Field(ge=0)] | dict[Name, Annotated[float, Field(ge=0)]] = 0.0
    on_null: Literal["zero", "null"] = "zero"

    @field_validator("objectives")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return distinct(value)

    @model_validator(mode="after")
    def _validate_dead_zone(self) -> Self:
        named = set(self.dead_zone) if isinstance(self.dead_zone, dict) else set()
        if strange := named - set(self.objectives):
            raise ValueError(f"dead_zone names {', '.join(sorted(strange))}: no objective of it")
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """Both sides' scores of every objective (Float64)."""
        return {f"{s}_{SCORE}{o}": pl.Float64() for o in self.objectives for s in SIDES}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`sign_<objective>` (Int8: -1, 0 or 1)."""
        return {f"{SIGN}{o}": pl.Int8() for o in self.objectives}

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Compare the scores of PAIRS; see `adds`."""
        signs = []
        for objective in self.objectives:
            zone = self.dead_zone
            width = zone.get(objective, 0.0) if isinstance(zone, dict) else zone
            gap = gap_of(objective)
            sign = pl.when(gap.abs() <= width).then(0).otherwise(gap.sign()).cast(pl.Int8)
            sign = pl.when(gap.is_not_null()).then(sign)
            sign = sign.fill_null(0) if self.on_null == "zero" else sign
            signs.append(sign.alias(f"{SIGN}{objective}"))
        return table.select(signs)


class Dimension(Labeler):
    """Add `dimension` to pairs of several datasets: the number of the objective they are about.

    MAH-DPO (arXiv:2510.01167) trains one head per dimension, on that dimension's pairs alone.
    Pairs that `labelers.Pairs` made with `order: each` have a dimension already.

    Attributes:
        by: String column that says where a pair belongs.
        values: its values, in the order of the dimensions 0, 1, ...
        on_other: a pair of another value is an `error`, or gets `null`.

    Example:
        - labelers.Dimension: {values: [helpful, harmless]}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PAIRS,)

    by: Name = "source"
    values: tuple[str, ...] = Field(min_length=1)
    on_other: Literal["error", "null"] = "error"

    @field_validator("values")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return distinct(value)

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The column `by` (String)."""
        return {self.by: pl.String()}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`dimension` (Int64)."""
        return {"dimension": pl.Int64()}

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Number the pairs.

        Raises:
            DataError: a pair has a value that is not named.
        """
        numbers = pl.col(self.by).replace_strict(
            list(self.values), range(len(self.values)), default=None, return_dtype=pl.Int64
        )
        new = table.select(dimension=numbers)
        other = table.filter(new["dimension"].is_null())[self.by]
        if other.len() and self.on_other == "error":
            shown = ", ".join(repr(v) for v in other.unique().sort().head(5))
            raise DataError(
                f"{other.len()} pairs of this shard have {self.by} {shown}, which `values` of "
                "labelers.Dimension does not name; name it, or set `on_other: null`"
            )
        return new


def dynamic_beta(gap: Floats, base: float = 0.1, w: float = 0.5, k: float = 0.5) -> Floats:
    """Beta of each pair, `base (1 + w (1 - exp(-k gap)))`, in [base, (1 + w) base].

    Dynamic reward scaling of MM-RLHF (arXiv:2502.10391). Known answers at the defaults: gap 0 gives
    .1, 2 gives .131606, infinity .15. A gap below 0 (the reward contradicts the label) gives base.

    Args:
        gap: reward of the chosen minus that of the rejected answer, Float64[n].
        base: beta of a pair without a gap.
        w: how much beta may rise.
        k: how fast it does.

    Returns:
        Float64[n].
    """
    result: Floats = base * (1 + w * -portable.expm1(-k * np.maximum(gap, 0.0)))
    return result


class DynamicBeta(Labeler):
    """Add `beta`, the DPO temperature of each pair, that rises with its reward gap (MM-RLHF).

    See `dynamic_beta`. The paper computes it in training, from a reward model; here it is a column,
    which a trainer may read. (The paper's released code replaces it by one value per batch made of
    the policy's own margins; those a dataset can't know: `prefactory train dpo batch_beta=0.1`.)

    A beta that rises also raises the scale of the logits, early gradients and early saturation. For
    a weight of the loss alone, `column: weight` is beta / base: 1 to 1 + w.

    `info` has `pairs`, `unscored` (they get base), `ties`, `conflicts` (the reward puts the
    rejected answer higher: doubtful labels; they get base, and `filters.Margin` takes them out) and
    `scale`.

    Attributes:
        objective: whose scores are the rewards; null: the column `margin`.
        base: beta of a pair without a gap.
        w: how much beta may rise.
        k: how fast it does, per unit of the gap.
        scale: units of the gap: `none`, as scored; `median`: of the median |gap| of the pairs that
            have one, so that k means the same whatever the reward model (ours).
        column: `beta`, or `weight` (see above).
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PAIRS,)
    scope: ClassVar[Scope] = "dataset"

    objective: Name | None = None
    base: float = Field(default=0.1, gt=0)
    w: float = Field(default=0.5, ge=0)
    k: float = Field(default=0.5, gt=0)
    scale: Literal["none", "median"] = "none"
    column: Literal["beta", "weight"] = "beta"

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """Both sides' scores of the objective, or `margin` (Float64)."""
        if self.objective is None:
            return {"margin": pl.Float64()}
        return {f"{side}_{SCORE}{self.objective}": pl.Float64() for side in SIDES}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`beta` or `weight` (Float64)."""
        return {self.column: pl.Float64()}

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to `pair_id` and `gap` (Float64)."""
        return table.select("pair_id", gap=self._gap())

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Learn the scale, and count what the rewards say of the labels."""
        gap = parts["gap"].drop_nulls()
        sizes = gap.abs().filter(gap != 0)
        middle = sizes.median() if self.scale == "median" else None
        info = {
            "pairs": parts.height,
            "unscored": parts.height - gap.len(),
            "ties": int((gap == 0).sum()),
            "conflicts": int((gap < 0).sum()),
            "scale": float(middle) if isinstance(middle, float) else 1.0,
        }
        return State(info=info)

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Turn the gaps of PAIRS to betas."""
        gap = table.select(gap=self._gap().fill_null(0.0))["gap"].to_numpy()
        beta = dynamic_beta(gap / ctx.fitted.info["scale"], self.base, self.w, self.k)
        return pl.DataFrame({self.column: beta / (self.base if self.column == "weight" else 1.0)})

    def _gap(self) -> pl.Expr:
        if self.objective is not None:
            return gap_of(self.objective)
        margin = pl.col("margin")
        return pl.when(margin.is_finite()).then(margin)
