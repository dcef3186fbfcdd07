"""The three tables that flow, PROMPTS, RESPONSES and PAIRS: their checks, ids and views.

A fourth, ANNOTATIONS, lies beside them in a version: what people said of their rows.

Messages are lists of `{role, content}`; where the data has calls of tools, names or reasoning, the
messages of a table also have these (`OPTIONAL_KEYS`). A score is a Float64 column
`score_<objective>` (`chosen_score_<objective>` and `rejected_score_<objective>` on pairs); null
means not scored. Ids are BLAKE2b-128 hex digests of content, so the same prompt has the same id
everywhere.
Every table is kept in one canonical order: by `prompt_id`, then by its row id.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Any, TypeVar

import polars as pl

from prefactory.errors import DataError
from prefactory.images.marks import IMAGES, bound_prompts, is_pictures, name_of
from prefactory.utf8 import change_runs

T = TypeVar("T", pl.Series, pl.DataFrame)

MESSAGES: pl.DataType = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
"""Dtype of a conversation of texts only: a list of messages, first message first."""
TOOL_CALLS: pl.DataType = pl.List(
    pl.Struct({"id": pl.String, "name": pl.String, "arguments": pl.String})
)
"""Dtype of the calls of a message; `arguments` is canonical JSON text. `id` is no identity."""
OPTIONAL_KEYS: dict[str, pl.DataType] = {
    "tool_calls": TOOL_CALLS,
    "tool_call_id": pl.String(),
    "name": pl.String(),
    "reasoning": pl.String(),
}
"""What a message may have beside role and content, in this order; null where it has none.

A table has a key of these only where some message of its data has it, and then in all its columns
of messages: they always are of one dtype (`is_messages`, `same_messages`).
"""

SCORE = "score_"
WEIGHT = "weight_"
SIDES = ("chosen", "rejected")


class Shape(StrEnum):
    """What one row of a table is."""

    PROMPTS = "prompts"
    RESPONSES = "responses"
    PAIRS = "pairs"
    ANNOTATIONS = "annotations"


ROW_ID = {
    Shape.PROMPTS: "prompt_id",
    Shape.RESPONSES: "response_id",
    Shape.PAIRS: "pair_id",
    Shape.ANNOTATIONS: "vote_id",
}
TEXTS = {
    Shape.PROMPTS: ("prompt",),
    Shape.RESPONSES: ("prompt", "response"),
    Shape.PAIRS: ("prompt", *SIDES),
    Shape.ANNOTATIONS: (),
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
    Shape.ANNOTATIONS: {
        "vote_id": _TEXT,
        "review": _TEXT,
        "task": _TEXT,
        "row_id": _TEXT,
        "person": _TEXT,
        "role": _TEXT,
        "vote": _TEXT,
        "strength": pl.Int64(),
        "first_shown": pl.Boolean(),
        "at": pl.Datetime("ms", "UTC"),
        "ms": pl.Int64(),
        "guideline": pl.Int64(),
        "revision": pl.Int64(),
        "counts": pl.Boolean(),
        "informed": pl.Boolean(),
        "purpose": _TEXT,
        "queue": _TEXT,
        "stratum": _TEXT,
        "inclusion": pl.Float64(),
        "reasons": pl.List(pl.String()),
        "comment": _TEXT,
        "flag": _TEXT,
        "answer": _TEXT,
    },
}
"""Columns that a table of each shape must have. More columns may follow; they pass through.

