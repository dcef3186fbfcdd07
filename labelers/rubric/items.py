"""What a rubric asks, graded attributes and criteria that are met or not, and the judge's ratings.

Reading is tolerant about what stands around the ratings, strict about them: fences, rationales
before or after the JSON, and numbers as strings are read; ratings that are missing, unknown, twice
there, out of range or no numbers are refused with a sentence for the judge. No rating is ever
guessed, and none is read by its position.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from labelers.judges.hedges import hedged
from prefactory import yamllines
from prefactory.asking import storable
from prefactory.asking.forms import (
    after_thoughts,
    all_of,
    folded,
    objects,
    repeated,
    without,
)
from prefactory.errors import ConfigError

Kind = Literal["rule", "principle"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=64)]
RESERVED = ("critique", "ratings")
"""Names that the judge's answer uses for other things."""


class Item(NamedTuple):
    """One thing to rate, whatever it was written as.

    Attributes:
        key: its name in the judge's answer.
        text: what is asked.
        kind: `rule` (to the letter), `principle` (in spirit), or "" for graded attributes.
        weight: in the combined score, above 0.
        low, high: ends of the scale.
        whole: only whole numbers are ratings.
        verdict: met or not, 1 or 0.
        levels: what ratings mean, as (rating, text).
    """

    key: str
    text: str
    kind: str = ""
    weight: float = 1.0
    low: float = 0.0
    high: float = 1.0
    whole: bool = True
    verdict: bool = True
    levels: tuple[tuple[float, str], ...] = ()

    @property
    def scale(self) -> str:
        """The ratings that there are, for the judge."""
        if self.verdict:
            return "true or false"
        whole = "a whole number" if self.whole else "a number"
        return f"{whole} from {self.low:g} to {self.high:g}"

    def shown(self) -> dict[str, Any]:
        """What a prompt text may show of it."""
        levels = [{"rating": f"{n:g}", "text": text} for n, text in self.levels]
        return {
            "key": self.key,
            "text": self.text,
            "kind": self.kind,
            "scale": self.scale,
            "levels": levels,
        }


class Attribute(BaseModel):
    """A graded attribute of an answer.

    Attributes:
        name: of the objective.
        description: what is rated, for the judge.
        scale: lowest and highest rating.
        whole: only whole numbers are ratings.
        levels: rating -> what it means.
        direction: whether a `higher` or a `lower` rating is better; a combined score turns
            `lower` ones around.
        weight: in the combined score.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Name
    description: str = ""
    scale: tuple[float, float] = (1.0, 5.0)
    whole: bool = True
    levels: dict[float, str] = Field(default_factory=dict)
    direction: Literal["higher", "lower"] = "higher"
    weight: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.scale
        if not low < high:
            raise ValueError(f"scale: {low:g} is not below {high:g}")
        if self.whole and not (low.is_integer() and high.is_integer()):
            raise ValueError("scale: its ends are no whole numbers; set whole: false")
        outside = [f"{n:g}" for n in self.levels if not low <= n <= high]
        if outside:
            raise ValueError(f"levels: {', '.join(outside)} is not from {low:g} to {high:g}")
        if self.name.lower() in RESERVED:
            raise ValueError(f"name: {self.name!r} is taken by the form of the judge's answer")
        return self

    def item(self) -> Item:
        """As what the judge is asked."""
        levels = tuple(sorted(self.levels.items()))
        text = self.description or self.name.replace("_", " ")
        low, high = self.scale
        return Item(self.name, text, "", self.weight, low, high, self.whole, False, levels)


class Criterion(BaseModel):
    """A criterion that an answer meets or not; a principle of a constitution.

    Attributes:
        id: short name; of its own verdict's objective.
        text: what must hold, for the judge.
        kind: a `rule` is checked to the letter, a `principle` in spirit.
        weight: in the combined score.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    id: Name
    text: str = Field(min_length=1)
    kind: Kind = "principle"
    weight: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.id.lower() in RESERVED:
            raise ValueError(f"id: {self.id!r} is taken by the form of the judge's answer")
        return self

    def item(self) -> Item:
        """As what the judge is asked."""
        return Item(self.id, self.text, self.kind, self.weight)


def read_criteria(value: object) -> object:
    """Criteria as written in a recipe, as data for `Criterion`.

    Args:
        value: the path of a YAML file, or what such a file holds: a list of sentences or of
            mappings with `id`, `text`, `kind` and `weight`; or a mapping with such a list under
            `criteria` or `principles`. What has no id is called c1, c2, ... by its place.

    Raises:
        ValueError: the file can't be read, or holds no list.
    """
    where = "criteria"
    if isinstance(value, str):
        where, value = value, _from_file(value)
    if isinstance(value, dict):
        value = value.get("criteria", value.get("principles"))
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where}: expected a list of criteria, or `criteria:` with one")
    return tuple(_entry(entry, place) for place, entry in enumerate(value, 1))


def _entry(entry: object, place: int) -> object:
    if isinstance(entry, str):
        return {"id": f"c{place}", "text": entry}
    return {"id": f"c{place}", **entry} if isinstance(entry, dict) else entry


def _from_file(path: str) -> object:
    try:
        return yamllines.load(Path(path).read_text("utf-8"), Path(path).name)[0]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the criteria {path} can't be read: {error}") from error
    except ConfigError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error


