"""Rounds of people and machine: a version from all votes so far, and the next rows to ask about."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.special import ndtr, ndtri

from catalog.versions import Version
from labelers.annotators.people import Annotations, read_annotations
from pipelines.api import run
from pipelines.build import load_recipe
from pipelines.settings import Settings
from pipelines.votes.page import Section, intervals
from pipelines.votes.trusted import lines as trusted_lines
from pipelines.votes.trusted import rules
from pipelines.votes.trusted import words as trusted_words
from prefactory.errors import ConfigError, DataError
from prefactory.folders import temporary_folder
from prefactory.preferences.shares import Interval
from prefactory.recipe import Placed, Recipe
from prefactory.tables import COLUMNS, Shape
from prefactory.votes.ballots import standing
from prefactory.votes.estimate import WrongLabels, wrong_labels
from prefactory.votes.loop import Batch, why_stop
from prefactory.votes.slices import Rule
from prefactory.votes.verdicts import ask_on, verdicts
from review.annotations import annotations_of
from review.settings import Settings as ReviewSettings
from review.settings import safe_name
from review.store import Review, create, exists, open_review

QUEUE = {"suspect": 0.6, "retrieved": 0.1, "random": 0.3}
"""Parts of a round's rows; only the random one tells of the share of wrong labels."""
FIRST = {"suspect": 0.7, "random": 0.3}
"""Of the first round, when nothing was found wrong yet."""
UNSEEN = "human_votes = 0"
CERTAIN = 0.95
"""Posterior at which a row needs no further vote."""
USELESS = 0.6
"""Area of the self-test's ranking below which a queue of suspects is hardly better than random."""


@dataclass(frozen=True)
class Round:
    """One round of a loop.

    Attributes:
        name: of its review.
        rows: that were asked about, without gold rows.
        voted: of them, rows with a vote.
        waits: rows that need another vote: none yet, or not sure and fewer than were asked for.
        votes: that count.
        wrong: share of wrong labels among rows that nobody had checked, from its random part.
        suspects, random: what people said of the two parts.
    """

    name: str
    rows: int
    voted: int
    waits: int
    votes: int
    wrong: WrongLabels
    suspects: Batch
    random: Batch

    @property
    def done(self) -> bool:
        """Whether every row has its votes, or is sure with fewer."""
        return self.waits <= 0

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        parts = {
            name: {"wrong": batch.wrong, "checked": batch.checked}
            for name, batch in (("suspects", self.suspects), ("random", self.random))
        }
        counts = {name: getattr(self, name) for name in ("rows", "voted", "waits", "votes")}
        return {"review": self.name, **counts, **parts, "wrong_labels": self.wrong.as_dict()}


def round_of(review: Review, votes: pl.DataFrame) -> Round:
    """What a review of a loop came to."""
    counted = standing(votes)
    work = counted.filter(pl.col("purpose") == "work")
    found = verdicts(votes, draws=0)
    strata = review.meta("strata") or {}
    population = {name: int(told["population"]) for name, told in strata.items()}
    parts = work.unique("row_id", keep="first").join(
        found.select("row_id", "verdict"), on="row_id", how="left"
    )

    def batch(name: str) -> Batch:
        own = parts.filter((pl.col("queue") == name) & pl.col("verdict").is_in(["first", "second"]))
        return Batch(int((own["verdict"] == "second").sum()), own.height)

    rows = int(review.meta("rows"))
    said = found.join(work.select("row_id").unique(), on="row_id", how="semi")
    votes_a_row = said.select(pl.sum_horizontal("votes", "ties", "bad", "skips")).to_series()
    most = review.settings.people
    more = ask_on(
        said["posterior"].fill_null(0.5).to_numpy(), votes_a_row.cast(pl.Float64).to_numpy(),
        CERTAIN, min(2, most), most,
    )  # fmt: skip
    return Round(
        review.name, rows, said.height, rows - said.height + int(more.sum()), counted.height,
        wrong_labels(votes, found, population), batch("suspect"), batch("random"),
    )  # fmt: skip


