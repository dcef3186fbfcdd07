"""Pairs turned round: the one place that knows every column which depends on the sides.

A column depends on the sides by its name (`chosen` or `rejected` as one of the words), by its
values (a text that is `chosen` or `rejected`), or because it is listed here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import polars as pl

from prefactory.tables import COLUMNS, Shape, with_ids

ORIENTED = ("sign_", "margin_", "signal_")
"""Beginnings of columns of numbers that change their sign with the sides."""
SIGNED = ("margin", "search_gap")
"""Columns of numbers that change their sign with the sides, as the first minus the second does."""
TWINS = {"hidden_instruction": "against_instruction"}
"""Columns of the chosen side and their twins, where the names don't say it."""
CHOSEN_FIRST = ("value_ids", "rule_ids")
"""Lists whose first element is of the chosen side: they are reversed."""
FORGOTTEN = ("trust_rank", "trust_precision", "beta")
"""Columns that depend on the order in a way that can't be worked out from the row: null."""
_SIDE = re.compile(r"(?<![A-Za-z])(chosen|rejected)(?![a-z])")
_OTHER = {"chosen": "rejected", "rejected": "chosen"}


def other_side(name: str) -> str:
    """Name of the same column of the other side; the name itself where it names no side."""
    listed = TWINS | {twin: own for own, twin in TWINS.items()}
    return listed.get(name) or _SIDE.sub(lambda match: _OTHER[match.group()], name)


def turning(schema: Mapping[str, pl.DataType]) -> dict[str, pl.Expr]:
    """What each column that depends on the sides is once a pair is turned round.

    - A column of one side takes the value of its twin (`chosen_model`, `stance_chosen`); null if
      the table has no twin, for then nothing is known of that side.
    - `margin`, `search_gap`, `sign_...`, `margin_...` and `signal_...` change their sign.
    - `trust` becomes `1 - trust`.
    - A text that is `chosen` or `rejected` becomes the other (`judge_prefers`), in any column that
      is not one of the contract or of a conversation.
    - Fields of a struct follow the same rules; lists with the chosen side first are reversed.
    - `trust_rank`, `trust_precision` and `beta` are forgotten: null.

    Applied twice it gives back every value but the forgotten ones.

    Args:
        schema: of PAIRS.

    Returns:
        Column -> expression over the row as it stands; columns that stay are not in it. The ids
        that depend on the order (`pair_id`) are not in it either.
    """
    new: dict[str, pl.Expr] = {}
    for name, dtype in schema.items():
        value = _turned_value(pl.col(name), name, dtype, schema)
        if value is not None:
            new[name] = value
    return new


def _turned_value(
    value: pl.Expr, name: str, dtype: pl.DataType, schema: Mapping[str, pl.DataType]
) -> pl.Expr | None:
    twin = other_side(name)
    if twin != name:
        known = schema.get(twin) == dtype
        return pl.col(twin) if known else pl.lit(None, dtype)
    if name in FORGOTTEN:
        return pl.lit(None, dtype)
    if dtype.is_numeric() and (name in SIGNED or name.startswith(ORIENTED)):
        return (0 - value).cast(dtype)
    if name == "trust":
        return 1 - value
    if name in CHOSEN_FIRST and isinstance(dtype, pl.List):
        return value.list.reverse()
    if name in COLUMNS[Shape.PAIRS]:
        return None
    if dtype == pl.String:
        return value.replace(_OTHER)
    return _turned_struct(value, dtype) if isinstance(dtype, pl.Struct) else None


def _turned_struct(value: pl.Expr, dtype: pl.Struct) -> pl.Expr | None:
    fields = {f.name: f.dtype for f in dtype.fields}
    names = [other_side(name) for name in fields]
    if names == list(fields) or any(fields.get(n) != fields[other_side(n)] for n in names):
        return None
    own = [value.struct.field(twin).alias(name) for name, twin in zip(fields, names, strict=True)]
    return pl.when(value.is_not_null()).then(pl.struct(own))


def turned_where(schema: Mapping[str, pl.DataType], turn: pl.Expr) -> list[pl.Expr]:
    """The columns of `turning` for the rows that are turned, as they are for the others.

    Args:
        schema: of PAIRS.
        turn: Boolean, which rows are turned, no nulls.
    """
    return [
        pl.when(turn).then(value).otherwise(pl.col(name)).alias(name)
        for name, value in turning(schema).items()
    ]


def turned(table: pl.DataFrame, turn: pl.Series, label_source: str, before: str) -> pl.DataFrame:
    """Turn some pairs of a table round: every column of `turning`, and the id of the new order.

    Args:
        table: PAIRS.
        turn: Boolean, which rows, no nulls.
        label_source: of the turned pairs.
        before: column for the id before, of every row.

    Returns:
        The table with `before`, in the same order.
    """
    rows = table.with_columns(pl.col("pair_id").alias(before), turn.alias("_turn"))
    rows = rows.with_columns(
        *turned_where(table.schema, pl.col("_turn")),
        pl.when("_turn").then(pl.lit(label_source)).otherwise("label_source").alias("label_source"),
    )
    ids = with_ids(rows, Shape.PAIRS, keep_side_ids=True)["pair_id"]
    rows = rows.with_columns(pair_id=pl.when("_turn").then(ids).otherwise("pair_id"))
    return rows.drop("_turn")
