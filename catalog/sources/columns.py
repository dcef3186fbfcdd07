"""Values to typed columns: from parsed records, and from columns that a file has typed already.

A value that is not of the field's kind becomes null and marks its row as wrong; it never turns
silently into something else (a boolean among texts does not become the text "true").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain, pairwise
from typing import Any

import polars as pl
import pyarrow as pa

from catalog.sources.chunks import Chunk, Record
from catalog.sources.fields import (
    CONVERSATIONS,
    SPEAKER,
    Field,
    Kind,
    flag_of,
    from_text,
    is_number,
    marks_of,
    number_of,
    plain_of,
    sign_of,
)
from catalog.sources.material import history_of, material_of
from catalog.sources.messages import (
    CALLERS,
    MAYBE_WRITTEN,
    MESSAGE_KEYS,
    ROLE_NAMES,
    UnreadableError,
    from_written,
    is_messages,
    keys_of,
    read_messages,
    read_tools,
)
from prefactory.tables import MESSAGES, ROLES, messages_dtype, same_messages

Path = tuple[str, ...]
Binding = Mapping[str, Path]
"""Field name -> where its value lies in a record."""

ROW, WRONG, ABSENT, REPAIR, LOST = "_row", "_wrong", "_absent", "_repair", "_lost"


def value_at(record: Any, path: Path) -> Any:  # noqa: ANN401 - any JSON value
    """Follow a path of keys and list positions into a record; None where it ends early.

    `*` stands for all values of a list or an object, `#` for the names of an object's values; both
    give a list.
    """
    for i, key in enumerate(path):
        if key == "*":
            items = list(record.values()) if isinstance(record, dict) else record
            if not isinstance(items, list):
                return None
            inner = [value_at(v, path[i + 1 :]) for v in items]
            return inner if any(v is not None for v in inner) else None
        if isinstance(record, dict):
            if key == "#":
                return list(record)
            record = record.get(key)
        elif isinstance(record, list) and key.isdigit() and int(key) < len(record):
            record = record[int(key)]
        else:
            return None
    return record


def typed(chunk: Chunk, file: str, fields: tuple[Field, ...], binding: Binding) -> pl.DataFrame:
    """Turn a chunk into typed columns, one for each field, with the row's state beside them.

    Args:
        chunk: records or a table.
        file: name of the file, for row ids.
        fields: what the layout reads; a field without a binding becomes a column of nulls.
        binding: where each field lies.

    Returns:
        The fields' columns, and `_row` ("file:line"), `_wrong` (names of the fields whose value is
        of another kind, null if none), `_absent` (required fields that are null), `_repair`, and
        `_lost` (as `_wrong`, with the values, of fields whose row is kept).
    """
    height = len(chunk.lines)
    columns: list[pl.Series] = []
    wrong: list[pl.Series] = []
    lost: list[pl.Series] = []
    for field in fields:
        path = binding.get(field.name)
        if path is None:
            column, bad = pl.Series([None] * height, dtype=field.column_dtype), None
        elif chunk.records is not None:
            values = _values(chunk.records, path)
            if chunk.texts_only:
                values = [from_text(field.kind, v, field.required) for v in values]
            column, bad = _from_values(values, field)
        else:
            column, bad = _from_table(chunk, path, field)
        columns.append(column.alias(field.name))
        place = f"{field.name} ({'.'.join(path or ())})"
        if bad is not None and field.costs_value:
            lost.append(_told(place, bad, chunk, path or ()))
        elif bad is not None:
            wrong.append(_problems(bad, place, field.kind, chunk, path or ()))
    frame = same_messages(pl.DataFrame(columns))
    state = pl.DataFrame(
        {
            ROW: pl.Series([f"{file}:{n}" for n in chunk.lines], dtype=pl.String),
            REPAIR: pl.Series([chunk.repairs.get(n) for n in chunk.lines], dtype=pl.String),
        }
    )
    required = [f.name for f in fields if f.required and not f.nullable]
    return pl.concat([frame, state], how="horizontal").with_columns(
        _joined(height, wrong).alias(WRONG),
        _joined(height, lost).alias(LOST),
        _joined(height, [_said(frame[n].is_null(), n) for n in required]).alias(ABSENT),
    )


def _problems(bad: pl.Series, place: str, kind: Kind, chunk: Chunk, path: Path) -> pl.Series:
    """What is wrong with each value: `bad` says it (String), or only where (Boolean)."""
    if bad.dtype == pl.String:
        return bad.to_frame("b").select(pl.format("{} {}", pl.lit(place), "b")).to_series()
    return _with_values(bad, f"{place} is not {kind}: {{}}", chunk, path)


def _said(mask: pl.Series, text: str) -> pl.Series:
    return mask.to_frame("b").select(pl.when("b").then(pl.lit(text))).to_series()


def _joined(height: int, texts: list[pl.Series]) -> pl.Series:
    """Join texts row by row; null where there is none."""
    texts = [t for t in texts if t.null_count() < height]
    if not texts:
        return pl.Series([None] * height, dtype=pl.String)
    table = pl.DataFrame([t.alias(str(i)) for i, t in enumerate(texts)])
    joined = table.select(pl.concat_str(pl.all(), separator=", ", ignore_nulls=True).alias("n"))
    return joined.select(pl.when(pl.col("n") != "").then("n")).to_series()


def _told(name: str, bad: pl.Series, chunk: Chunk, path: Path) -> pl.Series:
    """What the values were that could not be read; null elsewhere."""
    return _with_values(bad, f"{name}: {{}} is kept as null", chunk, path)


def _with_values(bad: pl.Series, text: str, chunk: Chunk, path: Path) -> pl.Series:
    """The text with the bad value put in, where a value is bad; null elsewhere."""
    texts: list[str | None] = [None] * bad.len()
    before, after = text.split("{}")
    for i in bad.arg_true():
        record = chunk.records[i] if chunk.records is not None else None
        row = record if chunk.table is None else chunk.table.row(i, named=True)
        texts[i] = f"{before}{str(value_at(row, path))[:80]!r}{after}"
    return pl.Series(texts, dtype=pl.String)


def _values(records: list[Record], path: Path) -> list[Any]:
    if len(path) == 1:
        key = path[0]
        return [r.get(key) for r in records]
    return [value_at(r, path) for r in records]


def _from_values(values: list[Any], field: Field) -> tuple[pl.Series, pl.Series | None]:
    kind = field.kind
    if kind in CONVERSATIONS:
        return _conversations(values, kind)
    if kind in _READERS:
        return _READERS[kind](values)
    if kind == Kind.HISTORY:
        spoken = [history_of(v) or None for v in values]
        return _from_values(spoken, Field(field.name, Kind.MESSAGES))
    if kind in _TEXTS_OF:
        texts = [_TEXTS_OF[kind](v) for v in values]
        lost = [t is None and v is not None for t, v in zip(texts, values, strict=True)]
        return pl.Series(texts, dtype=pl.String), pl.Series(lost)
    if kind == Kind.KEY:
        values = [str(v) if type(v) is int else v for v in values]
    return _strict(values, field.column_dtype)


def _answers(values: list[Any]) -> tuple[pl.Series, pl.Series | None]:
    """Read each value as a list of answers, each of them a text, a message or messages."""
    lists = [
        None if v is None else v if isinstance(v, list) and not is_messages(v) else [v]
        for v in values
    ]
    row = [i for i, answers in enumerate(lists) for _ in answers or ()]
    column, bad = _conversations([a for answers in lists for a in answers or ()], Kind.ANSWER)
    wrong = pl.Series([None] * column.len(), dtype=pl.String) if bad is None else bad
    flat = pl.DataFrame(
        [pl.Series("row", row, dtype=pl.Int64), column.alias("a"), wrong.alias("w")]
    )
    grouped = flat.group_by("row").agg("a", pl.col("w").drop_nulls().first())
    rows = pl.DataFrame({"row": pl.Series(range(len(values)), dtype=pl.Int64)})
    rows = rows.join(grouped, on="row", how="left", maintain_order="left")
    none = pl.Series([answers == [] for answers in lists], dtype=pl.Boolean)
    empty = pl.lit([], dtype=rows.schema["a"])
    fits = pl.when(none).then(empty).when(pl.col("w").is_null()).then("a")
    return rows.select(fits.alias("a"))["a"], rows["w"] if bad is not None else None


_TEXTS_OF: dict[Kind, Callable[[Any], str | None]] = {
    Kind.MATERIAL: material_of,
    Kind.PLAIN: plain_of,
}


def _number(value: Any) -> float | None:  # noqa: ANN401 - any JSON value
    return number_of(value) if isinstance(value, str) else float(value)


def _convert(
    values: list[Any], read: Callable[[Any], float | None]
) -> tuple[pl.Series, pl.Series | None]:
    """Read numbers or flags: what is neither a number nor spells one is wrong."""
    types = set(map(type, values)) - {type(None)}
    if read is _number and types <= {int, float}:
        numbers = [None if v is None else float(v) for v in values]
        return _finite(pl.Series(numbers, dtype=pl.Float64)), None
    fits = is_number if read is _number else lambda v: read(v) is not None
    bad = [v is not None and not fits(v) for v in values]
    out = [None if v is None or b else read(v) for v, b in zip(values, bad, strict=True)]
    return _finite(pl.Series(out, dtype=pl.Float64)), pl.Series(bad, dtype=pl.Boolean)


def _finite(numbers: pl.Series) -> pl.Series:
    """Put null for infinity, which a JSON number may overflow to."""
    return numbers.to_frame("n").select(pl.when(pl.col("n").is_finite()).then("n")).to_series()


def _conversations(
    values: list[Any], kind: Kind, *, padded: bool = False
) -> tuple[pl.Series, pl.Series | None]:
    """Texts or messages as conversations; what is wrong with a value, where it is none.

    Values of one form go through Arrow at once: texts, and messages of a role and a content. Any
    other are read one by one.
    """
    types = set(map(type, values)) - {type(None)}
    if types <= {str} and kind in SPEAKER:
        texts = pl.Series(values, dtype=pl.String)
        if not _may_be_messages(texts):
            return one_message(texts, SPEAKER[kind]), None
    if types == {list} and (column := _pairs_of_keys(values)) is not None:
        return column, None
    conversations: list[list[dict[str, Any]] | None] = []
    problems: list[str | None] = []
    for value in values:
        problem = None
        try:
            messages = _conversation(value, kind, padded)
        except UnreadableError as error:
            messages, problem = None, str(error)
        conversations.append(messages)
        problems.append(problem)
    column = _series(conversations, messages_dtype(keys_of(conversations)))
    return column, pl.Series(problems, dtype=pl.String) if any(problems) else None


def _conversation(value: Any, kind: Kind, padded: bool) -> list[dict[str, Any]] | None:  # noqa: ANN401
    if isinstance(value, str):
        value = from_written(value)
        if isinstance(value, str) and kind in SPEAKER:
            return [{"role": SPEAKER[kind], "content": value}]
    if value is not None and not isinstance(value, list | dict):
        raise UnreadableError(f"is not {kind}")
    return read_messages(value, padded=padded)


def _may_be_messages(texts: pl.Series) -> bool:
    """Whether some text may be messages that were written down."""
    return bool(texts.str.contains(MAYBE_WRITTEN).any())


def _pairs_of_keys(values: list[Any]) -> pl.Series | None:
    """Messages that all are `{role, content}` or all `{from, value}` of texts; else None."""
    lists = [v for v in values if v is not None]
    try:
        if sum(map(len, chain.from_iterable(lists))) != 2 * sum(map(len, lists)):
            return None
    except TypeError:
        return None
    for keys in (("role", "content"), ("from", "value")):
        arrow = pa.list_(pa.struct([(key, pa.string()) for key in keys]))
        try:
            column = pl.from_arrow(pa.array(values, type=arrow))
        except _MISFIT:
            return None
        assert isinstance(column, pl.Series)  # noqa: S101 - an array always gives a series
        if (plain := _plain_messages(column, *keys)) is not None:
            return plain
    return None


def _plain_messages(column: pl.Series, role: str, content: str) -> pl.Series | None:
    """Messages of two texts as `MESSAGES`; None where a text is missing, or a role is a call's."""
    flat = column.explode(empty_as_null=False, keep_nulls=False).struct
    roles, contents = flat.field(role), flat.field(content)
    if roles.null_count() or contents.null_count():
        return None
    table, field = column.alias("m").to_frame(), pl.element().struct.field
    named = field(role)
    if not roles.is_in(ROLES).all():
        named = named.str.strip_chars().str.to_lowercase().replace(ROLE_NAMES)
        roles = roles.str.strip_chars().str.to_lowercase().replace(ROLE_NAMES)
        if roles.is_in(CALLERS).any():
            return None
    each = pl.struct(role=named, content=field(content))
    out = table.select(pl.col("m").list.eval(each).cast(MESSAGES))
    if (contents.filter(roles == "system").str.strip_chars() == "").any():
        silent = (field("role") == "system") & (field("content").str.strip_chars() == "")
        out = out.select(pl.col("m").list.eval(pl.element().filter(~silent)))
    return out.to_series()


