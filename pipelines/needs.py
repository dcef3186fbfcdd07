"""What else was made of versions: models and reviews, which the catalog does not know."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl

from catalog.explain import Explained
from pipelines.journal import SCHEMA, answers
from pipelines.settings import Settings
from prefactory.errors import PrefactoryError, StoreError


def needs(home: Path) -> dict[str, list[str]]:
    """Models and reviews of a home by the version that they were made of: `model X`, `review Y`.

    Raises:
        StoreError: one of them can't be read, so that it is not known what it needs.
    """
    found: dict[str, list[str]] = {}
    for path in sorted((home / "models").glob("*/training.json")):
        try:
            dataset = json.loads(path.read_text("utf-8"))["dataset"]
            ref = f"{dataset['name']}@{dataset['version']}"
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path} can't be read ({error}): what it needs is unknown") from error
        found.setdefault(ref, []).append(f"model {path.parent.name}")
    for path in sorted(p for p in (home / "reviews").glob("*") if p.is_dir()):
        read = _reviewed(home, path.name)
        if read is not None:
            found.setdefault(read, []).append(f"review {path.name}")
    return found


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
