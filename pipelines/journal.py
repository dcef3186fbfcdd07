"""What the journals of a home hold, by recipe, step, model and reason; and how answers are dropped.

An answer that is dropped is asked for again by the next run, and so is whatever the store had made
of it. Without that a bad server's readable answers would stay for ever.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.settings import Settings
from prefactory.engines import calls
from prefactory.engines.journal import Journal, drop, in_use
from prefactory.folders import new_file
from prefactory.identity import fingerprint
from prefactory.sharing.presence import alone
from prefactory.sharing.segments import PLACE, Segments

_LOG = logging.getLogger(__name__)
SCHEMA: dict[str, pl.DataType] = {
    "engine": pl.String(),
    "key": pl.String(),
    "model": pl.String(),
    "recipe": pl.String(),
    "step": pl.String(),
    "role": pl.String(),
    "reason": pl.String(),
    "prompt_tokens": pl.Int64(),
    "completion_tokens": pl.Int64(),
    "text": pl.String(),
    "detail": pl.String(),
    "asked": pl.String(),
}
BY = ("recipe", "step", "role", "model", "reason")


@dataclass(frozen=True)
class Wanted:
    """Which answers are meant; None: all.

    Attributes:
        recipe: name of the recipe that asked.
        step: label of its step, or the end of it after a dot (`Rubric`).
        model: name of the model.
        reason: why they could not be used, as in the ledger; `any` for all that could not.
    """

    recipe: str | None = None
    step: str | None = None
    model: str | None = None
    reason: str | None = None

    def of(self, answers: pl.DataFrame) -> pl.DataFrame:
        """Those of some answers."""
        rules = [pl.lit(value=True)]
        rules += [pl.col("recipe") == self.recipe] if self.recipe is not None else []
        rules += [pl.col("model") == self.model] if self.model is not None else []
        if self.step is not None:
            named = pl.col("step") == self.step
            rules.append(named | pl.col("step").str.ends_with(f".{self.step}"))
        if self.reason is not None:
            any_ = pl.col("reason").is_not_null()
            rules.append(any_ if self.reason == "any" else pl.col("reason") == self.reason)
        return answers.filter(*rules)


def answers(settings: Settings) -> pl.DataFrame:
    """All answers in the journals of a home and its bucket, as they were written, by engine.

    Returns:
        See `SCHEMA`: `recipe`, `step` and `role` say who asked first (null: written before that was
        kept, or by no step); `reason`, `detail` and `asked` why an answer could not be used, and
        the last message of the question (null: it could, or nobody said).
    """
    rows: list[dict[str, Any]] = []
    bring(settings)
    for file in sorted((settings.home / "journal").glob("*/engine.json")):
        rows += _of_engine(file)
    return pl.DataFrame(rows, schema=SCHEMA)


def bring(settings: Settings) -> dict[str, Segments]:
    """Bring the journals of the bucket into the home, if there is one; by engine.

    Raises:
        StoreError: the bucket can't be read, or the home not written.
    """
    found: dict[str, Segments] = {}
    if (bucket := settings.shared) is None:
        return found
    for key in bucket.list(PLACE):
        _, engine, *rest = key.split("/")
        if rest == ["engine.json"] and re.fullmatch("[0-9a-f]+", engine):
            folder = settings.home / "journal" / engine
            if not (folder / "engine.json").is_file():
                described = bucket.read(key)
                with new_file(folder / "engine.json") as file:
                    file.write(described[0] if described else b"{}")
            found[engine] = Segments(bucket, folder)
            found[engine].fetch()
    return found


def _of_engine(file: Path) -> list[dict[str, Any]]:
    name = file.parent.name
    try:
        identity = json.loads(file.read_bytes())
        if fingerprint(identity) != name:
            raise ValueError("it is not as it was written")
    except (OSError, ValueError, TypeError) as error:
        _LOG.warning(
            "%s is damaged (%s), so its model is called %s; remove it: the next run that asks the "
            "model writes it anew",
            *(file, error, name),
        )
        identity = {}
    journal = Journal(file.parents[1], name, identity)
    try:
        found, doubts = {}, {}
        for key, value in journal.entries():
            if "doubt" in value:
                doubts[value["doubt"]] = value
            elif isinstance(value.get("text"), str):
                found[key] = value
    finally:
        journal.close()
    model = str(identity.get("model") or name)
    return [_row(name, key, model, value, doubts.get(key, {})) for key, value in found.items()]


def _row(
    engine: str, key: str, model: str, value: Mapping[str, Any], doubt: Mapping[str, Any]
) -> dict[str, Any]:
    recipe, step, role = value.get("by") or doubt.get("by") or (None, None, None)
    return {
        "engine": engine,
        "key": key,
        "model": model,
        "recipe": recipe,
        "step": step,
        "role": role,
        "reason": doubt.get("reason"),
        "prompt_tokens": value.get("prompt_tokens") or 0,
        "completion_tokens": value.get("completion_tokens") or 0,
        "text": value["text"],
        "detail": doubt.get("detail"),
        "asked": doubt.get("asked"),
    }


def counted(found: pl.DataFrame) -> pl.DataFrame:
    """Answers and tokens by recipe, step, role, model and reason, sorted by these."""
    sums = pl.len().alias("answers"), pl.sum("prompt_tokens"), pl.sum("completion_tokens")
    return found.group_by(BY).agg(*sums).sort(BY, nulls_last=True)


def drop_answers(settings: Settings, gone: pl.DataFrame) -> int:
    """Take answers out of the journals, and say of all that was made of them that it is outdated.

    With a bucket, for all machines.

    Args:
        settings: of the home and its bucket.
        gone: rows of `answers`.

    Returns:
        How many went.

    Raises:
        StoreError: a run is using the journals.
    """
    if gone.is_empty():
        return 0
    store, bucket, root = settings.store, settings.shared, settings.home / "journal"
    with in_use(root, shared=False), alone(bucket) if bucket is not None else nullcontext():
        segments = bring(settings)
        used = gone.select("engine", key=pl.col("key").str.decode("hex"))
        for record in store.records():
            if f"{calls.TABLE}.arrow" in record.files:
                own = store.read(record.key, calls.TABLE, ["engine", "key"])
                if own.join(used, on=("engine", "key"), how="semi").height:
                    store.outdate(record.key)
        for (engine,), part in gone.group_by("engine"):
            keys = set(part["key"])
            keys |= {fingerprint(["doubt", key]) for key in part["key"]}
            more = [segments[str(engine)].replace] if str(engine) in segments else []
            drop(root / str(engine), keys.__contains__, *more)
    return gone.height