@dataclass(frozen=True)
class Loop:
    """A loop after its newest version.

    Attributes:
        version: with all votes so far.
        rounds: so far.
        left: share of wrong labels in the version before each round's votes, all rows: unchecked
            rows by the round's random part, checked ones by what their posteriors leave open.
        stop: why it should end; empty if it should go on.
        warning: what its self-test says of a queue of suspects; empty if it helps.
        review: name of the review that waits for votes; None when it has stopped.
        waits: rows that it waits for.
        trusted: where judges may relabel, by step (`pipelines.votes.trusted.rules`).
    """

    version: Version
    rounds: tuple[Round, ...]
    left: tuple[Interval | None, ...]
    stop: str
    warning: str
    review: str | None
    waits: int
    trusted: Mapping[str, Rule] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "trusted": {label: dict(rule) for label, rule in self.trusted.items()},
            "version": self.version.ref,
            "rounds": [r.as_dict() for r in self.rounds],
            "left": [None if e is None else e.as_dict() for e in self.left],
            "stop": self.stop,
            "warning": self.warning,
            "review": self.review,
            "waits": self.waits,
        }

    def lines(self) -> list[str]:
        """The same in words."""
        lines = [f"version  {self.version.ref}"]
        for found, left in zip(self.rounds, self.left, strict=True):
            share = found.wrong.why
            if left is not None:
                share = f"wrong before it {left.value:.1%} ({left.low:.1%} to {left.high:.1%})"
            lines.append(
                f"{found.name}: {found.voted:,} of {found.rows:,} rows voted on; {share}; wrong: "
                f"{_of(found.suspects)} suspects, {_of(found.random)} random rows"
            )
        lines += trusted_lines(self.trusted)
        lines += [f"stop: {self.stop}"] if self.stop else []
        lines += [self.warning] if self.warning else []
        if self.review is not None:
            lines += [
                f"{self.waits:,} rows wait for people: prefactory review {self.review}",
                "then run this command again",
            ]
        return lines

    def sections(self) -> list[Section]:
        """For a page."""
        points = [(f"round {i}", e.value, e.low, e.high) for i, e in enumerate(self.left, 1) if e]
        head = ("round", "rows", "votes", "suspects wrong", "random wrong", "wrong before it")
        rows = tuple(
            (
                r.name, f"{r.voted:,} of {r.rows:,}", f"{r.votes:,}",
                _of(r.suspects), _of(r.random),
                "-" if e is None else f"{e.value:.1%} ({e.low:.1%} to {e.high:.1%})",
            )
            for r, e in zip(self.rounds, self.left, strict=True)
        )  # fmt: skip
        chart = intervals(points, "share of wrong labels") if points else None
        text = tuple(t for t in (self.stop, self.warning) if t)
        return [Section("Wrong labels, round by round", text, head, rows, chart)]


def _of(batch: Batch) -> str:
    return f"{batch.wrong} of {batch.checked}"


@dataclass(frozen=True)
class Plan:
    """How a round is asked.

    Attributes:
        rows: of a round.
        people: asked about each row.
        gold: condition in SQL on rows whose label is known.
        target: share of wrong labels that is good enough.
        budget: votes in all; None without.
        seed: of the queue; each round adds its number.
    """

    rows: int = 90
    people: int = 1
    gold: str | None = None
    target: float = 0.02
    budget: int | None = None
    seed: int = 0


def next_round(path: Path, overrides: Sequence[str], plan: Plan, settings: Settings) -> Loop:
    """Publish what all rounds so far come to, and put the next rows before people.

    A round whose rows nobody has voted on stays the one to be asked about: running this again and
    again, on a schedule, makes no empty rounds.

    Args:
        path: recipe with one step `labelers.Annotations`; its own file, if it names one, holds
            votes of a gold seed.
        overrides: `key=value` words for the recipe.
        plan: of the next round.
        settings: of the run.

    Raises:
        ConfigError: the recipe has no such step.
        PrefactoryError: it fails.
    """
    recipe = load_recipe(path, list(overrides))
    placed = _annotations_of(recipe)
    reviews = _reviews(recipe.head.name, settings)
    told = [annotations_of(review) for review in reviews]
    rounds = tuple(round_of(review, votes) for review, votes in zip(reviews, told, strict=True))
    for review in reviews:
        review.db.close()
    seed = read_annotations(_file(placed))
    votes, words = pl.concat([seed, *told]), list(overrides)
    if votes.height:
        file = _keep(votes, settings.home / "loops" / recipe.head.name)
        words.append(f"{placed.label}.file={file}")
    trusted = rules(recipe, _newest(recipe.head.name, settings), votes)
    words += trusted_words(trusted)
    version = run(load_recipe(path, words), settings.home)
    pairs = version.frame("pairs").collect()
    left = tuple(_left(found, pairs, rounds[i:]) for i, found in enumerate(rounds))
    spent = sum(found.votes for found in rounds)
    stop = why_stop(
        [found.wrong.share for found in rounds],
        [(found.suspects, found.random) for found in rounds],
        plan.target,
        None if plan.budget is None else plan.budget - spent,
    )
    warning = warn(version)
    if rounds and not rounds[-1].done:
        return Loop(version, rounds, left, "", warning, rounds[-1].name, rounds[-1].waits, trusted)
    if stop:
        return Loop(version, rounds, left, stop, warning, None, 0, trusted)
    review = _ask(version, pairs, plan, len(rounds) + 1, settings)
    try:
        waits = int(review.meta("rows"))
    finally:
        review.db.close()
    return Loop(version, rounds, left, "", warning, review.name, waits, trusted)


