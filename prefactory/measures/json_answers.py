"""JSON in answers: taken out of its Markdown fence, parsed strictly, checked against a schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import polars as pl
from jsonschema import exceptions, validators
from referencing import Registry
from referencing.exceptions import Unresolvable

FENCE = r"(?s)^\s*```[A-Za-z]*\s*\n?(.*?)\s*```\s*$"
_NO_RUN = ("patternProperties",)
"""Keywords that run Python's backtracking regular expressions on the answer: refused."""


class _NotJsonError(ValueError):
    pass


def parsed(text: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Parse one JSON value; NaN, Infinity and nesting beyond Python's stack are not JSON.

    Raises:
        ValueError: the text is not JSON.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise _NotJsonError("nested too deeply") from error


def _refuse(constant: str) -> Any:  # noqa: ANN401
    raise _NotJsonError(constant)


def unfenced(texts: pl.Series) -> pl.Series:
    """The inside of a text that is one Markdown code block, else the text itself. String [n]."""
    inside = texts.str.extract(FENCE, 1)
    return inside.zip_with(inside.is_not_null(), texts)


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[Exception]:  # noqa: ANN401
    if isinstance(instance, str) and not pl.Series([instance]).str.contains(pattern).item():
        yield exceptions.ValidationError(f"{instance[:80]!r} does not match {pattern!r}")


def validator(schema: Any) -> Any:  # noqa: ANN401 - jsonschema has no types
    """A validator of a schema, of the draft that its `$schema` names (2020-12 if none).

    `pattern` runs in Rust's regex engine, in linear time. Nothing is ever fetched: a `$ref` must
    point into the schema itself. `format` is an annotation, not checked.

    Raises:
        ValueError: it is no valid schema, refers to another, or uses `patternProperties`.
    """
    if not isinstance(schema, dict | bool):
        raise ValueError("a JSON schema is an object or a boolean")
    for key, value in _walk(schema):
        if key in _NO_RUN:
            raise ValueError(f"the JSON schema uses {key}, which is not supported")
        if key in ("$ref", "$dynamicRef") and not str(value).startswith("#"):
            raise ValueError(f"the JSON schema refers to {value!r}, which is outside of it")
        if key == "pattern" and isinstance(value, str):
            try:
                pl.Series([""]).str.contains(value)
            except pl.exceptions.ComputeError as error:
                raise ValueError(f"the JSON schema has a bad pattern {value!r}") from error
    kind = validators.validator_for(schema, default=validators.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except exceptions.SchemaError as error:
        raise ValueError(f"not a valid JSON schema: {error.message}") from error
    return validators.extend(kind, {"pattern": _pattern})(schema, registry=Registry())


def _walk(value: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield str(key), inner
        if isinstance(inner, dict | list):
            yield from _walk(inner)


def checked(texts: pl.Series, schemas: pl.Series, fixed: dict[str, Any] | None) -> pl.Series:
    """Check texts against schemas.

    Args:
        texts: String [n]; null is unread.
        schemas: JSON text of each row's schema, String [n]; null means none.
        fixed: schema for all rows in place of `schemas`.

    Returns:
        Struct [n] of `right`, `read` (the text is JSON) and `known` (the schema can be used),
        Boolean; `right` is null unless read and known. Without any schema all JSON is right.
    """
    named = fixed is None and schemas.null_count() < schemas.len()
    fixed_check = None if fixed is None else validator(fixed)
    rows = []
    for text, schema in zip(unfenced(texts), schemas, strict=True):
        schema_check = _schema_of(schema) if named else fixed_check
        known = not named or schema_check is not None
        rows.append(_row(text, schema_check, known))
    dtype = pl.Struct(dict.fromkeys(("right", "read", "known"), pl.Boolean))
    return pl.Series(rows, dtype=dtype)


@lru_cache(maxsize=256)
def _schema_of(text: str | None) -> Any:  # noqa: ANN401
    try:
        return None if text is None else validator(parsed(text))
    except (ValueError, RecursionError):
        return None


def _row(text: str | None, check: Any, known: bool) -> dict[str, bool | None]:  # noqa: ANN401
    try:
        value = parsed(text or "")
    except ValueError:
        return {"right": None, "read": False, "known": known}
    try:
        right = None if not known else check is None or bool(check.is_valid(value))
    except (Unresolvable, RecursionError):
        right, known = None, False
    return {"right": right, "read": True, "known": known}
