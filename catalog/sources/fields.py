"""Fields that layouts read: what they are called, what kind of value they hold, how it is typed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import NoneType
from typing import Any

import orjson
import polars as pl

from catalog.sources.material import history_of, material_of
from catalog.sources.messages import (
    UnreadableError,
    from_written,
    is_message,
    is_messages,
    read_tools,
)
from prefactory.tables import MESSAGES, is_score


class Kind(StrEnum):
    """What a value must be."""

    TEXT = "text"
    NUMBER = "number"
    FLAG = "true or false"
    MESSAGES = "messages"
    PROMPT = "text or messages"
    ANSWER = "text or messages of the answer"
    TEXTS = "list of texts"
    NUMBERS = "list of numbers"
    COMPLETIONS = "list of completions"
    CHOICES = "list of choices"
    KEY = "text or whole number"
    SIGN = "1 or -1"
    HISTORY = "list of earlier turns"
    MATERIAL = "text, list of texts, or documents with a text"
    PLAIN = "text, number, true or false"
    TOOLS = "list of tools"
    ANSWERS = "answer or list of answers"
    RECORDS = "list of objects"
    MARKS = "list of true and false, numbers, or + and -"
    RAW = "value"


_RATING = pl.Struct({"Rating": pl.String})
COMPLETIONS = pl.List(
    pl.Struct(
        {
            "model": pl.String,
            "response": pl.String,
            "overall_score": pl.Float64,
            "annotations": pl.Struct(
                dict.fromkeys(
                    ("helpfulness", "honesty", "instruction_following", "truthfulness"), _RATING
                )
            ),
        }
    )
)
CHOICES = pl.List(pl.Struct({"turns": pl.List(pl.String)}))
DTYPES: dict[Kind, pl.DataType] = {
    Kind.TEXT: pl.String(),
    Kind.NUMBER: pl.Float64(),
    Kind.FLAG: pl.Float64(),
    Kind.MESSAGES: MESSAGES,
    Kind.PROMPT: MESSAGES,
    Kind.ANSWER: MESSAGES,
    Kind.TEXTS: pl.List(pl.String),
    Kind.NUMBERS: pl.List(pl.Float64),
    Kind.COMPLETIONS: COMPLETIONS,
    Kind.CHOICES: CHOICES,
    Kind.KEY: pl.String(),
    Kind.SIGN: pl.Float64(),
    Kind.HISTORY: MESSAGES,
    Kind.MATERIAL: pl.String(),
    Kind.PLAIN: pl.String(),
    Kind.TOOLS: pl.String(),
    Kind.ANSWERS: pl.List(MESSAGES),
    Kind.MARKS: pl.List(pl.Float64),
}
CONVERSATIONS = (Kind.MESSAGES, Kind.PROMPT, Kind.ANSWER)
SPEAKER = {Kind.PROMPT: "user", Kind.ANSWER: "assistant"}
"""Role of a bare text, for the kinds that may be a text or messages."""

_CELLS = (Kind.TEXT, Kind.NUMBER, Kind.FLAG, Kind.SIGN, Kind.PLAIN, Kind.RAW)
"""Kinds that a cell of csv holds as it is."""
_TRUE = {
    "true", "1", "1.0", "yes", "desirable", "good", "chosen", "preferred", "accepted", "accept",
    "positive", "like", "liked", "thumbs_up", "thumbs-up", "thumbs up", "up", "upvote", "win",
}  # fmt: skip
_FALSE = {
    "false", "0", "0.0", "no", "undesirable", "bad", "rejected", "dispreferred", "reject",
    "negative", "dislike", "disliked", "thumbs_down", "thumbs-down", "thumbs down", "down",
    "downvote", "lose", "loss",
}  # fmt: skip
_NO_NUMBER = ("", "n/a", "na", "none", "null", "nan")


@dataclass(frozen=True, slots=True)
class Field:
    """One thing that a layout reads.

    Attributes:
        name: name of the column that the layout's `build` sees; also the key in a mapping.
        kind: what its values must be.
        names: what their column may be called, best first; dots lead into nested values.
        required: a source without it has another layout, and a record without it is rejected.
        nullable: it may be null in a record though it is required; the layout sees to it.
        dtype: of the column, for kinds RAW and RECORDS only.
        carried: it is no part of the pair: a value that can't be read is null and noted, and the
            row stays. So it is with every score that is not required.
    """

    name: str
    kind: Kind = Kind.TEXT
    names: tuple[str, ...] = ()
    required: bool = True
    nullable: bool = False
    dtype: pl.DataType | None = None
    carried: bool = False

    @property
    def costs_value(self) -> bool:
        """Whether a value that can't be read is lost alone, and its row kept."""
        return self.carried or (self.kind == Kind.NUMBER and is_score(self.name))

    @property
    def column_dtype(self) -> pl.DataType:
        """Dtype of the column that `build` sees."""
        return self.dtype if self.dtype is not None else DTYPES[self.kind]

    @property
    def candidates(self) -> tuple[str, ...]:
        """All names to look for."""
        return self.names or (self.name,)


