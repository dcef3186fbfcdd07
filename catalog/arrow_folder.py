"""Folders that `datasets.load_from_disk` opens, written as a stream and byte for byte the same.

Record batches have a fixed number of rows and files a fixed number of batches, whatever pieces the
rows arrive in, so that neither shards nor workers change a byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
from polars.io.plugins import register_io_source

from prefactory.errors import CatalogError
from prefactory.images.marks import is_pictures
from prefactory.tables import Shape

if TYPE_CHECKING:
    import datasets

BATCH_ROWS = 1000
READ_ROWS = 8000
"""Rows that are read at a time, where none holds pictures: by the batch it takes three times as
long."""
FILE_ROWS = 200_000
PICTURED_SHARE = 10
"""Rows that hold pictures are so many times fewer in a batch and in a file."""
_VERIFY = "`prefactory catalog verify` shows what else is"


def arrow_type(dtype: pl.DataType) -> pa.DataType:
    """Arrow type of a Polars dtype, with plain strings and lists (what trainers expect)."""
    if isinstance(dtype, pl.List):
        return pa.list_(arrow_type(dtype.inner))  # type: ignore[arg-type]
    if isinstance(dtype, pl.Struct):
        return pa.struct([(f.name, arrow_type(f.dtype)) for f in dtype.fields])  # type: ignore[arg-type]
    if dtype == pl.String:
        return pa.string()
    if dtype == pl.Binary:
        return pa.binary()
    empty = pl.Series([], dtype=dtype).to_arrow(compat_level=pl.CompatLevel.oldest())
    return empty.type


def arrow_schema(table: pl.DataFrame) -> pa.Schema:
    """Arrow schema of a table; columns of pictures are `datasets.Image` in its metadata."""
    return _arrow_schema(tuple(table.schema.items()))


@lru_cache(64)  # a table is written in many pieces
def _arrow_schema(columns: tuple[tuple[str, pl.DataType], ...]) -> pa.Schema:
    schema = pa.schema([(name, arrow_type(dtype)) for name, dtype in columns])
    pictured = [name for name, dtype in columns if is_pictures(dtype)]
    if not pictured:
        return schema
    import datasets  # a second, and only what writes or opens a folder needs it

    features = datasets.Features.from_arrow_schema(schema)
    features.update({name: datasets.List(datasets.Image()) for name in pictured})
    info = {"info": {"features": features.to_dict()}}
    return schema.with_metadata({"huggingface": json.dumps(info)})


def features_of(schema: pa.Schema) -> dict[str, Any]:
    """What `datasets.Features.from_arrow_schema(schema).to_dict()` gives.

    Types that rows usually have are described here, as importing `datasets` takes a second.
    """
    known = None if schema.metadata else _struct_feature(schema)
    if known is not None:
        return known
    import datasets

    features: dict[str, Any] = datasets.Features.from_arrow_schema(schema).to_dict()
    return features


def _struct_feature(fields: Iterable[pa.Field]) -> dict[str, Any] | None:
    found = {field.name: _feature(field.type) for field in fields}
    return None if None in found.values() else found


def _feature(kind: pa.DataType) -> dict[str, Any] | None:
    """Of a type that is described here; None of any other."""
    if pa.types.is_list(kind):
        inner = _feature(kind.value_type)
        return None if inner is None else {"feature": inner, "_type": "List"}
    if pa.types.is_struct(kind):
        return _struct_feature(kind)
    return {"dtype": _VALUES[kind], "_type": "Value"} if kind in _VALUES else None


_VALUES = {pa.string(): "string", pa.bool_(): "bool", pa.float64(): "float64", pa.int64(): "int64"}


def to_arrow(table: pl.DataFrame) -> pa.Table:
    """A table with the types of `arrow_schema`."""
    return table.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(arrow_schema(table))


class SplitWriter:
    """Writes one split: `data-00000-of-0000N.arrow` streams, `dataset_info.json`, `state.json`."""

    def __init__(self, folder: Path, split: str, schema: pa.Schema) -> None:
        """Start a split in a folder that does not exist yet."""
        self.folder, self.split, self.schema = folder, split, schema
        share = PICTURED_SHARE if schema.metadata else 1
        self._batch_rows, self._file_rows = max(1, BATCH_ROWS // share), FILE_ROWS // share
        self.rows = 0
        self._waiting: list[pa.Table] = []
        self._files: list[Path] = []
        self._writer: pa.RecordBatchStreamWriter | None = None
        self._in_file = 0
        folder.mkdir(parents=True)

    def write(self, table: pl.DataFrame | pa.Table) -> None:
        """Add rows."""
        arrow = to_arrow(table) if isinstance(table, pl.DataFrame) else table
        if arrow.num_rows:
            self._waiting.append(arrow.cast(self.schema))
            self.rows += arrow.num_rows
            self._flush(whole=False)

    def _flush(self, whole: bool) -> None:
        waiting = sum(t.num_rows for t in self._waiting)
        if waiting < self._batch_rows and not (whole and waiting):
            return
        table = pa.concat_tables(self._waiting)
        stop = waiting if whole else waiting - waiting % self._batch_rows
        for start in range(0, stop, self._batch_rows):
            piece = table.slice(start, min(self._batch_rows, stop - start)).combine_chunks()
            every = pl.int_range(piece.num_rows, eager=True).to_arrow()
            self._write_batch(piece.take(every))  # a slice's buffers hold its neighbours
        self._waiting = [table.slice(stop)] if stop < waiting else []

    def _write_batch(self, piece: pa.Table) -> None:
        if self._writer is None or self._in_file + piece.num_rows > self._file_rows:
            self._close_file()
            self._files.append(self.folder / f"part-{len(self._files):05d}.tmp")
            self._writer = pa.ipc.new_stream(str(self._files[-1]), self.schema)
            self._in_file = 0
        for batch in piece.to_batches(max_chunksize=self._batch_rows):
            self._writer.write_batch(batch)
        self._in_file += piece.num_rows

    def _close_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def close(self) -> dict[str, Any]:
        """Finish the split and return its `num_examples` and `num_bytes`."""
        self._flush(whole=True)
        if not self._files:  # an empty split still is a file with a schema
            self._files.append(self.folder / "part-00000.tmp")
            self._writer = pa.ipc.new_stream(str(self._files[0]), self.schema)
        self._close_file()
        names = []
        for i, path in enumerate(self._files):
            names.append(f"data-{i:05d}-of-{len(self._files):05d}.arrow")
            path.rename(self.folder / names[-1])
        size = sum((self.folder / n).stat().st_size for n in names)
        info = {"num_examples": self.rows, "num_bytes": size}
        self._describe(names, info)
        return info

    def _describe(self, names: list[str], info: dict[str, Any]) -> None:
        features = features_of(self.schema)
        split = {"name": self.split, **info, "dataset_name": None}
        _json(
            self.folder / "dataset_info.json",
            {
                "citation": "",
                "description": "",
                "features": features,
                "homepage": "",
                "license": "",
                "splits": {self.split: split},
            },
        )
        _json(
            self.folder / "state.json",
            {
                "_data_files": [{"filename": n} for n in names],
                "_fingerprint": f"prefactory-{self.split}",
                "_format_columns": None,
                "_format_kwargs": {},
                "_format_type": None,
                "_output_all_columns": False,
                "_split": self.split,
            },
        )


def write_dict(folder: Path, splits: list[str]) -> None:
    """Write `dataset_dict.json`, which names the splits of a folder."""
    _json(folder / "dataset_dict.json", {"splits": splits})


def _json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", "utf-8")


@dataclass(frozen=True)
class Table:
    """One table of a version as it lies on disk; `datasets.load_from_disk` opens the folder.

    Attributes:
        folder: holds a folder for each split.
        shape: of its rows.
    """

    folder: Path
    shape: Shape

    @cached_property
    def splits(self) -> dict[str, tuple[Path, ...]]:
        """Files of each split, in order.

        Raises:
            CatalogError: the list of splits is damaged.
        """
        listing = self.folder / "dataset_dict.json"
        try:
            names = (
                [str(name) for name in json.loads(listing.read_text("utf-8"))["splits"]]
                if listing.is_file()
                else sorted(path.name for path in self.folder.glob("*") if path.is_dir())
            )
            for name in names:
                if not (self.folder / name).is_dir():
                    raise ValueError(f"there is no split {name!r}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CatalogError(f"{listing} is damaged ({error}); {_VERIFY}") from error
        return {name: tuple(sorted((self.folder / name).glob("data-*.arrow"))) for name in names}

    @cached_property
    def schema(self) -> pl.Schema:
        """Columns and their types; no column if there is no file."""
        for path in (path for paths in self.splits.values() for path in paths):
            with _opened(path) as reader:
                return _frame(pa.Table.from_batches([], reader.schema)).schema
        return pl.Schema()

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return self.schema.names()

    def batches(
        self, columns: Sequence[str] | None = None, split: str | None = None
    ) -> Iterator[pl.DataFrame]:
        """Yield the rows of some columns, of one split or of all, in order and `READ_ROWS` a time.

        Raises:
            CatalogError: there is no such split, or a file is damaged.
        """
        wanted = None if columns is None else list(columns)
        for path in self._files(split):
            with _opened(path) as reader:
                some = 1 if reader.schema.metadata else READ_ROWS // BATCH_ROWS
                while read := list(islice(reader, some)):
                    rows = pa.Table.from_batches(read)
                    yield _frame(rows if wanted is None else rows.select(wanted))

    def rows(self, split: str = "train") -> datasets.Dataset:
        """The rows of a split, memory-mapped.

        Raises:
            CatalogError: there is no such split, or it is damaged.
        """
        import datasets

        self._files(split)
        try:
            return datasets.load_from_disk(str(self.folder / split))
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            pa.ArrowException,
        ) as error:
            raise CatalogError(f"{self.folder / split} is damaged ({error}); {_VERIFY}") from error

    def frame(self, split: str | None = None) -> pl.LazyFrame:
        """The rows of a split, or of all with a column `split`, read when they are collected."""
        names = list(self.splits) if split is None else [split]
        own = pl.Schema([*self.schema.items(), *([] if split else [("split", pl.String())])])

        def read(
            columns: list[str] | None, predicate: pl.Expr | None, n: int | None, _: int | None
        ) -> Iterator[pl.DataFrame]:
            wanted = list(own) if columns is None else columns
            stored = [c for c in wanted if c in self.schema] or list(self.schema)[:1]
            for name in names:
                for batch in self.batches(stored, name):
                    rows = batch.with_columns(split=pl.lit(name)).select(wanted)
                    if n is not None:
                        rows = rows.head(n)
                        n -= rows.height
                    yield rows if predicate is None else rows.filter(predicate)
                    if n == 0:
                        return

        return register_io_source(read, schema=own)

    def _files(self, split: str | None) -> tuple[Path, ...]:
        if split is None:
            return tuple(path for paths in self.splits.values() for path in paths)
        if split not in self.splits:
            known = ", ".join(self.splits)
            raise CatalogError(f"{self.folder} has no split {split!r}; it has: {known}")
        return self.splits[split]


@contextmanager
def _opened(path: Path) -> Iterator[pa.RecordBatchStreamReader]:
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
            yield reader
    except (pa.ArrowException, OSError) as error:
        raise CatalogError(f"{path} is damaged ({error}); {_VERIFY}") from error


def _frame(rows: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(rows)
    return frame if isinstance(frame, pl.DataFrame) else frame.to_frame()
