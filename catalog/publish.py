"""Publishing a run: all or nothing, immutable, and nothing at all if it is already there."""

from __future__ import annotations

import errno
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from catalog.arrow_folder import SplitWriter, to_arrow, write_dict
from catalog.card import card
from catalog.croissant import croissant
from catalog.history.diff import recipe_changes
from catalog.history.drift import drift, parent_of
from catalog.manifest import Manifest, StageRecord, TableRecord, software
from catalog.report.drift import page as drift_page
from catalog.splits import SPLITS, Grouped, Linked, group_prompts, test_prompts
from catalog.versions import (
    Catalog,
    ContentDigest,
    Version,
    canonical_rows,
    content_digest,
    file_problems,
    manifest_digest,
    open_folder,
    table_digest,
)
from prefactory import ledger
from prefactory.ahead import in_order
from prefactory.errors import CatalogError, DataError
from prefactory.folders import settle, sweep, sync, temporary_folder
from prefactory.identity import fingerprint
from prefactory.images.marks import unbind
from prefactory.measures import judge_watch
from prefactory.recipe import Recipe
from prefactory.shards import Shard, View, load_prompts
from prefactory.sharing.sealed import seal
from prefactory.stages import RunResult, Stage
from prefactory.store import file_digest
from prefactory.tables import Shape, check

_LOG = logging.getLogger(__name__)
GROUP_ROWS = 65_536
PIECE_ROWS, PICTURED_ROWS = 4096, 256
"""Rows of a piece of which some are in memory at a time; of one with pictures."""
ORDER = [s.value for s in (Shape.PROMPTS, Shape.RESPONSES, Shape.PAIRS)]


@dataclass(frozen=True)
class Published:
    """What publishing did.

    Attributes:
        version: the version that now holds the content.
        new: False if it was there before.
    """

    version: Version
    new: bool


def publish(
    result: RunResult,
    catalog: Catalog,
    report: Callable[[Path], str] | None = None,
    used: Sequence[Mapping[str, Any]] = (),
    seconds: dict[str, float] | None = None,
    beside: Callable[[], object] = lambda: None,
) -> Published:
    """Publish the tables of a run as a version.

    Args:
        result: a finished run.
        catalog: where to.
        report: makes `report.html` from the finished folder.
        used: what this run paid for, by step, role and model: calls, tokens and US dollars.
        seconds: what is known of the time that parts of publishing take, by name, once the report
            is made; `tables`, `documents` and `all` are added.
        beside: called once, when what is left is work for one core for a while.

    Raises:
        CatalogError: if the recipe's explicit version exists with other content or another recipe.
        DataError: if there is nothing to publish, or a judge did not judge and the recipe does not
            say `failed_judges`.
    """
    started, seconds = time.monotonic(), {} if seconds is None else seconds
    head = result.recipe.head
    if not head.publish.failed_judges and (failed := judge_watch.failed(result.stages)):
        raise DataError(
            "\n".join(failed)
            + f"\nso nothing is published; what was computed is kept. {judge_watch.HOW}"
        )
    payload = result.recipe.payload(result.source_identities)
    catalog.root.mkdir(parents=True, exist_ok=True)
    sweep(catalog.root)
    with temporary_folder(catalog.root, f".{head.name}") as folder:
        tables = _write_tables(result, folder, beside) | _write_annotations(result, folder)
        digest = content_digest(tables)
        seconds["tables"] = time.monotonic() - started
        with catalog.publishing(head.name, digest, head.version):
            existing = _existing(catalog, result, digest, payload)
            if existing is not None:
                catalog.commit(existing)
                return Published(existing, new=False)
            manifest = _manifest(result, catalog, payload, digest, tables)
            manifest.ledger["rows"] = _write_ledger(result, folder / "ledger.parquet")
            began = time.monotonic()
            _write_documents(result, manifest, folder, report)
            seconds["documents"] = time.monotonic() - began
            parent = _write_drift(catalog, manifest, folder)
            seconds["all"] = time.monotonic() - started
            told = _provenance(result, used, parent, seconds)
            (folder / "provenance.json").write_bytes(seal(told, indent=2))
            return Published(_move(folder, catalog, manifest), new=True)


def _write_tables(
    result: RunResult, folder: Path, beside: Callable[[], object]
) -> dict[str, TableRecord]:
    names = sorted(result.views, key=lambda n: (ORDER.index(n) if n in ORDER else len(ORDER), n))

    test = _test_prompts(result, beside)

    written = dict[str, TableRecord]()
    for name, pieces in groupby(_pieces(result, names, test), lambda piece: piece.table):
        written[name] = _write_table(pieces, result.views[name].shape, folder / name)
    empty = [name for name, record in written.items() if not sum(record.splits.values())]
    if empty or not written:
        raise DataError(
            f"no row reached the end of the recipe ({', '.join(empty)} would be empty), so "
            "nothing is published; the counts above say which step dropped them"
        )
    return written


