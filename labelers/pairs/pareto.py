"""How strong a pair is in the objective that says least for it: PAMA's projection."""

from __future__ import annotations

from typing import ClassVar, Literal

import polars as pl
from pydantic import Field, field_validator

from labelers.pairs.columns import Name, distinct, gap_of
from prefactory.context import Context
from prefactory.step import Labeler, Scope, State
from prefactory.tables import SCORE, SIDES, Shape


def projection(gaps: list[pl.Expr]) -> pl.Expr:
    """The number nearest to 0 between the least and the greatest of some numbers, Float64.

    It is the value of the shortest mixture `(sum_i c_i A_i)^2` over the simplex, in closed form
    (PAMA, arXiv 2508.07768): 0 where signs differ or one is 0, else the least in size. Null where
    one is.
    """
    lowest, highest = pl.min_horizontal(gaps), pl.max_horizontal(gaps)
    nearest = pl.when(lowest > 0).then(lowest).when(highest < 0).then(highest).otherwise(0.0)
    return pl.when(pl.all_horizontal(g.is_not_null() for g in gaps)).then(nearest)


class ParetoStrength(Labeler):
    """Add how strong pairs are by the objective that says least for them (PAMA's projection).

    The gaps of the objectives (chosen minus rejected score) are divided by their scale, and the
    strength is the number nearest to 0 between the least and the greatest (`projection`): a pair on
    which objectives disagree, or one is a tie, has 0; any other the smallest gap. PAMA
    (arXiv:2508.07768) aggregates the advantages of several rewards so, in place of MGDA's shortest
    mixture of gradients, in reinforcement learning; on pairs it is ours. The scale is the root mean
    square of an objective's gaps, so that the objective of the smallest scale does not decide
    (ours, too).

    As `weight` a pair that all objectives put the other way has 0 as well (PAMA's "Noon": nothing
    is learned from what is worse than expected): `prefactory train dpo` and `reward loss=scaled_bt
    strength=weight` multiply each pair's loss by it, so that pairs without consent teach nothing.
    As `margin` the strength keeps its sign: below 0 are pairs whose label all objectives
    contradict.

    `info`: `scales` by objective, and the counts `agree`, `contradict`, `conflict` (signs differ,
    or one is 0) and `unscored` of pairs.

    Attributes:
        objectives: whose gaps are compared, two or more.
        standardise: divide gaps by their scale; false: they are on one scale already.
        column: `weight` (0 or more) or `margin`.

    Example:
        - labelers.ParetoStrength: {objectives: [helpfulness, brevity]}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PAIRS,)
    scope: ClassVar[Scope] = "dataset"

    objectives: tuple[Name, ...] = Field(min_length=2)
    standardise: bool = True
    column: Literal["weight", "margin"] = "weight"

    @field_validator("objectives")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return distinct(value)

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """Both sides' scores of every objective (Float64)."""
        return {f"{s}_{SCORE}{o}": pl.Float64() for o in self.objectives for s in SIDES}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`weight` or `margin` (Float64, in root mean squares); 0 where a score is missing."""
        return {self.column: pl.Float64()}

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to `pair_id` and the objectives' gaps, `gap_0`, `gap_1`, ... (Float64)."""
        return table.select("pair_id", **self._gaps())

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Learn the scales, and count what the objectives say of the labels."""
        scales = dict.fromkeys(self.objectives, 1.0)
        if self.standardise:
            squares = parts.select((pl.col(n) ** 2).mean().sqrt() for n in self._gaps()).row(0)
            scales = {o: s or 1.0 for o, s in zip(self.objectives, squares, strict=True)}
        found = parts.select(projection([pl.col(n) for n in self._gaps()])).to_series()
        info = {
            "scales": scales,
            "agree": int((found > 0).sum()),
            "contradict": int((found < 0).sum()),
            "conflict": int((found == 0).sum()),
            "unscored": found.null_count(),
        }
        return State(info=info)

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Project the gaps of PAIRS; see `adds`."""
        scales = ctx.fitted.info["scales"]
        gaps = zip(self._gaps().values(), self.objectives, strict=True)
        strength = projection([gap / scales[o] for gap, o in gaps]).fill_null(0.0)
        if self.column == "weight":
            strength = strength.clip(lower_bound=0.0)
        return table.select(strength.alias(self.column))

    def _gaps(self) -> dict[str, pl.Expr]:
        return {f"gap_{i}": gap_of(o) for i, o in enumerate(self.objectives)}