def _texts_read(
    values: list[Any], read: Callable[[Any], str | None]
) -> tuple[pl.Series, pl.Series | None]:
    """Values read one by one as texts; what is wrong with them, where they can't be."""
    texts: list[str | None] = []
    problems: list[str | None] = []
    for value in values:
        try:
            texts.append(read(value))
            problems.append(None)
        except UnreadableError as error:
            texts.append(None)
            problems.append(str(error))
    column = pl.Series(texts, dtype=pl.String)
    return column, pl.Series(problems, dtype=pl.String) if any(problems) else None


_MISFIT = (TypeError, ValueError, OverflowError, pa.ArrowException, pl.exceptions.PolarsError)


def _strict(values: list[Any], dtype: pl.DataType) -> tuple[pl.Series, pl.Series | None]:
    """Build a column; where a value doesn't fit the dtype exactly, put null and mark it."""
    try:
        return _series(values, dtype), None
    except _MISFIT:
        bad = [not _fits(value, dtype) for value in values]
    out = [None if b else v for v, b in zip(values, bad, strict=True)]
    return _series(out, dtype), pl.Series(bad, dtype=pl.Boolean)


def _fits(value: Any, dtype: pl.DataType) -> bool:  # noqa: ANN401 - any JSON value
    try:
        _series([value], dtype)
    except _MISFIT:
        return False
    return True