def _test_prompts(result: RunResult, beside: Callable[[], object]) -> pl.Series:
    """Ids of the prompts in the test split; each prompt of all tables is grouped once.

    Args:
        result: of the run.
        beside: called when all are grouped.
    """
    head = result.recipe.head
    settings = head.publish
    if settings.test_fraction == 0:
        beside()
        return pl.Series("prompt_id", [], dtype=pl.String)
    jobs = {
        (shard.base, *(d.key for d in shard.deltas if d.kind == "drop")): (view, shard)
        for view in result.views.values()
        for shard in view.shards
    }

    def group(job: tuple[tuple[str, ...], tuple[View, Shard]]) -> Grouped:
        rows, (view, shard) = job
        prompts = load_prompts(result.store, shard, view.stored)
        return group_prompts(prompts, settings.near_duplicates, rows)

    def grouped() -> Iterator[Grouped]:
        yield from in_order(iter(jobs.items()), group, 2)
        beside()

    linked = Linked(result.store, result.make, result.fit_rows)
    return test_prompts(grouped(), settings.test_fraction, head.seed, linked)


class _Piece(NamedTuple):
    """Some rows of a table, ready to be written: of each split the Arrow rows and their text."""

    table: str
    splits: dict[str, tuple[pa.Table, memoryview]]
    columns: dict[str, str]
    nulls: int


def _piece(name: str, table: pl.DataFrame, held_out: pl.Series) -> _Piece:
    parts = {"train": table.filter(~held_out), "test": table.filter(held_out)}
    return _Piece(
        name,
        {split: (to_arrow(rows), canonical_rows(rows)) for split, rows in parts.items()},
        {name: str(dtype) for name, dtype in table.schema.items()},
        table["margin"].null_count() if "margin" in table.columns else 0,
    )


def _pieces(result: RunResult, names: Sequence[str], test: pl.Series) -> Iterator[_Piece]:
    """The tables of a run ready to be written, one after the other, some rows at a time."""
    pictures = result.store.images if result.images else None
    most = PIECE_ROWS if pictures is None else PICTURED_ROWS

    def parts() -> Iterator[tuple[str, pl.DataFrame, pl.Series]]:
        for name in names:
            view = result.views[name]
            what = f"the {view.shape.value} to publish"
            for table in view.tables():
                held_out = check(table, view.shape, what)["prompt_id"].is_in(test.implode())
                for first in range(0, max(table.height, 1), most):  # one without rows has columns
                    yield name, table.slice(first, most), held_out.slice(first, most)

    def piece(part: tuple[str, pl.DataFrame, pl.Series]) -> _Piece:
        name, rows, held_out = part
        return _piece(name, rows if pictures is None else unbind(rows, pictures), held_out)

    return in_order(parts(), piece, 3)


def _write_table(pieces: Iterator[_Piece], shape: Shape, target: Path) -> TableRecord:
    """Stream pieces of a view to its folder, split by prompt group."""
    writers: dict[str, SplitWriter] = {}
    digests = {split: ContentDigest() for split in SPLITS}
    nulls = {"margin": 0, "rows": 0}
    columns: dict[str, str] = {}
    for piece in pieces:
        nulls["margin"] += piece.nulls
        nulls["rows"] += sum(rows.num_rows for rows, _ in piece.splits.values())
        columns = piece.columns
        for split, (rows, text) in piece.splits.items():
            if split not in writers:
                writers[split] = SplitWriter(target / split, split, rows.schema)
            writers[split].write(rows)
            digests[split].add(text)
    if 0 < nulls["margin"] < nulls["rows"]:
        raise DataError("'margin' is null on some pairs; it must be set on all rows or on none")
    infos = {split: writers[split].close() for split in SPLITS}
    write_dict(target, list(SPLITS))
    return TableRecord(
        shape=shape.value,
        splits={s: i["num_examples"] for s, i in infos.items()},
        bytes={s: i["num_bytes"] for s, i in infos.items()},
        columns=columns,
        digest=table_digest({s: d.hexdigest() for s, d in digests.items()}),
    )


