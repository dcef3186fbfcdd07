"""A plain function as a labeler."""

from __future__ import annotations

from typing import Literal

import polars as pl
from pydantic import Field

from prefactory.context import Context
from prefactory.errors import DataError
from prefactory.step import Labeler
from prefactory.step.functions import OfFunction
from prefactory.tables import SCORE, Shape

_TYPES: dict[str, pl.DataType] = {
    "score": pl.Float64(),
    "integer": pl.Int64(),
    "boolean": pl.Boolean(),
    "string": pl.String(),
}


class Rule(OfFunction, Labeler):
    """A column from a function.

    The function takes columns by the names of its parameters and is identified by its source, as
    that of `filters.Rule`. It returns one value a row, as a Series, an expression or a list; null
    where it can't tell. It must look at each row by itself.

    Adds `score_<name>` (Float64), or `<name>` of another type. In Python, `labelers.Rule(words)`.

    Attributes:
        function: the function, or its import path: of a module beside the recipe or installed.
        options: values for its other parameters.
        name: of the column; by default the function's name.
        type: of the column.

    Example:
        - labelers.Rule: {function: my_module.words}
    """

    name: str | None = Field(default=None, pattern=r"^\w+$")
    type: Literal["score", "integer", "boolean", "string"] = "score"

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """The column."""
        name = self.name or self.function.name
        return {f"{SCORE}{name}" if self.type == "score" else name: _TYPES[self.type]}

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Ask the function (see `Labeler.label`).

        Raises:
            DataError: the values are not of the column's type.
        """
        ((name, dtype),) = self.adds(Shape.RESPONSES).items()
        answer: pl.Series = self.function.apply(table, ctx, self.options)
        try:
            return answer.cast(dtype).alias(name).to_frame()
        except pl.exceptions.PolarsError as error:
            raise DataError(
                f"{ctx.step}: {self.function.path} returned {answer.dtype}, which can't be {dtype}"
            ) from error
