"""Reviews made from the rows of versions and files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from audit.loading import load, version_of
from catalog.versions import Version, default_home
from pipelines.needs import tell
from pipelines.settings import Settings as HomeSettings
from review.settings import Settings, name_of
from review.store import Review, create

SPLITTING = ("test_fraction", "near_duplicates")


def make(
    dataset: str,
    settings: Settings,
    *,
    home: Path | None = None,
    name: str | None = None,
    table: str | None = None,
    url: str | None = None,
    **fields: Any,  # noqa: ANN401 - of a SourceSpec
) -> Review:
    """Make a review of a dataset, or open it if it is there with the same settings.

    Args:
        dataset: file, folder, glob, URL or hub id; `NAME[@VERSION]` or the folder of a version.
        settings: what is asked.
        home: of the factory; `PREFACTORY_HOME` or `.prefactory` if None.
        name: of the review, by default that of the dataset.
        table: of a version; by default pairs, or responses where the task is about answers.
        url: of a PostgreSQL server.
        fields: `layout`, `mapping`, ... as under `source` of a recipe.

    Raises:
        PrefactoryError: the rows can't be read, or do not go with the settings.
    """
    home = home or default_home()
    factory = HomeSettings(home)
    catalog = factory.catalog
    version = version_of(dataset, catalog)
    if version is not None:
        tell(factory, version.ref, f"review {name or name_of(dataset)}")
    if version is not None and table is None:
        wanted = "responses" if settings.task in ("rate", "rank", "steps") else "pairs"
        table = wanted if wanted in version.manifest.tables else None
    loaded = load(version or dataset, catalog, table=table, **fields)
    source = _source(dataset, version, table, fields)
    return create(
        home,
        name or name_of(dataset),
        loaded.table,
        settings,
        source,
        pictures=loaded.intake.pictures,
        url=url,
    )


def _source(
    dataset: str, version: Version | None, table: str | None, fields: Mapping[str, Any]
) -> dict[str, Any]:
    """How to read the rows again: a recipe's source and head, and the name of the dataset."""
    if version is None:
        path = Path(dataset).expanduser()
        where = str(path.absolute()) if path.exists() else dataset
        given = {k: v for k, v in fields.items() if v and (k, v) != ("layout", "auto")}
        return {"source": {"path": where, **given}, "name": name_of(dataset), "head": {}}
    payload = version.manifest.payload
    kept = {name: payload["publish"][name] for name in SPLITTING if name in payload["publish"]}
    name = table or next(iter(version.manifest.tables))
    return {
        "source": {"path": str((version.path / name).absolute()), "name": version.manifest.name},
        "name": version.manifest.name,
        "head": {
            "seed": payload["seed"],
            "publish": kept,
            "license": version.manifest.license,
        },
        "version": version.ref,
        "digest": version.manifest.content_digest,
    }