def _series(values: list[Any], dtype: pl.DataType) -> pl.Series:
    if not dtype.is_nested():
        return pl.Series(values, dtype=dtype, strict=True)
    if not all(_lists_where_due(v, dtype) for v in values):
        raise TypeError("a text can't stand for a list of texts")
    empty = pl.Series([], dtype=dtype).to_arrow(compat_level=pl.CompatLevel.oldest())
    array = pa.array(values, type=empty.type)
    column = pl.from_arrow(array)
    assert isinstance(column, pl.Series)  # noqa: S101 - an array always gives a series
    return column.cast(dtype)


def _lists_where_due(value: Any, dtype: Any) -> bool:  # noqa: ANN401 - JSON value, Polars dtype
    """Whether lists stand where the dtype has lists (Arrow would take a text for one)."""
    if value is None or not dtype.is_nested():
        return True
    if isinstance(dtype, pl.List):
        if not isinstance(value, list):
            return False
        return all(_lists_where_due(v, dtype.inner) for v in value)
    if isinstance(dtype, pl.Struct) and isinstance(value, dict):
        return all(_lists_where_due(value.get(f.name), f.dtype) for f in dtype.fields)
    return True


def one_message(texts: pl.Series, role: str) -> pl.Series:
    """Make each text a conversation of one message; null stays null."""
    column = texts.alias("t").to_frame()
    message = pl.concat_list(pl.struct(role=pl.lit(role), content=pl.col("t")))
    return column.select(
        pl.when(pl.col("t").is_not_null()).then(message).cast(MESSAGES)
    ).to_series()