def _write_annotations(result: RunResult, folder: Path) -> dict[str, TableRecord]:
    """Write what people said of the rows, for the steps that act on it; one split holds it all."""
    tables: dict[str, TableRecord] = {}
    for placed in result.recipe.steps:
        for name, rows in placed.step.brings().items():
            target = folder / name
            if target.exists():
                raise DataError(f"{placed.label}: the version has a table {name!r} already")
            split = SPLITS[0]
            writer = SplitWriter(target / split, split, to_arrow(rows.head(0)).schema)
            writer.write(rows)
            info, digest = writer.close(), ContentDigest()
            digest.update(rows)
            write_dict(target, [split])
            tables[name] = TableRecord(
                shape=Shape.ANNOTATIONS.value,
                splits={split: info["num_examples"]},
                bytes={split: info["num_bytes"]},
                columns={column: str(dtype) for column, dtype in rows.schema.items()},
                digest=table_digest({split: digest.hexdigest()}),
            )
    return tables


def _existing(
    catalog: Catalog, result: RunResult, digest: str, payload: dict[str, Any]
) -> Version | None:
    """The version that already holds this content, if publishing would repeat it.

    One whose files are damaged holds it no more.
    """
    head = result.recipe.head
    if head.version is not None:
        asked_for = check_number(catalog, result.recipe, result.source_identities)
        if asked_for is not None and asked_for.manifest.content_digest != digest:
            raise CatalogError(_refusal(asked_for, digest, payload))
        return asked_for
    for version in catalog.versions(head.name):
        if version.manifest.content_digest != digest:
            continue
        if not (problems := file_problems(version)):
            return version
        _LOG.warning(
            "%s is damaged (%s), so the same content is published again as a new version",
            version.ref,
            "; ".join(problems[:3]),
        )
    return None


def check_number(
    catalog: Catalog, recipe: Recipe, source_identities: list[dict[str, Any]]
) -> Version | None:
    """The version that a recipe names by its number, if it is there; to be asked before any work.

    Args:
        catalog: where to look.
        recipe: whose `version`; None of a recipe that names none.
        source_identities: of its sources, as they are now.

    Raises:
        CatalogError: the number can't be published: it was removed, its version is damaged, or
            another recipe or other sources made it.
    """
    name, number = recipe.head.name, recipe.head.version
    if number is None:
        return None
    if number in catalog.kept(name).removed:
        raise CatalogError(
            f"{name}@{number} was removed, and a number is not used again: name another `version`, "
            "or none"
        )
    if (catalog.root / name / number / "manifest.json").is_file():
        version = open_folder(catalog.root / name / number)
    elif catalog.bucket_url is not None and number in catalog.numbers(name):
        version = catalog.get(f"{name}@{number}")
    else:
        return None
    payload = recipe.payload(source_identities)
    if version.manifest.recipe_fingerprint != fingerprint(payload):
        raise CatalogError(_refusal(version, version.manifest.content_digest, payload))
    return version


def _refusal(version: Version, digest: str, payload: dict[str, Any]) -> str:
    changed = recipe_changes(version.manifest.payload, json.loads(json.dumps(payload)))
    if changed:
        return (
            f"{version.ref} exists and was made by another recipe or of other files. What changed: "
            + "; ".join(changed[:8])
            + ". Published versions are immutable: give the recipe a new `version`"
        )
    return (
        f"{version.ref} exists with other content ({version.manifest.content_digest}, now "
        f"{digest}) from the same recipe; another version of the code or of a model made it. "
        "Give the recipe a new `version`"
    )


def _manifest(
    result: RunResult,
    catalog: Catalog,
    payload: dict[str, Any],
    digest: str,
    tables: dict[str, TableRecord],
) -> Manifest:
    head = result.recipe.head
    licences = {getattr(s, "license", None) for s in result.recipe.sources}
    licence = head.license or (licences.pop() if len(licences) == 1 else None)
    sources = [
        {**identity, "license": getattr(spec, "license", None), **counts}
        for identity, spec, counts in zip(
            result.source_identities, result.recipe.sources, result.source_counts, strict=True
        )
    ]
    return Manifest(
        name=head.name,
        version=head.version or catalog.next_version(head.name),
        description=head.description,
        license=licence,
        seed=head.seed,
        content_digest=digest,
        recipe_fingerprint=fingerprint(payload),
        payload=payload,
        sources=sources,
        stages=[_stage(s) for s in result.stages],
        tables=tables,
        ledger={"rows": 0},
        models=_models(result.stages),
        software=software(),
    )


def _stage(stage: Stage) -> StageRecord:
    return StageRecord(
        label=stage.label,
        kind=stage.kind,
        shape=stage.shape.value,
        rows_in=stage.rows_in,
        rows_out=stage.rows_out,
        reasons=stage.reasons,
        notes=stage.notes,
        adds=list(stage.adds),
        fields=stage.fields,
        info=stage.info,
        usage=stage.usage,
    )


