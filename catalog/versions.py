"""The catalog on disk: `<root>/<name>/<version>/`, immutable; listing, opening and verifying."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pydantic

from catalog.arrow_folder import Table
from catalog.explain import Explanation, explain
from catalog.history import state
from catalog.manifest import Manifest, TableRecord
from catalog.splits import SPLITS
from catalog.whole import problem_at_first, problem_of
from prefactory import notebook
from prefactory.errors import CatalogError
from prefactory.identity import fingerprint
from prefactory.images.marks import is_pictures, name_of, names
from prefactory.overrides import nearest
from prefactory.recipe import NAME
from prefactory.sharing.locks import locked
from prefactory.sharing.sealed import unseal
from prefactory.store import file_digest
from prefactory.tables import Shape, digests
from prefactory.utf8 import utf8

if TYPE_CHECKING:
    from datasets import Dataset

_LOG = logging.getLogger(__name__)
_DATED = re.compile(r"(?P<day>\d{4}\.\d\d\.\d\d)(?:\.(?P<count>\d+))?")
UNLISTED = ("manifest.json", "provenance.json", "drift.json", "drift.html")
"""Files that the manifest does not list: itself, and what depends on the run and the versions
before it."""


def default_home() -> Path:
    """`PREFACTORY_HOME`, or `.prefactory` in the working folder."""
    return Path(os.environ.get("PREFACTORY_HOME") or ".prefactory")


@dataclass(frozen=True)
class Version:
    """One published version: the one reader of its folder.

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

    def cost(self) -> dict[str, float | int | bool] | None:
        """What the run that published it used: `seconds`, `calls`, `reused`, `tokens`, `usd`.

        `reused` answers came from the journal and cost nothing then; `priced` says whether every
        model has a price. None where the version does not say (it was published before 0.1).
        """
        told = self.told("provenance.json")
        if "models" in told:  # by model alone, until 2026-11-30
            models = list(told["models"].values())
        elif "paid" in told:
            models = told["paid"]
        else:
            return None
        return {
            "seconds": round(sum(stage["seconds"] for stage in told["stages"]), 3),
            "calls": sum(m["calls"] for m in models),
            "reused": sum(m["reused"] for m in models),
            "tokens": sum(m["prompt_tokens"] + m["completion_tokens"] for m in models),
            "usd": sum(m["usd"] for m in models),
            "priced": all(m["priced"] for m in models),
        }

    def told(self, name: str) -> dict[str, Any]:
        """What a JSON file beside the tables says, such as `provenance.json`; {} without it.

        Raises:
            CatalogError: it is damaged.
        """
        path = self.path / name
        if not path.is_file():
            return {}
        try:
            if name in UNLISTED:
                return unseal(path.read_bytes(), None)
            self._check(name)
            found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise CatalogError(
                f"{path} is damaged ({error}): put a copy in its place, or remove it"
            ) from error
        return found

    def _check(self, *names: str) -> None:
        """Whether files are as they were published; each is read once by a process.

        Raises:
            CatalogError: one is not.
        """
        for name in names:
            if problem := problem_at_first(self.path / name, self.manifest.files.get(name)):
                raise CatalogError(
                    f"{self.path / name} is damaged ({problem}); `prefactory catalog verify "
                    f"{self.ref}` says what else is, and its recipe publishes the same content "
                    "again as a new version"
                )

    def table(self, name: str) -> Table:
        """A table by its name.

        Raises:
            CatalogError: there is none; with those that there are. Or a file of it is damaged.
        """
        record = self.manifest.tables.get(name)
        if record is None:
            have = ", ".join(self.manifest.tables)
            raise CatalogError(f"{self.ref} has no table {name!r}; it has: {have}")
        self._check(*(file for file in self.manifest.files if file.startswith(f"{name}/")))
        return Table(self.path / name, Shape(record.shape))

    def batches(
        self, table: str, split: str, columns: list[str] | None = None
    ) -> Iterator[pl.DataFrame]:
        """Yield a table's rows of a split, a piece at a time (see `Table.batches`)."""
        return self.table(table).batches(columns, split)

    def pairs(self, split: str = "train", table: str = "pairs") -> Dataset:
        """The pairs of a split as a `datasets.Dataset`, memory-mapped.

        Args:
            split: `train` or `test`.
            table: another table of pairs, such as `goal_pairs`.

        Raises:
            CatalogError: there is no such table or split.
        """
        return self.table(table).rows(split)

    def responses(self, split: str = "train") -> Dataset:
        """The answers of a split as a `datasets.Dataset`, memory-mapped."""
        return self.table("responses").rows(split)

    def frame(self, table: str = "pairs", split: str | None = None) -> pl.LazyFrame:
        """A table as a Polars LazyFrame; of all splits with a column `split`."""
        return self.table(table).frame(split)

    def ledger(self) -> pl.DataFrame:
        """`row_id`, `step`, `reason` and `detail` of every row that a step dropped or failed."""
        self._check("ledger.parquet")
        return pl.read_parquet(self.path / "ledger.parquet")

    @property
    def report(self) -> Report:
        """The report page: a path, and in a notebook the page itself."""
        return Report(self.path / "report.html")

    def licenses(self) -> list[str]:
        """Licences of the version and its sources, sorted, each once."""
        stated = [self.manifest.license, *(s.get("license") for s in self.manifest.sources)]
        return sorted({str(licence) for licence in stated if licence})

    def explain(self, row: str, store: Path | None = None) -> Explanation:
        """What every stage did with a row, and why.

        Args:
            row: its id or the beginning of it (8 digits or more), `file:line` of a source, or a
                piece of its text.
            store: folder of the store of the run; by default `store` in the home of the catalog.

        Raises:
            DataError: there is no such row.
        """
        store = store or self.path.resolve().parents[2] / "store"
        tables = {name: self.table(name) for name in self.manifest.tables}
        return explain(self.ref, self.manifest.stages, tables, self.ledger(), store, row)

    def _repr_html_(self) -> str:
        rows = [
            (name, record.shape, *(f"{s} {n:,}" for s, n in record.splits.items()))
            for name, record in self.manifest.tables.items()
        ]
        dropped = [
            (s.label, s.rows_in, s.rows_out, ", ".join(f"{r} {n:,}" for r, n in s.reasons.items()))
            for s in self.manifest.stages
        ]
        title = f"{self.ref}, digest {self.manifest.content_digest}"
        return notebook.table(title, ("table", "of", "", ""), rows) + notebook.table(
            "stages", ("stage", "in", "out", "dropped"), dropped
        )


