"""Votes by name: of a review, of a version, or of a file."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from audit.loading import version_of
from labelers.annotators.people import read_annotations
from pipelines.api import read
from pipelines.settings import Settings
from prefactory.errors import CatalogError, ConfigError, DataError
from prefactory.tables import COLUMNS, Shape
from review.annotations import annotations_of
from review.store import Review, exists, open_review

ANNOTATIONS = "annotations"


def votes_of(name: str, settings: Settings) -> pl.DataFrame:
    """Table of ANNOTATIONS of a review, of a version that holds one, or of a Parquet file.

    Raises:
        ConfigError: there is nothing of the name, or it holds no votes.
    """
    if Path(name).is_file():
        return read_annotations(Path(name))
    if exists(settings.home, name):
        review = open_review(settings.home, name)
        try:
            return annotations_of(review)
        finally:
            review.db.close()
    try:
        version = version_of(name, settings.catalog)
    except CatalogError:
        version = None
    if version is None:
        raise ConfigError(
            f"{name!r} is no review in {settings.home / 'reviews'}, no version and no file of "
            "votes; `prefactory review NAME|FILE` makes a review"
        )
    if ANNOTATIONS not in version.manifest.tables:
        raise ConfigError(
            f"{version.ref} holds no votes; versions that `labelers.Annotations` made do"
        )
    table = version.frame(ANNOTATIONS).drop("split", strict=False).collect()
    return table.select(list(COLUMNS[Shape.ANNOTATIONS]))


def pairs_of(name: str, data: str | None, settings: Settings) -> pl.DataFrame:
    """The pairs that a review is about: of `--data`, else what the review was made of.

    Raises:
        ConfigError: nothing says which they are.
        DataError: they are no pairs.
    """
    if data is None:
        data = _source(name, settings)
    table = read(data)
    if "pair_id" not in table.columns:
        raise DataError(f"{data} holds no pairs")
    return table


def _source(name: str, settings: Settings) -> str:
    if not Path(name).is_file() and exists(settings.home, name):
        review = open_review(settings.home, name)
        try:
            path = (review.meta("source") or {}).get("path")
        finally:
            review.db.close()
        if path:
            return str(path)
    raise ConfigError(f"{name} does not say which pairs it is about; name them by --data")


def population_of(name: str, settings: Settings) -> dict[str, int] | None:
    """Rows of each stratum of a review's random part; None where `name` is no review."""
    if Path(name).is_file() or not exists(settings.home, name):
        return None
    review: Review = open_review(settings.home, name)
    try:
        strata = review.meta("strata") or {}
    finally:
        review.db.close()
    return {stratum: int(told["population"]) for stratum, told in strata.items()}


def queued(name: str, settings: Settings) -> pl.DataFrame:
    """The pairs of a review's queue, gold rows among them; or the pairs of a version or file.

    Raises:
        DataError: they are no pairs.
    """
    if Path(name).exists() or not exists(settings.home, name):
        return pairs_of(name, name, settings)
    pairs = pairs_of(name, None, settings)
    review = open_review(settings.home, name)
    try:
        with review.db.read() as work:
            asked = [row["row_id"] for row in work.all("select row_id from task")]
    finally:
        review.db.close()
    return pairs.filter(pl.col("pair_id").is_in(asked))
