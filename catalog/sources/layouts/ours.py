"""Our own tables (`prefactory`), and plain prompts."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import polars as pl

from catalog.sources.fields import Field, Kind
from catalog.sources.layouts.base import Draft, Layout, Surroundings
from catalog.sources.layouts.conversations import tagged_prompts
from prefactory.tables import COLUMNS, MESSAGES, Shape

_ANSWER = re.compile(
    r"respon|complet|output|answer|generat|predict|chosen|reject|_res$|solution|truth|feedback"
    r"|instances",
    re.IGNORECASE,
)
"""Columns that look like answers: a table that has one is not taken for plain prompts."""
_MAY_BE_NULL = (
    *("model", "origin", "chosen_model", "rejected_model", "source", "source_id", "label_source"),
)


def _as_it_is(frame: pl.DataFrame, around: Surroundings) -> Draft:
    return Draft(frame)


def _ours(shape: Shape) -> tuple[Field, ...]:
    fields = tuple(
        Field(name, Kind.MESSAGES if dtype == MESSAGES else Kind.TEXT)
        for name, dtype in COLUMNS[shape].items()
        if name not in _MAY_BE_NULL
    )
    optional = tuple(Field(n, required=False) for n in COLUMNS[shape] if n in _MAY_BE_NULL)
    if shape == Shape.PAIRS:
        optional += tuple(Field(f"{s}_origin", required=False) for s in ("chosen", "rejected"))
    return fields + optional


def _all_there(ours: set[str], records: list[dict[str, Any]], columns: set[str]) -> bool:
    return ours <= columns


def _layout(shape: Shape, alternatives: tuple[Layout, ...] = ()) -> Layout:
    return Layout(
        name="prefactory",
        shape=shape,
        fields=_ours(shape),
        build=_as_it_is,
        about="tables that prefactory made: prompts, responses or pairs with their ids",
        when=partial(_all_there, set(COLUMNS[shape])),
        alternatives=alternatives,
        keeps_side_ids=shape == Shape.PAIRS,
    )


PREFACTORY = _layout(Shape.PAIRS, (_layout(Shape.RESPONSES), _layout(Shape.PROMPTS)))


def _prompts(frame: pl.DataFrame, around: Surroundings) -> Draft:
    return Draft(frame.with_columns(tagged_prompts(frame["prompt"]).alias("prompt")))


def _no_answers(records: list[dict[str, Any]], columns: set[str]) -> bool:
    return not any(_ANSWER.search(column) for column in columns)


PROMPTS = Layout(
    name="prompts",
    shape=Shape.PROMPTS,
    fields=(Field("prompt", Kind.PROMPT, ("prompt", "question", "instruction", "query")),),
    build=_prompts,
    example={"prompt": "Why?"},
    about="prompts without answers, as text or messages",
    when=_no_answers,
)
