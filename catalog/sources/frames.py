"""Tables in memory as sources: they are saved as a file that any run can read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from prefactory.beside import digest
from prefactory.errors import DataError
from prefactory.folders import sync, temporary_folder


def as_frame(data: object) -> pl.DataFrame | None:
    """A Polars or pandas frame, or a `datasets.Dataset`, as a Polars frame; None for all else.

    Raises:
        DataError: it is a `DatasetDict`.
    """
    module = type(data).__module__.split(".", 1)[0]
    if isinstance(data, pl.LazyFrame):
        return data.collect()
    rows: Any = data
    if module == "pandas":
        frame: pl.DataFrame = pl.from_pandas(rows)
        return frame
    if module == "datasets" and isinstance(data, dict):
        raise DataError(f"a DatasetDict has the splits {', '.join(data)}: give one of them")
    if module == "datasets":
        table = pl.from_arrow(rows.with_format("arrow")[:])
        return table if isinstance(table, pl.DataFrame) else table.to_frame()
    return data if isinstance(data, pl.DataFrame) else None


def save_frame(frame: pl.DataFrame, folder: Path) -> Path:
    """Save a frame below a folder under its content: `<digest>/frame.arrow`; return the file.

    The same rows give the same file, in however many pieces they lie in memory.
    """
    with temporary_folder(folder, "frame") as new:
        file = new / "frame.arrow"
        frame.rechunk().write_ipc(file, compat_level=pl.CompatLevel.oldest())
        final = folder / digest(file) / file.name
        final.parent.mkdir(exist_ok=True)
        sync(file)
        return file.replace(final)