def of_row(
    rubric: Sequence[dict[str, Any]] | None, scale: tuple[float, float] | None
) -> list[Item]:
    """The items of one row's rubric, numbered "1", "2", ...: rows with as many share a form.

    Args:
        rubric: structs of `id`, `text`, `kind` and `weight` (null: 1).
        scale: of all of them; None: met or not.

    Raises:
        ValueError: a text is missing, or a weight is not above 0.
    """
    low, high = scale or (0.0, 1.0)
    items = []
    for place, entry in enumerate(rubric or [], 1):
        weight = 1.0 if entry["weight"] is None else float(entry["weight"])
        text = (entry["text"] or "").strip()
        if not text or not 0 < weight < float("inf"):
            raise ValueError(f"criterion {place} has no text, or a weight that is not above 0")
        kind = entry["kind"] or ""
        items.append(Item(str(place), text, kind, weight, low, high, True, scale is None))
    return items


FEW = 12
"""Ratings that a schema lists one by one."""

_NUMBER = re.compile(r"([-+]?\d{1,6}(?:\.\d{1,6})?)(?:\s*(?:/|out of)\s*(\d{1,6}))?")
_KEYWORD = r"(?:\[\s*result\s*\]|\b(?:result|score|rating|grade)\b)"
_MENTION = re.compile(
    rf"{_KEYWORD}(?:\s+of)?[\s:=is]{{0,12}}[(\[]{{0,2}}\s*([-+]?\d{{1,6}}(?:\.\d{{1,6}})?)",
    re.IGNORECASE,
)
_RATING = re.compile(
    rf"(?:{_KEYWORD}(?:\s+of|\s+is)?\s?[:=]?)\s{{0,4}}"
    r"[(\[]{0,2}(?P<number>[-+]?\d{1,6}(?:\.\d{1,6})?(?:\s?(?:/|out of)\s?\d{1,6})?)"
    r"[)\]]{0,2}[.!]?[ \t]*(?=\n|$)",
    re.IGNORECASE,
)
_GOES_ON = re.compile(
    r"\s*(?:/|%|out of\b|or\b|to\b|and\b|but\b|[-+*^x\u2013]\s?\d)", re.IGNORECASE
)
_MARKDOWN = str.maketrans("", "", "*_`#")
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


def answer_schema(items: Sequence[Item], critique: bool = False) -> dict[str, Any]:
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


def answer_form(items: Sequence[Item], critique: bool = False) -> str:
    """The form of an answer, as a prompt shows it."""
    ratings = ", ".join(f'"{item.key}": <{item.scale}>' for item in items)
    first = '"critique": "<text>", ' if critique else ""
    return f'{{{first}"ratings": {{{ratings}}}}}'


def read_ratings(text: str, items: Sequence[Item], critique: bool = False) -> Reading:
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
        again = f"Reply with one JSON object of this form: {answer_form(items, critique)}"
        raise ValueError(f"{error} {again}") from error


def _read(text: str, items: Sequence[Item], critique: bool) -> Reading:
    keys = {folded(item.key) for item in items}
    candidates = objects(text)
    readings = []
    for candidate in candidates:
        ratings = _ratings_in(candidate, keys)
        if ratings is not None:
            words = next((v for k, v in candidate.items() if folded(k) == "critique"), None)
            readings.append(Reading(_values(ratings, items), _critique(words)))
    if not readings and not candidates and len(items) == 1 and not critique:
        number = result_number(text)
        if number is None:
            raise ValueError("Your answer has no whole JSON object.")
        return Reading((_checked(number, items[0]),))
    if not readings:
        raise ValueError(
            "Your answer has no JSON object with ratings."
            if candidates
            else "Your answer has no whole JSON object."
        )
    if len({reading.values for reading in readings}) > 1:
        raise ValueError("Your answer has several JSON objects with different ratings.")
    last = readings[-1]
    if critique and not last.critique:
        raise ValueError("Your answer has no critique.")
    return last


def _critique(words: object) -> str | None:
    return storable(words).strip() or None if isinstance(words, str) else None


def _ratings_in(candidate: dict[str, Any], keys: set[str]) -> dict[str, Any] | None:
    """The ratings under `ratings`, or the object itself if it has one of the keys."""
    inner = next((v for k, v in candidate.items() if folded(k) == "ratings"), None)
    if isinstance(inner, dict):
        return inner
    if keys & {folded(k) for k in candidate}:
        return without(candidate, "critique")
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


def result_number(text: str) -> str | None:
    """The rating that ends a line after `[RESULT]`, `score of` or the like (the form of Janus).

    Known answers: "Feedback: ok [RESULT] 4" is "4", "a score of 1." is "1", "Rating: 4/5" is "4/5";
    "Score: 4 or 5", "a score of 1 would be unfair", "not a score of 3" and "no number" are None, as
    are two that differ: what else stands in the line, or takes the sentence back, may change what
    was meant.
    """
    plain = text.translate(_MARKDOWN)
    ratings = [
        match
        for match in _RATING.finditer(plain)
        if not hedged(plain, match.start(), match.end()) and not _GOES_ON.match(plain, match.end())
    ]
    if not ratings or len({match["number"] for match in ratings}) > 1:
        return None
    said = {float(number) for number in _MENTION.findall(plain)}
    number = ratings[-1]["number"]
    return number if said == {float(re.split(r"/|out", number)[0])} else None
