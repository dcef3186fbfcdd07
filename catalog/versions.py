"""The catalog on disk: `<root>/<name>/<version>/`, immutable; listing, opening and verifying."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pydantic

from catalog.arrow_folder import read_batches
from catalog.manifest import Manifest, TableRecord
from catalog.splits import SPLITS
from prefactory.errors import CatalogError
from prefactory.identity import fingerprint
from prefactory.overrides import nearest
from prefactory.recipe import NAME
from prefactory.store import file_digest
from prefactory.tables import digests

log = logging.getLogger("prefactory.catalog")
UNLISTED = ("manifest.json", "provenance.json")


@dataclass(frozen=True)
class Version:
    """One published version.

    Attributes:
        path: its folder.
        manifest: what it says of itself.
    """

    path: Path
    manifest: Manifest

    @property
    def ref(self) -> str:
        """`name@version`."""
        return f"{self.manifest.name}@{self.manifest.version}"

    def batches(
        self, table: str, split: str, columns: list[str] | None = None
    ) -> Iterator[pl.DataFrame]:
        """Yield a table's rows of a split, a record batch at a time."""
        return read_batches(self.path / table / split, columns)


def open_folder(path: Path) -> Version:
    """Open a version folder.

    Raises:
        CatalogError: if it is not one, or its manifest can't be read.
    """
    try:
        data = json.loads((path / "manifest.json").read_text("utf-8"))
        return Version(path, Manifest.model_validate(data))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CatalogError(f"{path} is no dataset version: it has no manifest.json") from error
    except (ValueError, OSError, pydantic.ValidationError) as error:
        raise CatalogError(f"the manifest of {path} is damaged: {error}") from error


@dataclass(frozen=True)
class Catalog:
    """All versions under a root folder."""

    root: Path

    def names(self) -> list[str]:
        """Names of the datasets, sorted."""
        if not self.root.is_dir():
            return []
        return sorted(p.name for p in self.root.iterdir() if p.is_dir() and NAME.fullmatch(p.name))

    def versions(self, name: str) -> list[Version]:
        """Versions of a dataset, oldest first."""
        if not NAME.fullmatch(name):
            raise CatalogError(f"{name!r} is not a dataset name")
        folder = self.root / name
        if not folder.is_dir():
            return []
        paths = [p for p in folder.iterdir() if (p / "manifest.json").is_file()]
        paths = [p for p in paths if NAME.fullmatch(p.name)]
        found = []
        for path in sorted(paths, key=lambda p: version_key(p.name)):
            try:
                found.append(open_folder(path))
            except CatalogError as error:  # one damaged version must not hide the others
                log.warning("skipped: %s", error)
        return found

    def open(self, ref: str) -> Version:
        """Open `name`, `name@version`, or a version folder by its path.

        Raises:
            CatalogError: if there is no such version; with what there is.
        """
        if "/" in ref or ref.startswith("."):
            return open_folder(Path(ref))
        name, _, wanted = ref.partition("@")
        folder = self.root / name / wanted
        names = wanted and NAME.fullmatch(name) and NAME.fullmatch(wanted)
        if names and (folder / "manifest.json").is_file():
            return open_folder(folder)
        versions = self.versions(name)
        if not versions:
            known = self.names()
            listed = f"; there are: {', '.join(known)}" if known else "; the catalog is empty"
            raise CatalogError(
                f"no dataset {name!r} in {self.root}{nearest(name, known) or listed}"
            )
        if not wanted:
            return versions[-1]
        for version in versions:
            if version.manifest.version == wanted:
                return version
        have = ", ".join(v.manifest.version for v in versions)
        raise CatalogError(f"{name} has no version {wanted!r}; it has: {have}")

    def next_version(self, name: str) -> str:
        """Today's UTC date, with a counter if the date is taken."""
        today = datetime.now(UTC).strftime("%Y.%m.%d")
        taken = {v.manifest.version for v in self.versions(name)}
        candidates = [today, *(f"{today}.{i}" for i in range(1, len(taken) + 1))]
        return next(c for c in candidates if c not in taken)


