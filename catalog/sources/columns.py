"""Values to typed columns: from parsed records, and from columns that a file has typed already.

A value that is not of the field's kind becomes null and marks its row as wrong; it never turns
silently into something else (a boolean among texts does not become the text "true").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import polars as pl
import pyarrow as pa

from catalog.sources.chunks import Chunk, Record
from catalog.sources.fields import (
    CHAT,
    CONVERSATIONS,
    SPEAKER,
    Field,
    Kind,
    flag_of,
    from_text,
    is_number,
    number_of,
    plain_of,
    sign_of,
)
from catalog.sources.material import history_of, material_of
from prefactory.tables import MESSAGES, ROLES

Path = tuple[str, ...]
Binding = Mapping[str, Path]
"""Field name -> where its value lies in a record."""

ROW, WRONG, ABSENT, REPAIR, LOST = "_row", "_wrong", "_absent", "_repair", "_lost"
ROLE_NAMES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
}
"""Names that other data gives to our roles; case does not matter."""


def value_at(record: Any, path: Path) -> Any:  # noqa: ANN401 - any JSON value
    """Follow a path of keys and list positions into a record; None where it ends early."""
    for key in path:
        if isinstance(record, dict):
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
    wrong: list[tuple[str, pl.Series]] = []
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
            column, bad = _from_table(chunk.table, path, field)
        columns.append(column.alias(field.name))
        if bad is not None and bad.any() and field.costs_value:
            lost.append(_told(f"{field.name} ({'.'.join(path or ())})", bad, chunk, path or ()))
        elif bad is not None and bad.any():
            wrong.append((f"{field.name} ({'.'.join(path or ())}) is not {field.kind}", bad))
    frame = pl.DataFrame(columns)
    state = pl.DataFrame(
        {
            ROW: pl.Series([f"{file}:{n}" for n in chunk.lines], dtype=pl.String),
            REPAIR: pl.Series([chunk.repairs.get(n) for n in chunk.lines], dtype=pl.String),
        }
    )
    required = [f.name for f in fields if f.required and not f.nullable]
    return pl.concat([frame, state], how="horizontal").with_columns(
        _named(height, wrong).alias(WRONG),
        _joined(height, lost).alias(LOST),
        _named(height, [(n, frame[n].is_null()) for n in required]).alias(ABSENT),
    )


def _named(height: int, marks: list[tuple[str, pl.Series]]) -> pl.Series:
    """Join the names whose mark is set, row by row; null where none is."""
    marks = [(name, mark) for name, mark in marks if mark.any()]
    if not marks:
        return pl.Series([None] * height, dtype=pl.String)
    names = pl.DataFrame({str(i): mark for i, (_, mark) in enumerate(marks)}).select(
        pl.when(pl.col(str(i))).then(pl.lit(name)).alias(str(i))
        for i, (name, _) in enumerate(marks)
    )
    joined = names.select(pl.concat_str(pl.all(), separator=", ", ignore_nulls=True).alias("n"))
    return joined.select(pl.when(pl.col("n") != "").then("n")).to_series()


def _told(name: str, bad: pl.Series, chunk: Chunk, path: Path) -> pl.Series:
    """What the values were that could not be read; null elsewhere."""
    texts: list[str | None] = [None] * bad.len()
    for i in bad.arg_true():
        record = chunk.records[i] if chunk.records is not None else None
        row = record if chunk.table is None else chunk.table.row(i, named=True)
        texts[i] = f"{name}: {str(value_at(row, path))[:80]!r} is kept as null"
    return pl.Series(texts, dtype=pl.String)


def _joined(height: int, texts: list[pl.Series]) -> pl.Series:
    if not texts:
        return pl.Series([None] * height, dtype=pl.String)
    table = pl.DataFrame({str(i): text for i, text in enumerate(texts)})
    joined = pl.concat_str(pl.all(), separator=", ", ignore_nulls=True)
    return table.select(pl.when(joined != "").then(joined)).to_series()


def _values(records: list[Record], path: Path) -> list[Any]:
    if len(path) == 1:
        key = path[0]
        return [r.get(key) for r in records]
    return [value_at(r, path) for r in records]


def _from_values(values: list[Any], field: Field) -> tuple[pl.Series, pl.Series | None]:
    kind = field.kind
    if kind in SPEAKER:
        return _texts_or_messages(values, SPEAKER[kind])
    if kind == Kind.MESSAGES:
        column, bad = _strict(values, CHAT)
        return messages_of(column), bad
    if kind == Kind.NUMBER:
        return _convert(values, _number)
    if kind == Kind.FLAG:
        return _convert(values, flag_of)
    if kind == Kind.SIGN:
        return _convert(values, sign_of)
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
    return _finite(pl.Series(out, dtype=pl.Float64)), pl.Series(bad)


def _finite(numbers: pl.Series) -> pl.Series:
    """Put null for infinity, which a JSON number may overflow to."""
    return numbers.to_frame("n").select(pl.when(pl.col("n").is_finite()).then("n")).to_series()


def _texts_or_messages(values: list[Any], role: str) -> tuple[pl.Series, pl.Series | None]:
    types = set(map(type, values)) - {type(None)}
    if types <= {str}:
        return one_message(pl.Series(values, dtype=pl.String), role), None
    lists, bad = _strict([None if isinstance(v, str) else v for v in values], CHAT)
    messages = messages_of(lists)
    if str in types:
        texts = one_message(pl.Series([v if isinstance(v, str) else None for v in values]), role)
        messages = pl.select(pl.coalesce(texts, messages)).to_series()
    return messages, bad


_MISFIT = (TypeError, ValueError, OverflowError, pa.ArrowException, pl.exceptions.PolarsError)


def _strict(values: list[Any], dtype: pl.DataType) -> tuple[pl.Series, pl.Series | None]:
    """Build a column; where a value doesn't fit the dtype exactly, put null and mark it."""
    try:
        return _series(values, dtype), None
    except _MISFIT:
        bad = [not _fits(value, dtype) for value in values]
    out = [None if b else v for v, b in zip(values, bad, strict=True)]
    return _series(out, dtype), pl.Series(bad)


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
        return dtype == CHAT or all(_lists_where_due(v, dtype.inner) for v in value)
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


