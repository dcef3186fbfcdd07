"""Small readable tables of each shape."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from prefactory.errors import DataError
from prefactory.identity import canonical_json
from prefactory.images.marks import IMAGES
from prefactory.tables import (
    COLUMNS,
    OF_PROMPT,
    Shape,
    canonical_order,
    messages_dtype,
    same_messages,
    text_of,
    with_ids,
    with_prompt_id,
)
from prefactory.turned import turned as turn

Message = dict[str, Any]
Turns = str | Sequence[Message]
"""A text, or the messages of a conversation."""


def user(text: str) -> Message:
    """A message of the user."""
    return {"role": "user", "content": text}


def assistant(text: str, *calls: tuple[str, Mapping[str, Any]]) -> Message:
    """A message of the assistant; calls of tools are (name, arguments)."""
    message: Message = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = [
            {"id": f"call_{i}", "name": name, "arguments": canonical_json(dict(arguments))}
            for i, (name, arguments) in enumerate(calls)
        ]
    return message


def system(text: str) -> Message:
    """A system message."""
    return {"role": "system", "content": text}


def messages(*conversations: Sequence[Message] | None) -> pl.Series:
    """A column of conversations."""
    rows = [None if turns is None else list(turns) for turns in conversations]
    keys = {key for turns in rows if turns for message in turns for key in message}
    return pl.Series(rows, dtype=messages_dtype(keys))


def prompts(
    *rows: Turns,
    source: str = "test",
    first_id: int = 0,
    **extra: Any,  # noqa: ANN401 - values of any type
) -> pl.DataFrame:
    """A table of PROMPTS, in the order of its rows.

    Args:
        rows: texts of a user, or whole conversations.
        source: name of the source.
        first_id: number of the first row in its `source_id`.
        extra: more columns, as lists.
    """
    n = len(rows)
    table = pl.DataFrame(
        {
            "prompt": messages(*[_turns(row, user) for row in rows]),
            "source": pl.Series([source] * n, dtype=pl.String),
            "source_id": pl.Series([f"{source}:{first_id + i}" for i in range(n)], dtype=pl.String),
        }
    )
    table = with_prompt_id(table).select(*COLUMNS[Shape.PROMPTS])
    return _with(table, extra, Shape.PROMPTS)


def responses(
    *rows: tuple[Turns, Turns],
    source: str = "test",
    first_id: int = 0,
    **extra: Any,  # noqa: ANN401
) -> pl.DataFrame:
    """A table of RESPONSES: rows are (prompt, response); see `prompts`."""
    table = prompts(*[row[0] for row in rows], source=source, first_id=first_id).with_columns(
        response=messages(*[_turns(row[1], assistant) for row in rows]),
        model=pl.lit("m"),
        origin=pl.lit("self"),
    )
    table = with_ids(same_messages(table), Shape.RESPONSES).select(*COLUMNS[Shape.RESPONSES])
    return _with(table, extra, Shape.RESPONSES)


def pairs(
    *rows: tuple[Turns, Turns, Turns],
    source: str = "test",
    first_id: int = 0,
    **extra: Any,  # noqa: ANN401
) -> pl.DataFrame:
    """A table of PAIRS: rows are (prompt, chosen, rejected); see `prompts`."""
    table = prompts(*[row[0] for row in rows], source=source, first_id=first_id).with_columns(
        chosen=messages(*[_turns(row[1], assistant) for row in rows]),
        rejected=messages(*[_turns(row[2], assistant) for row in rows]),
        chosen_model=pl.lit("big"),
        rejected_model=pl.lit("small"),
        label_source=pl.lit("human"),
    )
    table = with_ids(same_messages(table), Shape.PAIRS).select(*COLUMNS[Shape.PAIRS])
    return _with(table, extra, Shape.PAIRS)


def _turns(turns: Turns, speaker: Any) -> list[Message]:  # noqa: ANN401 - `user` or `assistant`
    return [speaker(turns)] if isinstance(turns, str) else list(turns)


def _with(table: pl.DataFrame, extra: Mapping[str, Any], shape: Shape) -> pl.DataFrame:
    table = table.with_columns(pl.Series(name, values) for name, values in extra.items())
    return with_ids(table, shape) if {*OF_PROMPT} & extra.keys() else table


def texts(table: pl.DataFrame, column: str) -> list[str]:
    """The joined text of each conversation in a column."""
    return table.select(text_of(pl.col(column))).to_series().to_list()


def turned(table: pl.DataFrame) -> pl.DataFrame:
    """All PAIRS of a table turned round (see `prefactory.turned`)."""
    every = pl.repeat(True, table.height, dtype=pl.Boolean, eager=True)
    rows = turn(table, every, "", "_before").drop("_before")
    return rows.with_columns(table["label_source"])


_QUESTIONS: tuple[Turns, ...] = (
    "How do I boil an egg?",
    "Write a haiku about rain in the old town.",
    [system("You are a careful physician."), user("I have had a headache for three days.")],
    "What is 12 times 12? Answer with the number only.",
    [user("Name a fruit."), assistant("An apple."), user("And a vegetable that is red?")],
    "怎么做番茄炒蛋",
    "Explain photosynthesis to a child of six in two sentences.",
    [system("Answer in one line."), user("Why is the sky blue at noon and red at dusk?")],
    "Translate 'good morning' into French, and say when one uses it.",
    "Plan a weekend in Lisbon for two people who love books.",
)
_ANSWERS = (
    "Put it into boiling water for {n} minutes, cool it, and peel it under cold running water.",
    "I'm sorry, but I can't help with that.",
    "1. Read the question {n} times.\n2. Think.\n\n**Answer:** it depends on what you want to do.",
    "It is {n}44, because twelve dozen make a gross; write to me at ann@example.org for more.",
)
EXAMPLE_ANSWERS = 3


def example(shape: Shape, columns: Mapping[str, pl.DataType] | None = None) -> pl.DataFrame:
    """A table of ten prompts (three answers or one pair each) in canonical order.

    Args:
        shape: of the table.
        columns: more columns, filled with values of their type.

    Raises:
        DataError: for a type that we make no values of.
    """
    if shape == Shape.PROMPTS:
        table = prompts(*_QUESTIONS)
    elif shape == Shape.RESPONSES:
        table = responses(
            *[(q, _answer(i, j)) for i, q in enumerate(_QUESTIONS) for j in range(EXAMPLE_ANSWERS)]
        ).with_columns(model=pl.Series([f"model_{i % 3}" for i in range(3 * len(_QUESTIONS))]))
    else:
        table = pairs(*[(q, _answer(i, 0), _answer(i, 1)) for i, q in enumerate(_QUESTIONS)])
    table = canonical_order(table, shape)
    table = table.with_columns(
        _values(name, dtype, table.height)
        for name, dtype in (columns or {}).items()
        if name not in table.columns
    )
    return canonical_order(with_ids(table, shape), shape) if "images" in table.columns else table


def _answer(question: int, answer: int) -> str:
    return _ANSWERS[(question + answer) % len(_ANSWERS)].format(n=question + 1)


def _picture(number: int) -> bytes:
    """A PNG of 8 by 8 pixels of one grey."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + crc

    head = chunk(b"IHDR", bytes((0, 0, 0, 8, 0, 0, 0, 8, 8, 0, 0, 0, 0)))
    pixels = (b"\0" + bytes([20 * (number % 12)] * 8)) * 8
    body = chunk(b"IDAT", zlib.compress(pixels))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


