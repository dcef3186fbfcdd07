"""Splits cut by prompt group: rows whose conversations open alike are on the same side."""

from __future__ import annotations

import polars as pl

from prefactory.context import Context
from prefactory.tables import change_where, digests

SPLITS = ("train", "test")


def group_key(prompt: pl.Expr) -> pl.Expr:
    """Text by which prompts are grouped: the first user message, folded.

    NFKC, lower case, letters and digits only. Turns of one conversation, the same question under
    another system message, and questions that differ in case or punctuation share a group.
    """
    users = prompt.list.eval(
        pl.element().filter(pl.element().struct.field("role") == "user").struct.field("content")
    )
    first = users.list.first().fill_null("")
    first = first.map_batches(_compatible, return_dtype=pl.String, is_elementwise=True)
    text = first.str.to_lowercase()
    folded = text.str.replace_all(r"[^\p{L}\p{N}]+", " ").str.strip_chars()
    return pl.when(folded != "").then(folded).otherwise(text)


def _compatible(texts: pl.Series) -> pl.Series:
    beyond_ascii = texts.str.len_bytes() != texts.str.len_chars()
    return change_where(texts, beyond_ascii, lambda t: t.str.normalize("NFKC"))


def with_split(table: pl.DataFrame, test_fraction: float, seed: int) -> pl.DataFrame:
    """Add `split` (`train` or `test`), drawn per prompt group from (seed, group)."""
    groups = table.select(group_key(pl.col("prompt")).alias("group"))
    distinct = groups["group"].unique()
    draw = Context(seed, "publish").uniform(digests(distinct), "split")
    drawn = pl.DataFrame({"group": distinct, "draw": draw})
    draws = groups.join(drawn, on="group", how="left", maintain_order="left")["draw"]
    return table.with_columns(
        split=pl.when(draws < test_fraction).then(pl.lit("test")).otherwise(pl.lit("train"))
    )
