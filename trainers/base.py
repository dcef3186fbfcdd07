"""What every trainer reads and writes: a dataset version, its rows, and plain files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import polars as pl
from datasets import Dataset, DatasetInfo, load_from_disk

from prefactory.errors import CatalogError, DataError

HELD_OUT = 0.1
"""Share of prompts that are held out when a version has no test split."""


@dataclass(frozen=True)
class DatasetRef:
    """One published dataset version, by name and by content.

    Attributes:
        name: name of the dataset.
        version: its version.
        path: folder of the version (`pairs/` and `manifest.json`).
        digest: content digest of its manifest.
        table: which of its tables holds the pairs to train on.
    """

    name: str
    version: str
    path: Path
    digest: str
    table: str = "pairs"

    def __str__(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"

    @classmethod
    def from_path(cls, folder: str | Path) -> DatasetRef:
        """Read the reference from a version's folder.

        Raises:
            CatalogError: if the folder has no readable manifest.
        """
        path = Path(folder)
        manifest = _manifest(path)
        missing = [k for k in ("name", "version", "content_digest") if k not in manifest]
        if missing:
            raise CatalogError(f"{path / 'manifest.json'} lacks {', '.join(missing)}")
        return cls(
            str(manifest["name"]), str(manifest["version"]), path, str(manifest["content_digest"])
        )

    def licenses(self) -> list[str]:
        """Licences of the version's sources, as its manifest names them, sorted, each once."""
        manifest = _manifest(self.path)
        sources = [source.get("license") for source in manifest.get("sources") or []]
        return sorted({str(v) for v in [manifest.get("license"), *sources] if v})

    def pairs(self, split: str) -> Dataset:
        """Open the pairs of a split, memory-mapped.

        Without a test split, one prompt in ten, chosen by the hash of its id, is `test` and the
        rest is `train`.

        Raises:
            CatalogError: if there are no pairs, or no such split.
        """
        folder = self.path / self.table
        if not folder.is_dir():
            raise CatalogError(f"{self} has no {self.table}: {folder} does not exist")
        splits = _splits(folder)
        if split in ("train", "test") and "train" in splits and "test" not in splits:
            return _held_out(_open(splits["train"]), split == "test")
        if split not in splits:
            raise CatalogError(f"{self} has no split {split!r}; it has {sorted(splits)}")
        return _open(splits[split])


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CatalogError(f"{path} is not a dataset version: {error}") from error
    if not isinstance(manifest, dict):
        raise CatalogError(f"{path / 'manifest.json'} is not a JSON object")
    return manifest


def _splits(folder: Path) -> dict[str, Path]:
    index = folder / "dataset_dict.json"
    if not index.is_file():
        return {"train": folder}
    return {name: folder / name for name in json.loads(index.read_text())["splits"]}


def _open(folder: Path) -> Dataset:
    """Open one split; `load_from_disk` fails on an empty one that was saved in no file."""
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if not state["_data_files"]:
        return Dataset(DatasetInfo.from_directory(str(folder)).features.arrow_schema.empty_table())
    return load_from_disk(str(folder))


def hashed(text: str, salt: str) -> float:
    """A number in [0, 1) that depends on the text and the salt only."""
    digest = hashlib.blake2b(f"{salt}\n{text}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2.0**53


def _held_out(rows: Dataset, wanted: bool) -> Dataset:
    ids = rows["prompt_id"]
    keep = [i for i, p in enumerate(ids) if (hashed(p, "held-out") < HELD_OUT) == wanted]
    return rows.select(keep)


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
    found = {}
    for name in sorted(names):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_json(path: Path, value: object) -> None:
    """Write plain data as indented JSON with sorted keys: the same data gives the same bytes."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