@dataclass(frozen=True)
class Report:
    """The report page of a version: `os.fspath` gives its path, a notebook shows it."""

    path: Path

    def __fspath__(self) -> str:
        """The path of the page."""
        return str(self.path)

    def __str__(self) -> str:
        """The path of the page."""
        return str(self.path)

    def _repr_html_(self) -> str:
        return notebook.Page(self.path.read_text("utf-8"))._repr_html_()


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest of a version folder.

    Raises:
        CatalogError: if there is none, or it is not a JSON object.
    """
    try:
        data = json.loads((path / "manifest.json").read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CatalogError(f"{path} is no dataset version: it has no manifest.json") from error
    except RecursionError as error:
        raise _damaged(path, "it is nested too deep") from error
    except (ValueError, OSError) as error:
        raise _damaged(path, error) from error
    if not isinstance(data, dict):
        raise _damaged(path, "it is not a JSON object")
    return data


def manifest_of(told: bytes | dict[str, Any]) -> Manifest:
    """The manifest that JSON tells, as it stands or parsed.

    Raises:
        ValueError: it is none; the text names one field and what is wrong with it.
    """
    try:
        return Manifest.model_validate(json.loads(told) if isinstance(told, bytes) else told)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise ValueError(f"{place}: {first['msg']}") from error


def open_folder(path: Path) -> Version:
    """Open a version folder.

    Raises:
        CatalogError: if it is not one, or its manifest can't be read.
    """
    try:
        manifest = manifest_of(read_manifest(path))
    except ValueError as error:
        raise _damaged(path, error) from error
    if manifest.digest not in ("", manifest_digest(manifest)):
        raise _damaged(path, "it is not as it was published")
    return Version(path, manifest)


def _damaged(path: Path, why: object) -> CatalogError:
    return CatalogError(
        f"the manifest of {path} is damaged: {why}. Remove the folder, or put a copy in its place: "
        "its recipe publishes the same content again"
    )


class Catalog:
    """All versions in a home: `catalog["name"]`, `catalog["name@version"]`, `list(catalog)`.

    Attributes:
        root: folder of the versions.
        bucket_url: where they are for all machines, if the folder has only copies.
    """

    bucket_url: str | None = None

    def __init__(self, home: str | Path | None = None, *, root: str | Path | None = None) -> None:
        """Look into a home (by default `PREFACTORY_HOME` or `.prefactory`), or into a root."""
        self.root = Path(root) if root is not None else Path(home or default_home()) / "versions"

    def __iter__(self) -> Iterator[Version]:
        """All versions of all datasets, by name, oldest first."""
        return (version for name in self.names() for version in self.versions(name))

    def __getitem__(self, ref: str) -> Version:
        """As `get`."""
        return self.get(ref)

    def _repr_html_(self) -> str:
        rows = [
            (v.ref, sum(sum(t.splits.values()) for t in v.manifest.tables.values()),
             ", ".join(v.manifest.tables), v.manifest.content_digest)
            for v in self
        ]  # fmt: skip
        return notebook.table(str(self.root), ("version", "rows", "tables", "digest"), rows)

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
        versions = []
        for path in sorted(paths, key=lambda p: version_key(p.name)):
            try:
                versions.append(open_folder(path))
            except CatalogError as error:  # one damaged version must not hide the others
                _LOG.warning("skipped: %s", error)
        return versions

    def get(self, ref: str) -> Version:
        """Open `name`, `name@version`, or a version folder by its path.

        Raises:
            CatalogError: if there is no such version; with what there is.

        A bare name is the newest version, or the one that a rollback chose; after `@` may stand a
        tag as well.
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
            if damaged := self.numbers(name):
                listed = ", ".join(f"{name}@{number}" for number in damaged)
                raise CatalogError(
                    f"no version of {name} can be read, of {listed}: `prefactory catalog verify "
                    f"{listed.split(', ')[0]}` says why; the next run publishes a new one"
                )
            listed = f"; there are: {', '.join(known)}" if known else "; the catalog is empty"
            raise CatalogError(
                f"no dataset {name!r} in {self.root}{nearest(name, known) or listed}"
            )
        kept = self.kept(name)
        newest = versions[-1].manifest.version
        if not wanted:
            wanted = kept.head if kept.head is not None and kept.over == newest else newest
        wanted = kept.tags.get(wanted, wanted)
        for version in versions:
            if version.manifest.version == wanted:
                return version
        have = ", ".join([*(v.manifest.version for v in versions), *kept.tags])
        raise CatalogError(f"{name} has no version {wanted!r}; it has: {have}")

    def newest(self, name: str) -> str:
        """Number of the newest version of a dataset.

        Raises:
            CatalogError: it has none.
        """
        if not (versions := self.versions(name)):
            raise CatalogError(f"no dataset {name!r} in {self.root}")
        return versions[-1].manifest.version

    def tags(self, version: Version) -> list[str]:
        """Names of a version, sorted; `head` is one since a rollback."""
        kept = self.kept(version.manifest.name)
        own = version.manifest.version
        return sorted([t for t, n in kept.tags.items() if n == own] + ["head"] * (kept.head == own))

    def kept(self, name: str) -> state.State:
        """Tags, head and used numbers of a dataset.

        Raises:
            CatalogError: they are damaged.
        """
        return state.read(self.root / name)

    def keep(self, name: str, changed: Callable[[state.State], state.State]) -> state.State:
        """Change what `kept` gives, alone; return the new one.

        Raises:
            StoreError: it can't be written.
        """
        return state.change(self.root, name, changed)

    @contextmanager
    def publishing(self, name: str, digest: str, number: str | None) -> Iterator[None]:
        """Publish a version of a dataset alone: two runs make one version.

        Args:
            name: of the dataset.
            digest: of the content; versions with it, and the newest one, are here in the block.
            number: that the recipe asks for.
        """
        with locked(self.root / f".{name}.lock"):
            yield

    def tell(self, home: str, where: str, needs: Mapping[str, Sequence[str]]) -> None:
        """Say to others what a home needs of the versions; one machine needs nothing."""

    def commit(self, version: Version) -> None:
        """Make a version that is whole, in a folder, known to all; one machine needs nothing."""

    def numbers(self, name: str) -> list[str]:
        """Numbers of all versions, damaged ones too, oldest first."""
        folder = self.root / name
        if not NAME.fullmatch(name) or not folder.is_dir():
            return []
        numbers = [p.name for p in folder.iterdir() if p.is_dir() and NAME.fullmatch(p.name)]
        return sorted(numbers, key=version_key)

    def next_version(self, name: str) -> str:
        """Today's UTC date, with a counter if the date is taken. It never goes back.

        Versions that are damaged or were removed count as taken, and where the newest is of a later
        day (a clock was wrong), its day is counted on.
        """
        today = datetime.now(UTC).strftime("%Y.%m.%d")
        taken = [*self.numbers(name), *self.kept(name).removed]
        dated = [match for match in map(_DATED.fullmatch, taken) if match]
        days = [(match["day"], int(match["count"] or 0)) for match in dated]
        day, count = max(days, default=("", 0))
        if day < today:
            return today
        return f"{day}.{count + 1}"


