"""JSON that a model is asked for: forms, their schemas, and finding them in an answer.

Whatever may stand around an object, what is ambiguous is refused.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

MOST_BRACES = 1000
"""Openings of an object that are tried, the last ones of a text."""

_BEGINS = re.compile(r'\{\s{0,99}"')
"""How a JSON object begins, other than braces of a text."""


class _Object(dict[str, Any]):
    """A JSON object that knows which of its keys came twice with different values."""

    twice: tuple[str, ...] = ()


def all_of(properties: dict[str, Any]) -> dict[str, Any]:
    """JSON schema of an object with these properties, all required, and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def folded(key: str) -> str:
    """A key without differences of case, spaces and hyphens."""
    return re.sub(r"[\s_-]+", "_", key.strip().casefold())


def objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects of a text that stand in no other one, in order.

    At most the last `MOST_BRACES` openings are tried, so that no text takes long. Line breaks
    inside of strings are read.

    Raises:
        ValueError: an object is cut or invalid; what stands inside of it is not looked at, for it
            may be a draft of what was cut.
    """
    starts = [m.start() for m in re.finditer(r"\{", text)][-MOST_BRACES:]
    decoder = json.JSONDecoder(object_pairs_hook=_object, strict=False)
    values: list[dict[str, Any]] = []
    end = 0
    for start in starts:
        if start < end:
            continue
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            if _BEGINS.match(text, start):
                raise ValueError("The JSON of your answer is cut or invalid.") from error
            continue
        values.append(value)
    return values


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    value = _Object(pairs)
    value.twice = tuple(dict.fromkeys(k for k, v in pairs if value[k] is not v and value[k] != v))
    return value


def repeated(value: dict[str, Any]) -> list[str]:
    """Keys of an object that came twice with different values, or twice up to folding."""
    times = Counter(folded(k) for k in value)
    alike = [k for k in value if times[folded(k)] > 1]
    return list(dict.fromkeys([*getattr(value, "twice", ()), *alike]))


def without(value: dict[str, Any], key: str) -> dict[str, Any]:
    """An object without a key, up to folding."""
    kept = _Object({k: v for k, v in value.items() if folded(k) != key})
    kept.twice = getattr(value, "twice", ())
    return kept


def after_thoughts(text: str) -> str:
    """A model's answer without the thoughts that reasoning models write before it.

    Of thoughts that never end nothing is left: what stands in them is no answer.
    """
    _, ended, answer = text.rpartition("</think>")
    return "" if not ended and answer.lstrip().startswith("<think>") else answer


def fields(text: str, keys: Sequence[str], optional: Collection[str] = ()) -> dict[str, Any]:
    """The values of all keys out of the one object of an answer that has them.

    Args:
        text: a model's answer.
        keys: that the object must have, and no others.
        optional: those of them that may be missing.

    Returns:
        Key -> value, in the order of `keys`, without what is missing.

    Raises:
        ValueError: there is none, several differ, a key is missing, unknown or twice there; with
            a sentence for the model.
    """
    wanted = {folded(key): key for key in keys}
    candidates = [o for o in objects(after_thoughts(text)) if {folded(k) for k in o} & set(wanted)]
    if not candidates:
        raise ValueError("Your answer has no JSON object with what was asked for.")
    if any(o != candidates[0] for o in candidates[1:]):
        raise ValueError("Your answer has several JSON objects that differ.")
    last = candidates[-1]
    twice = repeated(last)
    if twice:
        raise ValueError(f"{', '.join(map(repr, twice))} is there twice.")
    given = {folded(key): value for key, value in last.items()}
    missing = [k for name, k in wanted.items() if name not in given and k not in optional]
    if missing:
        raise ValueError(f"There is no {', '.join(missing)}.")
    unknown = [key for key in last if folded(key) not in wanted]
    if unknown:
        raise ValueError(f"Nobody asked for {', '.join(unknown)[:200]}.")
    return {key: given[name] for name, key in wanted.items() if name in given}


Kind = Literal["text", "maybe", "texts", "flag"] | tuple[str, ...] | range
"""What a key holds: `text` (not empty), `maybe` (a text that may be empty or missing), `texts` (a
list of texts, none empty), `flag` (true or false), one of some words, or a whole number of a
range."""


@dataclass(frozen=True)
class Form:
    """One JSON object.

    Attributes:
        kinds: key -> what it holds; all keys are wanted, and no others.
    """

    kinds: Mapping[str, Kind]

    @cached_property
    def schema(self) -> dict[str, Any]:
        """JSON schema, for engines that can enforce one."""
        return all_of({key: _schema(kind) for key, kind in self.kinds.items()})

    def parse(self, text: str) -> dict[str, Any]:
        """Read an answer.

        Returns:
            Key -> value, in the order of `kinds`; texts without outer white space; a `maybe` that
            is missing is "".

        Raises:
            ValueError: it holds no such object, or several; a sentence for the model.
        """
        optional = [key for key, kind in self.kinds.items() if kind == "maybe"]
        given = {**dict.fromkeys(optional, ""), **fields(text, list(self.kinds), optional)}
        return {key: _value(key, kind, given[key]) for key, kind in self.kinds.items()}


def _schema(kind: Kind) -> dict[str, Any]:
    if isinstance(kind, range):
        return {"type": "integer", "minimum": kind[0], "maximum": kind[-1]}
    if isinstance(kind, tuple):
        return {"type": "string", "enum": list(kind)}
    return dict(_SCHEMAS[kind])


_SCHEMAS: dict[str, dict[str, Any]] = {
    "text": {"type": "string", "minLength": 1},
    "maybe": {"type": "string"},
    "texts": {"type": "array", "items": {"type": "string", "minLength": 1}},
    "flag": {"type": "boolean"},
}


def _value(key: str, kind: Kind, value: object) -> Any:  # noqa: ANN401 - by kind
    if isinstance(kind, range):
        return _number(key, kind, value)
    if isinstance(kind, tuple):
        return _choice(key, kind, value)
    return _READ[kind](key, value)


def _number(key: str, kind: range, value: object) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value not in kind:
        raise ValueError(f"{key!r} must be a whole number from {kind[0]} to {kind[-1]}.")
    return value


def _choice(key: str, kind: tuple[str, ...], value: object) -> str:
    word = value.strip().lower() if isinstance(value, str) else None
    choices = [choice for choice in kind if choice.lower() == word]
    if not choices:
        raise ValueError(f"{key!r} must be one of {', '.join(kind)}.")
    return choices[0]


def _filled(key: str, value: object) -> str:
    text = _maybe(key, value)
    if not text:
        raise ValueError(f"{key!r} is empty.")
    return text


def _maybe(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{key!r} must be a text.")
    return value.encode("utf-8", "replace").decode().strip()  # tables take no lone surrogates


def _texts(key: str, value: object) -> list[str]:
    if not isinstance(value, list):
        raise ValueError(f"{key!r} must be a list of texts.")
    return [_filled(key, item) for item in value]


def _flag(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{key!r} must be true or false.")
    return value


_READ: dict[str, Callable[[str, object], Any]] = {
    "text": _filled,
    "maybe": _maybe,
    "texts": _texts,
    "flag": _flag,
}