def _newest(name: str, settings: Settings) -> Version | None:
    versions = settings.catalog.versions(name)
    return versions[-1] if versions else None


def _annotations_of(recipe: Recipe) -> Placed:
    found = [p for p in recipe.steps if isinstance(p.step, Annotations)]
    if len(found) != 1:
        raise ConfigError(
            f"{recipe.path.name}: a loop needs one step `labelers.Annotations: {{}}`, where votes "
            f"become labels; it has {len(found)}"
        )
    return found[0]


def _file(placed: Placed) -> Path | None:
    step = placed.step
    return step.file if isinstance(step, Annotations) else None


def _reviews(name: str, settings: Settings) -> list[Review]:
    """The reviews of a loop's rounds, in order."""
    found: list[Review] = []
    while exists(settings.home, review_name(name, len(found) + 1)):
        found.append(open_review(settings.home, review_name(name, len(found) + 1)))
    return found


def review_name(name: str, number: int) -> str:
    """Name of the review of a loop's round, from 1."""
    return safe_name(f"{name}-round-{number}")


def _keep(votes: pl.DataFrame, folder: Path) -> Path:
    """Write all votes, whole or not at all."""
    file = folder / "votes.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    with temporary_folder(folder, ".votes") as inside:
        made = inside / file.name
        votes.select(list(COLUMNS[Shape.ANNOTATIONS])).write_parquet(made)
        made.replace(file)
    return file.absolute()


def _left(found: Round, pairs: pl.DataFrame, later: Sequence[Round]) -> Interval | None:
    """Share of wrong labels in the version before a round, over checked and unchecked rows."""
    share = found.wrong.share
    if share is None:
        return None
    checked = pairs.filter(pl.col("human_votes") > 0)
    doubt = float((1 - checked["human_posterior"].fill_null(1.0)).to_numpy().sum())
    after = sum(r.voted for r in later)
    before = max(checked.height - after, 0)
    rest = pairs.height - before
    known = doubt * before / max(checked.height, 1)
    ends = ((v * rest + known) / max(pairs.height, 1) for v in (share.value, share.low, share.high))
    return Interval(*ends)


def _ask(
    version: Version, pairs: pl.DataFrame, plan: Plan, number: int, settings: Settings
) -> Review:
    """Make the review of the next round."""
    free = pairs.filter(pl.col("human_votes") == 0).height
    if not free:
        raise DataError("people have voted on every row: there is nothing left to ask about")
    found = pairs.filter("human_turned").height > 0 and "retrieval" in pairs.columns
    name = review_name(version.manifest.name, number)
    asked = ReviewSettings(
        queue=dict(QUEUE if found else FIRST),
        where=UNSEEN, rows=min(plan.rows, free), people=plan.people, gold=plan.gold,
        seed=plan.seed + number,
    )  # fmt: skip
    source = {"name": version.ref, "path": str(version.path)}
    return create(settings.home, name, pairs.drop("split", strict=False), asked, source)


def warn(version: Version) -> str:
    """What the version's self-test says against a queue of suspects; empty if nothing.

    It turns a tenth of the labels round and looks how well they are found: an area of .5 is chance,
    and below `USELESS` half of the wrong labels take hardly fewer votes than in random order.
    """
    stages = [s.info["label_trust"] for s in version.manifest.stages if "label_trust" in s.info]
    tested = next((s["self_test"] for s in stages if s.get("self_test")), None)
    if not tested:
        return ""
    area = tested.get("auc_at_rate") or tested["auc"]
    saved = expected_share(area)
    if area < USELESS:
        return (
            f"a queue of suspects will not help here: the self-test ranks planted wrong labels "
            f"with AUC {area:.2f}; finding half of them takes about {saved:.0%} of the votes of "
            "random review. Review at random, or give LabelTrust an outside opinion (a judge, a "
            "reward model)"
        )
    return ""


def expected_share(area: float) -> float:
    """Votes to find half of the wrong labels, most suspect first, as a share of random order's.

    Suspicion of right and wrong labels is taken as normal with equal spread, ranked with `area`;
    wrong labels as few.
    """
    apart = math.sqrt(2) * float(ndtri(np.clip(area, 0.01, 0.99)))
    return min(float(ndtr(-apart)) / 0.5, 1.0) if apart > 0 else 1.0