def version_key(version: str) -> list[tuple[int, int | str]]:
    """Sort key that orders numbers inside versions as numbers."""
    return [
        (0, int(part)) if part.isdigit() else (1, part)
        for part in re.split(r"[.\-_]", version)
        if part
    ]


def canonical_rows(table: pl.DataFrame) -> memoryview:
    """The canonical JSON of each row, columns by name, one a line, in UTF-8."""
    if not table.height:
        return memoryview(b"")
    table = table.with_columns(
        pl.Series(name, names(table[name], name_of), dtype=pl.List(pl.String))
        if is_pictures(dtype)  # JSON has no bytes
        else digests(pl.Series(name, [repr(v) for v in table[name].to_list()]))
        for name, dtype in table.schema.items()
        if "Binary" in str(dtype)
    )
    row = pl.struct(sorted(table.columns)).struct.json_encode()
    lines = table.select(pl.concat_str(row, pl.lit("\n"))).to_series()
    return utf8(lines)[0].data


class ContentDigest:
    """Digest of a table's rows in canonical order, whatever pieces they arrive in."""

    def __init__(self) -> None:
        """Start with no rows."""
        self._hash = hashlib.blake2b(digest_size=16)

    def update(self, table: pl.DataFrame) -> None:
        """Add rows."""
        self.add(canonical_rows(table))

    def add(self, rows: memoryview) -> None:
        """Add the `canonical_rows` of a table."""
        self._hash.update(rows)

    def hexdigest(self) -> str:
        """The digest so far."""
        return self._hash.hexdigest()


