"""Applying one step to one table, and holding it to its promise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import polars as pl

from prefactory import ledger
from prefactory.context import Context
from prefactory.errors import DataError
from prefactory.images.marks import Held, bind, is_pictures, unbind
from prefactory.step import Filter, Generated, Generator, Labeler, State, Step
from prefactory.step.exchange import Streamed
from prefactory.tables import (
    ROW_ID,
    SIDES,
    Shape,
    canonical_order,
    check,
    join_sides,
    same_messages,
    unpair,
)


def table_for(step: Step, table: pl.DataFrame, shape: Shape) -> tuple[pl.DataFrame, Shape]:
    """The table that a step sees: the table itself, or the responses of pairs."""
    if shape in step.takes():
        return table, shape
    return unpair(table, step.needs(Shape.RESPONSES)), Shape.RESPONSES


def accepts(step: Step, shape: Shape) -> bool:
    """Tell whether a step can run on tables of a shape, directly or by unpairing."""
    by_unpairing = (
        shape == Shape.PAIRS
        and Shape.RESPONSES in step.takes()
        and isinstance(step, Filter | Labeler)
    )
    return shape in step.takes() or by_unpairing


def columns_added(step: Step, shape: Shape) -> dict[str, pl.DataType]:
    """Columns that a labeler adds to a table of this shape (with side prefixes if unpaired)."""
    if shape in step.takes():
        return step.adds(shape)
    adds = step.adds(Shape.RESPONSES)
    return {f"{side}_{name}": dtype for side in SIDES for name, dtype in adds.items()}


def columns_needed(step: Step, shape: Shape) -> dict[str, pl.DataType]:
    """Columns that a step reads from a table of this shape (with side prefixes if unpaired)."""
    if shape in step.takes():
        return step.needs(shape)
    needs = step.needs(Shape.RESPONSES)
    return {f"{side}_{name}": dtype for side in SIDES for name, dtype in needs.items()}


def bound(table: pl.DataFrame, ctx: Context) -> tuple[pl.DataFrame, Context]:
    """A table as steps see it, with the names of its pictures in the marks; and who has these."""
    if not is_pictures(table.schema.get("images")):
        return table, ctx
    held = Held()
    return bind(table, held), replace(ctx, images=held)


_ANSWER = (
    "a table with `reason` and `detail` (String) for every row, where a null reason keeps the row; "
    "`verdict(table, (rule, reason, detail))` makes one"
)


def kind(value: object) -> str:
    """What a value is, for an error: `a Series of Boolean`."""
    if isinstance(value, pl.Series):
        return f"a Series of {value.dtype}"
    return "nothing" if value is None else f"a {type(value).__name__}"


def _table(value: object, hook: str, wanted: str) -> pl.DataFrame:
    if not isinstance(value, pl.DataFrame):
        raise DataError(f"{hook} returned {kind(value)}; it must return {wanted}")
    return value


def fit_shard(
    step: Step, label: str, table: pl.DataFrame, shape: Shape, ctx: Context
) -> pl.DataFrame:
    """Reduce a shard for a step's `fit`.

    Raises:
        DataError: the step returns something else than a table whose first column is an id.
    """
    table, ctx = bound(table, ctx)
    seen, seen_shape = table_for(step, table, shape)
    part = _table(step.fit_shard(seen, ctx), f"{label}.fit_shard", "a table")
    if not part.width or part.dtypes[0] != pl.String:
        raise DataError(
            f"{label}.fit_shard returned the columns {dict(part.schema)}; the first must be an id "
            f"(String), as {ROW_ID[seen_shape]}"
        )
    return part


def fit(step: Step, label: str, parts: pl.DataFrame, ctx: Context) -> State:
    """Fit a step to all rows of `fit_shard`, in the order of their ids.

    Raises:
        DataError: the step returns something else than a `State`.
    """
    return _state(step.fit(parts.sort(parts.columns[0], maintain_order=True), ctx), f"{label}.fit")


def fit_parts(step: Step, label: str, parts: Iterable[pl.DataFrame], ctx: Context) -> State:
    """Fit a step to what `fit_shard` left of each shard, in the order of the shards.

    One that reads shard by shard is given them so; another one all rows at once.

    Raises:
        DataError: the step returns something else than a `State`.
    """
    if isinstance(step, Streamed):
        return _state(step.fit_stream(parts, ctx), f"{label}.fit_stream")
    return fit(step, label, pl.concat(parts), ctx)


def _state(state: object, hook: str) -> State:
    if not isinstance(state, State):
        raise DataError(f"{hook} returned {kind(state)}; it must return a `State`")
    return state


def apply_filter(
    step: Filter, label: str, table: pl.DataFrame, shape: Shape, ctx: Context
) -> pl.DataFrame:
    """Return the ledger rows of the rows that a filter drops from a table, in table order."""
    table, ctx = bound(table, ctx)
    seen, seen_shape = table_for(step, table, shape)
    answer = _table(step.keep(seen, ctx), f"{label}.keep", _ANSWER)
    if answer.height != seen.height or not {"reason", "detail"} <= set(answer.columns):
        raise DataError(
            f"{label} judged {answer.height} of {seen.height} rows, with columns "
            f"{answer.columns}; it must return {_ANSWER}"
        )
    if answer.schema["reason"] not in (pl.String, pl.Null):
        raise DataError(
            f"{label} gives reasons of type {answer.schema['reason']}; it must return {_ANSWER}"
        )
    row_id = seen[ROW_ID[seen_shape]].alias("row_id")
    judged = answer.select("reason", "detail").with_columns(row_id)
    dropped = judged.filter(pl.col("reason").is_not_null())
    if seen_shape != shape:
        dropped = _pairs_dropped(table, dropped)
    return ledger.entries(dropped, label)


def _pairs_dropped(pairs: pl.DataFrame, dropped: pl.DataFrame) -> pl.DataFrame:
    pair_sides = pairs.select("pair_id", "chosen_id", "rejected_id")
    for side in SIDES:
        right = dropped.select(
            pl.col("row_id").alias(f"{side}_id"),
            pl.col("reason").alias(f"{side}_reason"),
            pl.concat_str(pl.lit(f"{side}: "), pl.col("detail").fill_null("")).alias(
                f"{side}_detail"
            ),
        )
        pair_sides = pair_sides.join(right, on=f"{side}_id", how="left", maintain_order="left")
    hit = pl.coalesce("chosen_reason", "rejected_reason")
    return pair_sides.filter(hit.is_not_null()).select(
        pl.col("pair_id").alias("row_id"),
        hit.alias("reason"),
        pl.coalesce("chosen_detail", "rejected_detail").alias("detail"),
    )


def apply_labeler(
    step: Labeler, label: str, table: pl.DataFrame, shape: Shape, ctx: Context
) -> pl.DataFrame:
    """Return the row id and the new columns of a labeler, in table order."""
    table, ctx = bound(table, ctx)
    seen, seen_shape = table_for(step, table, shape)
    new = _table(step.label(seen, ctx), f"{label}.label", "a table of the columns of `adds`")
    adds = step.adds(seen_shape)
    if new.height != seen.height or dict(new.schema) != adds:
        raise DataError(
            f"{label} returned {new.height} rows of {dict(new.schema)}; it promised "
            f"{seen.height} rows of {adds}"
        )
    if seen_shape == shape:
        return table.select(ROW_ID[shape]).hstack(new.get_columns())
    scored = seen.select("response_id").hstack(new.get_columns())
    ids = table.select("pair_id", "chosen_id", "rejected_id")
    return join_sides(ids, scored, list(adds)).drop("chosen_id", "rejected_id")


def apply_generator(
    step: Generator,
    label: str,
    table: pl.DataFrame,
    shape: Shape,
    ctx: Context,
    notes: dict[str, int] | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return a generator's new rows, checked and in canonical order, and its ledger rows.

    Rows of a step with `new_prompts` may repeat: copies that meet in one shard by chance are told
    apart from others only when the rows are cut again. The step's notes are put into `notes`.

    Raises:
        DataError: if ids repeat, or an input row is neither a parent nor accounted for.
    """
    apart = "images" in table.columns
    table, ctx = bound(table, ctx)
    output = step.generate(table, ctx)
    if not isinstance(output, Generated):
        raise DataError(f"{label}.generate returned {kind(output)}; it must return a `Generated`")
    _table(output.rows, f"{label}.generate", "the new rows as a table")
    _table(output.dropped, f"{label}.generate", "the dropped rows as a table")
    absent = [c for c in step.parents if c not in output.rows.columns]
    absent += [c for c in ("row_id", "reason", "detail") if c not in output.dropped.columns]
    if absent:
        raise DataError(
            f"{label}.generate returned tables without {', '.join(absent)}; its rows need "
            f"{', '.join(step.parents)}, its dropped rows `row_id`, `reason` and `detail`"
        )
    if notes is not None:
        notes.update(output.notes)
    out = step.out_shape(shape)
    once = output.rows
    if step.new_prompts and ROW_ID[out] in once.columns:
        once = once.unique(ROW_ID[out], keep="first")
    once = same_messages(once, [table.schema["prompt"]])
    check(once, out, f"the output of {label}")
    ids = table[ROW_ID[shape]]
    parents = pl.concat([output.rows[c] for c in step.parents] or [ids.clear()]).unique()
    known = parents.is_in(ids.implode())
    fate = pl.DataFrame({"row_id": ids}).with_columns(
        parent=pl.col("row_id").is_in(parents.implode())
    )
    fate = fate.join(output.dropped, on="row_id", how="left", maintain_order="left")
    lost = fate.filter(~pl.col("parent") & pl.col("reason").is_null())["row_id"]
    problems = {
        f"{lost.len()} of {ids.len()} rows are neither a parent nor dropped with a reason (for "
        f"example {lost.head(3).to_list()})": lost.len() > 0,
        f"{parents.len() - known.sum()} parents are not among its rows": not known.all(),
        "it accounts for a row twice": fate.height != ids.len(),
        "it makes new prompts and does not say so (`new_prompts`)": not step.new_prompts
        and not output.rows["prompt_id"].is_in(table["prompt_id"].implode()).all(),
    }
    mistakes = [text for text, there in problems.items() if there]
    if mistakes:
        raise DataError(f"{label} does not account for every row: " + "; ".join(mistakes))
    dropped = fate.filter(~pl.col("parent")).select("row_id", "reason", "detail")
    rows = same_messages(output.rows, [table.schema["prompt"]])
    if apart and ctx.images is not None:
        rows = unbind(bind(rows, ctx.images), ctx.images)
    return canonical_order(rows, out), ledger.entries(dropped, label)
