"""Columns that turn up late: the first records decide how a source is read, all are looked at."""

from __future__ import annotations

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