def verify(version: Version) -> list[str]:
    """Check a version's files, content digests and counts; return what is wrong (nothing: [])."""
    problems = manifest_problems(version) + file_problems(version) + unlisted_problems(version)
    if problems:
        return problems
    for name, record in version.manifest.tables.items():
        digests = {}
        for split, rows in record.splits.items():
            digest, height = ContentDigest(), 0
            for batch in version.batches(name, split):
                digest.update(batch)
                height += batch.height
            digests[split] = digest.hexdigest()
            if height != rows:
                problems.append(f"{name}/{split}: {height} rows, the manifest says {rows}")
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


def manifest_problems(version: Version) -> list[str]:
    """What is wrong with a version's manifest, by its own digests (nothing: [])."""
    manifest = version.manifest
    text = (version.path / "manifest.json").read_text("utf-8")
    checks = {
        "its layout is not as it was written": (
            text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"
        ),
        "it was changed after publishing": manifest.digest == manifest_digest(manifest),
        "content_digest is not that of the tables": (
            manifest.content_digest == content_digest(manifest.tables)
        ),
        "recipe_fingerprint is not that of the payload": (
            manifest.recipe_fingerprint == fingerprint(manifest.payload)
        ),
    }
    return [f"manifest.json: {problem}" for problem, holds in checks.items() if not holds]


def unlisted_problems(version: Version) -> list[str]:
    """What is wrong with the files that a manifest does not list, by their own digests."""
    problems, page = [], version.path / "drift.html"
    for name in ("provenance.json", "drift.json"):
        try:
            told = version.told(name)
        except CatalogError:
            problems.append(f"{name}: it is not as it was written")
            continue
        if "page" in told and (not page.is_file() or file_digest(page) != told["page"]):
            problems.append(f"{page.name}: it is not as it was written")
    return problems


def file_problems(version: Version) -> list[str]:
    """What is wrong with a version's files, by their sizes and checksums (nothing: [])."""
    listed = version.manifest.files
    inside = [version.path, *version.path.rglob("*")]
    problems = [
        f"{p.relative_to(version.path).as_posix()}: it is a link" for p in inside if p.is_symlink()
    ]
    for name in listed:
        if problem := problem_of(version.path / name, listed[name]):
            problems.append(f"{name}: {problem}")
    here = {p.relative_to(version.path).as_posix() for p in version.path.rglob("*") if p.is_file()}
    problems += [f"{n}: not in the manifest" for n in sorted(here - {*listed, *UNLISTED})]
    return problems
