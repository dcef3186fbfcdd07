"""Answers as RESPONSES rows, joined to their prompts; copies counted, failures accounted for."""

from __future__ import annotations

import polars as pl

from generators.answers.calls import failures_by_row
from prefactory.step import Generated
from prefactory.tables import (
    COLUMNS,
    MESSAGES,
    OF_PROMPT,
    ROW_ID,
    Shape,
    canonical_order,
    stacked,
    with_ids,
)

ADDS: dict[str, pl.DataType] = {
    "parent_id": pl.String(),
    "finish_reason": pl.String(),
    "same_samples": pl.Int64(),
    "failed_samples": pl.Int64(),
    "failures": pl.String(),
}
"""Columns of every table of sampled answers.

- `parent_id`: the input row that an answer was made from; an answer that was there, itself.
- `finish_reason`: `stop`, `length`, or what the server said.
- `same_samples`: further samples of the prompt with this very text, which are not rows.
- `failed_samples`, `failures`: calls for the prompt without an answer, and why (`http_500 2`).
"""

CALLS = ("row", "text", "finish_reason", "reason", "detail")


def as_messages(texts: pl.Expr) -> pl.Expr:
    """Texts as conversations of one assistant message."""
    message = pl.struct(role=pl.lit("assistant"), content=texts)
    return pl.concat_list(message).cast(MESSAGES)


def generated(table: pl.DataFrame, shape: Shape, answers: pl.DataFrame) -> Generated:
    """Put answers beside the prompts that they answer.

    Args:
        table: PROMPTS, or RESPONSES whose prompts get more answers.
        shape: which of the two.
        answers: one row per call, the one that stays of two copies first: `row` (of `prompt_rows`),
            `text`, `finish_reason`, `reason`, `detail`, `model`, `origin`, perhaps `prompt`, and
            columns that the new rows get besides.

    Returns:
        RESPONSES in canonical order with the columns of `ADDS`; and the prompts without an answer,
        with the reason of their first failed call.
    """
    base = prompt_rows(table, shape)
    failed = failures_by_row(answers)
    rows = _new_rows(base, shape, answers, failed)
    if shape == Shape.RESPONSES:
        rows = _beside(table, base, rows, failed)
    dropped = pl.DataFrame(schema={"row_id": pl.String, "reason": pl.String, "detail": pl.String})
    if shape == Shape.PROMPTS:
        dropped = _without_answer(base, answers)
    return Generated(canonical_order(rows, Shape.RESPONSES), dropped)


def prompt_rows(table: pl.DataFrame, shape: Shape) -> pl.DataFrame:
    """The distinct prompts of a table, one row each, in table order.

    Of PROMPTS all columns stay; of RESPONSES only those of prompts, as others may belong to an
    answer, and `response_id` of the first answer.
    """
    if shape == Shape.PROMPTS:
        return table
    once = table.unique("prompt_id", keep="first", maintain_order=True)
    of_prompt = [c for c in OF_PROMPT if c in table.columns]
    return once.select(*COLUMNS[Shape.PROMPTS], *of_prompt, "response_id")


def _new_rows(
    base: pl.DataFrame, shape: Shape, answers: pl.DataFrame, failed: pl.DataFrame
) -> pl.DataFrame:
    """A row per distinct answered text of a prompt."""
    good = answers.filter(pl.col("reason").is_null())
    own = good.drop("reason", "detail").with_columns(response=as_messages(pl.col("text")))
    own = own.join(failed, on="row", how="left", maintain_order="left").drop("text")
    parents = base.with_columns(parent_id=pl.col(ROW_ID[shape]))
    parents = parents.drop(
        *[c for c in parents.columns if c in own.columns], "response_id", strict=False
    )
    rows = parents.select(pl.all().gather(own["row"])).hstack(own.drop("row").get_columns())
    rows = with_ids(rows, Shape.RESPONSES).with_columns(
        same_samples=pl.len().over("response_id").cast(pl.Int64) - 1
    )
    rows = rows.unique("response_id", keep="first", maintain_order=True)
    first = [*COLUMNS[Shape.RESPONSES]]
    return rows.select(*first, *[c for c in rows.columns if c not in first])


def _beside(
    table: pl.DataFrame, base: pl.DataFrame, new: pl.DataFrame, failed: pl.DataFrame
) -> pl.DataFrame:
    """The rows that were there and the new ones; a new answer that was there already is counted."""
    copies = new.select("response_id", copies=pl.col("same_samples") + 1)
    counted = base.with_row_index("row").select(pl.col("row").cast(pl.Int64), "prompt_id")
    counted = counted.join(failed, on="row", how="left").drop("row")
    carried = [c for c in ("failed_samples", "failures", "parent_id") if c in table.columns]
    before = pl.col("same_samples") if "same_samples" in table.columns else pl.lit(0, pl.Int64)
    old = (
        table.drop(carried)
        .join(counted, on="prompt_id", how="left", maintain_order="left")
        .join(copies, on="response_id", how="left", maintain_order="left")
        .with_columns(
            parent_id=pl.col("response_id"),
            failed_samples=pl.col("failed_samples").fill_null(0),
            same_samples=before.fill_null(0) + pl.col("copies").fill_null(0),
        )
        .drop("copies")
    )
    fresh = new.join(table.select("response_id"), on="response_id", how="anti")
    return stacked([old, fresh], diagonal=True)


def _without_answer(base: pl.DataFrame, answers: pl.DataFrame) -> pl.DataFrame:
    """Prompts none of whose calls was answered, as ledger columns."""
    whole = answers.group_by("row", maintain_order=True).agg(
        lost=pl.col("reason").is_not_null().all(),
        reason=pl.col("reason").drop_nulls().first(),
        detail=pl.col("detail").drop_nulls().first(),
    )
    lost = whole.filter("lost")
    ids = base["prompt_id"].gather(lost["row"]).alias("row_id")
    return lost.select("reason", "detail").with_columns(ids).select("row_id", "reason", "detail")