def _marks(values: list[Any]) -> tuple[pl.Series, pl.Series | None]:
    marks = [marks_of(v) for v in values]
    lost = [m is None and v is not None for m, v in zip(marks, values, strict=True)]
    return pl.Series(marks, dtype=pl.List(pl.Float64)), pl.Series(lost, dtype=pl.Boolean)


_READERS: dict[Kind, Callable[[list[Any]], tuple[pl.Series, pl.Series | None]]] = {
    Kind.TOOLS: partial(_texts_read, read=read_tools),
    Kind.NUMBER: partial(_convert, read=_number),
    Kind.FLAG: partial(_convert, read=flag_of),
    Kind.SIGN: partial(_convert, read=sign_of),
    Kind.ANSWERS: _answers,
    Kind.MARKS: _marks,
}
_BY_VALUE = (*(Kind.SIGN, Kind.HISTORY, Kind.MATERIAL, Kind.PLAIN, Kind.ANSWERS, Kind.MARKS),)
"""Kinds that are read value by value from columns, too."""


def _from_table(chunk: Chunk, path: Path, field: Field) -> tuple[pl.Series, pl.Series | None]:
    table = chunk.table
    assert table is not None  # noqa: S101 - a chunk has records or a table
    if path[0] not in table.columns:
        return pl.Series([None] * table.height, dtype=field.column_dtype), None
    column = table[path[0]]
    for before, key in pairwise(path):
        inner = _inside(column, key, each=before == "*")
        if inner is None:
            return pl.Series([None] * table.height, dtype=field.column_dtype), None
        column = inner
    if field.kind in CONVERSATIONS:
        return _conversations_in(column, field.kind, chunk.padded)
    if field.kind == Kind.TOOLS:
        return _texts_read(column.to_list(), partial(read_tools, padded=chunk.padded))
    if field.kind in _BY_VALUE and column.dtype != pl.Null:
        return _from_values(column.to_list(), field)
    want = field.column_dtype
    if field.kind == Kind.KEY and column.dtype.is_integer():
        column = column.cast(pl.String)
    have = column.dtype
    expression = conform(pl.col("c"), have, want)
    if expression is None or (field.kind == Kind.NUMBER and have == pl.Boolean):
        return pl.Series([None] * len(column), dtype=field.column_dtype), column.is_not_null()
    if field.kind in (Kind.FLAG, Kind.NUMBER) and have == pl.String:
        return _from_values(column.to_list(), field)
    return column.alias("c").to_frame().select(expression.cast(want)).to_series(), None


