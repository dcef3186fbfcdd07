"""Readers of JSON lines and of JSON arrays, plain or packed, whatever the file is called."""

from __future__ import annotations

import codecs
import json
import math
import re
from bisect import bisect_left
from collections.abc import Collection, Iterator
from itertools import accumulate, chain
from typing import IO, Any

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.json as pa_json

from catalog.sources.chunks import MAX_CHUNK_BYTES, Chunk
from catalog.sources.pieces import Pieces, decoded
from catalog.sources.spec import Reading
from prefactory.errors import DataError

_SURROGATE = re.compile("[\ud800-\udfff]")
WRAPPERS = ("data", "rows", "records", "examples", "train")
"""Keys under which an object may hold all the records of a file."""
WHOLE_BYTES = 256 * 1024 * 1024
"""A larger array is read element by element, which takes longer and little memory."""
MAX_DEPTH = 50
"""Lists and objects in each other, in one record; Arrow files hold no more than 64."""
_BETWEEN = re.compile(r"[\s,]*")
_START = re.compile(rf'\s*(?:\{{[^\[]*?"(?:{"|".join(WRAPPERS)})"\s*:\s*)?\[')
_NEW_LINE = re.compile(r",[^\S\n]*(\n[^\S\n]*)(?=\{)")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+("?)|[\[\]{}]', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")
_BEHIND = 65536
"""Characters before an element, at most: the parser counts the lines before each error."""
_MOST_STARTS = 100
"""Ways in which elements may begin a line, of one window, beyond which broken ones have no end."""


def parse_json(text: bytes, stated: bool = False) -> tuple[Any, str | None]:
    """Parse one JSON text; mend what Arrow could not hold.

    Args:
        text: in UTF-8, or in Western bytes if no encoding is `stated`.
        stated: the encoding of the file is stated.

    Returns:
        The value and the reason of a repair, or None: `read_as_cp1252`, `not_utf8` (bytes replaced
        by U+FFFD), `not_finite` (NaN, infinity and numbers beyond 1.8e308 read as null),
        `lone_surrogate` (replaced by U+FFFD).

    Raises:
        ValueError: the text is no JSON; the message says where.
    """
    try:
        return orjson.loads(text), None
    except orjson.JSONDecodeError as error:
        problem = f"{error}{_advice(str(error), text[error.pos :])}"
    string, repair = decoded(text, stated)
    not_finite: list[str] = []

    def finite(digits: str) -> float | None:
        number = float(digits)
        if not math.isfinite(number):
            not_finite.append(digits)
            return None
        return number

    def whole(digits: str) -> float | None:
        return int(digits) if len(digits) < 19 else finite(digits)

    try:
        value = json.loads(
            string, parse_constant=not_finite.append, parse_float=finite, parse_int=whole
        )
        mended_value = mended(value)
    except (ValueError, RecursionError):
        raise ValueError(problem) from None
    if not_finite:
        repair = repair or "not_finite"
    return mended_value, repair or (None if mended_value == value else "lone_surrogate")


def _advice(problem: str, rest: bytes) -> str:
    """What most often causes a parser's complaint, if it is one of these; `rest` is unread."""
    if "control character" in problem:
        return ": a raw line feed, tab or the like inside a text; write it as \\n, \\t or \\u00.."
    if "content after document" not in problem:
        return ""
    if rest.strip() == b",":
        return ": a comma at the end of the line, where JSON lines have none"
    return ": more than one record in the line"


