"""Judge the texts of a table: each prompt, and each row's answer, once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

from prefactory.tables import ROW_ID, shape_of, text_of


def judge_once(
    table: pl.DataFrame,
    side: str,
    judge: Callable[[pl.Series], pl.DataFrame],
    text: Callable[[pl.Expr], pl.Expr] = text_of,
) -> pl.DataFrame:
    """Judge the texts of a side.

    Args:
        table: any shape that has the side.
        side: a column of messages; `prompt` is judged once for each `prompt_id`.
        judge: takes texts (String[m], no nulls) to a table of m rows.
        text: takes the column to its text.

    Returns:
        What `judge` says of each row's text, same height and order as the table.
    """
    key = "prompt_id" if side == "prompt" else ROW_ID[shape_of(table)]
    units = table.unique(key, keep="first", maintain_order=True)
    judged = judge(units.select(text(pl.col(side)).fill_null("")).to_series())
    known = units.select(key).hstack(judged)
    return table.select(key).join(known, on=key, how="left", maintain_order="left").drop(key)


def judge_sides(
    table: pl.DataFrame,
    on: Sequence[str],
    judge: Callable[[pl.Series, str], pl.DataFrame],
    prompt_text: Callable[[pl.Expr], pl.Expr] = text_of,
) -> pl.DataFrame:
    """`reason` and `detail` (String) by the answer and then the prompt, of those in `on`.

    Args:
        table: PROMPTS or RESPONSES.
        on: the sides that are judged, where the table has them.
        judge: takes texts and their side to `reason` and `detail`.
        prompt_text: takes the column `prompt` to its text.
    """

    def judged(side: str, text: Callable[[pl.Expr], pl.Expr]) -> pl.DataFrame:
        return judge_once(table, side, lambda texts: judge(texts, side), text)

    none = pl.Series([None], dtype=pl.String).new_from_index(0, table.height)
    verdicts = pl.DataFrame({"reason": none, "detail": none})
    for side, text in (("response", text_of), ("prompt", prompt_text)):
        if side in on and side in table.columns:
            part = judged(side, text)
            verdicts = verdicts.select(
                pl.coalesce(name, part[name]).alias(name) for name in verdicts.columns
            )
    return verdicts
