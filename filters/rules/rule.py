"""A plain function as a filter."""

from __future__ import annotations

import polars as pl
from pydantic import Field

from prefactory.context import Context
from prefactory.errors import DataError
from prefactory.step import Filter
from prefactory.step.functions import OfFunction


class Rule(OfFunction, Filter):
    """Keep the rows for which a function says so.

    The function takes columns by the names of its parameters, each as a Series (`prompt`,
    `response`, `chosen` and `rejected` as their text), or the whole `table`; `ctx` draws random
    numbers. It returns one value a row, as a Series, an expression or a list: Boolean, where only
    true keeps the row, or String, a reason where the row goes and null where it stays. It must
    judge each row by itself. A function of answers also judges both sides of pairs.

    In Python, `filters.Rule(no_urls)`, or `@filters.Rule` above the function, which then is a step.

    It is identified by its source, and that of the functions and plain values of its module that it
    uses: an edited function is another step. What it imports does not count.

    Reasons: `reason`, or what the function says.

    Attributes:
        function: the function, or its import path: of a module beside the recipe or installed.
        options: values for its other parameters.
        reason: of the rows for which it says false; by default the function's name.

    Example:
        - filters.Rule: {function: my_module.no_urls}
    """

    reason: str | None = Field(default=None, min_length=1)

    def keep(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Ask the function (see `Filter.keep`).

        Raises:
            DataError: the function returns neither Boolean nor String values, one a row.
        """
        answer: pl.Series = self.function.apply(table, ctx, self.options)
        if answer.dtype == pl.Boolean:
            goes = ~answer.fill_null(value=False)
            reason = pl.when(goes).then(pl.lit(self.reason or self.function.name))
            answer = table.with_columns(reason.alias("_reason"))["_reason"]
        elif answer.dtype not in (pl.String, pl.Null):
            raise DataError(
                f"{ctx.step}: {self.function.path} returned {answer.dtype}; a rule returns Boolean "
                "(true keeps) or String (a reason, null keeps)"
            )
        answer = answer.cast(pl.String).alias("reason")
        return answer.to_frame().with_columns(detail=pl.lit(None, dtype=pl.String))
