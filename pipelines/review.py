"""Reviews of versions and files: made from their rows, and published as a new version."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from audit.loading import load, version_of
from catalog.versions import Catalog, Version, default_home
from labelers import Annotations
from pipelines.api import Recipe
from prefactory.errors import DataError
from prefactory.folders import new_file
from review.annotations import annotations_of
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
    catalog = Catalog(home)
    version = version_of(dataset, catalog)
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


@dataclass(frozen=True)
class Reviewed:
    """What publishing a review did.

    Attributes:
        version: the version that holds the result.
        counts: what became of the rows that people saw.
    """

    version: Version
    counts: dict[str, int]

    def summary(self) -> str:
        """One line."""
        told = ", ".join(f"{what} {n:,}" for what, n in self.counts.items() if n)
        return f"{self.version.ref}: {told}"


def publish(
    review: Review,
    *,
    home: Path | None = None,
    name: str | None = None,
    pseudonyms: bool = True,
    **options: Any,  # noqa: ANN401 - fields of `labelers.Annotations`
) -> Reviewed:
    """Publish what people said: a new version of the rows with a table `annotations`.

    Args:
        review: which.
        home: of the factory.
        name: of the dataset, by default that of what was reviewed: then it is its next version.
        pseudonyms: name people by pseudonyms.
        options: `min_votes`, `on_tie`, `on_bad`, `on_undecided`, `on_flag`, `edits`.

    Raises:
        DataError: nobody has voted, or the task is not about pairs.
        PrefactoryError: the rows can't be read any more, or nothing is left of them.
    """
    votes = annotations_of(review, pseudonyms=pseudonyms)
    if not votes["counts"].any():
        raise DataError(f"nobody has voted in the review {review.name!r} yet")
    task = review.settings.task
    if task not in ("pair", "rationale"):
        raise DataError(
            f"the review {review.name!r} has the task {task!r}: its votes go to other tools by "
            "`prefactory review export`; only votes on pairs make a version"
        )
    about = review.meta("source")
    file = _kept(review, votes)
    what = f"Reviewed by people: {votes['person'].n_unique()} of them, {votes.height} votes"
    recipe = Recipe(
        name or about["name"],
        source=about["source"],
        steps=[Annotations(file=file, **options)],
        publish={"pays": False, **about["head"].get("publish", {})},
        description=f"{what}{', on ' + about['version'] if 'version' in about else ''}.",
        **{k: v for k, v in about["head"].items() if k != "publish" and v is not None},
    )
    version = recipe.run(home)
    return Reviewed(version, counts_of(version))


def _kept(review: Review, votes: pl.DataFrame) -> Path:
    """The votes in a file that is named by their content, so that it never changes."""
    rows = votes.write_ndjson().encode()
    mark = hashlib.blake2b(rows, digest_size=8).hexdigest()
    path = (review.folder / f"annotations-{mark}.parquet").absolute()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path) as out:
            votes.write_parquet(out)
    return path


def counts_of(version: Version) -> dict[str, int]:
    """What became of the rows that people saw, from a published version."""
    columns = ["human_votes", "human_turned", "human_edit", "human_flags", "label_source"]
    rows = version.frame("pairs").select(columns).collect()
    own = rows.filter(~pl.col("human_edit"))
    gone = version.ledger().filter(pl.col("reason").str.starts_with("human_"))
    reasons = dict(gone["reason"].value_counts(sort=True).iter_rows())
    seen, human = pl.col("human_votes") > 0, pl.col("label_source") == "human"
    return {
        "confirmed": own.filter(seen & human & ~pl.col("human_turned")).height,
        "turned": own.filter(pl.col("human_turned")).height,
        "undecided": own.filter(seen & ~human).height,
        "edits": rows.filter("human_edit").height,
        "flagged": own.filter(pl.col("human_flags") > 0).height,
        **{f"dropped as {reason}": n for reason, n in reasons.items()},
        "not seen": own.filter(~seen).height,
    }
