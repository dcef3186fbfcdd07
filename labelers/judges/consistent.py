"""Whether opinions that do not know each other agree with a label."""

from __future__ import annotations

from typing import ClassVar, Self

import polars as pl
from pydantic import model_validator

from prefactory.context import Context
from prefactory.step import Labeler, Scope
from prefactory.tables import SCORE, SIDES, Shape
from prefactory.votes.judged import MARGIN, PREFERS

HUMAN = "human"


class Consistent(Labeler):
    """Say which labels all named opinions bear out, as the loop of Skywork-Reward-V2 keeps them.

    An opinion bears a label out if it is for the chosen side (arXiv 2507.01352 asks two reward
    models; that judges and margins may be named beside them is ours).

    Adds `consistent` (Boolean): true for labels of people (`label_source: human`), and where every
    opinion is for the label; false where one is against it or finds the sides equal; null where one
    is missing, as of a judge that is not trusted there.

    Attributes:
        judges: names of judges (`<name>_prefers` of `labelers.JudgePairs`).
        scores: names of scores of both sides (`chosen_score_<name>`, `rejected_score_<name>`).
        margins: names of margins (`margin_<name>` of `labelers.PreferenceStack`).
        people: labels of people are consistent whatever the opinions say.

    Example:
        - labelers.Consistent: {margins: [stack]}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PAIRS,)
    scope: ClassVar[Scope] = "row"

    judges: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    margins: tuple[str, ...] = ()
    people: bool = True

    @model_validator(mode="after")
    def _asks_somebody(self) -> Self:
        if not (self.judges or self.scores or self.margins):
            raise ValueError("name at least one of judges, scores or margins")
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The columns of the opinions."""
        found: dict[str, pl.DataType] = {f"{name}{PREFERS}": pl.String() for name in self.judges}
        found |= {f"{side}_{SCORE}{name}": pl.Float64() for name in self.scores for side in SIDES}
        return found | {f"{MARGIN}{name}": pl.Float64() for name in self.margins}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Whether all opinions bear the label out."""
        return {"consistent": pl.Boolean()}

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Ask every opinion."""
        sides = [[pl.col(f"{side}_{SCORE}{name}") for side in SIDES] for name in self.scores]
        borne = [
            *[pl.col(f"{name}{PREFERS}") == "chosen" for name in self.judges],
            *[chosen > rejected for chosen, rejected in sides],
            *[pl.col(f"{MARGIN}{name}") > 0 for name in self.margins],
        ]
        missing = pl.any_horizontal(opinion.is_null() for opinion in borne)
        told: pl.Expr = pl.when(~missing).then(pl.all_horizontal(borne))
        if self.people:
            human = (pl.col("label_source") == HUMAN).fill_null(value=False)
            told = pl.when(human).then(pl.lit(value=True)).otherwise(told)
        return table.select(consistent=told)
