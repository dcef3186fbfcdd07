"""Constraints that a program can check in an answer: no commas, 300 words at least, ..."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from labelers.rules.constraint_checks import ARGUMENTS, CHECKS, RELATIONS, holds, loose_variants
from prefactory.context import Context
from prefactory.errors import DataError
from prefactory.step import Labeler
from prefactory.tables import SCORE, Shape, text_of

Mode = Literal["strict", "loose"]
_ITEM = pl.Struct(ARGUMENTS)


class Constraint(BaseModel):
    """One constraint on all answers.

    Attributes:
        id: IFEval's instruction id, see `labelers.rules.constraint_checks.CHECKS`.
        kwargs: its arguments, with IFEval's names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    kwargs: dict[str, str | float | tuple[str, ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Constraint:
        if self.id not in CHECKS:
            raise ValueError(f"id: there is no {self.id!r}; there are {', '.join(CHECKS)}")
        if set(self.kwargs) != set(CHECKS[self.id].needs):
            raise ValueError(
                f"kwargs: {self.id} takes {', '.join(CHECKS[self.id].needs) or 'none'}"
            )
        for key, value in self.kwargs.items():
            kind = {pl.String(): str, pl.Float64(): float}.get(ARGUMENTS[key], tuple)
            if not isinstance(value, kind):
                raise ValueError(f"kwargs: {key} of {self.id} can't be {value!r}")
        for key in ("relation", "let_relation", "capital_relation"):
            if key in self.kwargs and self.kwargs[key] not in RELATIONS:
                raise ValueError(f"{key}: one of {', '.join(RELATIONS)}")
        return self


class Constraints(Labeler):
    """Add `score_<name>`: which share of its constraints an answer keeps, or whether it keeps all.

    Objective: `name`. Range: 0 to 1 (0 or 1 with `aggregate: all`). Direction: higher is better.
    The 25 kinds of IFEval (arXiv:2311.07911); see `labelers.rules.constraint_checks` for what
    differs. `loose` holds a constraint if it holds for the answer, or for the answer without its
    first line, its last line, both, and each of these without asterisks. An empty answer keeps
    none. An answer without constraints is not scored (null).

    Attributes:
        name: of the objective.
        mode: `strict` or `loose`.
        aggregate: `all` (IFEval's prompt level) or `share` (the mean over constraints).
        constraints: on all answers; empty takes them from the two columns.
        instructions: column with each row's instruction ids, List(String).
        kwargs: column with their arguments in the same order: a list of structs (fields of other
            kinds null or absent), or JSON text of such a list.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    score_range: ClassVar[tuple[float | None, float | None]] = (0.0, 1.0)
    direction: ClassVar[str] = "higher"

    name: str = Field(default="constraints", min_length=1)
    mode: Mode = "strict"
    aggregate: Literal["all", "share"] = "all"
    constraints: tuple[Constraint, ...] = ()
    instructions: str = Field(default="instruction_id_list", min_length=1)
    kwargs: str = Field(default="kwargs", min_length=1)

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The column of instruction ids, unless the step has constraints of its own."""
        return {} if self.constraints else {self.instructions: pl.List(pl.String())}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`score_<name>`, Float64."""
        return {f"{SCORE}{self.name}": pl.Float64()}

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Check every answer.

        Returns:
            `score_<name>`, same height and order.

        Raises:
            DataError: a row names an unknown instruction, or its arguments are missing or wrong.
        """
        texts = table.select(text_of(pl.col("response")).fill_null("")).to_series()
        items = self._own(table.height) if self.constraints else self._listed(table)
        kept = kept_constraints(texts, items, self.mode)
        how = pl.col("kept").mean() if self.aggregate == "share" else pl.col("kept").all()
        scores = kept.group_by("row").agg(how.cast(pl.Float64).alias("score"))
        rows = pl.DataFrame({"row": pl.int_range(table.height, dtype=pl.UInt32, eager=True)})
        joined = rows.join(scores, on="row", how="left", maintain_order="left")
        return joined.select(pl.col("score").alias(f"{SCORE}{self.name}"))

    def _own(self, height: int) -> pl.DataFrame:
        ids = [c.id for c in self.constraints]
        arguments = pl.Series([c.kwargs for c in self.constraints], dtype=_ITEM)
        each = pl.DataFrame({"instruction": ids, "arguments": arguments})
        rows = pl.DataFrame({"row": pl.int_range(height, dtype=pl.UInt32, eager=True)})
        return rows.join(each, how="cross")

    def _listed(self, table: pl.DataFrame) -> pl.DataFrame:
        if self.kwargs not in table.columns:
            raise DataError(f"labelers.Constraints needs column {self.kwargs!r} with the arguments")
        listed = table.select(
            instruction=pl.col(self.instructions), arguments=_arguments(table[self.kwargs])
        ).with_row_index("row")
        sizes = pl.col("arguments").list.len() != pl.col("instruction").list.len()
        wrong = listed.filter(pl.col("instruction").list.len() > 0, sizes | sizes.is_null())
        if wrong.height:
            raise DataError(
                f"{wrong.height} rows have another number of arguments than of instructions, the "
                f"first of them in place {wrong['row'][0]}"
            )
        some = listed.filter(pl.col("instruction").list.len() > 0)
        items = some.explode("instruction", "arguments")
        unknown = sorted(set(items["instruction"].drop_nulls()) - set(CHECKS))
        if unknown or items["instruction"].null_count():
            raise DataError(f"unknown instructions: {', '.join(unknown) or 'null'}")
        return items


