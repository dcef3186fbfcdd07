"""Where a run keeps its things, and how many shards it works on at a time."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from catalog.versions import Catalog, default_home
from prefactory.engines.accounts import Budget
from prefactory.stages import FIT_ROWS
from prefactory.store import Store

if TYPE_CHECKING:
    from prefactory.sharing.bucket import Bucket


def default_workers() -> int:
    """One shard per usable core, at most eight."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)


@dataclass(frozen=True)
class Settings:
    """Settings of a run that change no data.

    Attributes:
        home: holds `store/` (intermediate outputs), `versions/` (the catalog) and `models/`.
        workers: shards in work at a time.
        shard_rows: rows of a shard, about.
        budget: what new calls of text engines may use; a run stops, resumable, before it is passed.
        prices: a YAML file over the prices that come with prefactory.
        fresh: steps that are asked anew, as a recipe labels them (or its end: `Rubric`).
        cluster: address of the Ray cluster that does the work (`local`: of this machine alone).
        bucket: where intermediate outputs, journals and budgets are for all machines; the home then
            holds copies: `s3://bucket/prefix`, by default `PREFACTORY_STORE`.
        catalog_bucket: where published versions are for all machines; `versions/` of the home then
            holds copies: `s3://bucket/prefix`, by default `PREFACTORY_CATALOG`.
        retry_failed: drop the answers that could not be used first, so that they are asked anew.
        fit_rows: rows of a dataset step that one worker holds, about; more are cut by key, where
            the step can be cut.
    """

    home: Path = field(default_factory=default_home)
    workers: int = field(default_factory=default_workers)
    shard_rows: int = 16384
    budget: Budget = field(default_factory=Budget)
    prices: Path | None = None
    fresh: tuple[str, ...] = ()
    retry_failed: bool = False
    cluster: str | None = None
    bucket: str | None = field(default_factory=lambda: os.environ.get("PREFACTORY_STORE") or None)
    catalog_bucket: str | None = field(
        default_factory=lambda: os.environ.get("PREFACTORY_CATALOG") or None
    )
    fit_rows: int = FIT_ROWS

    @property
    def store(self) -> Store:
        """The store of intermediate outputs.

        Raises:
            ConfigError: `bucket` is no place of objects.
            MissingPackageError: what opens it is not installed.
        """
        if (shared := self.shared) is None:
            return Store(self.home / "store")
        from prefactory.sharing.objects import BucketStore  # rarely wanted

        return BucketStore(self.home / "store", bucket=shared)

    @property
    def shared(self) -> Bucket | None:
        """What all machines share; None: there is this one.

        Raises:
            ConfigError: `bucket` is no place of objects.
            MissingPackageError: what opens it is not installed.
        """
        if self.bucket is None:
            return None
        from prefactory.sharing.bucket import Bucket  # rarely wanted

        return Bucket(self.bucket)

    @property
    def catalog(self) -> Catalog:
        """The catalog of published versions.

        Raises:
            ConfigError: `catalog_bucket` is no place of objects.
            MissingPackageError: what opens it is not installed.
        """
        if self.catalog_bucket is None:
            return Catalog(self.home)
        from catalog.history.shared import BucketCatalog  # rarely wanted
        from prefactory.sharing.bucket import Bucket

        return BucketCatalog(self.home, Bucket(self.catalog_bucket))
