"""Which model or judge to take for a prompt, by a trained router."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import polars as pl
from pydantic import Field

from prefactory.context import Context
from prefactory.preferences.router import Router, digest
from prefactory.step import Labeler
from prefactory.tables import Shape, last_user_text


class Route(Labeler):
    """Add `<name>`: the model or judge that a router takes for a prompt, and what that is worth.

    `<name>_gain` is by how much its utility is above the mean of the candidates, in log odds of
    doing better, its price not taken off; `<name>_cost` its cost, in the unit of the training
    (`prefactory train router NAME`; hashed names as in Unified Embedding, arXiv 2305.12102).

    Attributes:
        model: folder of a router.
        name: of the columns.
        max_cost: no candidate that costs more.

    Raises:
        ConfigError: there is no such router, or every candidate costs more.

    Example:
        - labelers.Route: {model: FOLDER_OF_A_ROUTER}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS, Shape.RESPONSES, Shape.PAIRS)

    model: str | Path
    name: str = Field(default="route", pattern=r"^[a-z0-9_]+$")
    max_cost: float | None = Field(default=None, ge=0)

    def identity(self) -> dict[str, Any]:
        """The fields, with the digest of the router's files in place of its folder."""
        found = super().identity()
        return found | {"fields": {**found["fields"], "model": digest(self.model)}}

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The columns of the prompt that the router reads."""
        return {c: pl.String() for c in Router.load(self.model).categories.prompt}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`<name>` (String), `<name>_gain` and `<name>_cost` (Float64)."""
        numbers: dict[str, pl.DataType] = {
            f"{self.name}_{what}": pl.Float64() for what in ("gain", "cost")
        }
        return {self.name: pl.String(), **numbers}

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Choose for every row; see `adds`."""
        router = Router.load(self.model)
        texts = table.select(last_user_text(pl.col("prompt")).fill_null("")).to_series()
        utilities = router.utilities(table, texts, ctx.embed)
        taken = router.choose(utilities, self.max_cost)
        columns = {
            self.name: [router.candidates[k] for k in taken],
            f"{self.name}_gain": utilities[range(len(taken)), taken],
            f"{self.name}_cost": router.costs[taken],
        }
        return pl.DataFrame(columns, schema=self.adds(Shape.PROMPTS))