def mended(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Replace lone surrogates by U+FFFD in every text of a JSON value.

    Raises:
        RecursionError: it is nested too deep for Python.
    """
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [mended(v) for v in value]
    if isinstance(value, dict):
        return {mended(k): mended(v) for k, v in value.items()}
    return value


def read_jsonl(
    raw: IO[bytes],
    rows: int,
    reading: Reading | None = None,
    columns: Collection[str] | None = None,
) -> Iterator[Chunk]:
    """Read one object per line; blank lines are no records.

    Args:
        raw: an open, seekable binary file.
        rows: records per chunk, fewer if their texts are very long.
        reading: encoding and bounds.
        columns: the top-level columns that are needed, once they are known: chunks of objects of
            texts and messages of two texts are tables then.
    """
    pieces = Pieces(raw, reading)
    stated = pieces.reading.encoding is not None
    noted = False
    for number, lines in _runs(pieces, rows):
        table = _columns(lines) if columns and lines else None
        if table is not None:
            numbers = list(range(number, number + len(lines)))
            chunk = Chunk(lines=numbers, table=table, padded=False)
        else:
            chunk = Chunk(lines=[], records=[])
            for line, text in enumerate(lines, number):
                if text or line not in pieces.long:
                    _enter(chunk, line, text, stated)
                else:
                    chunk.rejects.add(line, "too_long", pieces.too_long())
        if pieces.cut is not None and not lines:
            chunk.rejects.add(number, "truncated_file", pieces.cut)
        if chunk.size:
            chunk.note_encoding(None if noted else pieces.encoding, 1)
            noted = True
            yield chunk


def _runs(pieces: Pieces, rows: int) -> Iterator[tuple[int, list[bytes]]]:
    """Lines that make a chunk, with the number of the first; without any, if the file was cut."""
    first, run, size = 1, list[bytes](), 0
    for number, lines in pieces.lines():
        at = 0
        while at < len(lines):
            some = lines[at : at + rows - len(run)]
            sizes = list(accumulate(map(len, some), initial=size))
            some = some[: bisect_left(sizes, MAX_CHUNK_BYTES, 1)]
            first = first if run else number + at
            run += some
            at, size = at + len(some), sizes[len(some)]
            if len(run) >= rows or size >= MAX_CHUNK_BYTES:
                yield first, run
                run, size = [], 0
        if not lines:
            if run:
                yield first, run
            yield number, []
            return
    if run:
        yield first, run


_SAID = (("role", "content"), ("from", "value"))
"""The keys of messages of two texts."""


def _columns(lines: list[bytes]) -> pl.DataFrame | None:
    """Lines that all are objects of texts, messages of two texts, and nulls, as columns.

    Arrow reads what `orjson` does and makes no Python object of it, by the types of the first line.
    None where it finds anything else, by which one line at a time is told what is wrong with it. A
    line that begins and ends with braces ends in no object of another line, so as many objects as
    lines are one in each.
    """
    if not all(line[:1] == b"{" and line[-1:] == b"}" for line in lines):
        return None
    try:
        first = orjson.loads(lines[0])
        schema = pa.schema([(name, _type_of(value)) for name, value in first.items()])
        text = b"\n".join(lines)
        table = pa_json.read_json(
            pa.BufferReader(text),
            pa_json.ReadOptions(use_threads=False, block_size=len(text) + 1),
            pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error"),
        )
        table.validate(full=True)  # it does not look whether texts are UTF-8
    except (ValueError, TypeError, pa.ArrowException):
        return None
    frame = pl.from_arrow(table)
    if not isinstance(frame, pl.DataFrame) or frame.height != len(lines):
        return None
    lists = [column for column in frame if column.dtype == pl.List]
    return None if any(map(_lacks, lists)) else frame


def _type_of(value: Any) -> pa.DataType:  # noqa: ANN401 - any JSON value
    """Arrow type of the values that one of them stands for.

    Raises:
        TypeError: they are neither texts nor messages of two texts.
    """
    if value is None or type(value) is str:
        return pa.string()
    for keys in _SAID:
        if (
            type(value) is list
            and value
            and all(type(m) is dict and {*m} == {*keys} for m in value)
        ):
            return pa.list_(pa.struct([(key, pa.string()) for key in keys]))
    raise TypeError("neither texts nor messages")


def _lacks(messages: pl.Series) -> bool:
    """Whether a message, its role or its content is not there."""
    flat = messages.explode(empty_as_null=False, keep_nulls=False)
    parts = flat.struct.unnest().get_columns()
    return any(part.null_count() > 0 for part in (flat, *parts))


def _enter(chunk: Chunk, line: int, text: bytes, stated: bool) -> None:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        if not text.strip():
            return
        try:
            value, repair = parse_json(text, stated)
        except ValueError as error:
            chunk.rejects.add(line, "malformed", str(error))
            return
        if repair is not None:
            chunk.repairs[line] = repair
    flat = type(value) is dict and b"[" not in text and text.find(b"{", 1) < 0
    if flat and chunk.records is not None:  # nothing to look into
        chunk.lines.append(line)
        chunk.records.append(value)
    else:
        enter_value(chunk, line, value)


def enter_value(chunk: Chunk, line: int, value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Add a parsed value to a chunk: an object is a record, anything else is rejected."""
    if type(value) is not dict or chunk.records is None:
        chunk.rejects.add(line, "wrong_type", f"the record is a {type(value).__name__}, no object")
    elif _deeper(value, MAX_DEPTH):
        chunk.rejects.add(line, "malformed", f"nested more than {MAX_DEPTH} deep")
    else:
        chunk.lines.append(line)
        chunk.records.append(value)


def _deeper(value: Any, depth: int) -> bool:  # noqa: ANN401 - a list or an object
    """Whether lists and objects are nested in each other more than `depth` times."""
    if depth == 0:
        return True
    for inner in value.values() if type(value) is dict else value:
        if (type(inner) is dict or type(inner) is list) and _deeper(inner, depth - 1):
            return True
    return False


def read_json(
    raw: IO[bytes],
    rows: int,
    reading: Reading | None = None,
    columns: Collection[str] | None = None,
) -> Iterator[Chunk]:
    """Read a `.json` file: an array of records, an object that wraps one, or JSON lines.

    JSON lines under this name are streamed. An array of at most `WHOLE_BYTES` is read whole; a
    larger or a damaged one element by element.

    Args:
        raw: an open, seekable binary file.
        rows: records per chunk.
        reading: encoding and bounds.
        columns: see `read_jsonl`.
    """
    if _holds_lines(raw, reading):
        yield from read_jsonl(raw, rows, reading, columns)
        return
    pieces = Pieces(raw, reading)
    parts: list[bytes] = []
    stream = iter(pieces)
    for part in stream:
        parts.append(part)
        if sum(map(len, parts)) > WHOLE_BYTES:
            break
    else:
        try:
            values = _records_of(orjson.loads(b"".join(parts)))
        except orjson.JSONDecodeError:
            pass
        else:
            yield from _whole(values, rows, pieces)
            return
    if _START.match(b"".join(parts[:1])[:65536].decode(errors="replace")):
        yield from _by_element(pieces, chain(parts, stream), rows)
    else:
        yield from read_jsonl(raw, rows, reading)


def _whole(values: list[Any], rows: int, pieces: Pieces) -> Iterator[Chunk]:
    for start in range(0, len(values), rows):
        chunk = Chunk(lines=[], records=[])
        chunk.note_encoding(pieces.encoding, start + 1)
        for line, item in enumerate(values[start : start + rows], start + 1):
            enter_value(chunk, line, item)
        yield chunk


def _holds_lines(raw: IO[bytes], reading: Reading | None) -> bool:
    """Whether the first line that is not blank is a record by itself."""
    pieces = Pieces(raw, reading)
    for number, lines in pieces.lines():
        for place, line in enumerate(lines, number):
            if place in pieces.long:
                return False
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


class _Elements:
    """The elements of an array, from a window on its text that moves along.

    Attributes:
        problem: why the array could not be read to its end; empty if it was.
    """

    def __init__(self, stream: Iterator[bytes], pieces: Pieces) -> None:
        """Start before the array.

        Args:
            stream: bytes of the file.
            pieces: the file that they are from.
        """
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._json = json.JSONDecoder(parse_int=float, strict=False)
        self._pieces = pieces
        self._text = ""
        self._at = 0
        self._whole = False
        self._between = ""
        self._gone = 0
        self._line: tuple[float, str] = (-1, "")
        self._starts: dict[str, float] = {}
        self.problem = ""

    def __iter__(self) -> Iterator[bytes]:
        """Yield each element as it stands, whether it is JSON or not."""
        self._more()
        start = _START.match(self._text)
        self._at = start.end() if start else 0
        wrapped = start is not None and "{" in start[0]
        while self._skip():
            if self._text[self._at] == "]":
                rest = self._text[self._at + 1 :].strip()
                self.problem = "there is more text after the array" if rest and not wrapped else ""
                return
            end = self._end()
            if end is None:
                self.problem = self.problem or "an element can't be parsed, and its end not found"
                return
            yield self._text[self._at : end].encode("utf-8", "surrogateescape")
            self._at = end
            if end > _BEHIND:
                self._drop()
        self.problem = "the array does not end"

    def _more(self, characters: int = 0) -> bool:
        """Read on, until so many are there; what lies behind is let go."""
        self._drop()
        parts, size = [self._text], len(self._text)
        while True:
            piece = next(self._stream, None)
            self._whole = piece is None
            parts.append(self._decoder.decode(piece or b"", final=self._whole))
            size += len(parts[-1])
            if self._whole or size >= characters:
                break
        self._text = "".join(parts)
        self._line = (-1, "")
        self._starts.clear()
        return not self._whole

    def _drop(self) -> None:
        """Let go of what lies behind."""
        self._text, self._gone, self._at = self._text[self._at :], self._gone + self._at, 0

    def _skip(self) -> bool:
        """Go to the next element or the end of the array; false at the end of the text."""
        while True:
            match = _BETWEEN.match(self._text, self._at)
            end = match.end() if match else self._at
            if end < len(self._text):
                if end > self._at and self._text[end] == "{":  # else its beginning is broken
                    self._between = self._text[self._at : end].lstrip(",")
                self._at = end
                return True
            if not self._more():
                return False

    def _end(self) -> int | None:
        """Where the element ends that begins here; None if that can't be told."""
        while True:
            try:
                _, end = self._json.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                at = getattr(error, "pos", 0)
                open_text = str(error).startswith("Unterminated string")
                enough = at < len(self._text) - 16 and not open_text
                known = self._next_line() or self._balanced() if enough or self._whole else None
                if known is not None or self._whole:
                    return known
            else:
                if end < len(self._text) or self._whole:
                    return end
            held, most = len(self._text) - self._at, self._pieces.reading.record_bytes
            if held > most:
                self.problem = self._pieces.too_long()
                return None
            self._more(min(2 * held, most))  # doubled, or long elements take their square

    def _next_line(self) -> int | None:
        """The end of a broken element by the place where the next one begins a line as it did.

        No text of JSON holds a line feed as such.
        """
        here = self._gone + self._at
        if self._between == "":  # the first element stands beside the bracket
            if self._line[0] < here:
                first = _NEW_LINE.search(self._text, self._at)
                self._line = (self._gone + first.start(), first[1]) if first else (math.inf, "")
            self._between = self._line[1]
        if "\n" not in self._between:
            return None
        start = "\n" + self._between.rpartition("\n")[2] + "{"
        end = self._starts.get(start, -1)
        if end < here and (start in self._starts or len(self._starts) < _MOST_STARTS):
            found = self._text.find(start, self._at)
            end = self._starts[start] = self._gone + found if found >= 0 else math.inf
        return int(end) - self._gone if here <= end < math.inf else None

    def _balanced(self) -> int | None:
        """The end of a broken element by its brackets."""
        depth = 0
        for token in self._tokens():
            depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token[0], 0)
            if depth == 0:
                return token.end() if token[0] in "}]" else None
        return None

    def _tokens(self) -> Iterator[re.Match[str]]:
        """The texts and brackets from here on. Behind a quote that is not closed, none is."""
        for token in _TOKEN.finditer(self._text, self._at):
            if token[1] == "":
                yield from _BRACKET.finditer(self._text, token.start() + 1)
                return
            yield token


def _by_element(pieces: Pieces, stream: Iterator[bytes], rows: int) -> Iterator[Chunk]:
    """Read an array element by element, mending what can be mended.

    An element that is broken is rejected; if its end can't be told, so is the rest, as one record.
    """
    elements = _Elements(stream, pieces)
    stated = pieces.reading.encoding is not None
    chunk, size, line = Chunk(lines=[], records=[]), 0, 0
    for line, text in enumerate(elements, 1):
        chunk.note_encoding(pieces.encoding, line)
        _enter(chunk, line, text, stated)
        size += len(text)
        if chunk.size >= rows or size >= MAX_CHUNK_BYTES:
            yield chunk
            chunk, size = Chunk(lines=[], records=[]), 0
    if elements.problem:
        reason = "too_long" if elements.problem == pieces.too_long() else "malformed"
        reason = "truncated_file" if pieces.cut else reason
        chunk.rejects.add(line + 1, reason, pieces.cut or elements.problem)
    if chunk.size:
        yield chunk
