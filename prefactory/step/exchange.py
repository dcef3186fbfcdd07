"""What a dataset step says so that its fit need not hold all rows at once.

A fit that one worker holds is one `fit` of all rows. Of more rows what `fit_shard` left is cut into
ranges of a key (`Exchanged`), each range is fitted apart, and each shard gets back what was decided
about its rows: no worker holds them all. What is decided is the same, however many ranges there
are. Near-duplicates have no key; their rows are linked two runs at a time (`Linked`). A fit of sums
over all rows takes rounds in which each run of rows says something small (`Rounds`). A fit that
needs numbers of all rows in the order of the table reads one shard after the other (`Streamed`),
and keeps of each what it needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from prefactory.context import Context, State
from prefactory.near.choose import Choice
from prefactory.near.likeness import Rule
from prefactory.near.minhash import Banding

KEY = "exchange_key"
"""Column of the key (UInt64) beside those of `fit_shard`, in what `survey` and `fit_range` get."""


class Exchanged:
    """Mixin of a `FittedFilter` whose fit can be cut: `class X(Exchanged, FittedFilter)`.

    Beside `keys` it may say what ranges must know of each other (`survey`, then `fit_range`).
    Decisions (the state's table `decided`) must be about units that `fit_shard` named, in its
    column `unit` or else in its first one, and all rows of a unit must have one key. A key whose
    rows are more than a range should hold is not cut.
    """

    def exchanged(self) -> bool:
        """Whether the fit can be cut, with these fields."""
        return True

    def keys(self, parts: pl.DataFrame, ctx: Context) -> pl.Series:
        """The key of each row: rows of one key, and those of keys beside it, are fitted together.

        Args:
            parts: some rows of `fit_shard`.
            ctx: its seed and step name are the randomness.

        Returns:
            UInt64[n], spread evenly over all 64 bits, the same wherever a row stands.
        """
        raise NotImplementedError

    def survey(self, parts: pl.DataFrame) -> pl.DataFrame:
        """What fits of other ranges must know of a range's rows: a small table.

        It is asked for only where a step has one of its own.

        Args:
            parts: the rows of a range, sorted by id, with `KEY`.
        """
        raise NotImplementedError

    @classmethod
    def surveys(cls) -> bool:
        """Whether ranges must know of each other."""
        return cls.survey is not Exchanged.survey

    def fit_range(
        self, parts: pl.DataFrame, surveys: Sequence[pl.DataFrame], place: int, ctx: Context
    ) -> State:
        """Decide about the rows of one range, as `fit` decides about all.

        Args:
            parts: the rows of the range, sorted by id, with `KEY`.
            surveys: of all ranges, by ascending keys; empty if there are none.
            place: which of them this range is.
            ctx: as of `fit`.
        """
        state: State = self.fit(parts, ctx)  # type: ignore[attr-defined]  # of the step beside it
        return state

    def facts(self, infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The facts of all rows, from those of each range: counts add up."""
        return {name: sum(info[name] for info in infos) for name in infos[0]}


class Linking(NamedTuple):
    """What rows of a `Linked` step are linked by.

    Attributes:
        cut: banding of the columns of `prefactory.near.pairs.reduce_texts`.
        rule: when two rows are near-duplicates.
        group: column of what rows must have in common, if they must.
        every: whether rows go only beside one that stays, so that every link is needed; else one
            row of each cluster stays, and links that join clusters are enough.
    """

    cut: Banding
    rule: Rule
    group: str | None = None
    every: bool = False


class Linked:
    """Mixin of a `FittedFilter` that keeps the best one of near-duplicates (see `Linking`).

    Its `fit_shard` leaves `prefactory.near.pairs.reduce_texts` of a shard beside the row's id
    (first), perhaps a `score` (Float64) and a group. Of more rows than one worker holds, runs of
    rows are linked two by two (`prefactory.orders.links`).
    """

    def linking(self, columns: Sequence[str]) -> Linking:
        """What rows are linked by; `columns` are those of `fit_shard`."""
        raise NotImplementedError

    def settle(self, parts: pl.DataFrame, choice: Choice) -> State:
        """What was chosen, as state: the tables of `fit`, and the facts that are counts.

        Args:
            parts: some rows of `fit_shard`.
            choice: positions in them: which rows go, for which others, and what links them.
        """
        raise NotImplementedError

    def told(self, linked: Mapping[str, int], infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The facts of all rows, as those of `fit`.

        Args:
            linked: `units` and `pairs` of all rows.
            infos: facts of `settle` of each run of rows.
        """
        return {**linked, **{name: sum(info[name] for info in infos) for name in infos[0]}}


class Rounds:
    """Mixin of a dataset step whose fit goes over all rows in rounds: `class X(Rounds, Labeler)`.

    In a round every run of rows is looked at for itself, and one conclusion is drawn of what these
    looks left. How rows are cut into runs must not show: a look leaves sums of
    `prefactory.measures.exact`, extremes, counts, or a few numbers of each row. Of a `FittedFilter`
    the last conclusion decides about every row that it was given, run by run, in their order: each
    run gets back its own.
    """

    def exchanged(self) -> bool:
        """Whether the fit can be cut, with these fields."""
        return True

    def look(self, parts: pl.DataFrame, known: State | None, ctx: Context) -> State:
        """What a run of rows says in this round: small tables and facts.

        Args:
            parts: what `fit_shard` left of them, sorted by id. All rows of a prompt are in one run.
            known: the conclusion of the round before; None in the first.
            ctx: as of `fit`.
        """
        raise NotImplementedError

    def conclude(self, looks: Sequence[State], known: State | None, ctx: Context) -> Concluded:
        """The conclusion of a round.

        Args:
            looks: of all runs, in the order of the table; the tables are mapped into memory.
            known: the conclusion of the round before.
            ctx: as of `fit`.
        """
        raise NotImplementedError

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """The same, of all rows as one run."""
        return in_rounds(self, [parts], ctx)


class Concluded(NamedTuple):
    """The conclusion of a round, and whether it is what `fit` returns."""

    state: State
    last: bool


def in_rounds(step: Rounds, runs: Sequence[pl.DataFrame], ctx: Context) -> State:
    """Fit a step to runs of rows, in memory."""
    known: State | None = None
    last = False
    while not last:
        looks = [step.look(parts, known, ctx) for parts in runs]
        known, last = step.conclude(looks, known, ctx)
    assert known is not None  # noqa: S101 - there was a round
    return known


class Streamed:
    """Mixin of a dataset step whose fit reads shard by shard: `class X(Streamed, Labeler)`."""

    def fit_stream(self, parts: Iterable[pl.DataFrame], ctx: Context) -> State:
        """Fit, as `fit` does of all rows.

        Args:
            parts: what `fit_shard` left of each shard, in the order of the table: by prompt id. All
                rows of a prompt are in one.
            ctx: as of `fit`.
        """
        raise NotImplementedError


def of_digests(digests: pl.Series) -> pl.Series:
    """Keys (UInt64) of hex digests (String, 16 digits or more): their first 64 bits."""
    return digests.str.slice(0, 16).str.to_integer(base=16, dtype=pl.UInt64)
