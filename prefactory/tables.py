"""The three tables that flow: PROMPTS, RESPONSES and PAIRS; their checks, ids and views.

Messages are always lists of `{role, content}`. A score is a Float64 column `score_<objective>`
(`chosen_score_<objective>` and `rejected_score_<objective>` on pairs); null means not scored.
Ids are BLAKE2b-128 hex digests of content, so the same prompt has the same id everywhere.
Every table is kept in one canonical order: by `prompt_id`, then by its row id.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import TypeVar

import polars as pl

from prefactory.errors import DataError

T = TypeVar("T", pl.Series, pl.DataFrame)

MESSAGES: pl.DataType = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
"""Dtype of a conversation: a list of messages, first message first."""

SCORE = "score_"
SIDES = ("chosen", "rejected")


class Shape(StrEnum):
    """What one row of a table is."""

    PROMPTS = "prompts"
    RESPONSES = "responses"
    PAIRS = "pairs"


ROW_ID = {Shape.PROMPTS: "prompt_id", Shape.RESPONSES: "response_id", Shape.PAIRS: "pair_id"}
TEXTS = {
    Shape.PROMPTS: ("prompt",),
    Shape.RESPONSES: ("prompt", "response"),
    Shape.PAIRS: ("prompt", *SIDES),
}
"""Columns of messages, by shape."""

_TEXT: pl.DataType = pl.String()
_PROMPT: dict[str, pl.DataType] = {
    "prompt_id": _TEXT,
    "prompt": MESSAGES,
    "source": _TEXT,
    "source_id": _TEXT,
}
COLUMNS: dict[Shape, dict[str, pl.DataType]] = {
    Shape.PROMPTS: _PROMPT,
    Shape.RESPONSES: {
        **_PROMPT,
        "response_id": _TEXT,
        "response": MESSAGES,
        "model": _TEXT,
        "origin": _TEXT,
    },
    Shape.PAIRS: {
        "pair_id": _TEXT,
        **_PROMPT,
        "chosen": MESSAGES,
        "rejected": MESSAGES,
        "chosen_id": _TEXT,
        "rejected_id": _TEXT,
        "chosen_model": _TEXT,
        "rejected_model": _TEXT,
        "label_source": _TEXT,
    },
}
"""Columns that a table of each shape must have. More columns may follow; they pass through."""

OPTIONAL: dict[str, pl.DataType] = {"margin": pl.Float64()}
ORIGINS = ("human", "closed_model", "open_model", "rule", "self")
LABEL_SOURCES = ("human", "judge", "reward_model", "rule", "relabel")
ROLES = ("system", "user", "assistant", "tool")


def shape_of(table: pl.DataFrame) -> Shape:
    """Return the shape whose columns the table has (pairs before responses before prompts)."""
    for shape in (Shape.PAIRS, Shape.RESPONSES, Shape.PROMPTS):
        if ROW_ID[shape] in table.columns and set(COLUMNS[shape]) <= set(table.columns):
            return shape
    raise DataError(
        f"the table is none of prompts, responses, pairs; its columns are {sorted(table.columns)}"
    )


def check(table: pl.DataFrame, shape: Shape, where: str = "table") -> pl.DataFrame:
    """Check columns, dtypes, unique ids and canonical order of a table, and return it.

    Args:
        table: the table to check.
        shape: the shape it must have.
        where: how to name the table in the error.

    Raises:
        DataError: with every mistake that was found.
    """
    expected = dict(COLUMNS[shape])
    expected |= {c: d for c, d in OPTIONAL.items() if c in table.columns}
    expected |= {c: pl.Float64() for c in table.columns if is_score(c)}
    problems = [
        f"column {name!r} is missing"
        if name not in table.columns
        else f"column {name!r} is {table.schema[name]}, expected {dtype}"
        for name, dtype in expected.items()
        if table.schema.get(name) != dtype
    ]
    if not problems:
        problems = _value_problems(table, shape)
    if problems:
        raise DataError(f"{where} is not a {shape} table: " + "; ".join(problems))
    return table


def _value_problems(table: pl.DataFrame, shape: Shape) -> list[str]:
    row_id = ROW_ID[shape]
    problems = [
        f"column {name!r} has {table[name].null_count()} nulls"
        for name in {"prompt_id", row_id, "prompt"}
        if table[name].null_count()
    ]
    if table[row_id].n_unique() != table.height:
        problems.append(f"{row_id!r} is not unique")
    if "margin" in table.columns and 0 < table["margin"].null_count() < table.height:
        problems.append("'margin' is null on some rows; it must be set on all rows or on none")
    return problems


def is_score(column: str) -> bool:
    """Tell whether a column holds an objective's score, on responses or on either side of pairs."""
    return column.removeprefix("chosen_").removeprefix("rejected_").startswith(SCORE)


