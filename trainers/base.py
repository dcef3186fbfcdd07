"""What every trainer reads and writes: a dataset version, its rows, and plain files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import polars as pl
from datasets import Dataset

from catalog.versions import Version, open_folder
from prefactory.errors import DataError
from prefactory.tables import Shape


@dataclass(frozen=True)
class DatasetRef:
    """Rows to train on: a table of a published version.

    Attributes:
        version: the version.
        table: which of its tables: one of pairs, or of responses for methods on single answers.
    """

    version: Version
    table: str = "pairs"

    def __str__(self) -> str:
        """`name@version`."""
        return self.version.ref

    @property
    def digest(self) -> str:
        """Content digest of the version."""
        return self.version.manifest.content_digest

    @classmethod
    def from_path(cls, folder: str | Path) -> DatasetRef:
        """Open a version's folder.

        Raises:
            CatalogError: if the folder has no readable manifest.
        """
        return cls(open_folder(Path(folder)))

    @property
    def shape(self) -> Shape:
        """What a row of the table is.

        Raises:
            CatalogError: there is no such table.
        """
        return self.version.table(self.table).shape

    def pairs(self, split: str) -> Dataset:
        """The rows of a split, memory-mapped.

        Raises:
            CatalogError: if there is no such table, or no such split.
            DataError: if prompts have pictures, which no model that is trained here would see.
        """
        rows = self.version.pairs(split, self.table)
        if "images" in rows.column_names:
            batches = self.version.batches(self.table, split, ["images"])
            if any((batch["images"].list.len() > 0).any() for batch in batches):
                raise DataError(
                    f"the prompts of {self} have pictures, and models are trained on texts here: "
                    f"`prefactory export {self} --layout trl --out DIR`, and TRL's DPO with a "
                    "vision-language model (docs/how-to/images.md)"
                )
        return rows

    def batches(self, split: str, columns: list[str] | None = None) -> Iterator[pl.DataFrame]:
        """The same rows, a record batch at a time; of all columns if none are named."""
        return self.version.batches(self.table, split, columns)


def hashed(text: str, salt: str) -> float:
    """A number in [0, 1) that depends on the text and the salt only."""
    digest = hashlib.blake2b(f"{salt}\n{text}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2.0**53


def table(rows: Dataset, columns: list[str] | None = None) -> pl.DataFrame:
    """Read rows into one polars table, in the order of the dataset.

    Args:
        rows: a split of pairs.
        columns: which columns; those that the split lacks are left out. None: all.
    """
    if columns is not None:
        rows = rows.select_columns([c for c in columns if c in rows.column_names])
    arrow: Any = rows.with_format("arrow")[:]
    frame = pl.from_arrow(arrow)
    if not isinstance(frame, pl.DataFrame):
        raise DataError("the split is not a table")
    return frame


def margins_of(pairs: pl.DataFrame, ref: DatasetRef, option: str) -> pl.Series:
    """Return the `margin` column, which an option asked for.

    Raises:
        DataError: unless every row has a finite margin of at least zero.
    """
    if "margin" not in pairs.columns or pairs["margin"].null_count():
        raise DataError(
            f"{option} needs a margin on every pair; {ref} has "
            + ("no margin column" if "margin" not in pairs.columns else "pairs without one")
        )
    margin = pairs["margin"].cast(pl.Float64)
    if not (margin.is_finite() & (margin >= 0)).all():
        raise DataError(f"{option} needs finite margins >= 0; {ref} has others")
    return margin


def package_versions(*names: str) -> dict[str, str]:
    """Installed versions of packages, by name; a package that is not installed is left out."""
    versions = {}
    for name in sorted(names):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def write_json(path: Path, value: object) -> None:
    """Write plain data as indented JSON with sorted keys: the same data gives the same bytes."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