def _models(stages: list[Stage]) -> list[dict[str, Any]]:
    """The models that the steps opened, each once, with the fields of steps that hold it."""
    models: dict[str, dict[str, Any]] = {}
    for stage in stages:
        for model, role in zip(stage.models, stage.roles, strict=True):
            roles = models.setdefault(fingerprint(model), {"roles": {}, **model})["roles"]
            roles.setdefault(stage.label, []).append(role)
    return [models[key] for key in sorted(models)]


def _write_ledger(result: RunResult, path: Path) -> int:
    """Stream all ledger parts, in the order of the stages, to one parquet file.

    Row groups have a fixed size, so that shards do not change the bytes of the file.
    """
    schema = pa.schema([(name, pa.string()) for name in ledger.SCHEMA])
    rows, waiting = 0, pl.DataFrame(schema=ledger.SCHEMA)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for stage in result.stages:
            for key, table in stage.ledgers:
                waiting = pl.concat([waiting, result.store.read(key, table)])
                while waiting.height >= GROUP_ROWS:
                    writer.write_table(to_plain(waiting.head(GROUP_ROWS), schema))
                    rows, waiting = rows + GROUP_ROWS, waiting.slice(GROUP_ROWS)
        if waiting.height:
            writer.write_table(to_plain(waiting, schema))
    return rows + waiting.height


def to_plain(table: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    """An Arrow table of plain types in one chunk."""
    return table.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema)


def _write_documents(
    result: RunResult,
    manifest: Manifest,
    folder: Path,
    report: Callable[[Path], str] | None,
) -> None:
    _write_manifest(manifest, folder)  # the report reads it, so it is written twice
    with ThreadPoolExecutor(1) as pool:
        page = None if report is None else pool.submit(report, folder)
        _list_files(manifest, folder, "*/**/*")  # Croissant names their checksums as well
        (folder / "recipe.yaml").write_text(result.recipe.to_yaml(), "utf-8")
        (folder / "README.md").write_text(card(manifest), "utf-8")
        _write_json(folder / "croissant.json", croissant(manifest, folder))
        if page is not None:
            (folder / "report.html").write_text(page.result(), "utf-8")
    _list_files(manifest, folder)
    manifest.digest = manifest_digest(manifest)
    _write_manifest(manifest, folder)


def _list_files(manifest: Manifest, folder: Path, which: str = "**/*") -> None:
    """Put the files of a folder that are not there yet into the manifest, by name."""
    paths = {p.relative_to(folder).as_posix(): p for p in folder.glob(which) if p.is_file()}
    new = sorted(paths.keys() - manifest.files.keys() - {"manifest.json"})

    def facts(name: str) -> dict[str, Any]:
        path = paths[name]
        sync(path)  # here, while the page is made: the last step waits for the disk otherwise
        return {"bytes": path.stat().st_size, "sha256": file_digest(path, "sha256")}

    with ThreadPoolExecutor(2) as pool:
        manifest.files |= zip(new, pool.map(facts, new), strict=True)
    manifest.files = dict(sorted(manifest.files.items()))


def _write_drift(catalog: Catalog, manifest: Manifest, folder: Path) -> str | None:
    """Compare a version with its parent, the newest before it; return that, if any."""
    parent = parent_of(manifest, catalog)
    if parent is None:
        return None
    try:
        found = drift(parent, Version(folder, manifest))
    except (CatalogError, OSError) as error:
        _LOG.warning("%s can't be compared with: %s", parent.ref, error)
        return parent.ref
    if found is not None:
        (page := folder / "drift.html").write_text(drift_page(found), "utf-8")
        told = {**found.to_dict(), "page": file_digest(page)}
        (folder / "drift.json").write_bytes(seal(told, indent=2))
        for line in found.lines():
            _LOG.info("%s", line)
    return parent.ref


def _provenance(
    result: RunResult,
    used: Sequence[Mapping[str, Any]],
    parent: str | None,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """What differs from run to run, and so stays out of the manifest."""
    return {
        "parent": parent,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "stages": [
            {"label": s.label, "seconds": round(s.seconds, 3), "made": s.made, "reused": s.reused}
            for s in result.stages
        ],
        "publishing": {name: round(took, 3) for name, took in seconds.items()},
        "paid": list(used),
        "objects": sorted(result.objects),
    }


def _write_manifest(manifest: Manifest, folder: Path) -> None:
    _write_json(folder / "manifest.json", manifest.model_dump(mode="json"))


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _move(folder: Path, catalog: Catalog, manifest: Manifest) -> Version:
    final = catalog.root / manifest.name / manifest.version
    catalog.commit(Version(folder, manifest))
    try:
        settle(folder, final)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        raise CatalogError(
            f"{final} appeared while this run was publishing ({error}); run again to compare"
        ) from error
    return open_folder(final)
