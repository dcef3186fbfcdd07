"""The manifest of a version: what it holds, where it came from, and how to check it."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

PACKAGES = ("prefactory", "polars", "pyarrow", "datasets", "torch", "transformers", "scikit-learn")


class TableRecord(BaseModel):
    """One table of a version: shape, rows and bytes per split, columns, digest of its content."""

    model_config = ConfigDict(extra="forbid")

    shape: str
    splits: dict[str, int]
    bytes: dict[str, int]
    columns: dict[str, str]
    digest: str


class StageRecord(BaseModel):
    """One stage: rows in and out, and what left for which reason.

    Attributes:
        usage: the answers that its rows were made from, by model and role: `calls`,
            `prompt_tokens`, `completion_tokens` and `usd` (null: no price known), whichever run
            paid for them; without attempts that failed, which stand in `provenance.json`.
    """

    model_config = ConfigDict(extra="forbid")

    label: str
    kind: str
    shape: str
    rows_in: int
    rows_out: int
    reasons: dict[str, int]
    notes: dict[str, int]
    adds: list[str]
    fields: dict[str, Any]
    info: dict[str, Any]
    usage: list[dict[str, Any]] = Field(default_factory=list)


class Manifest(BaseModel):
    """Everything about a version that is the same whenever and wherever it is made.

    Attributes:
        content_digest: of the rows of all tables, independent of files, shards and workers.
        recipe_fingerprint: of `payload`.
        payload: what decided the rows (sources by content, steps, seed, split).
        files: relative path -> bytes and sha256 of every other file, but `provenance.json`.
        digest: of everything else in the manifest.
    """

    model_config = ConfigDict(extra="forbid")

    manifest: int = 1
    name: str
    version: str
    description: str
    license: str | None
    seed: int
    content_digest: str
    recipe_fingerprint: str
    payload: dict[str, Any]
    sources: list[dict[str, Any]]
    stages: list[StageRecord]
    tables: dict[str, TableRecord]
    ledger: dict[str, int]
    models: list[dict[str, Any]] = Field(default_factory=list)
    software: dict[str, str]
    files: dict[str, dict[str, Any]] = Field(default_factory=dict)
    digest: str = ""


def software() -> dict[str, str]:
    """Versions of Python and of the packages that shape the data."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
