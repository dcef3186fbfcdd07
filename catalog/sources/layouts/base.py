"""What a layout is, and the message expressions that layouts share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from catalog.sources.fields import Field
from prefactory.tables import MESSAGES, Shape

Rule = tuple[pl.Expr, str, pl.Expr]
"""(fires, reason, detail): a boolean expression, a code, a String expression."""


@dataclass(frozen=True, slots=True)
class Draft:
    """Rows on their way to a shape: `prompt` and answers are there, ids and checks are not.

    Attributes:
        frame: one row per candidate; keeps the `_row` column it came with.
        rejects: rules for rows that can't be used, the first that fires giving the reason.
        notes: rules for rows that are kept; each that fires is noted.
    """

    frame: pl.DataFrame
    rejects: tuple[Rule, ...] = ()
    notes: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a layout may look up beside its records.

    Attributes:
        questions: question id -> turns of the user (MT-bench), read from a file nearby.
        answers: (question id, model) -> turns of the model, read from a file nearby.
        values: value of the verdict -> `a`, `b` or `tie`, as the recipe says.
        names: field -> column that it is read from, for details.
    """

    questions: Mapping[str, list[str]] = field(default_factory=dict)
    answers: Mapping[tuple[str, str], list[str]] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)


def _always(records: list[dict[str, Any]], columns: set[str]) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Made:
    """A column that a layout makes of others.

    Attributes:
        name: of the column.
        dtype: of the column.
        of: field that must be in the source for the column to be there; "" for always.
    """

    name: str
    dtype: pl.DataType = field(default_factory=pl.Float64)
    of: str = ""


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to write preference data down.

    Attributes:
        name: as in a recipe.
        shape: of the rows it gives.
        fields: what it reads. All required ones must be there for the layout to be recognised.
        build: typed fields -> draft; columns only.
        about: one line for people.
        label_source: who chose, if the layout tells; None where nobody knows.
        example: a record, for the docs.
        when: more that the first records must fulfil to be recognised; it sees them with our field
            names, and the set of all columns.
        makes: score columns and `margin` that `build` makes, beside those that are fields.
        carries: other columns that `build` makes.
        paired: groups of fields that are called alike: all of a group take the name at the same
            place of their `names`.
        alternatives: other forms under the same name, tried after this one.
        keeps_side_ids: `chosen_id` and `rejected_id` come from the data.
        draws: `build` makes the columns of `prefactory.preferences.draws.DRAWS`.
        wants_questions: it needs the prompts of a questions file.
        wants_answers: it needs the answers of an answers file, too.
    """

    name: str
    shape: Shape
    fields: tuple[Field, ...]
    build: Callable[[pl.DataFrame, Surroundings], Draft]
    about: str
    label_source: str | None = None
    when: Callable[[list[dict[str, Any]], set[str]], bool] = _always
    makes: tuple[str, ...] = ()
    carries: tuple[Made, ...] = ()
    paired: tuple[tuple[str, ...], ...] = ()
    alternatives: tuple[Layout, ...] = ()
    example: Mapping[str, Any] = field(default_factory=dict)
    keeps_side_ids: bool = False
    draws: bool = False
    wants_questions: bool = False
    wants_answers: bool = False


def message(role: str, content: pl.Expr) -> pl.Expr:
    """One message of a role, as a list; null where the content is null."""
    messages = pl.concat_list(pl.struct(role=pl.lit(role), content=content))
    return pl.when(content.is_not_null()).then(messages).cast(MESSAGES)


def with_input(instruction: pl.Expr, extra: pl.Expr) -> pl.Expr:
    """Instruction and its input, a blank line between them; the instruction alone if none."""
    has_input = (extra.str.strip_chars() != "").fill_null(value=False)
    return pl.when(has_input).then(instruction + "\n\n" + extra).otherwise(instruction)


def detail(text: str = "") -> pl.Expr:
    """A constant detail."""
    return pl.lit(text, dtype=pl.String)


def counted(frame: pl.DataFrame, column: str, number: str, *others: str) -> pl.DataFrame:
    """Explode a list column with the place of each element, counted from 1 (null for none).

    Args:
        frame: has the columns.
        column: a list.
        number: what to call the place.
        others: lists of the same lengths, to explode with it; shorter ones are filled with nulls.
    """
    length = pl.col(column).list.len().cast(pl.Int64)
    numbers = pl.when(length > 0).then(pl.int_ranges(1, length + 1))
    frame = frame.with_columns(numbers.alias(number))
    frame = frame.with_columns(
        pl.when(pl.col(other).is_null() & (length > 0))
        .then(pl.lit(None).repeat_by(length))
        .when(length > 0)
        .then(pl.col(other).list.gather(pl.col(number) - 1, null_on_oob=True))
        .alias(other)
        for other in others
    )
    return frame.explode(column, number, *others, empty_as_null=True)


FIRST_BETTER = "_first_better"
"""Column of `ordered`: whether the first answer became the chosen one."""


def ordered(frame: pl.DataFrame, first_better: pl.Expr) -> pl.DataFrame:
    """Make `chosen` and `rejected` (and their models) of `response_a` and `response_b`.

    Args:
        frame: has `response_a`, `response_b`, `model_a`, `model_b`.
        first_better: boolean; null counts as false, such rows are rejected by a rule.
    """
    first = first_better.fill_null(value=False)
    return frame.with_columns(
        pl.when(first).then("response_a").otherwise("response_b").alias("chosen"),
        pl.when(first).then("response_b").otherwise("response_a").alias("rejected"),
        pl.when(first).then("model_a").otherwise("model_b").alias("chosen_model"),
        pl.when(first).then("model_b").otherwise("model_a").alias("rejected_model"),
        first.alias(FIRST_BETTER),
    )
