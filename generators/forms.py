"""JSON objects that a model is asked for: what each key holds, as a schema and as a check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from prefactory.engines.json_objects import all_of, fields

Kind = Literal["text", "maybe", "texts", "flag"] | tuple[str, ...] | range
"""What a key holds: `text` (not empty), `maybe` (a text that may be empty), `texts` (a list of
texts, none empty), `flag` (true or false), one of some words, or a whole number of a range."""


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
            Key -> value, in the order of `kinds`; texts without outer white space.

        Raises:
            ValueError: it holds no such object, or several; a sentence for the model.
        """
        found = fields(text, list(self.kinds))
        return {key: _value(key, kind, found[key]) for key, kind in self.kinds.items()}


def storable(text: str) -> str:
    """A model's text without outer white space; lone surrogates, which no table takes, as "?"."""
    return text.encode("utf-8", "replace").decode().strip()


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
    found = [k for k in kind if isinstance(value, str) and value.strip().lower() == k.lower()]
    if not found:
        raise ValueError(f"{key!r} must be one of {', '.join(kind)}.")
    return found[0]


def _text(key: str, value: object) -> str:
    text = _maybe(key, value)
    if not text:
        raise ValueError(f"{key!r} is empty.")
    return text


def _maybe(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{key!r} must be a text.")
    return storable(value)


def _texts(key: str, value: object) -> list[str]:
    if not isinstance(value, list):
        raise ValueError(f"{key!r} must be a list of texts.")
    return [_text(key, item) for item in value]


def _flag(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{key!r} must be true or false.")
    return value


_READ: dict[str, Callable[[str, object], Any]] = {
    "text": _text,
    "maybe": _maybe,
    "texts": _texts,
    "flag": _flag,
}
