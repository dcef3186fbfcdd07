"""Readers of columnar files: Parquet, Arrow IPC files and Arrow streams, as tables in blocks.

A file may stand for far more than it holds, and may lie about what it holds: sizes are looked at
before anything is unpacked, and batches before they are used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import IO, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from catalog.sources.chunks import MAX_CHUNK_BYTES, Chunk
from catalog.sources.columnar.messages import unpacked_sizes
from catalog.sources.columnar.weights import Weights, cuts, plain, weights
from catalog.sources.pieces import decoded, too_long
from catalog.sources.spec import Reading
from prefactory.errors import DataError

SAMPLE_ROWS = 100
LARGE = 1_000_000_000
"""Bytes that one batch or row group may unpack to, however small it is packed."""
_RATIO = 100
"""What is larger may be so many times what it is packed."""
_AT_ONCE = 4 * MAX_CHUNK_BYTES
"""Bytes that the rows read at once may stand for."""
_FEW = 500
"""A column of which not even so many rows may be read at once is read as a dictionary."""
_BUFFER = 65536
_FALLS_APART = "save it with smaller record batches or row groups, or unpacked"


def read_parquet(
    raw: IO[bytes], rows: int, columns: set[str] | None = None, reading: Reading | None = None
) -> Iterator[Chunk]:
    """Read a Parquet file in batches.

    Args:
        raw: an open, seekable binary file.
        rows: records per chunk.
        columns: only these top-level columns; all of them if None.
        reading: bounds.

    Raises:
        DataError: it stands for far more than it holds.
    """
    reading = reading or Reading()
    about = _parquet(raw)
    names = [n for n in about.schema_arrow.names if columns is None or n in columns]
    asked, step = _places(about, {*names}, rows, reading)
    shared, step = _dictionaries(raw, asked, step)
    raw.seek(0)
    file = _parquet(raw, read_dictionary=shared)
    binary = _binary(file.schema_arrow, names)
    sample = file.iter_batches(batch_size=min(step, SAMPLE_ROWS), columns=binary)
    texts = _texts(next(sample, None) if binary else None)
    batches = file.iter_batches(batch_size=step, columns=names) if names else ()
    yield from table_chunks(batches, rows, about.schema_arrow, texts, reading)


def _parquet(raw: IO[bytes], **options: Any) -> Any:  # noqa: ANN401 - pyarrow is untyped
    """Open a file whose types of Arrow extensions are read as what they are stored as."""
    return pq.ParquetFile(raw, arrow_extensions_enabled=False, **options)


def _places(about: Any, names: set[str], rows: int, reading: Reading) -> tuple[set[str], int]:  # noqa: ANN401
    """Columns of texts that may stand for far more than they hold, by path, and rows to read.

    The values of a column in a dictionary may be as long as all that the column holds, each. What
    the file says of its encodings is believed of lists alone, which are not looked at again.
    """
    groups = [about.metadata.row_group(i) for i in range(about.metadata.num_row_groups)]
    shared: set[str] = set()
    step = rows
    total = 0
    for group in groups:
        held = [group.column(i) for i in range(group.num_columns)]
        held = [c for c in held if _path_begins(c.path_in_schema) & names]
        size = sum(c.total_uncompressed_size for c in held)
        if size > LARGE and size > _RATIO * sum(c.total_compressed_size for c in held):
            raise DataError(f"a row group of it unpacks to {size / 1e9:.1f} GB; {_FALLS_APART}")
        total += size
        _check_total(total, reading)
        step = min(step, max(1, _AT_ONCE * group.num_rows // max(size, 1)))
        shared |= {
            c.path_in_schema
            for c in held
            if c.physical_type == "BYTE_ARRAY"
            and ("." not in c.path_in_schema or any("DICTIONARY" in e for e in c.encodings))
            and c.total_uncompressed_size * min(rows, c.num_values) > MAX_CHUNK_BYTES
        }
        odd = [c for c in held if c.num_values * 8 > max(LARGE, 8 * _RATIO * group.num_rows)]
        if any(c.num_values > _RATIO * c.total_uncompressed_size for c in odd):
            raise DataError("its lists stand for billions of values in a few bytes")
    return shared, step


def _path_begins(path: str) -> set[str]:
    """The names that the column of a path may have; a name may have dots of its own."""
    parts = path.split(".")
    return {".".join(parts[: i + 1]) for i in range(len(parts))}


def _dictionaries(raw: IO[bytes], asked: set[str], step: int) -> tuple[list[str], int]:
    """Columns of those `asked` to be read as dictionaries, and how many rows to read at once.

    Read so, a text that many rows share stays one, but all texts of a row group are held. So a
    column in which so many rows as long as its longest shared text are few bytes is read plainly.
    """
    flat = sorted(path for path in asked if "." not in path)
    file = _parquet(raw, read_dictionary=flat, buffer_size=_BUFFER)
    shared = {*asked} - {*flat}  # a row's list may have any number of them
    for group in range(file.num_row_groups if flat else 0):
        for first in islice(file.iter_batches(1, [group], flat), 1):
            for path in flat:
                longest = _longest(first.column(path))
                if longest is None or _AT_ONCE // longest < _FEW:
                    shared.add(path)
                else:
                    step = min(step, _AT_ONCE // longest)
    return sorted(shared), step


def _longest(column: Any) -> int | None:  # noqa: ANN401 - pyarrow is untyped
    """Weight of the longest value of a dictionary; None if a column is none, as of decimals."""
    known = getattr(column, "dictionary", None)
    return None if known is None else int(weights(known).max(initial=1))


def _check_total(total: int, reading: Reading) -> None:
    if total > reading.file_bytes:
        raise DataError(
            f"it stands for more than {reading.max_file_gb:g} GB; if it is as large as that, say "
            "so with `max_file_gb`"
        )


def read_ipc(
    raw: IO[bytes], rows: int, columns: set[str] | None = None, reading: Reading | None = None
) -> Iterator[Chunk]:
    """Read an Arrow IPC file or an Arrow stream in batches.

    Args:
        raw: an open, seekable binary file.
        rows: records per chunk.
        columns: only these top-level columns; all of them if None.
        reading: bounds.

    Raises:
        DataError: it stands for far more than it holds.
    """
    reading = reading or Reading()
    _check_messages(raw, reading)
    raw.seek(0)
    is_file = raw.read(6) == b"ARROW1"
    raw.seek(0)
    if is_file:
        reader = pa.ipc.open_file(raw)
        batches: Iterable[Any] = (reader.get_batch(i) for i in range(reader.num_record_batches))
    else:
        reader = pa.ipc.open_stream(raw)
        batches = reader
    names = [n for n in reader.schema.names if columns is None or n in columns]
    some = (b.select(names) for b in batches)
    yield from table_chunks(some, rows, reader.schema, None, reading)


def _check_messages(raw: IO[bytes], reading: Reading) -> None:
    total = 0
    for packed, size in unpacked_sizes(raw):
        if size > LARGE and size > _RATIO * packed:
            raise DataError(f"a batch of it unpacks to {size / 1e9:.1f} GB; {_FALLS_APART}")
        total += size
        _check_total(total, reading)


def _binary(schema: Any, names: list[str]) -> list[str]:  # noqa: ANN401 - pyarrow is untyped
    """The columns that hold bytes as such, or in lists and structs."""
    return [n for n in names if "binary" in str(schema.field(n).type)]


def _texts(batch: Any) -> dict[str, Any]:  # noqa: ANN401 - pyarrow is untyped
    """The columns whose first bytes are all texts -> the dtype with texts in their place."""
    if batch is None or not batch.num_columns:
        return {}
    _, end = next(cuts(_sizes(batch), SAMPLE_ROWS, MAX_CHUNK_BYTES), (0, 0))
    sample = _frame(_decoded(batch.slice(0, end)))
    dtypes = {name: _text_dtype(sample[name]) for name in sample.columns}
    return {name: dtype for name, dtype in dtypes.items() if dtype != sample.schema[name]}


def _text_dtype(column: pl.Series) -> Any:  # noqa: ANN401 - a dtype
    dtype = column.dtype
    if dtype == pl.Binary:
        values = column.drop_nulls()
        try:
            texts = values.cast(pl.String, strict=False)
        except pl.exceptions.ComputeError:  # what is no UTF-8 is refused, strict or not
            return dtype
        is_text = len(values) > 0 and not texts.null_count() and not texts.str.contains("\0").any()
        return pl.String() if is_text else dtype
    if isinstance(dtype, pl.List):
        return pl.List(_text_dtype(column.explode()))
    if isinstance(dtype, pl.Struct):
        if {f.name for f in dtype.fields} == {"bytes", "path"}:  # a picture of `datasets`
            return dtype
        fields = {f.name: _text_dtype(column.struct.field(f.name)) for f in dtype.fields}
        return pl.Struct(fields)
    return dtype


def _with_texts(chunk: Chunk, texts: dict[str, Any]) -> Chunk:
    """Make texts of bytes; what is no UTF-8 is read as Western text, or mended, and noted."""
    assert chunk.table is not None  # noqa: S101 - made with a table
    for name in [n for n in texts if n in chunk.table.columns]:
        column = chunk.table[name]
        try:
            new = column.cast(texts[name])
        except pl.exceptions.PolarsError:
            if column.dtype != pl.Binary:
                raise
            new = pl.Series([_text(chunk, *item) for item in enumerate(column)], dtype=pl.String)
        chunk.table = chunk.table.with_columns(new.alias(name))
    return chunk


def _text(chunk: Chunk, row: int, value: bytes | None) -> str | None:
    text, repair = decoded(value or b"")
    if repair is not None:
        chunk.repairs[chunk.lines[row]] = repair
    return None if value is None else text


def table_chunks(
    batches: Iterable[Any],
    rows: int,
    schema: Any = None,  # noqa: ANN401 - pyarrow is untyped
    texts: dict[str, Any] | None = None,
    reading: Reading | None = None,
) -> Iterator[Chunk]:
    """Cut Arrow batches or tables into chunks of at most `rows` records, numbered from 1.

    A chunk ends earlier where its values would have more than `MAX_CHUNK_BYTES` once nothing is
    shared; a record that is larger than one may be is rejected, `too_long`. Columns of bytes whose
    first values are texts become texts: those of `texts` if it is given (name -> dtype), else those
    of the first batch.

    If the batches end in an error after the first (a cut stream), the rest is rejected as one
    record, `truncated_file`. Without any batch, one empty chunk of the schema comes out.

    Raises:
        DataError: the rows together have more bytes than a file may stand for.
        pyarrow.ArrowInvalid: a batch is damaged; it is looked at before it is used.
    """
    reading = reading or Reading()
    number, total = 1, 0
    iterator = iter(batches)
    while True:
        try:
            batch = next(iterator, None)
        except (pa.ArrowException, OSError) as error:
            chunk = Chunk(lines=[], table=pl.DataFrame())
            chunk.rejects.add(number, "truncated_file", str(error).split("\n", 1)[0])
            yield chunk
            return
        if batch is None:
            break
        for start in range(0, batch.num_rows, rows):
            part, odd = _whole(batch.slice(start, rows))
            if texts is None:
                texts = _texts(part.select(_binary(part.schema, part.schema.names)))
            sizes = _sizes(part)
            total += int(sizes.sum())
            _check_total(total, reading)
            for first, last in cuts(sizes, rows, MAX_CHUNK_BYTES):
                some, lines = part.slice(first, last - first), range(number + first, number + last)
                yield _with_texts(_chunk(some, sizes[first:last], lines, reading), {**texts, **odd})
            number += part.num_rows
    if number == 1 and schema is not None:
        yield Chunk(lines=[], table=_frame(_decoded(schema.empty_table())))


def _chunk(part: Any, sizes: Weights, lines: range, reading: Reading) -> Chunk:  # noqa: ANN401
    """The rows of a part that are no longer than a record may be; the others are rejected."""
    chunk = Chunk(lines=list(lines))
    long = sizes > reading.record_bytes
    if long.any():
        for line in np.asarray(lines)[long].tolist():
            chunk.rejects.add(line, "too_long", too_long(reading))
        chunk.lines = np.asarray(lines)[~long].tolist()
        part = part.filter(pa.array(~long))
    chunk.table = _frame(_decoded(part))
    return chunk


def _sizes(part: Any) -> Weights:  # noqa: ANN401 - a batch or table
    """Bytes of each row once nothing is shared."""
    total = np.zeros(part.num_rows, np.int64)
    for column in part.columns:
        pieces = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        total += np.concatenate([weights(piece) for piece in pieces] or [total])
    return total


def _whole(part: Any) -> tuple[Any, dict[str, Any]]:  # noqa: ANN401 - a batch or table
    """A part that was checked, and columns of it whose texts are no UTF-8, as bytes now.

    Nothing else looks at what a file says of offsets and texts, neither pyarrow nor Polars.

    Raises:
        pyarrow.ArrowInvalid: it is damaged.
    """
    try:
        part.validate(full=True)
        return part, {}
    except pa.ArrowInvalid as error:
        if "UTF8" not in str(error):
            raise
    odd: dict[str, Any] = {}
    for i, field in enumerate(part.schema):
        try:
            part.column(i).validate(full=True)
        except pa.ArrowInvalid:
            kind = plain(field.type)
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise
            column = part.column(i).cast(kind).cast(pa.large_binary(), safe=False)
            part = part.set_column(i, field.with_type(pa.large_binary()), column)
            odd[field.name] = pl.String()
    part.validate(full=True)
    return part, odd


def _decoded(part: Any) -> Any:  # noqa: ANN401 - a batch or table
    """A table without dictionaries."""
    table = pa.Table.from_batches([part]) if isinstance(part, pa.RecordBatch) else part
    return table.cast(pa.schema([f.with_type(plain(f.type)) for f in table.schema]))


def _frame(table: Any) -> pl.DataFrame:  # noqa: ANN401 - pyarrow is untyped
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a table never gives a series
    return frame
