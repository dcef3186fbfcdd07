"""Whether opinions that do not know each other agree with a label."""

from __future__ import annotations

from typing import ClassVar

import polars as pl
from pydantic import Field

from prefactory.context import Context
from prefactory.errors import ConfigError
from prefactory.step import Labeler, Scope
from prefactory.tables import SCORE, SIDES, Shape
from prefactory.votes.judged import MARGIN, PREFERS

HUMAN = "human"


class Consistent(Labeler):
    """Say which labels all named opinions bear out, as the loop of Skywork-Reward-V2 keeps them.

    An opinion is a judge (`<name>_prefers`), a score of both sides (`chosen_score_<name>` and
    `rejected_score_<name>`) or a margin (`margin_<name>`); it bears a label out if it is for the
    chosen side (arXiv 2507.01352 asks two reward models; that any opinion may be named is ours).

    Adds `consistent` (Boolean): true for labels of people (`label_source: human`), and where every
    opinion is for the label; false where one is against it or finds the sides equal; null where one
    is missing, as of a judge that is not trusted there.

    Attributes:
        opinions: names.
        people: labels of people are consistent whatever the opinions say.

    Example:
        - labelers.Consistent: {opinions: [stack]}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PAIRS,)
    scope: ClassVar[Scope] = "row"

    opinions: tuple[str, ...] = Field(min_length=1)
    people: bool = True

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Whether all opinions bear the label out."""
        return {"consistent": pl.Boolean()}

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Ask every opinion.

        Raises:
            ConfigError: the table has none of a name.
        """
        borne = pl.all_horizontal(self._for(name, table) for name in self.opinions)
        missing = pl.any_horizontal(self._for(name, table).is_null() for name in self.opinions)
        told: pl.Expr = pl.when(~missing).then(borne)
        if self.people:
            told = pl.when(pl.col("label_source") == HUMAN).then(pl.lit(value=True)).otherwise(told)
        return table.select(consistent=told)

    def _for(self, name: str, table: pl.DataFrame) -> pl.Expr:
        """Whether an opinion is for the chosen side; null without one."""
        sides = [f"{side}_{SCORE}{name}" for side in SIDES]
        if f"{name}{PREFERS}" in table.columns:
            return pl.col(f"{name}{PREFERS}") == "chosen"
        if f"{MARGIN}{name}" in table.columns:
            return pl.col(f"{MARGIN}{name}") > 0
        if set(sides) <= set(table.columns):
            return pl.col(sides[0]) > pl.col(sides[1])
        raise ConfigError(
            f"opinions: nothing is called {name!r}; a column {name}{PREFERS}, {MARGIN}{name} or "
            f"{sides[0]} beside {sides[1]} would be its opinion"
        )
