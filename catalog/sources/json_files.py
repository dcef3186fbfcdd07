"""Readers of JSON lines and of JSON arrays, plain or gzipped, whatever the file is called."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import IO, Any

import orjson

from catalog.sources.chunks import MAX_CHUNK_BYTES, Chunk
from catalog.sources.pieces import Pieces
from prefactory.errors import DataError

_SURROGATE = re.compile("[\ud800-\udfff]")
WRAPPERS = ("data", "rows", "records", "examples", "train")
"""Keys under which an object may hold all the records of a file."""
_BETWEEN = re.compile(r"[\s,]*")


def parse_json(text: bytes) -> tuple[Any, str | None]:
    """Parse one JSON text; mend what Arrow could not hold.

    Returns:
        The value and the reason of a repair, or None: `not_utf8` (bytes replaced by U+FFFD),
        `lone_surrogate` (the same), `not_finite` (NaN or infinity read as null).

    Raises:
        ValueError: the text is no JSON; the message says where.
    """
    try:
        return orjson.loads(text), None
    except orjson.JSONDecodeError as error:
        message = str(error)
    decoded, repair = _decode(text)
    not_finite: list[str] = []
    try:
        value = mended(json.loads(decoded, parse_constant=not_finite.append))
    except (ValueError, RecursionError):
        raise ValueError(message) from None
    if not_finite:
        repair = repair or "not_finite"
    return value, repair or "lone_surrogate"


def _decode(text: bytes) -> tuple[str, str | None]:
    try:
        return text.decode(), None
    except UnicodeDecodeError:
        return text.decode(errors="replace"), "not_utf8"


def mended(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Replace lone surrogates by U+FFFD in every text of a JSON value."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [mended(v) for v in value]
    if isinstance(value, dict):
        return {mended(k): mended(v) for k, v in value.items()}
    return value


def read_jsonl(raw: IO[bytes], rows: int) -> Iterator[Chunk]:
    """Read one object per line; blank lines are no records.

    Args:
        raw: an open, seekable binary file.
        rows: records per chunk, fewer if their texts are very long.
    """
    pieces = Pieces(raw)
    chunk, size = Chunk(lines=[], records=[]), 0
    for number, lines in pieces.lines():
        for line, text in enumerate(lines, number):
            if chunk.size >= rows or size >= MAX_CHUNK_BYTES:
                yield chunk
                chunk, size = Chunk(lines=[], records=[]), 0
            size += len(text)
            _enter(chunk, line, text)
        if pieces.cut is not None and not lines:
            chunk.rejects.add(number, "truncated_file", pieces.cut)
    if chunk.size:
        yield chunk


def _enter(chunk: Chunk, line: int, text: bytes) -> None:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        if not text.strip():
            return
        try:
            value, repair = parse_json(text)
        except ValueError as error:
            chunk.rejects.add(line, "malformed", str(error))
            return
        if repair is not None:
            chunk.repairs[line] = repair
    enter_value(chunk, line, value)


def enter_value(chunk: Chunk, line: int, value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Add a parsed value to a chunk: an object is a record, anything else is rejected."""
    if type(value) is dict and chunk.records is not None:
        chunk.lines.append(line)
        chunk.records.append(value)
    else:
        chunk.rejects.add(line, "wrong_type", f"the record is a {type(value).__name__}, no object")


def read_json(raw: IO[bytes], rows: int) -> Iterator[Chunk]:
    """Read a `.json` file: an array of records, an object that wraps one, or JSON lines.

    An array is read whole; JSON lines under this name are streamed.

    Args:
        raw: an open, seekable binary file.
        rows: records per chunk.
    """
    if _holds_lines(raw):
        yield from read_jsonl(raw, rows)
        return
    pieces = Pieces(raw)
    text = b"".join(pieces)
    try:
        values = _records_of(orjson.loads(text))
    except orjson.JSONDecodeError as error:
        if text.lstrip()[:1] == b"[":
            yield from _by_element(text, rows, pieces.cut, str(error))
        else:
            yield from read_jsonl(raw, rows)
        return
    for start in range(0, len(values), rows):
        chunk = Chunk(lines=[], records=[])
        for line, item in enumerate(values[start : start + rows], start + 1):
            enter_value(chunk, line, item)
        yield chunk


def _holds_lines(raw: IO[bytes]) -> bool:
    """Whether the first line that is not blank is a record by itself."""
    for _, lines in Pieces(raw).lines():
        for line in lines:
            if line.strip():
                try:
                    value = parse_json(line)[0]
                except ValueError:
                    return False
                return isinstance(value, dict) and _wrapped(value) is None
    return False


def _wrapped(value: dict[str, Any]) -> list[Any] | None:
    """The records that an object holds under one of the usual keys."""
    for key in WRAPPERS:
        inner = value.get(key)
        if isinstance(inner, list) and inner and all(isinstance(v, dict) for v in inner):
            return inner
    return None


def _records_of(value: Any) -> list[Any]:  # noqa: ANN401 - any JSON value
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        return _wrapped(value) or [value]
    raise DataError(
        f"a JSON file must hold objects, and this one is a {type(value).__name__}; write an array "
        "of objects, or one object a line"
    )


def _by_element(text: bytes, rows: int, cut: str | None, problem: str) -> Iterator[Chunk]:
    """Read an array that orjson refuses element by element, mending what can be mended.

    From the first element that doesn't parse, the rest is rejected as one record.
    """
    decoded, not_utf8 = _decode(text)
    constants: list[str] = []
    decoder = json.JSONDecoder(parse_constant=constants.append)
    chunk = Chunk(lines=[], records=[])
    line, offset = 1, decoded.find("[") + 1
    while offset:
        offset = _BETWEEN.match(decoded, offset).end()  # type: ignore[union-attr]
        if decoded[offset : offset + 1] == "]":
            problem = "there is more text after the array" if decoded[offset + 1 :].strip() else ""
            break
        constants.clear()
        try:
            value, offset = decoder.raw_decode(decoded, offset)
        except (ValueError, RecursionError):
            break
        repair = _repair_of(value, not_utf8) or ("not_finite" if constants else None)
        if repair is not None:
            chunk.repairs[line] = repair
        enter_value(chunk, line, mended(value))
        line += 1
        if chunk.size >= rows:
            yield chunk
            chunk = Chunk(lines=[], records=[])
    if problem:
        chunk.rejects.add(line, "truncated_file" if cut else "malformed", cut or problem)
    if chunk.size:
        yield chunk


def _repair_of(value: Any, not_utf8: str | None) -> str | None:  # noqa: ANN401 - any JSON value
    if mended(value) != value:
        return "lone_surrogate"
    return not_utf8 if not_utf8 and "\ufffd" in str(value) else None
