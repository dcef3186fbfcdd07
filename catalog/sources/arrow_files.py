"""Readers of columnar files: Parquet, Arrow IPC files and Arrow streams, as tables in blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from catalog.sources.chunks import Chunk


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
    yield from table_chunks(batches, rows, file.schema_arrow)


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


def table_chunks(batches: Iterable[Any], rows: int, schema: Any = None) -> Iterator[Chunk]:  # noqa: ANN401 - pyarrow is untyped
    """Cut Arrow batches or tables into chunks of at most `rows` records, numbered from 1.

    If the batches end in an error after the first (a cut stream), the rest is rejected as one
    record, `truncated_file`. Without any batch, one empty chunk of the schema comes out.
    """
    number = 1
    iterator = iter(batches)
    while True:
        try:
            batch = next(iterator, None)
        except (pa.ArrowInvalid, OSError) as error:
            chunk = Chunk(lines=[], table=pl.DataFrame())
            chunk.rejects.add(number, "truncated_file", str(error).split("\n", 1)[0])
            yield chunk
            return
        if batch is None:
            break
        for start in range(0, batch.num_rows, rows):
            part = batch.slice(start, rows)
            table = pa.Table.from_batches([part]) if isinstance(part, pa.RecordBatch) else part
            yield Chunk(lines=list(range(number, number + part.num_rows)), table=_frame(table))
            number += part.num_rows
    if number == 1 and schema is not None:
        yield Chunk(lines=[], table=_frame(schema.empty_table()))


def _frame(table: Any) -> pl.DataFrame:  # noqa: ANN401 - pyarrow is untyped
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a table never gives a series
    return frame
