"""Rows made of other rows: what is new beside what passes through, with ids and in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from prefactory.engines.base import Message
from prefactory.images.marks import NAMED, mark_of
from prefactory.tables import (
    COLUMNS,
    MESSAGES,
    SIDES,
    Shape,
    canonical_order,
    messages_dtype,
    with_ids,
    with_prompt_id,
)

PARENT = "source_prompt_id"
"""Column of new prompts: the prompt that they were made from."""

Column = tuple[pl.DataType, Sequence[Any]]


def children(
    table: pl.DataFrame,
    rows: Sequence[int],
    new: Mapping[str, Column],
    shape: Shape,
    parent: str | None = None,
) -> pl.DataFrame:
    """Rows of a shape, each from one row of a table of prompts.

    Args:
        table: PROMPTS; its further columns pass through where no new one has their name.
        rows: n places in it; one row may have several children.
        new: name -> dtype and n values; what the shape has beside prompts and ids, a changed
            `prompt` perhaps, and further columns.
        shape: of the result.
        parent: column that shall hold the id of the prompt a row was made from.

    Returns:
        The shape's columns, then all others, in canonical order. Copies stay.
    """
    fresh = {*COLUMNS[shape], *new} - set(COLUMNS[Shape.PROMPTS])
    kept = table.drop([c for c in table.columns if c in fresh])
    if parent is not None:
        kept = kept.with_columns(pl.col("prompt_id").alias(parent))
    rows_made = kept.select(pl.all().gather(pl.Series(rows, dtype=pl.UInt32))).with_columns(
        pl.Series(name, values, dtype=dtype) for name, (dtype, values) in new.items()
    )
    rows_made = with_ids(rows_made, shape)
    first = list(COLUMNS[shape])
    rows_made = rows_made.select(*first, *[c for c in rows_made.columns if c not in first])
    return canonical_order(rows_made, shape)


def turns(texts: Sequence[str], role: str = "assistant") -> Column:
    """Texts as conversations of one message each."""
    return MESSAGES, [[{"role": role, "content": text}] for text in texts]


def talks(conversations: Sequence[Sequence[Message]]) -> Column:
    """Conversations as a column."""
    keys = {k for c in conversations for m in c for k, v in m.items() if v is not None}
    return messages_dtype(keys), [list(c) for c in conversations]


def text_column(values: Sequence[str | None]) -> Column:
    """Texts as a column."""
    return pl.String(), list(values)


def sides(
    answers: Sequence[tuple[str, str]],
    models: tuple[str, str] | Sequence[tuple[str | None, str | None]],
    origins: tuple[str, str],
    label_source: str,
) -> dict[str, Column]:
    """Columns of pairs, for `children`.

    Args:
        answers: chosen and rejected text of n pairs.
        models: that wrote chosen and rejected, of all pairs or of each; None where nobody knows.
        origins: of chosen and rejected.
        label_source: of all pairs.
    """
    n = len(answers)
    each = [models] * n if isinstance(models[0] if models else "", str) else models
    columns: dict[str, Column] = {"label_source": text_column([label_source] * n)}
    for i, side in enumerate(SIDES):
        columns[side] = turns([pair[i] for pair in answers])
        names = [pair[i] for pair in each]
        columns[f"{side}_model"] = text_column([None if n is None else str(n) for n in names])
        columns[f"{side}_origin"] = text_column([origins[i]] * n)
    return columns


ORIGINS: dict[str, pl.DataType] = {"chosen_origin": pl.String(), "rejected_origin": pl.String()}
"""Columns that `sides` makes beside those of pairs."""


def user_turn(messages: Sequence[Message]) -> str | None:
    """The words of the one user message that a prompt ends with; None for any other prompt.

    A system message may stand before it.
    """
    roles = [m["role"] for m in messages]
    return messages[-1]["content"] if roles in (["user"], ["system", "user"]) else None


def with_user_turn(messages: Sequence[Message], text: str) -> list[Message]:
    """A prompt whose last message says something else; its pictures stay, in front if need be."""
    marks = [mark_of(name) for name in NAMED.findall(messages[-1]["content"] or "")]
    kept = "".join(mark for mark in marks if mark not in text)
    return [*messages[:-1], {"role": "user", "content": kept + text}]


def prompt_ids(conversations: Sequence[Sequence[Message]]) -> list[str]:
    """Ids of conversations as prompts."""
    dtype, values = talks(conversations)
    return with_prompt_id(pl.DataFrame({"prompt": pl.Series(values, dtype=dtype)}))[
        "prompt_id"
    ].to_list()
