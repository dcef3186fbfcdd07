"""JSON objects in a model's answer, whatever stands around them; what is ambiguous is refused."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

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
    found: list[dict[str, Any]] = []
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
        found.append(value)
    return found


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    made = _Object(pairs)
    made.twice = tuple(dict.fromkeys(k for k, v in pairs if made[k] is not v and made[k] != v))
    return made


def repeated(found: dict[str, Any]) -> list[str]:
    """Keys of an object that came twice with different values, or twice up to folding."""
    times = Counter(folded(k) for k in found)
    alike = [k for k in found if times[folded(k)] > 1]
    return list(dict.fromkeys([*getattr(found, "twice", ()), *alike]))


def without(found: dict[str, Any], key: str) -> dict[str, Any]:
    """An object without a key, up to folding."""
    kept = _Object({k: v for k, v in found.items() if folded(k) != key})
    kept.twice = getattr(found, "twice", ())
    return kept


def after_thoughts(text: str) -> str:
    """A model's answer without the thoughts that reasoning models write before it.

    Of thoughts that never end nothing is left: what stands in them is no answer.
    """
    _, ended, answer = text.rpartition("</think>")
    return "" if not ended and answer.lstrip().startswith("<think>") else answer


def fields(text: str, keys: Sequence[str]) -> dict[str, Any]:
    """The values of all keys out of the one object of an answer that has them.

    Args:
        text: a model's answer.
        keys: that the object must have, and no others.

    Returns:
        Key -> value, in the order of `keys`.

    Raises:
        ValueError: there is none, several differ, a key is missing, unknown or twice there; with
            a sentence for the model.
    """
    wanted = {folded(key): key for key in keys}
    found = [o for o in objects(after_thoughts(text)) if {folded(k) for k in o} & set(wanted)]
    if not found:
        raise ValueError("Your answer has no JSON object with what was asked for.")
    if any(o != found[0] for o in found[1:]):
        raise ValueError("Your answer has several JSON objects that differ.")
    last = found[-1]
    twice = repeated(last)
    if twice:
        raise ValueError(f"{', '.join(map(repr, twice))} is there twice.")
    given = {folded(key): value for key, value in last.items()}
    missing = [key for name, key in wanted.items() if name not in given]
    if missing:
        raise ValueError(f"There is no {', '.join(missing)}.")
    unknown = [key for key in last if folded(key) not in wanted]
    if unknown:
        raise ValueError(f"Nobody asked for {', '.join(unknown)[:200]}.")
    return {key: given[name] for name, key in wanted.items()}
