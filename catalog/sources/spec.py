"""What a reader is asked for (`SourceSpec`), and what it hands out (`SourceFile`, `Block`)."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, field_validator

from catalog.sources.fields import plain_of
from catalog.sources.pictures.allowed import AllowedImages

LEDGER = {"row_id": pl.String, "reason": pl.String, "detail": pl.String}
"""Columns of `Block.rejected` and `Block.notes`."""


class SourceSpec(BaseModel):
    """The `source:` of a recipe: where preference data lies and how to read it.

    Attributes:
        path: a file, a folder, a glob, an fsspec URL, a `datasets` folder made by `save_to_disk`,
            or a hub dataset: `hf://datasets/owner/name`, or `owner/name` when no such path exists.
        layout: name of a layout (see `LAYOUTS`), or `auto` to recognise it.
        mapping: our column <- their column, dots for nested values (`metadata.score_chosen`,
            `turns.0`). `system`, `history`, `input`, `context` and `documents` become part of the
            prompt (see `catalog.sources.parts`); any other name that the layout doesn't know is
            carried along as an extra column.
        carry: their columns that are carried along under their own names.
        ignore: their columns that need not be read, whatever they hold.
        values: value of the verdict -> `a`, `b` or `tie`, for layouts of two answers and a verdict
            (`{A: a, B: b, draw: tie}`); case does not matter, and `1` is also `1.0`.
        name: value of the `source` column; by default the stem of the file or folder (tables of
            ours keep the sources they have).
        license: licence of the rows, for the card of the dataset.
        label_source: who chose (`human`, `judge`, ...); by default what the layout or the record
            says, and null (unknown) where neither does.
        split: a split of a hub dataset or `datasets` folder; by default all of them.
        config: a configuration of a hub dataset, or a folder inside `path`.
        revision: commit or tag of a hub dataset; by default its newest commit.
        limit: first n records of each file only, for previews.
        encoding: of the files, if they are not UTF-8, UTF-16 or Western (Windows-1252).
        separator: what stands between two cells of a csv file, if it is not told rightly.
        max_record_mb: a longer line, record or cell goes to the ledger (10^6 bytes each).
        max_file_gb: a packed file that holds more is refused (10^9 bytes each).
        images: folders and hosts that paths and addresses of pictures in rows may lead to
            (`AllowedImages`); by default none is fetched.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(min_length=1)
    layout: str = "auto"
    mapping: dict[str, str] = {}
    values: dict[str, Literal["a", "b", "tie"]] = {}
    carry: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    name: str | None = None
    license: str | None = None
    label_source: Literal["human", "judge", "reward_model", "rule", "relabel"] | None = None
    split: str | None = None
    config: str | None = None
    revision: str | None = None
    limit: int | None = Field(default=None, ge=0)
    images: AllowedImages = AllowedImages()
    encoding: str | None = None
    separator: str | None = Field(default=None, min_length=1, max_length=1, pattern=r"[^\r\n\"]")
    max_record_mb: float = Field(default=64.0, gt=0, le=2048)
    max_file_gb: float = Field(default=64.0, gt=0)

    @field_validator("values", mode="before")
    @classmethod
    def _as_written(cls, values: object) -> object:
        """Take `1` and `true` of a recipe as the texts that they are compared as."""
        if not isinstance(values, dict):
            return values
        return {plain_of(value) or "": meaning for value, meaning in values.items()}

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        try:
            return value and codecs.lookup(value).name if "x".encode(value or "utf-8") else None
        except LookupError as error:
            raise ValueError(f"{value!r} is no encoding of texts, such as cp1251 or gbk") from error

    @property
    def reading(self) -> Reading:
        """How the bytes of its files are read."""
        return Reading(self.encoding, self.separator, self.max_record_mb, self.max_file_gb)


@dataclass(frozen=True, slots=True)
class Reading:
    """How the bytes of files are read; the fields are those of `SourceSpec`."""

    encoding: str | None = None
    separator: str | None = None
    max_record_mb: float = 64.0
    max_file_gb: float = 64.0

    @property
    def record_bytes(self) -> int:
        """Bytes that a line, a record or a cell may have."""
        return int(self.max_record_mb * 1e6)

    @property
    def file_bytes(self) -> int:
        """Bytes that a packed file may hold."""
        return int(self.max_file_gb * 1e9)

    def changes(self) -> dict[str, str | float]:
        """What decides the rows and is not as it is by default: part of their identity."""
        default = Reading()
        names = ("encoding", "separator", "max_record_mb")
        return {n: getattr(self, n) for n in names if getattr(self, n) != getattr(default, n)}


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file (or hub split) of a source.

    Attributes:
        name: file name; for folders and globs the path below the folder, with `/`.
        url: path or fsspec URL that opens it; the dataset's id for a hub split.
        size: bytes; -1 where the filesystem doesn't tell.
        member: name inside the zip file that `url` opens, as it stands there.
        mark: what a web server says of the content, or when it was asked.
    """

    name: str
    url: str
    size: int
    member: str | None = None
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """Some consecutive records of a file, read.

    Attributes:
        rows: table of the source's shape and schema, ids made, in reading order.
        rejected: `row_id` ("file:line"), `reason`, `detail` of records that became no row.
        notes: same columns, of rows that were kept but repaired or are odd.
        n_records: records of the block; always `rows.height + rejected.height`. A record that
            holds several answers counts once for each of them.
        late: columns that are not read and first appear here -> `file:line`.
    """

    rows: pl.DataFrame
    rejected: pl.DataFrame
    notes: pl.DataFrame
    n_records: int
    late: Mapping[str, str] = field(default_factory=dict)
