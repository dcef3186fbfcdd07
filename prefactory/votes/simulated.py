"""People who do not exist: planted skill, lean to a place, love of length, fatigue.

To try a plan of a review before anybody is asked, and to test what is made of votes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import expit, logit

from prefactory.measures.calibration import Floats
from prefactory.preferences.clustered import Ints
from prefactory.votes.ballots import Ballots


@dataclass(frozen=True)
class Person:
    """How somebody votes: log odds of the first stored side are the sum of what is below.

    Attributes:
        skill: P(vote for the better side), both places alike, in (0, 1).
        lean: log odds for what is shown first.
        longer: log odds for the longer answer.
        fatigue: skill in log odds falls by so much from the first vote to vote `tired_at`, not
            below chance.
        tired_at: votes.
        seconds: median time of a vote.
    """

    skill: float
    lean: float = 0.0
    longer: float = 0.0
    fatigue: float = 0.0
    tired_at: int = 200
    seconds: float = 20.0


@dataclass
class Crowd:
    """Simulated people, who remember how much they have voted; deterministic by their seed.

    Attributes:
        people: they.
        seed: of their votes.
    """

    people: Sequence[Person]
    seed: int = 0

    def __post_init__(self) -> None:
        """Nobody has voted."""
        self._rng = np.random.default_rng(self.seed)
        self.done = np.zeros(len(self.people), np.int64)

    def vote(
        self, truth: Floats, person: Ints, longer: Floats | None = None
    ) -> tuple[Floats, Floats]:
        """Votes, in this order.

        Args:
            truth: better side of each pair asked about, +1 or -1, Float64[n].
            person: who is asked, Int64[n].
            longer: the longer side, +1, -1 or 0, Float64[n].

        Returns:
            Votes (+1: first stored side) and which stored side was shown first, Float64[n] each.
        """
        n = len(truth)
        traits = np.array([[logit(p.skill), p.lean, p.longer, p.fatigue, p.tired_at]
                           for p in self.people]).T  # fmt: skip
        skill, lean, love, fatigue, tired = traits[:, person]
        before = self.done[person] + _earlier(person)
        np.add.at(self.done, person, 1)
        worn = np.sign(skill) * np.maximum(np.abs(skill) - fatigue * before / tired, 0.0)
        alpha = np.where(fatigue > 0, worn, skill)
        shown = np.where(self._rng.random(n) < 0.5, 1.0, -1.0)
        length = np.zeros(n) if longer is None else longer
        odds = alpha * truth + lean * shown + love * length
        return np.where(self._rng.random(n) < expit(odds), 1.0, -1.0), shown

    def ballots(self, truth: Floats, votes: int, longer: Floats | None = None) -> Ballots:
        """Ballots of so many different people on each pair, drawn at random.

        Raises:
            ValueError: there are fewer people than votes.
        """
        if votes > len(self.people):
            raise ValueError(f"{votes} votes a pair need as many people, not {len(self.people)}")
        n = len(truth)
        drawn = np.argsort(self._rng.random((n, len(self.people))), axis=1)[:, :votes]
        row, person = np.repeat(np.arange(n), votes), np.sort(drawn, axis=1).ravel()
        length = None if longer is None else longer[row]
        vote, shown = self.vote(truth[row], person, length)
        names = pl.Series([f"person-{i:03}" for i in range(len(self.people))])
        rows = pl.Series(np.arange(n)).cast(pl.String).str.zfill(8)
        return Ballots(rows, names, row, person, vote, shown, np.ones(len(row)))

    def annotations(
        self, truth: pl.DataFrame, votes: int, longer: Floats | None = None
    ) -> pl.DataFrame:
        """The same as a table of annotations.

        Args:
            truth: `row_id`, `truth` (+1: the first stored side is better).
            votes: of each pair.
            longer: see `vote`.

        Returns:
            `vote_id`, `row_id`, `person`, `vote`, `first_shown`, `at` (Int64, order), `ms`.
        """
        given = self.ballots(truth["truth"].to_numpy().astype(np.float64), votes, longer)
        seconds = np.array([p.seconds for p in self.people])[given.person]
        took = seconds * np.exp(0.5 * self._rng.normal(size=len(given)))
        return pl.DataFrame(
            {
                "row_id": truth["row_id"].gather(given.row),
                "person": given.people.gather(given.person),
                "vote": pl.Series(np.where(given.vote > 0, "first", "second")),
                "first_shown": given.shown > 0,
                "at": np.arange(len(given)),
                "ms": np.round(1000 * took).astype(np.int64),
            }
        ).with_columns(vote_id=pl.format("{}/{}", "person", "row_id"))


def _earlier(person: NDArray[np.int64]) -> Ints:
    """How often the same person stands before each place: Int64[n]."""
    place = pl.DataFrame({"p": person}).select(pl.int_range(pl.len()).over("p")).to_series()
    return place.to_numpy().astype(np.int64)