def objectives(columns: list[str]) -> list[str]:
    """List the objectives that a table's columns score, in column order, each once."""
    names = (
        c.removeprefix("chosen_").removeprefix("rejected_").removeprefix(SCORE)
        for c in columns
        if is_score(c)
    )
    return list(dict.fromkeys(names))


def canonical_order(table: pl.DataFrame, shape: Shape) -> pl.DataFrame:
    """Sort by `prompt_id`, then row id: the order that no shard size or input order changes."""
    keys = list(dict.fromkeys(["prompt_id", ROW_ID[shape]]))
    return table.sort(keys, maintain_order=True)


def text_of(messages: pl.Expr, role: str | None = None) -> pl.Expr:
    """Join the contents of a conversation with blank lines; of one role only if it is named."""
    element = pl.element()
    if role is not None:
        element = pl.element().filter(pl.element().struct.field("role") == role)
    return messages.list.eval(element.struct.field("content")).list.join("\n\n", ignore_nulls=True)


def last_user_text(messages: pl.Expr) -> pl.Expr:
    """Return the content of the last user message ('' if there is none)."""
    users = messages.list.eval(
        pl.element().filter(pl.element().struct.field("role") == "user").struct.field("content")
    )
    return users.list.last().fill_null("")


def question_and_answer(answer: str) -> pl.Expr:
    """The last user message and the text of an answer's column, on lines of their own."""
    question = last_user_text(pl.col("prompt"))
    return pl.concat_str(question, text_of(pl.col(answer)).fill_null(""), separator="\n")


def change_where(
    texts: pl.Series, mask: pl.Series, change: Callable[[pl.Series], pl.Series]
) -> pl.Series:
    """Put `change` of the texts where a mask is true (null is false), at the cost of those only."""
    at = mask.arg_true()
    if at.len() == 0:
        return texts
    return texts.clone().scatter(at, change(texts.gather(at)))


_MAY_COMPOSE = (
    r"[^\x00-\x{2FF}\x{400}-\x{482}\x{2010}-\x{2027}\x{2030}-\x{205E}\x{20A0}-\x{20BF}"
    r"\x{3001}-\x{3029}\x{3041}-\x{3096}\x{30A1}-\x{30FA}\x{4E00}-\x{9FFF}\x{AC00}-\x{D7A3}"
    r"\x{FF01}-\x{FF9D}\x{1F300}-\x{1FAFF}]"
)
"""Not of the common characters that are in form NFC already, whatever of them stands beside."""


def nfc(text: pl.Expr) -> pl.Expr:
    """Unicode form NFC of a String; only texts that may not have it yet are composed."""

    def compose(texts: pl.Series) -> pl.Series:
        odd = texts.str.contains(_MAY_COMPOSE)
        return change_where(texts, odd, lambda t: t.str.normalize("NFC"))

    return text.map_batches(compose, return_dtype=pl.String, is_elementwise=True)


def canonical_text(messages: pl.Expr) -> pl.Expr:
    """Canonical JSON of a conversation: NFC contents, keys sorted, no spaces. Null stays null."""
    element = pl.element().struct
    canonical = messages.list.eval(
        pl.struct(content=nfc(element.field("content")), role=element.field("role"))
    )
    return pl.when(messages.is_not_null()).then(pl.struct(m=canonical).struct.json_encode())


def digests(texts: pl.Series) -> pl.Series:
    """BLAKE2b-128 hex digest of each text (String -> String, null stays null)."""
    distinct = texts.unique()
    if 2 * distinct.len() < texts.len():  # a prompt with many answers is hashed once
        known = pl.DataFrame({"text": distinct, "digest": _digests(distinct)})
        hashed = texts.alias("text").to_frame()
        hashed = hashed.join(known, on="text", how="left", maintain_order="left", nulls_equal=True)
        return hashed["digest"].alias(texts.name)
    return _digests(texts)