def messages_of(chat: pl.Series) -> pl.Series:
    """Turn messages as found (`CHAT`) into `MESSAGES`: ShareGPT keys and other role names too."""
    column = chat.alias("m").to_frame()
    heads = column.select(
        pl.col("m").explode(empty_as_null=False).struct.field("role").alias("role"),
    )["role"]
    field = pl.element().struct.field
    if heads.null_count() or not heads.is_in(ROLES).all():
        role = pl.coalesce(field("role"), field("from"))
        role = role.str.to_lowercase().replace(ROLE_NAMES)
        content = pl.coalesce(field("content"), field("value"))
    else:
        role, content = field("role"), field("content")
    element = pl.struct(role=role, content=content)
    return column.select(pl.col("m").list.eval(element).cast(MESSAGES)).to_series()


_BY_VALUE = (Kind.SIGN, Kind.HISTORY, Kind.MATERIAL, Kind.PLAIN)
"""Kinds that are read value by value from columns, too."""


def _from_table(
    table: pl.DataFrame | None, path: Path, field: Field
) -> tuple[pl.Series, pl.Series | None]:
    assert table is not None  # noqa: S101 - a chunk has records or a table
    if path[0] not in table.columns:
        return pl.Series([None] * table.height, dtype=field.column_dtype), None
    column = table[path[0]]
    for key in path[1:]:
        inner = _inside(column, key)
        if inner is None:
            return pl.Series([None] * table.height, dtype=field.column_dtype), None
        column = inner
    if field.kind in SPEAKER and conform(pl.col("c"), column.dtype, pl.String()) is not None:
        return one_message(column.cast(pl.String), SPEAKER[field.kind]), None
    if field.kind in _BY_VALUE and column.dtype != pl.Null:
        return _from_values(column.to_list(), field)
    want = CHAT if field.kind in CONVERSATIONS else field.column_dtype
    if field.kind == Kind.KEY and column.dtype.is_integer():
        column = column.cast(pl.String)
    have = column.dtype
    expression = conform(pl.col("c"), have, want)
    if expression is None or (field.kind == Kind.NUMBER and have == pl.Boolean):
        return pl.Series([None] * len(column), dtype=field.column_dtype), column.is_not_null()
    if field.kind in (Kind.FLAG, Kind.NUMBER) and have == pl.String:
        return _from_values(column.to_list(), field)
    out = column.alias("c").to_frame().select(expression.cast(want)).to_series()
    return (messages_of(out) if field.kind in CONVERSATIONS else out), None


def _inside(column: pl.Series, key: str) -> pl.Series | None:
    dtype = column.dtype
    if isinstance(dtype, pl.Struct) and key in {f.name for f in dtype.fields}:
        return column.struct.field(key)
    if isinstance(dtype, pl.List) and key.isdigit():
        return column.list.get(int(key), null_on_oob=True)
    return None


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
