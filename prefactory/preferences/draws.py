"""Several labels of one pair: draws of one judge, or votes of several raters, counted in one row.

A source whose records name who labelled them gives one draw with each row. Rows of the same two
answers become one pair, chosen by the majority, that says how many draws went each way.
"""

from __future__ import annotations

import polars as pl

from prefactory.tables import SIDES

_NAMES = pl.List(pl.String)
DRAWS: dict[str, pl.DataType] = {
    "chosen_draws": pl.Int64(),
    "rejected_draws": pl.Int64(),
    "tied_draws": pl.Int64(),
    "chosen_annotators": _NAMES,
    "rejected_annotators": _NAMES,
}
"""Columns of a table of pairs with draws: how many chose each side or neither, and who."""
COUNTED = "counted_draw"
"""Reason of a row that was counted in another row of the same two answers."""


def one_draw(table: pl.DataFrame, annotator: pl.Expr) -> pl.DataFrame:
    """Add the columns of `DRAWS`, each row being one draw for its chosen side.

    Args:
        table: any.
        annotator: String, who drew; null if nobody knows.
    """
    some = pl.when(annotator.is_not_null()).then(pl.concat_list(annotator))
    none = pl.lit([], dtype=_NAMES)
    return table.with_columns(
        pl.lit(1, pl.Int64).alias("chosen_draws"),
        pl.lit(0, pl.Int64).alias("rejected_draws"),
        pl.lit(0, pl.Int64).alias("tied_draws"),
        some.otherwise(none).cast(_NAMES).alias("chosen_annotators"),
        none.alias("rejected_annotators"),
    )


def count_draws(table: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Make one row of all draws of the same two answers to a prompt.

    The side with more draws is chosen; the first row with that side stays, with the draws of all.
    `margin` becomes the mean over the draws, those for the other side counted below zero, and at
    least 0; numbers of the sides (`chosen_score_...`, `chosen_is_...`) become means. With as many
    draws for either side, all rows leave as a `tie`.

    Args:
        table: PAIRS; rows whose `chosen_draws` is null, or a table without it, stay as they are.

    Returns:
        The rows in their order, and what left: `row_id` (the `source_id`), `reason`, `detail`.
    """
    empty = pl.DataFrame(schema={"row_id": pl.String, "reason": pl.String, "detail": pl.String})
    if "chosen_draws" not in table.columns or table["chosen_draws"].null_count() == table.height:
        return table, empty
    sides = pl.concat_list(f"{side}_id" for side in SIDES).list.sort()
    marked = table.with_columns(
        _row=pl.int_range(pl.len()),
        _pair=pl.when(pl.col("chosen_draws").is_not_null()).then(
            pl.concat_str("prompt_id", sides.list.join("|"), separator="|")
        ),
        _first=pl.col("chosen_id") <= pl.col("rejected_id"),
    )
    again = marked.filter(pl.col("_pair").is_not_null() & pl.col("_pair").is_duplicated())
    if again.height == 0:
        return table, empty
    counted = _counted(again)
    counted = counted.with_columns(keep=pl.col("_row") == pl.col("_stays"))
    stays = counted.filter("keep")
    gone = counted.filter(~pl.col("keep").fill_null(value=False)).select(
        pl.col("source_id").alias("row_id"),
        pl.when(pl.col("_stays").is_null())
        .then(pl.lit("tie"))
        .otherwise(pl.lit(COUNTED))
        .alias("reason"),
        pl.format("draws for one answer and the other: {}, {}", "_most", "_least").alias("detail"),
    )
    others = marked.join(again.select("_row"), on="_row", how="anti")
    rows = pl.concat([others.select(*table.columns, "_row"), stays.select(*table.columns, "_row")])
    return rows.sort("_row").drop("_row"), gone


def _names(lists: pl.Expr) -> pl.Expr:
    """All names of a group's lists, sorted."""
    return lists.list.explode(keep_nulls=False, empty_as_null=False).sort()


def _counted(again: pl.DataFrame) -> pl.DataFrame:
    """Every draw with what all draws of its pair say, seen from its own chosen side."""
    first = pl.col("_first")

    def of(side: str, name: str) -> pl.Expr:
        """A column of the side whose answer has the lower id (`a`) or the higher (`b`)."""
        own, other = (f"chosen_{name}", f"rejected_{name}")[:: 1 if side == "a" else -1]
        return pl.when(first).then(own).otherwise(other)

    numbers = [
        name.removeprefix("chosen_")
        for name, dtype in again.schema.items()
        if name.startswith("chosen_") and dtype == pl.Float64
        and again.schema.get(f"rejected_{name.removeprefix('chosen_')}") == dtype
    ]  # fmt: skip
    each = pl.col("chosen_draws") + pl.col("rejected_draws") + pl.col("tied_draws")
    sums = {
        "_a": of("a", "draws").sum(),
        "_b": of("b", "draws").sum(),
        "_ties": pl.col("tied_draws").sum(),
        "_a_names": _names(of("a", "annotators")),
        "_b_names": _names(of("b", "annotators")),
        **{f"_{s}_{n}": of(s, n).mean() for s in "ab" for n in numbers},
    }
    if "margin" in again.columns:
        signed = pl.when(first).then("margin").otherwise(-pl.col("margin"))
        sums["_margin"] = (signed * each).sum() / each.sum()
    pairs = again.group_by("_pair", maintain_order=True).agg(
        **sums,
        _stays_a=pl.col("_row").filter(first).first(),
        _stays_b=pl.col("_row").filter(~first).first(),
    )
    a, b = pl.col("_a"), pl.col("_b")
    pairs = pairs.with_columns(
        _stays=pl.when(a > b).then("_stays_a").when(b > a).then("_stays_b"),
        _most=pl.max_horizontal(a, b),
        _least=pl.min_horizontal(a, b),
    )
    joined = again.join(pairs, on="_pair", how="left", maintain_order="left")

    def seen(chosen: bool, name: str) -> pl.Expr:
        own, other = (f"_a{name}", f"_b{name}")[:: 1 if chosen else -1]
        return pl.when(first).then(own).otherwise(other)

    new = {
        **{f"{s}_draws": seen(s == "chosen", "") for s in SIDES},
        **{f"{s}_annotators": seen(s == "chosen", "_names") for s in SIDES},
        **{f"{s}_{n}": seen(s == "chosen", f"_{n}") for s in SIDES for n in numbers},
        "tied_draws": pl.col("_ties"),
    }
    if "margin" in again.columns:
        toward = pl.when(first).then("_margin").otherwise(-pl.col("_margin"))
        new["margin"] = toward.clip(lower_bound=0)
    return joined.with_columns(**new)
