"""Pairs turned round: every column that knows the sides turns with them."""

from __future__ import annotations

import polars as pl

from prefactory.tables import Shape, with_ids

ORIENTED = ("sign_", "margin_", "signal_")
"""Beginnings of columns that change their sign with the sides, as `margin` does."""
RANKS = ("trust_rank", "trust_precision")
"""Columns that say nothing any more of a pair that was turned: null."""


def turned(table: pl.DataFrame, turn: pl.Series, label_source: str, before: str) -> pl.DataFrame:
    """Turn some pairs of a table round.

    Every `chosen_...` column changes places with its `rejected_...`, `margin` and the columns of
    `ORIENTED` change sign, `trust` becomes `1 - trust`, `..._prefers` changes its side, and the
    pair gets the id of its new order.

    Args:
        table: PAIRS.
        turn: Boolean, which rows, no nulls.
        label_source: of the turned pairs.
        before: column for the id before, of every row.

    Returns:
        The table with `before`, in the same order.
    """
    marked = table.with_columns(pl.col("pair_id").alias(before), turn.alias("_turn"))
    new: dict[str, pl.Expr] = {"label_source": pl.lit(label_source)}
    new |= {column: pl.col(other) for column, other in _sides(table.columns)}
    new |= {name: _other(pl.col(name)) for name in table.columns if name.endswith("_prefers")}
    oriented = [c for c in table.columns if c == "margin" or c.startswith(ORIENTED)]
    new |= {c: (0 - pl.col(c)).cast(table.schema[c]) for c in oriented}
    new |= {c: 1 - pl.col(c) for c in table.columns if c == "trust"}
    new |= {c: pl.lit(None, table.schema[c]) for c in table.columns if c in RANKS}
    rows = marked.with_columns(
        pl.when("_turn").then(value).otherwise(column).alias(column)
        for column, value in new.items()
    )
    ids = with_ids(rows, Shape.PAIRS, keep_side_ids=True)["pair_id"]
    rows = rows.with_columns(pair_id=pl.when("_turn").then(ids).otherwise("pair_id"))
    return rows.drop("_turn")


def _other(side: pl.Expr) -> pl.Expr:
    """`rejected` for `chosen` and the other way round; all else stays."""
    return side.replace({"chosen": "rejected", "rejected": "chosen"})


def _sides(columns: list[str]) -> list[tuple[str, str]]:
    """Columns of one side with their names on the other: both directions."""
    renames = []
    for column in columns:
        other = "rejected" + column.removeprefix("chosen")
        if column.startswith("chosen") and other in columns:
            renames += [(column, other), (other, column)]
    return renames
