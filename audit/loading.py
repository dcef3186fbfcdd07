"""Open what is to be audited: a file, folder, glob, URL, hub id, or a version of the catalog."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from catalog.sources.frames import as_frame, save_frame
from catalog.sources.resolve import format_of
from catalog.sources.spec import LEDGER, SourceSpec
from catalog.versions import Catalog, Version, open_folder
from prefactory.context import Context
from prefactory.errors import DataError
from prefactory.images.marks import Held, bind
from prefactory.preferences.draws import count_draws
from prefactory.recipe import NAME
from prefactory.tables import ROW_ID, Shape, same_messages, shape_of

if TYPE_CHECKING:
    from catalog.sources import OpenSource

SPLIT_NAME = re.compile(r"(?:^|[-_./])(train|test|validation|valid|val|dev|eval)(?=[-_./]|$)", re.I)
_TABLES = ("pairs", "responses", "prompts")
HELD_BYTES = 256 * 1024 * 1024
"""Bytes of pictures that an audit holds to show some; of more it knows the names only."""


@dataclass(frozen=True)
class Intake:
    """Where rows came from, and what the reader left out or had to repair.

    Attributes:
        name: of the dataset.
        kind: `table` (in memory), `source` (files or hub) or `version` (of the catalog).
        layout: how a source was read.
        records: records that were read, rows or not; None if unknown.
        rejected: `row_id` (file and line), `reason`, `detail` of records that became no row.
        notes: the same columns, of rows that were kept but are odd.
        license: licence of the rows, None if none is stated.
        sources: facts about each source of a version (name, licence, ...).
        columns: what became of the columns of each source, by its name (`Account.to_dict`).
        digest: content digest of a version.
        total: rows of the whole dataset; None if it is not known.
        pictures: of the rows, as many as are held; their names stand in the marks of the prompts.
    """

    name: str = "table"
    kind: str = "table"
    layout: str | None = None
    records: int | None = None
    rejected: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=LEDGER), repr=False)
    notes: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=LEDGER), repr=False)
    license: str | None = None
    sources: tuple[dict[str, Any], ...] = ()
    columns: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    digest: str | None = None
    total: int | None = None
    pictures: Held = field(default_factory=Held, repr=False, compare=False)

    def named(self, *reasons: str) -> pl.DataFrame:
        """The same records as rows of a finding: `row_id` and `note`."""
        note = pl.format("left out by the reader, {}: {}", "reason", pl.col("detail").fill_null(""))
        return self.refused(*reasons).select("row_id", note=note).sort("row_id")

    def refused(self, *reasons: str) -> pl.DataFrame:
        """Records that the reader left out for one of some reasons."""
        return self.rejected.filter(pl.col("reason").is_in(list(reasons)))


@dataclass(frozen=True)
class Loaded:
    """A dataset in memory: the rows, and their intake."""

    table: pl.DataFrame
    intake: Intake


def load(
    dataset: object,
    catalog: Catalog,
    rows: int | None = None,
    seed: int = 0,
    table: str | None = None,
    **fields: Any,  # noqa: ANN401 - the other fields of a SourceSpec
) -> Loaded:
    """Read a dataset.

    Args:
        dataset: a path, glob, URL or hub id, `NAME[@VERSION]` or the folder of a version; or a
            version, a Polars or pandas frame, or a `datasets.Dataset`.
        catalog: where versions lie.
        rows: draw about so many rows; rows of a prompt stay together.
        seed: of that draw.
        table: table of a version (`pairs`, `responses`, `goal_pairs`, ...); by default the first of
            pairs, responses and prompts that it has.
        fields: `layout`, `mapping`, `split`, ... of a source.

    Raises:
        DataError: nothing is there, or it can't be read.
        CatalogError: the catalog has no such version.
    """
    sampler = _Sampler(rows, seed)
    frame = as_frame(dataset)
    if frame is not None:
        with tempfile.TemporaryDirectory(prefix="prefactory-") as folder:
            return _load_source(str(save_frame(frame, Path(folder))), sampler, fields)
    version = dataset if isinstance(dataset, Version) else version_of(str(dataset), catalog)
    if version is not None:
        return _load_version(version, table, sampler)
    if table is not None:
        raise DataError(f"--table {table}: {dataset!r} is no version of the catalog")
    return _load_source(str(dataset), sampler, fields)


def version_of(dataset: str, catalog: Catalog) -> Version | None:
    """The version that a word names, or None if it names files, an URL or a hub dataset."""
    path = Path(dataset).expanduser()
    if (path / "manifest.json").is_file():
        return open_folder(path)
    name, _, version = dataset.partition("@")
    named = NAME.fullmatch(name) and (not version or NAME.fullmatch(version))
    if path.exists() or not named or format_of(dataset) is not None:
        return None
    return catalog.get(dataset)


def _load_version(version: Version, table: str | None, sampler: _Sampler) -> Loaded:
    tables = version.manifest.tables
    name = table or next((t for t in _TABLES if t in tables), next(iter(tables), ""))
    if name not in tables:
        raise DataError(f"{version.ref} has no table {name!r}; it has: {', '.join(tables)}")
    for split in tables[name].splits:
        for batch in version.batches(name, split):
            sampler.add(batch.with_columns(split=pl.lit(split)))
    manifest = version.manifest
    intake = Intake(
        name=version.ref if name == "pairs" else f"{version.ref} {name}",
        kind="version",
        layout=tables[name].shape,
        records=None,
        license=manifest.license,
        sources=tuple(manifest.sources),
        columns={s["name"]: s["columns"] for s in manifest.sources if "columns" in s},
        digest=manifest.content_digest,
        total=sampler.total,
        pictures=sampler.pictures,
    )
    return Loaded(sampler.table(version.ref), intake)


def _load_source(dataset: str, sampler: _Sampler, fields: dict[str, Any]) -> Loaded:
    from catalog.sources import open_source, reading

    opened = open_source(SourceSpec(path=dataset, **fields), Path.cwd())
    return reading(opened, lambda source: _read(source, dataset, sampler, fields))


def _read(opened: OpenSource, dataset: str, sampler: _Sampler, fields: dict[str, Any]) -> Loaded:
    sampler.clear()
    late: dict[str, str] = {}
    splits = _splits([file.name for file in opened.files])
    rejected, notes, records = [pl.DataFrame(schema=LEDGER)], [pl.DataFrame(schema=LEDGER)], 0
    for file in opened.files:
        for block in opened.read(file):
            rows = block.rows
            if splits and "split" not in rows.columns:
                rows = rows.with_columns(split=pl.lit(splits[file.name]))
            sampler.add(rows)
            records += block.n_records
            rejected.append(block.rejected)
            notes.append(block.notes)
            late = {**block.late, **late}
    if not sampler.total:
        raise DataError(f"{dataset!r} holds no row to audit: {_reasons(rejected)}")
    intake = Intake(
        name=opened.name,
        kind="source",
        layout=opened.layout,
        records=records,
        rejected=pl.concat(rejected),
        notes=pl.concat(notes),
        license=fields.get("license") or _card_license(dataset, opened),
        columns={opened.name: opened.account.with_late(late).to_dict()},
        total=sampler.total,
        pictures=sampler.pictures,
    )
    table = sampler.table(dataset)
    if shape_of(table) == Shape.PAIRS:
        table, counted = count_draws(table)
        intake = replace(intake, rejected=pl.concat([intake.rejected, counted]))
    return Loaded(table, intake)


def _reasons(rejected: list[pl.DataFrame]) -> str:
    counts = pl.concat(rejected)["reason"].value_counts(sort=True)
    return ", ".join(f"{reason} {n:,}" for reason, n in counts.iter_rows()) or "it is empty"


def _splits(names: list[str]) -> dict[str, str]:
    """Split of each file by its name; nothing unless there are two and every file has one."""
    matches = {name: SPLIT_NAME.findall(name) for name in names}
    if not all(matches.values()):
        return {}
    named = {name: words[-1].lower() for name, words in matches.items()}
    return named if len(set(named.values())) > 1 else {}


def _card_license(dataset: str, opened: OpenSource) -> str | None:
    """Licence in the front matter of the README.md beside the data (a Hugging Face card)."""
    import fsspec

    from prefactory import yamllines

    if opened.commit is not None:
        url = f"hf://datasets/{opened.files[0].url}@{opened.commit}/README.md"
    elif Path(dataset).is_dir():
        url = str(Path(dataset) / "README.md")
    else:
        return None
    try:
        with fsspec.open(url, "rt", encoding="utf-8") as file:
            text = file.read(100_000)
        front = yamllines.load(text.split("---")[1], url)[0] if text.startswith("---") else {}
        stated = front.get("license")
    except Exception:  # no card, no network, no YAML: then no licence is stated
        return None
    words = stated if isinstance(stated, list) else [stated]
    return ", ".join(word for word in words if isinstance(word, str)) or None


class _Sampler:
    """Collects rows; keeps about `rows` of them, drawn by prompt."""

    def __init__(self, rows: int | None, seed: int) -> None:
        self._rows = rows
        self._draws = Context(seed, "audit")
        self.pictures = Held(HELD_BYTES)
        self.clear()

    def clear(self) -> None:
        """Forget all rows."""
        self._parts: list[pl.DataFrame] = []
        self._held = 0
        self._seen = 0

    def add(self, rows: pl.DataFrame) -> None:
        self._seen += rows.height
        rows = bind(rows, self.pictures)
        if self._rows is not None:
            rows = rows.with_columns(_draw=self._draws.uniform(rows["prompt_id"], "rows"))
        self._parts.append(rows)
        self._held += rows.height
        if self._rows is not None and self._held > 4 * self._rows + 50_000:
            self._parts = [self._first_drawn()]
            self._held = self._parts[0].height

    @property
    def total(self) -> int | None:
        """Rows seen, kept or not."""
        return self._seen

    def table(self, name: str) -> pl.DataFrame:
        """The rows that were kept."""
        if not self._parts:
            raise DataError(f"{name} holds no row to audit")
        return self._first_drawn().drop("_draw", strict=False)

    def _first_drawn(self) -> pl.DataFrame:
        table = same_messages(pl.concat(self._parts, how="diagonal_relaxed"))
        if self._rows is None or table.height <= self._rows:
            return table
        keys = ["_draw", "prompt_id", ROW_ID[shape_of(table)], "source_id"]
        return table.sort(list(dict.fromkeys(keys)), nulls_last=True).head(self._rows)