One row of ANNOTATIONS is a vote, in every revision. `row_id` is the id of the row as it was
reviewed; `vote` is about its sides as stored there: `first` (its chosen side is better), `second`,
`tie`, `bad` (both are), `skip` (can't judge), `withdrawn`; `strength` is 2 (better), 1 (slightly)
or 0. `first_shown` says that the first side stood first on the page, `ms` how long the person took,
`guideline` which version of the guidelines was shown. `counts` marks the revision of each person
that holds, `informed` a vote that was changed after the machine's label was seen. `role` is the
person's, or `decision` for what adjudicators decided. `purpose` is `work`, `gold` or `training`;
`queue` the part of the queue that the row came by, `stratum` and `inclusion` (probability) those of
its random part. `answer` is the rest of what was said as JSON: `ratings`, `rubrics`, `edit`,
`order`, `tags`, `steps`.
"""

OPTIONAL: dict[str, pl.DataType] = {
    "margin": pl.Float64(),
    "tools": pl.String(),
    "images": IMAGES,
}
"""Columns that a table may have, and then of this dtype.

`tools` belongs to the prompt: the tools that may be called, as canonical JSON text of a list of
`{type: function, function: {name, description, parameters}}`; null where there are none. `images`
belong to the prompt as well (see `prefactory.images`).
"""
OF_PROMPT = ("tools",)
"""Optional columns that belong to the prompt: they are part of its id, and go where it goes."""
ORIGINS = ("human", "closed_model", "open_model", "rule", "self")
LABEL_SOURCES = ("human", "judge", "reward_model", "rule", "relabel")
ROLES = ("system", "user", "assistant", "tool")


def is_messages(dtype: pl.DataType | None) -> bool:
    """Tell whether a dtype is one of conversations: `MESSAGES`, or wider by `OPTIONAL_KEYS`."""
    if not isinstance(dtype, pl.List) or not isinstance(dtype.inner, pl.Struct):
        return False
    keys = [f.name for f in dtype.inner.fields]
    return dtype == messages_dtype(keys)


def messages_dtype(keys: Iterable[str]) -> pl.DataType:
    """The dtype of conversations whose messages have these of the `OPTIONAL_KEYS`."""
    wanted = set(keys)
    more = {name: dtype for name, dtype in OPTIONAL_KEYS.items() if name in wanted}
    if not more:
        return MESSAGES
    return pl.List(pl.Struct({"role": pl.String, "content": pl.String, **more}))


def message_keys(dtype: pl.DataType | None) -> list[str]:
    """The `OPTIONAL_KEYS` that the messages of a dtype have; none of another dtype."""
    if not isinstance(dtype, pl.List) or not isinstance(dtype.inner, pl.Struct):
        return []
    names = {f.name for f in dtype.inner.fields}
    return [name for name in OPTIONAL_KEYS if name in names] if "content" in names else []


def same_messages(table: pl.DataFrame, more: Iterable[pl.DataType | None] = ()) -> pl.DataFrame:
    """Give all conversations of a table the one dtype that holds them all; no message changes.

    Args:
        table: any table.
        more: dtypes whose keys the conversations shall have as well.
    """
    spoken = [c for c, d in table.schema.items() if _of_messages(d)]
    keys = {k for c in spoken for k in message_keys(table.schema[c])}
    dtype = messages_dtype(keys.union(*(message_keys(d) for d in more)))
    narrow = [c for c in spoken if table.schema[c] != dtype]
    return table.with_columns(pl.col(narrow).cast(dtype)) if narrow else table


def _of_messages(dtype: pl.DataType) -> bool:
    if not isinstance(dtype, pl.List) or not isinstance(dtype.inner, pl.Struct):
        return False
    names = [f.name for f in dtype.inner.fields]
    return names[:2] == ["role", "content"] and {*names[2:]} <= {*OPTIONAL_KEYS}


def cast_to(table: pl.DataFrame, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Bring a table to columns, in their order: absent ones are null, others leave.

    Conversations keep all keys of their messages, and get one dtype.
    """

    def column(name: str, want: pl.DataType) -> pl.Expr:
        have = table.schema.get(name)
        if have is None:
            return pl.lit(None, dtype=want).alias(name)
        return pl.col(name) if is_messages(have) and is_messages(want) else pl.col(name).cast(want)

    return same_messages(table.select(column(n, d) for n, d in schema.items()))


def stacked(tables: Iterable[pl.DataFrame], *, diagonal: bool = False) -> pl.DataFrame:
    """Put tables below each other; their conversations get the one dtype that holds them all.

    Args:
        tables: one or more, of the same columns.
        diagonal: columns that a table lacks are null there.
    """
    parts = list(tables)
    dtypes = {str(d): d for t in parts for d in t.schema.values() if _of_messages(d)}
    if len(dtypes) > 1:
        parts = [same_messages(t, dtypes.values()) for t in parts]
    return pl.concat(parts, how="diagonal" if diagonal else "vertical")


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
    schema = table.schema
    expected = dict(COLUMNS[shape])
    expected |= {c: d for c, d in OPTIONAL.items() if c in schema}
    expected |= {c: pl.Float64() for c in schema if is_score(c)}
    spoken = [c for c in TEXTS[shape] if is_messages(schema.get(c))]
    expected |= {c: schema[spoken[0]] for c in spoken}  # noqa: C420 - there may be none
    problems = [
        f"column {name!r} is missing"
        if name not in schema
        else f"column {name!r} is {schema[name]}, expected {dtype}"
        for name, dtype in expected.items()
        if schema.get(name) != dtype
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


def _by_dtype(messages: pl.Expr, work: Callable[[pl.Series], pl.Series]) -> pl.Expr:
    """A String of each conversation, made by work that looks at the keys of its messages."""
    return messages.map_batches(work, return_dtype=pl.String, is_elementwise=True)


def text_of(messages: pl.Expr, role: str | None = None) -> pl.Expr:
    """Join the texts of a conversation's messages with blank lines; of one role only if named.

    The text of a message is all of it (`message_text`), so that answers which differ in a call
    of a tool only have different texts.
    """

    def texts(conversations: pl.Series) -> pl.Series:
        element = pl.element()
        if role is not None:
            element = element.filter(element.struct.field("role") == role)
        text = whole_text(element, message_keys(conversations.dtype))
        table = conversations.alias("m").to_frame()
        joined = pl.col("m").list.eval(text).list.join("\n\n", ignore_nulls=True)
        return table.select(joined).to_series()

    return _by_dtype(messages, texts)


def whole_text(message: pl.Expr, keys: Sequence[str]) -> pl.Expr:
    """The text of messages: reasoning, content and calls, and whose result it is, each on a line.

    `[name] weather`, `[reasoning] Let me see.`, the content, `[call] weather {"city":"Lviv"}`.
    A message with a content only is its content.

    Args:
        message: Struct with `role`, `content`, and `keys`.
        keys: which of `OPTIONAL_KEYS` the messages have.
    """
    field = message.struct.field
    content = field("content")
    if not {"tool_calls", "name", "reasoning"} & set(keys):
        return content
    lines = [
        pl.format("[name] {}", field("name")) if "name" in keys else None,
        pl.format("[reasoning] {}", field("reasoning")) if "reasoning" in keys else None,
        pl.when(content != "").then(content),
        _calls_text(field("tool_calls")) if "tool_calls" in keys else None,
    ]
    text = pl.concat_str([e for e in lines if e is not None], separator="\n", ignore_nulls=True)
    plain = pl.all_horizontal(e.is_null() for e in (lines[0], lines[1], lines[3]) if e is not None)
    return pl.when(plain).then(content).otherwise(text)


def _calls_text(calls: pl.Expr) -> pl.Expr:
    """Calls of a message as lines; null where it has none."""
    call = pl.element().struct.field
    line = pl.format("[call] {} {}", call("name").fill_null(""), call("arguments").fill_null(""))
    return pl.when(calls.list.len() > 0).then(calls.list.eval(line).list.join("\n"))


def message_text(message: Mapping[str, Any]) -> str:
    """The text of one message given as a mapping: that of `whole_text`."""
    lines = [f"[{key}] {message[key]}" for key in ("name", "reasoning") if message.get(key)]
    content = message.get("content") or ""
    lines += [content] if content else []
    for call in message.get("tool_calls") or ():
        lines.append(f"[call] {call['name'] or ''} {call['arguments'] or ''}")
    return "\n".join(lines)


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
        return change_where(texts, odd, _compose)

    return text.map_batches(compose, return_dtype=pl.String, is_elementwise=True)


def _compose(texts: pl.Series) -> pl.Series:
    return change_runs(texts, lambda runs: runs.str.normalize("NFC"))


def canonical_text(messages: pl.Expr) -> pl.Expr:
    """Canonical JSON of a conversation: NFC texts, keys sorted, no spaces. Null stays null.

    A message with role and content only is `{content, role}`, whatever other keys its column has;
    any other is `{content, name, reasoning, role, tool_calls: [{arguments, name}]}`. Ids of calls
    are no part of it: they are names without a meaning.
    """

    def canonical(conversations: pl.Series) -> pl.Series:
        keys = message_keys(conversations.dtype)
        field = pl.element().struct.field
        plain = pl.struct(content=nfc(field("content")), role=field("role"))
        column = conversations.alias("m").to_frame()
        if not {"tool_calls", "name", "reasoning"} & set(keys):
            text = pl.struct(m=pl.col("m").list.eval(plain)).struct.json_encode()
        else:
            both = plain.struct.json_encode()
            each = pl.when(_is_plain(keys)).then(both).otherwise(_whole_json(keys))
            inside = pl.col("m").list.eval(each).list.join(",")
            text = pl.concat_str(pl.lit('{"m":['), inside, pl.lit("]}"))
        return column.select(pl.when(pl.col("m").is_not_null()).then(text)).to_series()

    return _by_dtype(messages, canonical)


def _is_plain(keys: Sequence[str]) -> pl.Expr:
    """Whether an element has neither call nor name nor reasoning."""
    field = pl.element().struct.field
    empty = [field(k).is_null() for k in ("name", "reasoning") if k in keys]
    if "tool_calls" in keys:
        empty.append(field("tool_calls").list.len().fill_null(0) == 0)
    return pl.all_horizontal(empty)


def _whole_json(keys: Sequence[str]) -> pl.Expr:
    field = pl.element().struct.field
    nothing = pl.lit(None, dtype=pl.String)
    calls = pl.lit(None, dtype=pl.List(pl.Struct({"arguments": pl.String, "name": pl.String})))
    if "tool_calls" in keys:
        calls = field("tool_calls").list.eval(
            pl.struct(arguments=nfc(field("arguments")), name=nfc(field("name")))
        )
    return pl.struct(
        content=nfc(field("content").fill_null("")),
        name=nfc(field("name")) if "name" in keys else nothing,
        reasoning=nfc(field("reasoning")) if "reasoning" in keys else nothing,
        role=field("role"),
        tool_calls=calls,
    ).struct.json_encode()


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
    """Add or replace `prompt_id` from `prompt`, its pictures, and `tools`, where a row has some."""
    seen = table
    if is_pictures(table.schema.get("images")):
        seen = table.with_columns(bound_prompts(table, name_of))
    text = canonical_text(pl.col("prompt"))
    if "tools" in table.columns:
        tools = pl.col("tools").cast(pl.String)
        with_tools = pl.concat_str(text, tools, separator="\n")
        text = pl.when(tools.is_not_null()).then(with_tools).otherwise(text)
    return table.with_columns(_id(seen, "prompt_id", text))


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
                *[c for c in OF_PROMPT if c in pairs.columns],
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


def answer_weights(columns: Iterable[str]) -> list[str]:
    """Names of the weights of answers (`weight_<name>`) among the columns of pairs."""
    start = f"chosen_{WEIGHT}"
    return [c.removeprefix("chosen_") for c in columns if c.startswith(start)]


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
