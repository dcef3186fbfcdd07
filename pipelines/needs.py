"""What else was made of versions: models and reviews, which the catalog does not know."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import polars as pl

from catalog.explain import Explained
from catalog.versions import Version
from pipelines.journal import SCHEMA, answers
from pipelines.settings import Settings
from prefactory.errors import CatalogError, PrefactoryError, StoreError
from prefactory.folders import read_listed
from prefactory.sharing.objects import BucketStore
from prefactory.store import Record

_LOG = logging.getLogger(__name__)


def needs(home: Path) -> dict[str, list[str]]:
    """Models and reviews of a home by the version that they were made of: `model X`, `review Y`.

    Raises:
        StoreError: one of them can't be read, so that it is not known what it needs.
    """
    found: dict[str, list[str]] = {}
    for path in sorted((home / "models").glob("*/training.json")):
        try:
            dataset = json.loads(read_listed(path))["dataset"]
            ref = f"{dataset['name']}@{dataset['version']}"
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path} can't be read ({error}): what the model needs is unknown. Remove the "
                "model, or put a copy in its place"
            ) from error
        found.setdefault(ref, []).append(f"model {path.parent.name}")
    for path in sorted(p for p in (home / "reviews").glob("*") if p.is_dir()):
        read = _reviewed(home, path.name)
        if read is not None:
            found.setdefault(read, []).append(f"review {path.name}")
    return found


def tell(settings: Settings, ref: str = "", reason: str = "") -> None:
    """Tell the bucket of the catalog, if it is in one, what this home needs of its versions.

    Args:
        settings: of the home.
        ref: a version that something is about to be made of.
        reason: what that is: `model X`, `review Y`.

    Raises:
        CatalogError: the version has been removed.
        StoreError: a model or review can't be read, so that it is not known what it needs.
    """
    catalog = settings.catalog
    if catalog.bucket_url is None:
        return
    from pipelines.conduct.cluster import proof_of  # rarely wanted

    found = needs(settings.home)
    if ref and reason not in found.get(ref, []):
        found.setdefault(ref, []).append(reason)
    home = settings.home.resolve()
    catalog.tell(proof_of(home)[1], f"{os.uname().nodename}:{home}", found)
    name, _, number = ref.partition("@")
    if ref and number in catalog.kept(name).removed:  # whoever removes it later sees what was told
        raise CatalogError(f"{ref} was removed from {catalog.bucket_url}")


def _reviewed(home: Path, name: str) -> str | None:
    from review.store import open_review

    try:
        review = open_review(home, name)
        try:
            version: str | None = review.meta("source").get("version")
            return version
        finally:
            review.db.close()
    except PrefactoryError as error:
        raise StoreError(f"{error}; so what the review needs is unknown") from error


def store_of(settings: Settings, version: Version) -> Path:
    """Folder of a store that has the rows behind a version; those of a bucket are brought here."""
    folder = settings.home / "store"
    if settings.shared is None:
        return folder
    store = settings.store
    try:
        told = version.told("provenance.json")
    except CatalogError as error:
        _LOG.warning("%s: rows that were dropped are not brought from the bucket", error)
        return folder
    for key in map(str, told.get("objects", ())):  # before that was told: none
        record = store.open(key)
        if isinstance(store, BucketStore) and record is not None and _has_rows(record):
            store.bring(key)
    return folder


def _has_rows(record: Record) -> bool:
    return any(name.startswith("rows") for name in record.files)


def calls_of(settings: Settings, row: Explained) -> pl.DataFrame:
    """Answers in the journals of a home and its bucket that a row holds, word for word."""
    own = {line for text in row.texts.values() for line in _turns(text)}
    if not own:
        return pl.DataFrame(schema=SCHEMA)
    said = pl.col("text").str.strip_chars()
    return answers(settings).filter(said.is_in(list(own)) & (said != ""))


def _turns(transcript: str) -> list[str]:
    """What the assistant said in a transcript, the last turn."""
    _, said, answer = transcript.rpartition("assistant: ")
    return [answer.strip()] if said else []