def _conversations_in(
    column: pl.Series, kind: Kind, padded: bool
) -> tuple[pl.Series, pl.Series | None]:
    """Conversations of a typed column; columns of a role and a content go through at once."""
    dtype = column.dtype
    if kind in SPEAKER and conform(pl.col("c"), dtype, pl.String()) is not None:
        texts = column.cast(pl.String)
        if not _may_be_messages(texts):
            return one_message(texts, SPEAKER[kind]), None
        return _conversations(texts.to_list(), kind)
    if isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.Struct):
        keys = _said_keys(column, dtype.inner)
        if keys is not None and (plain := _plain_messages(column, *keys)) is not None:
            return plain, None
    if dtype != pl.Null and not isinstance(dtype, pl.List | pl.Array | pl.Struct | pl.String):
        return pl.Series([None] * len(column), dtype=MESSAGES), column.is_not_null()
    return _conversations(column.to_list(), kind, padded=padded)


def _said_keys(column: pl.Series, message: pl.Struct) -> tuple[str, str] | None:
    """The keys of role and content, where the messages of a column have no other that is read."""
    flat = column.explode(empty_as_null=False, keep_nulls=False)
    types = {f.name: f.dtype for f in message.fields}
    said = {
        key
        for key in types
        if key in MESSAGE_KEYS and flat.struct.field(key).null_count() < flat.len()
    }
    for keys in (("role", "content"), ("from", "value")):
        if said <= {*keys} <= types.keys() and all(types[k] == pl.String for k in keys):
            return keys
    return None


