"""Reviews published: what people said makes the next version of what was reviewed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from catalog.versions import Version
from labelers import Annotations, HumanAnswers, Pairs
from pipelines.api import Recipe
from prefactory.errors import DataError
from prefactory.folders import new_file
from prefactory.step import Step
from review.annotations import annotations_of
from review.settings import Settings
from review.store import Review


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
        options: `min_votes`, `on_tie`, `on_bad`, `on_undecided`, `on_flag`, `edits`, of pairs.

    Raises:
        DataError: nobody has voted.
        PrefactoryError: the rows can't be read any more, or nothing is left of them.
    """
    votes = annotations_of(review, pseudonyms=pseudonyms)
    if not votes["counts"].any():
        raise DataError(f"nobody has voted in the review {review.name!r} yet")
    about = review.meta("source")
    file = _kept(review, votes)
    what = f"Reviewed by people: {votes['person'].n_unique()} of them, {votes.height} votes"
    recipe = Recipe(
        name or about["name"],
        source=about["source"],
        steps=_steps(review.settings, file, options),
        publish={"pays": False, **about["head"].get("publish", {})},
        description=f"{what}{', on ' + about['version'] if 'version' in about else ''}.",
        **{k: v for k, v in about["head"].items() if k != "publish" and v is not None},
    )
    version = recipe.run(home)
    return Reviewed(version, counts_of(version))


def _steps(settings: Settings, file: Path, options: Mapping[str, Any]) -> list[Step]:
    """What makes labels of the votes of a task."""
    if settings.task == "pair":
        return [Annotations(file=file, **options)]
    steps: list[Step] = [HumanAnswers(file=file, splitter=settings.splitter)]
    if settings.task == "rank":
        least = {"min_margin": 1e-6, "label_source": "human"}  # equal strengths make no pair
        steps.append(Pairs(objective="human_rank", strategy="all", **least))
    return steps


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
    tables = version.manifest.tables
    if "pairs" not in tables or "human_turned" not in tables["pairs"].columns:
        return _answers_of(version)
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


def _answers_of(version: Version) -> dict[str, int]:
    """Of the tasks that are not about pairs: rows of each table that people saw, and the others."""
    counts: dict[str, int] = {}
    for name, record in version.manifest.tables.items():
        if "human_votes" in record.columns:
            votes = version.frame(name).select("human_votes").collect()["human_votes"]
            counts |= {f"{name} that people saw": int((votes > 0).sum())}
            counts |= {f"{name} not seen": int((votes == 0).sum())}
        elif name == "pairs":
            counts["pairs by people's order"] = sum(record.splits.values())
    return counts
