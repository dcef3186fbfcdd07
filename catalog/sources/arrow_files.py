"""Readers of columnar files: Parquet, Arrow IPC files and Arrow streams, as tables in blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from catalog.sources.chunks import Chunk
from catalog.sources.pieces import decoded

SAMPLE_ROWS = 100


def read_parquet(raw: IO[bytes], rows: int, columns: set[str] | None = None) -> Iterator[Chunk]:
    """Read a Parquet file in batches.

    Args:
        raw: an open, seekable binary file.
        rows: records per chunk.
        columns: only these top-level columns; all of them if None.
    """
    file = pq.ParquetFile(raw)
    names = [n for n in file.schema_arrow.names if columns is None or n in columns]
    batches = file.iter_batches(batch_size=rows, columns=names) if names else ()
    first = file.iter_batches(batch_size=SAMPLE_ROWS, columns=_binary(file.schema_arrow, names))
    texts = _texts(next(first, None))
    yield from table_chunks(batches, rows, file.schema_arrow, texts)


def read_ipc(raw: IO[bytes], rows: int, columns: set[str] | None = None) -> Iterator[Chunk]:
    """Read an Arrow IPC file or an Arrow stream in batches.

    Args:
        raw: an open, seekable binary file.
        rows: records per chunk.
        columns: only these top-level columns; all of them if None.
    """
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
    yield from table_chunks((b.select(names) for b in batches), rows, reader.schema)


def _binary(schema: Any, names: list[str]) -> list[str]:  # noqa: ANN401 - pyarrow is untyped
    """The columns that hold bytes as such, or in lists and structs."""
    return [n for n in names if "binary" in str(schema.field(n).type)]


def _texts(batch: Any) -> dict[str, Any]:  # noqa: ANN401 - pyarrow is untyped
    """The columns whose first bytes are all texts -> the dtype with texts in their place."""
    if batch is None or not batch.num_columns:
        return {}
    sample = _frame(pa.Table.from_batches([batch.slice(0, SAMPLE_ROWS)]))
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
        new = column.cast(texts[name], strict=False)
        odd = (new.is_null() & column.is_not_null()).arg_true()
        for row in odd if column.dtype == pl.Binary else ():
            text, repair = decoded(column[row])
            new[row] = text
            chunk.repairs[chunk.lines[row]] = repair or "not_utf8"
        chunk.table = chunk.table.with_columns(new.alias(name))
    return chunk


def table_chunks(
    batches: Iterable[Any],
    rows: int,
    schema: Any = None,  # noqa: ANN401 - pyarrow is untyped
    texts: dict[str, Any] | None = None,
) -> Iterator[Chunk]:
    """Cut Arrow batches or tables into chunks of at most `rows` records, numbered from 1.

    Columns of bytes whose first values are texts become texts: those of `texts` if it is given
    (name -> dtype), else those of the first batch.

    If the batches end in an error after the first (a cut stream), the rest is rejected as one
    record, `truncated_file`. Without any batch, one empty chunk of the schema comes out.
    """
    number = 1
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
        if texts is None:
            texts = _texts(batch.select(_binary(batch.schema, batch.schema.names)))
        for start in range(0, batch.num_rows, rows):
            part = batch.slice(start, rows)
            table = pa.Table.from_batches([part]) if isinstance(part, pa.RecordBatch) else part
            lines = list(range(number, number + part.num_rows))
            yield _with_texts(Chunk(lines=lines, table=_frame(table)), texts)
            number += part.num_rows
    if number == 1 and schema is not None:
        yield Chunk(lines=[], table=_frame(schema.empty_table()))


def _frame(table: Any) -> pl.DataFrame:  # noqa: ANN401 - pyarrow is untyped
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a table never gives a series
    return frame