def _digests(texts: pl.Series) -> pl.Series:
    start = hashlib.blake2b(digest_size=16).copy
    out: list[str | None] = []
    for text in texts.cast(pl.Binary).to_list():
        if text is None:
            out.append(None)
        else:
            digest = start()
            digest.update(text)
            out.append(digest.hexdigest())
    return pl.Series(texts.name, out, dtype=pl.String)


def _id(table: pl.DataFrame, name: str, *parts: pl.Expr) -> pl.Series:
    return digests(table.select(pl.concat_str(parts, separator="\n").alias(name)).to_series())


def with_prompt_id(table: pl.DataFrame) -> pl.DataFrame:
    """Add or replace `prompt_id` from `prompt`."""
    return table.with_columns(_id(table, "prompt_id", canonical_text(pl.col("prompt"))))


def with_ids(table: pl.DataFrame, shape: Shape, keep_side_ids: bool = False) -> pl.DataFrame:
    """Add or replace the content ids of a table (prompt, then response or sides, then pair).

    Args:
        table: has `prompt` and, by shape, `response`, or `chosen` and `rejected`.
        shape: which ids to make.
        keep_side_ids: keep `chosen_id` and `rejected_id` as they are (for pairs whose prompt was
            rewritten but whose answers still are the rows of the response table).
    """
    table = with_prompt_id(table)
    if shape == Shape.RESPONSES:
        return table.with_columns(
            _id(table, "response_id", pl.col("prompt_id"), canonical_text(pl.col("response")))
        )
    if shape == Shape.PAIRS:
        if not keep_side_ids:
            table = table.with_columns(
                _id(table, f"{side}_id", pl.col("prompt_id"), canonical_text(pl.col(side)))
                for side in SIDES
            )
        parts = (pl.col("prompt_id"), pl.col("chosen_id"), pl.col("rejected_id"))
        table = table.with_columns(_id(table, "pair_id", *parts))
    return table


def unpair(pairs: pl.DataFrame, columns: Iterable[str] = ()) -> pl.DataFrame:
    """Turn pairs into their responses, each distinct response once, in canonical order.

    Score columns lose their side prefix; an objective that only one side has is null on the other.
    Of two copies of a response the first in pair order stays.

    Args:
        pairs: the pairs.
        columns: more columns of a response to take from `chosen_<column>`, `rejected_<column>`.
    """
    sided = [c for c in pairs.columns if is_score(c) and not c.startswith(SCORE)]
    names = [f"{SCORE}{o}" for o in objectives(sided)]
    more = [c for c in columns if c not in names and f"chosen_{c}" in pairs.columns]
    sides = []
    for side in SIDES:
        scores = [
            pl.col(f"{side}_{n}") if f"{side}_{n}" in pairs.columns else pl.lit(None, pl.Float64)
            for n in names
        ]
        origin = pl.col(f"{side}_origin") if f"{side}_origin" in pairs.columns else pl.lit(None)
        sides.append(
            pairs.select(
                "prompt_id",
                "prompt",
                "source",
                "source_id",
                pl.col(f"{side}_id").alias("response_id"),
                pl.col(side).alias("response"),
                pl.col(f"{side}_model").alias("model"),
                origin.cast(pl.String).alias("origin"),
                *[score.alias(n) for n, score in zip(names, scores, strict=True)],
                *[pl.col(f"{side}_{c}").alias(c) for c in more],
            )
        )
    responses = pl.concat(sides).unique("response_id", keep="first", maintain_order=True)
    return canonical_order(responses, Shape.RESPONSES)


def join_sides(pairs: pl.DataFrame, scored: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
    """Bring response columns back to pairs, as `chosen_<column>` and `rejected_<column>`, by id."""
    for side in SIDES:
        names = {c: f"{side}_{c}" for c in columns}
        right = scored.select("response_id", *columns).rename(names)
        pairs = pairs.join(
            right, left_on=f"{side}_id", right_on="response_id", how="left", maintain_order="left"
        )
    return pairs


def in_parts(work: Callable[[T], pl.DataFrame], texts: T, rows: int = 8192) -> pl.DataFrame:
    """Do row by row work on parts of texts, some at a time; the result is that of all at once.

    Args:
        work: of a part, to as many rows.
        texts: a column or a table.
        rows: of a part.
    """
    if len(texts) <= rows:
        return work(texts)
    parts = (texts[start : start + rows] for start in range(0, len(texts), rows))
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return pl.concat(list(pool.map(work, parts)))
