"""Columns that turn up late: the first records decide how a source is read, all are looked at."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import polars as pl

from catalog.sources.chunks import Chunk, Record
from prefactory.errors import DataError


class LateColumnsError(DataError):
    """A column that must be read is not in the first records; the source is opened once more."""

    def __init__(self, columns: list[str], place: str) -> None:
        """Name the columns and the record where the first of them stands."""
        names = ", ".join(map(repr, columns))
        super().__init__(
            f"{names} first appears at {place}, behind the records that the layout was found by; "
            "open the source with `open_source(spec, whole=True)`"
        )


def is_empty(value: object) -> bool:
    """Whether a value says nothing: null, or an empty text, list or object."""
    return value is None or value in ("", [], {})


def filled_columns(records: Sequence[Record], filled: Collection[str]) -> set[str]:
    """Columns of records that hold something, and did not before (those of `filled`)."""
    names = set[str]().union(*records).difference(filled) if records else set()
    return {name for name in names if any(not is_empty(r.get(name)) for r in records)}


def filled_rows(chunk: Chunk, columns: Collection[str]) -> tuple[pl.DataFrame, list[int]]:
    """Rows of a table in which one of some columns holds something, and their line numbers.

    Of each column the first 1,000.
    """
    table = chunk.table
    assert table is not None  # noqa: S101 - the caller has looked
    holds = []
    for name in columns:
        dtype = table.schema.get(name)
        if dtype is None:
            continue
        some = pl.col(name).is_not_null()
        if dtype == pl.String:
            some &= pl.col(name) != ""
        elif isinstance(dtype, pl.List):
            some &= pl.col(name).list.len() > 0
        holds.append(some)
    if not holds:
        return table.clear(), []
    rows = [table.select(some.fill_null(value=False)).to_series().arg_true() for some in holds]
    first = pl.concat([own.head(1000) for own in rows]).unique().sort()
    return table[first], [chunk.lines[i] for i in first]