def _arguments(column: pl.Series) -> pl.Series:
    """Any form of the arguments as lists of structs with all fields of `ARGUMENTS`."""
    try:
        if column.dtype == pl.String:
            return column.str.json_decode(pl.List(_ITEM))
        if column.dtype == pl.List(pl.String):
            frame = pl.DataFrame({"a": column})
            decoded = pl.col("a").list.eval(pl.element().str.json_decode(_ITEM))
            return frame.select(decoded).to_series()
        inner: Any = getattr(column.dtype, "inner", None)
        known = {f.name for f in getattr(inner, "fields", [])}
        fields = [
            pl.element().struct.field(n).cast(d).alias(n)
            if n in known
            else pl.lit(None, dtype=d).alias(n)
            for n, d in ARGUMENTS.items()
        ]
        element = pl.struct(fields) if known else pl.lit(None, dtype=_ITEM)
        return pl.DataFrame({"a": column}).select(pl.col("a").list.eval(element)).to_series()
    except pl.exceptions.PolarsError as error:
        raise DataError(f"column {column.name!r} holds no arguments of IFEval: {error}") from error


def kept_constraints(texts: pl.Series, items: pl.DataFrame, mode: Mode) -> pl.DataFrame:
    """Check constraints on texts.

    Args:
        texts: String [n].
        items: one constraint per row: `row` (UInt32, into `texts`), `instruction` (String) and
            `arguments` (Struct of `ARGUMENTS`).
        mode: see `Constraints`.

    Returns:
        `row`, `instruction`, `kept` (Boolean), sorted by row, else in the order of `items`.

    Raises:
        DataError: an argument that a check needs is null.
    """
    parts = []
    for (instruction,), part in items.with_row_index("place").group_by("instruction"):
        mine = texts.gather(part["row"])
        arguments = part["arguments"].struct.unnest()
        lacking = [c for c in CHECKS[str(instruction)].needs if arguments[c].null_count()]
        if lacking:
            raise DataError(f"{instruction}: {', '.join(lacking)} is missing on some rows")
        kept = _kept(str(instruction), mine, arguments, mode)
        parts.append(part.select("place", "row", "instruction", kept=kept))
    if not parts:
        return items.select("row", "instruction").with_columns(kept=pl.lit(value=True))
    return pl.concat(parts).sort("row", "place").drop("place")


def _kept(instruction: str, texts: pl.Series, arguments: pl.DataFrame, mode: Mode) -> pl.Series:
    if mode == "strict":
        return holds(instruction, texts, arguments)
    frame = texts.alias("text").to_frame()
    variants = [frame.select(v).to_series() for v in loose_variants(pl.col("text"))]
    each = [holds(instruction, v, arguments).alias(str(i)) for i, v in enumerate(variants)]
    return pl.DataFrame(each).select(pl.any_horizontal(pl.all())).to_series()