def _dtype(given: Any) -> pl.DataType:  # noqa: ANN401 - a class or an instance
    dtype: pl.DataType = given() if isinstance(given, type) else given
    return dtype


def _values(name: str, dtype: pl.DataType, n: int) -> pl.Series:
    salt = sum(place * ord(char) for place, char in enumerate(name, 1))
    numbers = [(i * 37 + salt) % 11 for i in range(n)]
    values: list[Any]
    if dtype.is_float():
        values = [number / 2 for number in numbers]
    elif dtype.is_integer():
        values = numbers
    elif dtype == pl.Boolean:
        values = [number % 2 == 0 for number in numbers]
    elif dtype == pl.String:
        values = [f"group {number % 3}" for number in numbers]
    elif dtype == IMAGES:
        values = [[{"bytes": _picture(number), "path": None}] for number in numbers]
    elif dtype == pl.List(pl.String):
        values = [[f"tag {k}" for k in range(number % 4)] for number in numbers]
    elif dtype == pl.List(pl.Float64):
        values = [[number / 2, 1.0] for number in numbers]
    elif isinstance(dtype, pl.Struct):
        fields = {f.name: _values(f"{name}.{f.name}", _dtype(f.dtype), n) for f in dtype.fields}
        values = pl.DataFrame(fields).to_dicts()
    elif isinstance(dtype, pl.List):
        inner = _values(f"{name}.", _dtype(dtype.inner), n).to_list()
        values = [inner[: number % 4] for number in numbers]
    else:
        raise DataError(f"no example values for column {name!r} of type {dtype}: give a table")
    return pl.Series(name, values, dtype=dtype)