def _inside(column: pl.Series, key: str, each: bool) -> pl.Series | None:
    """The values at a key or place, of every element where `each`; None if there is no such."""
    dtype = column.dtype
    if isinstance(dtype, pl.List) and (each or key == "*"):
        return column if key == "*" else _of_each(column, key)
    if isinstance(dtype, pl.Struct) and key in ("*", "#"):
        return _of_object(column, key)
    if isinstance(dtype, pl.Struct) and key in {f.name for f in dtype.fields}:
        return column.struct.field(key)
    if isinstance(dtype, pl.List) and key.isdigit():
        return column.list.get(int(key), null_on_oob=True)
    return None


def _of_each(column: pl.Series, key: str) -> pl.Series | None:
    inner = column.dtype.inner  # type: ignore[attr-defined]
    if not isinstance(inner, pl.Struct) or key not in {f.name for f in inner.fields}:
        return None
    values = pl.col("c").list.eval(pl.element().struct.field(key))
    return column.alias("c").to_frame().select(values)["c"]


def _of_object(column: pl.Series, key: str) -> pl.Series | None:
    """All values of an object (`*`), or their names (`#`); None if the values differ in type."""
    fields = column.dtype.fields  # type: ignore[attr-defined]
    if key == "*" and len({str(f.dtype) for f in fields}) != 1:
        return None
    part = pl.col("c").struct.field
    values = [part(f.name) if key == "*" else pl.lit(f.name) for f in fields]
    listed = pl.when(pl.col("c").is_not_null()).then(pl.concat_list(values))
    return column.alias("c").to_frame().select(listed.alias("c"))["c"]


def conform(expr: pl.Expr, have: Any, want: Any) -> pl.Expr | None:  # noqa: ANN401 - Polars dtypes
    """Expression that brings a column of one dtype to another by name, or None if it can't be.

    Struct fields that are absent become null, others are dropped; texts are never made of numbers
    or booleans; numbers may be read from texts (null where they spell none).
    """
    if have == pl.Null or (have == want and want != pl.Float64):
        return expr.cast(want)
    if isinstance(want, pl.Struct):
        return _conform_struct(expr, have, want)
    if isinstance(want, pl.List):
        if not isinstance(have, pl.List | pl.Array):
            return None
        inner = conform(pl.element(), have.inner, want.inner)
        if isinstance(have, pl.Array):
            expr = expr.arr.to_list()
        return None if inner is None else expr.list.eval(inner)
    if want == pl.String:
        return expr.cast(pl.String) if have in (pl.Categorical, pl.Enum) else None
    if want == pl.Float64 and (have.is_numeric() or have in (pl.Boolean, pl.String)):
        number = expr.cast(pl.Float64, strict=False)
        return pl.when(number.is_finite()).then(number)
    return None


def _conform_struct(expr: pl.Expr, have: Any, want: pl.Struct) -> pl.Expr | None:  # noqa: ANN401
    if not isinstance(have, pl.Struct):
        return None
    types = {f.name: f.dtype for f in have.fields}
    parts = []
    for field in want.fields:
        part: pl.Expr | None = pl.lit(None, dtype=field.dtype)
        if field.name in types:
            part = conform(expr.struct.field(field.name), types[field.name], field.dtype)
        if part is None:
            return None
        parts.append(part.alias(field.name))
    return pl.when(expr.is_not_null()).then(pl.struct(parts))
