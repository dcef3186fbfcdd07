"""A judge's ratings out of its answer: tolerant about what stands around them, strict about them.

Fences, rationales before or after the JSON, and numbers as strings are read. Ratings that are
missing, unknown, twice there, out of range or no numbers are refused with a sentence for the
judge; no rating is ever guessed, and none is read by its position.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from labelers.rubric.items import Item
from prefactory.asking import storable
from prefactory.forms import (
    after_thoughts,
    all_of,
    folded,
    objects,
    repeated,
    without,
)

FEW = 12
"""Ratings that a schema lists one by one."""

_NUMBER = re.compile(r"([-+]?\d{1,6}(?:\.\d{1,6})?)(?:\s*(?:/|out of)\s*(\d{1,6}))?")
_RESULT = re.compile(
    r"(?:\[\s*result\s*\]|\bresult\b|\bscore(?: of)?\b|\brating(?: of)?\b)"
    r"[\s*_`:=is]{0,12}[(\[]?\s*([-+]?\d{1,6}(?:\.\d{1,6})?)",
    re.IGNORECASE,
)
_WORDS = {
    "true": 1.0,
    "yes": 1.0,
    "met": 1.0,
    "false": 0.0,
    "no": 0.0,
    "not met": 0.0,
}


class Reading(NamedTuple):
    """What a judge said.

    Attributes:
        values: one per item, in the order of the items.
        critique: the text before the ratings, where one was asked for.
    """

    values: tuple[float, ...]
    critique: str | None = None


def schema(items: Sequence[Item], critique: bool = False) -> dict[str, Any]:
    """JSON schema of an answer: `{"critique": "...", "ratings": {key: rating, ...}}`.

    Args:
        items: what is rated.
        critique: whether a critique comes first, in the same answer.
    """
    ratings = all_of({item.key: _rating_schema(item) for item in items})
    first = {"critique": {"type": "string"}} if critique else {}
    return all_of({**first, "ratings": ratings})


def _rating_schema(item: Item) -> dict[str, Any]:
    if item.verdict:
        return {"type": "boolean"}
    if item.whole and item.high - item.low < FEW:
        return {"type": "integer", "enum": list(range(int(item.low), int(item.high) + 1))}
    kind = "integer" if item.whole else "number"
    return {"type": kind, "minimum": item.low, "maximum": item.high}


def form(items: Sequence[Item], critique: bool = False) -> str:
    """The form of an answer, as a prompt shows it."""
    ratings = ", ".join(f'"{item.key}": <{item.scale}>' for item in items)
    first = '"critique": "<text>", ' if critique else ""
    return f'{{{first}"ratings": {{{ratings}}}}}'


def read(text: str, items: Sequence[Item], critique: bool = False) -> Reading:
    """Read the ratings of all items.

    Args:
        text: the judge's answer.
        items: what was to be rated.
        critique: whether the answer must hold one.

    Raises:
        ValueError: with a sentence for the judge.
    """
    try:
        return _read(after_thoughts(text), items, critique)
    except ValueError as error:
        again = f"Reply with one JSON object of this form: {form(items, critique)}"
        raise ValueError(f"{error} {again}") from error


def _read(text: str, items: Sequence[Item], critique: bool) -> Reading:
    keys = {folded(item.key) for item in items}
    found = objects(text)
    readings = []
    for candidate in found:
        ratings = _ratings_in(candidate, keys)
        if ratings is not None:
            told = next((v for k, v in candidate.items() if folded(k) == "critique"), None)
            readings.append(Reading(_values(ratings, items), _critique(told)))
    if not readings and not found and len(items) == 1 and not critique:
        return Reading((_checked(result_number(text), items[0]),))
    if not readings:
        raise ValueError(
            "Your answer has no JSON object with ratings."
            if found
            else "Your answer has no whole JSON object."
        )
    if len({reading.values for reading in readings}) > 1:
        raise ValueError("Your answer has several JSON objects with different ratings.")
    last = readings[-1]
    if critique and not last.critique:
        raise ValueError("Your answer has no critique.")
    return last


def _critique(told: object) -> str | None:
    return storable(told).strip() or None if isinstance(told, str) else None


def _ratings_in(found: dict[str, Any], keys: set[str]) -> dict[str, Any] | None:
    """The ratings under `ratings`, or the object itself if it has one of the keys."""
    inner = next((v for k, v in found.items() if folded(k) == "ratings"), None)
    if isinstance(inner, dict):
        return inner
    if keys & {folded(k) for k in found}:
        return without(found, "critique")
    return None


def _values(ratings: dict[str, Any], items: Sequence[Item]) -> tuple[float, ...]:
    twice = repeated(ratings)
    if twice:
        raise ValueError(f"{', '.join(map(repr, twice))} is rated twice.")
    given = {folded(key): value for key, value in ratings.items()}
    names = [item.key for item in items]
    missing = [n for n in names if folded(n) not in given]
    if missing:
        raise ValueError(f"There is no rating for {', '.join(missing)}.")
    unknown = [k for k in ratings if folded(k) not in {folded(n) for n in names}]
    if unknown:
        raise ValueError(f"Nobody asked for a rating of {', '.join(unknown)[:200]}.")
    return tuple(_checked(given[folded(item.key)], item) for item in items)


def _checked(value: object, item: Item) -> float:
    """The rating as a number of the item's scale."""
    number = _as_number(value, item)
    if number is None or not item.low <= number <= item.high:
        shown = str(value)[:80]
        raise ValueError(f"The rating of {item.key} must be {item.scale}, not {shown!r}.")
    if item.whole and number != math.floor(number):
        raise ValueError(f"The rating of {item.key} must be {item.scale}, not {number:g}.")
    return float(number)


def _as_number(value: object, item: Item) -> float | None:
    if isinstance(value, bool):
        return float(value) if item.verdict else None
    if isinstance(value, int | float):
        return value if not isinstance(value, float) or math.isfinite(value) else None
    if not isinstance(value, str):
        return None
    text = value.strip().strip('."').casefold()
    if item.verdict and text in _WORDS:
        return _WORDS[text]
    match = _NUMBER.fullmatch(text)
    if match is None or (match[2] is not None and float(match[2]) != item.high):
        return None
    return float(match[1])


def result_number(text: str) -> float | None:
    """The number after `[RESULT]`, `score of` or the like, as rubric judges write it (Janus).

    Known answers: "Feedback: ok [RESULT] 4" is 4, "score of 1" is 1, "no number" is None; two
    different numbers are None.
    """
    found = {float(number) for number in _RESULT.findall(text)}
    return found.pop() if len(found) == 1 else None
