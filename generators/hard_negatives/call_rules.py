"""Calls of tools against their JSON schemas: valid or not, equal or not, spoilt in one place."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from prefactory.identity import canonical_json
from prefactory.measures.json_answers import validator

Call = Mapping[str, Any]
Schemas = Mapping[str, dict[str, Any]]
"""Name of a tool -> JSON schema of its arguments."""
_INSIDE = ("properties", "$defs", "definitions")
_OTHER_TYPE: dict[str, Any] = {
    "string": ["no", "text"],
    "integer": "many",
    "number": "many",
    "boolean": "perhaps",
    "array": "none",
    "object": "none",
}


@dataclass(frozen=True, slots=True)
class Spoilt:
    """Calls with one fault: its kind, and the JSON pointer of its place in the list of calls."""

    calls: list[dict[str, Any]]
    kind: str
    path: str


def schemas_of(tools: str | None) -> dict[str, dict[str, Any]]:
    """Schemas of the tools in a `tools` column, by name; a tool without one takes no argument.

    A text that holds no list of tools has none.
    """
    try:
        listed = [tool["function"] for tool in json.loads(tools or "[]")]
        return {f["name"]: f.get("parameters") or {"type": "object"} for f in listed}
    except (ValueError, TypeError, KeyError):
        return {}


def closed(schema: Any) -> Any:  # noqa: ANN401 - JSON schema
    """A schema whose objects take no key that they do not name, unless they say so themselves."""
    if isinstance(schema, list):
        return [closed(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    out = {
        key: {k: closed(v) for k, v in value.items()}
        if key in _INSIDE and isinstance(value, dict)
        else value
        if key in ("enum", "const", "default", "examples")
        else closed(value)
        for key, value in schema.items()
    }
    if schema.get("type") == "object" or "properties" in schema:
        out.setdefault("additionalProperties", False)
    return out


def arguments_of(call: Call) -> Any:  # noqa: ANN401 - JSON value
    """The arguments of a call.

    Raises:
        ValueError: they are no JSON, or have a key twice, NaN or infinity.
    """

    def once(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({k for k, _ in items}) < len(items):
            raise ValueError("a key stands twice")
        return dict(items)

    def refused(constant: str) -> Any:  # noqa: ANN401 - never returns
        raise ValueError(f"{constant} is no JSON")

    return json.loads(call["arguments"], object_pairs_hook=once, parse_constant=refused)


def problem(call: Call, schemas: Schemas) -> str | None:
    """Why a call is not valid under the closed schema of its tool; None if it is."""
    if call["name"] not in schemas:
        return f"there is no tool {call['name']!r}"
    try:
        arguments = arguments_of(call)
    except (ValueError, RecursionError) as error:
        return f"the arguments are no JSON: {error}"
    try:
        errors = _closed_check(json.dumps(schemas[call["name"]])).iter_errors(arguments)
        first = next(iter(errors), None)
    except ValueError as error:
        return str(error)
    return None if first is None else str(first.message)[:200]


@lru_cache(maxsize=256)  # a table names few tools, and a check is dear to make
def _closed_check(schema: str) -> Any:  # noqa: ANN401 - jsonschema has no types
    return validator(closed(json.loads(schema)))


def canonical(call: Call, schemas: Schemas) -> str:
    """A call as text: defaults filled in, 3.0 as 3 (true stays true), keys sorted, no id."""
    try:
        arguments = _filled(arguments_of(call), schemas.get(call["name"], {}))
    except (ValueError, RecursionError):
        arguments = call["arguments"]
    return canonical_json([call["name"], arguments])


def equal(one: Sequence[Call], two: Sequence[Call], schemas: Schemas) -> bool:
    """Whether two lists hold the same calls, in any order, each as often."""
    counts = [Counter(canonical(c, schemas) for c in calls) for calls in (one, two)]
    return counts[0] == counts[1]


def _filled(value: Any, schema: Any) -> Any:  # noqa: ANN401 - JSON value and schema
    if isinstance(value, float) and value.is_integer():
        return int(value)
    schema = schema if isinstance(schema, dict) else {}
    if isinstance(value, list):
        return [_filled(v, schema.get("items")) for v in value]
    if not isinstance(value, dict):
        return value
    known = schema.get("properties", {})
    defaults = {k: s["default"] for k, s in known.items() if isinstance(s, dict) and "default" in s}
    return {k: _filled(v, known.get(k)) for k, v in (defaults | value).items()}


def grounded(call: Call, talk: str) -> bool:
    """Whether every text and number of a call stands in a conversation; no other value does."""

    def stands(value: Any) -> bool:  # noqa: ANN401 - JSON value
        if isinstance(value, dict | list):
            return all(map(stands, value.values() if isinstance(value, dict) else value))
        if isinstance(value, bool) or value is None:
            return False
        return str(value).casefold() in talk.casefold()

    return stands(arguments_of(call))


def spoilt(calls: Sequence[Call], schemas: Schemas, said: bool) -> Iterator[Spoilt]:
    """All ways to spoil valid calls in one place that we know, in a fixed order.

    Args:
        calls: valid calls.
        schemas: of the tools.
        said: the message says something beside them, so that it may lose its only call.
    """
    whole = [dict(c) for c in calls]
    for i, call in enumerate(whole):
        for kind, path, changed in _changes(call, schemas):
            yield Spoilt([*whole[:i], changed, *whole[i + 1 :]], kind, f"/{i}{path}")
        if len(whole) > 1 or said:
            yield Spoilt([*whole[:i], *whole[i + 1 :]], "missing_call", f"/{i}")
        yield Spoilt([*whole, {**call, "id": None}], "extra_call", f"/{len(whole)}")


def _changes(call: dict[str, Any], schemas: Schemas) -> Iterator[tuple[str, str, dict[str, Any]]]:
    arguments, schema = arguments_of(call), schemas[call["name"]]
    known = schema.get("properties", {})

    def with_arguments(new: dict[str, Any]) -> dict[str, Any]:
        return {**call, "arguments": canonical_json(new)}

    near = f"{call['name']}_v2"
    if near not in schemas:
        yield "unknown_tool", "/name", {**call, "name": near}
    extra = next(n for n in ("verbose", "mode", "extra_argument") if n not in {*arguments, *known})
    unknown = with_arguments({**arguments, extra: True})
    yield "unknown_argument", f"/arguments/{_pointer(extra)}", unknown
    for key in sorted(arguments):
        path = f"/arguments/{_pointer(key)}"
        if key in schema.get("required", ()):
            rest = {k: v for k, v in arguments.items() if k != key}
            yield "missing_required", path, with_arguments(rest)
        for kind, value in _values(arguments[key], known.get(key)):
            yield kind, path, with_arguments({**arguments, key: value})


def _pointer(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _values(value: Any, schema: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - JSON
    if not isinstance(schema, dict):
        return
    if isinstance(kind := schema.get("type"), str) and kind in _OTHER_TYPE:
        yield "wrong_type", _OTHER_TYPE[kind]
    if "enum" in schema:
        yield "out_of_range", f"{value}_other"
        yield from (("wrong_value", v) for v in schema["enum"] if v != value)
        return
    if isinstance(value, bool):
        yield "wrong_value", not value
    elif isinstance(value, int | float):
        if "maximum" in schema:
            yield "out_of_range", schema["maximum"] + 1
        if "minimum" in schema:
            yield "out_of_range", schema["minimum"] - 1
        yield "wrong_value", value + 1
        yield "wrong_value", value - 1