def is_number(value: object) -> bool:
    """Tell whether a value is a number or a text that spells one (or "N/A")."""
    if isinstance(value, str):
        return number_of(value) is not None or value.strip().lower() in _NO_NUMBER
    return isinstance(value, int | float) and not isinstance(value, bool)


def number_of(text: str) -> float | None:
    """Read a number from a text; None if it spells none."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if number == number and abs(number) != float("inf") else None


def flag_of(value: object) -> float | None:
    """Read true or false, as 1.0 and 0.0, from a boolean, 0, 1, or a word that says it; else None.

    Words are `true` and `yes`, `desirable`, `good`, `chosen`, ... and their opposites.
    """
    text = str(value).strip().lower()
    return 1.0 if text in _TRUE else 0.0 if text in _FALSE else None


def sign_of(value: object) -> float | None:
    """Read 1 as 1.0 and -1 as 0.0; None for all else."""
    text = str(value).strip().removesuffix(".0")
    return 1.0 if text in ("1", "+1") else 0.0 if text == "-1" else None


def plain_of(value: object) -> str | None:
    """Write a plain value as a text, `true` and `false` in lower case; None for all else."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    return None


def marks_of(values: object) -> list[float | None] | None:
    """Read true and + as 1, false and - as 0, numbers (also in texts); None if one is none such.

    A null among them stays null.
    """
    if not isinstance(values, list):
        return None
    marks = [_mark_of(v) if isinstance(v, str) else v for v in values]
    known = (v is None or isinstance(m, int | float) for v, m in zip(values, marks, strict=True))
    return [None if m is None else float(m) for m in marks] if all(known) else None


def _mark_of(text: str) -> float | None:
    return _SIGNS.get(text.strip(), number_of(text))


_SIGNS = {"+": 1.0, "-": 0.0}


def _list_of(*types: type) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(isinstance(v, types) for v in value)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_key(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _is_spoken(value: object) -> bool:
    return isinstance(value, str) or is_message(value) or is_messages(value)


def _is_answers(value: object) -> bool:
    if _is_spoken(value) or not isinstance(value, list):
        return _is_spoken(value)
    some = [v for v in value if v is not None]
    return bool(some) and all(map(_is_spoken, some))


def _is_tools(value: object) -> bool:
    try:
        read_tools(value)
    except UnreadableError:
        return False
    return True


_ACCEPTS: dict[Kind, Callable[[object], bool]] = {
    Kind.TEXT: _is_text,
    Kind.NUMBER: is_number,
    Kind.FLAG: lambda value: flag_of(value) is not None,
    Kind.MESSAGES: is_messages,
    Kind.PROMPT: _is_spoken,
    Kind.ANSWER: _is_spoken,
    Kind.TEXTS: _list_of(str),
    Kind.NUMBERS: _list_of(int, float, NoneType),
    Kind.COMPLETIONS: _list_of(dict),
    Kind.CHOICES: _list_of(dict),
    Kind.KEY: _is_key,
    Kind.SIGN: lambda value: sign_of(value) is not None,
    Kind.HISTORY: lambda value: is_messages(history_of(value)) or value == [],
    Kind.MATERIAL: lambda value: material_of(value) is not None,
    Kind.PLAIN: lambda value: plain_of(value) is not None,
    Kind.TOOLS: _is_tools,
    Kind.ANSWERS: _is_answers,
    Kind.RECORDS: _list_of(dict),
    Kind.MARKS: lambda value: marks_of(value) is not None,
    Kind.RAW: lambda value: True,
}


def accepts(kind: Kind, value: object) -> bool:
    """Tell whether a value, as parsed, is of a kind."""
    return _ACCEPTS[kind](value)


def from_text(kind: Kind, text: Any, required: bool = True) -> Any:  # noqa: ANN401 - any value
    """Read the text of a csv cell as a value of a kind; what can't be read stays a text.

    An empty cell is null, except for texts that a record must have: those are empty texts.
    """
    if not isinstance(text, str):
        return text
    if text == "":
        return text if required and kind in (Kind.TEXT, Kind.PROMPT, Kind.ANSWER) else None
    if kind in CONVERSATIONS:
        return spoken(text)
    if kind in _CELLS or text.lstrip()[:1] not in "[{":
        return text
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return text if kind == Kind.ANSWERS and not accepts(kind, value) else value


def spoken(value: Any) -> Any:  # noqa: ANN401 - any value
    """Messages, where a value is a text that holds them; any other value as it is."""
    if not isinstance(value, str):
        return value
    try:
        return from_written(value)
    except UnreadableError:
        return value