def version_key(version: str) -> list[tuple[int, int | str]]:
    """Sort key that orders numbers inside versions as numbers."""
    return [
        (0, int(part)) if part.isdigit() else (1, part)
        for part in re.split(r"[.\-_]", version)
        if part
    ]


def canonical_rows(table: pl.DataFrame) -> bytes:
    """The canonical JSON of each row, columns by name, one a line."""
    if not table.height:
        return b""
    table = table.with_columns(
        digests(pl.Series(name, [repr(v) for v in table[name].to_list()]))
        for name, dtype in table.schema.items()
        if "Binary" in str(dtype)  # images: JSON has no bytes
    )
    row = pl.struct(sorted(table.columns)).struct.json_encode()
    return bytes(table.select(row.str.join("\n").cast(pl.Binary)).item()) + b"\n"


class ContentDigest:
    """Digest of a table's rows in canonical order, whatever pieces they arrive in."""

    def __init__(self) -> None:
        """Start with no rows."""
        self._hash = hashlib.blake2b(digest_size=16)

    def update(self, table: pl.DataFrame) -> None:
        """Add rows."""
        self.add(canonical_rows(table))

    def add(self, rows: bytes) -> None:
        """Add the `canonical_rows` of a table."""
        self._hash.update(rows)

    def hexdigest(self) -> str:
        """The digest so far."""
        return self._hash.hexdigest()


def verify(version: Version) -> list[str]:
    """Check a version's files, content digests and counts; return what is wrong (nothing: [])."""
    problems = _manifest_problems(version) + _file_problems(version)
    if problems:
        return problems
    for name, record in version.manifest.tables.items():
        digests = {}
        for split, rows in record.splits.items():
            digest, found = ContentDigest(), 0
            for batch in version.batches(name, split):
                digest.update(batch)
                found += batch.height
            digests[split] = digest.hexdigest()
            if found != rows:
                problems.append(f"{name}/{split}: {found} rows, the manifest says {rows}")
        if table_digest(digests) != record.digest:
            problems.append(f"{name}: the content does not match its digest")
    rows = pl.scan_parquet(version.path / "ledger.parquet").select(pl.len()).collect().item()
    if rows != version.manifest.ledger["rows"]:
        problems.append(f"ledger: {rows} rows, not {version.manifest.ledger['rows']}")
    return problems


def table_digest(splits: dict[str, str]) -> str:
    """Digest of a table from the digests of its splits."""
    text = "\n".join(f"{s} {splits[s]}" for s in SPLITS if s in splits)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def manifest_digest(manifest: Manifest) -> str:
    """Digest of a manifest but for its own digest."""
    return fingerprint(manifest.model_dump(mode="json", exclude={"digest"}))


def content_digest(tables: dict[str, TableRecord]) -> str:
    """Content digest of a version from the digests of its tables."""
    return fingerprint({name: record.digest for name, record in tables.items()})


def _manifest_problems(version: Version) -> list[str]:
    manifest = version.manifest
    checks = {
        "it was changed after publishing": manifest.digest == manifest_digest(manifest),
        "content_digest is not that of the tables": (
            manifest.content_digest == content_digest(manifest.tables)
        ),
        "recipe_fingerprint is not that of the payload": (
            manifest.recipe_fingerprint == fingerprint(manifest.payload)
        ),
    }
    return [f"manifest.json: {problem}" for problem, holds in checks.items() if not holds]


def _file_problems(version: Version) -> list[str]:
    listed = version.manifest.files
    problems = []
    for name, facts in listed.items():
        path = version.path / name
        if not path.is_file():
            problems.append(f"{name}: missing")
        elif path.stat().st_size != facts["bytes"]:
            problems.append(f"{name}: {path.stat().st_size} bytes, not {facts['bytes']}")
        elif file_digest(path, "sha256") != facts["sha256"]:
            problems.append(f"{name}: its sha256 does not match")
    here = {p.relative_to(version.path).as_posix() for p in version.path.rglob("*") if p.is_file()}
    problems += [f"{n}: not in the manifest" for n in sorted(here - {*listed, *UNLISTED})]
    return problems
