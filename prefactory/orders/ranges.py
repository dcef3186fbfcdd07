"""Orders of a fit that no worker holds whole: cut by key, decide range by range, hand back.

`Cut` sorts what the map left of a run of shards by the step's keys, so that a range of keys is a
slice of it; `Survey` and `FitRange` read that slice of every cut; `HandBack` collects for a run of
shards what all ranges decided about its rows. Each holds about as many rows as one range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import polars as pl

from prefactory.context import State
from prefactory.errors import DataError
from prefactory.orders import Site, written
from prefactory.step import FittedFilter
from prefactory.step.exchange import KEY, Exchanged
from prefactory.store import Store

RUN = "exchange_run"
"""Column of the run of shards that a row came from (UInt32)."""
_KEYS = 2**64


@dataclass(frozen=True, slots=True)
class Cut:
    """What the map left of a run of shards, sorted by key.

    Attributes:
        parts: keys of the looks at these shards, in their order.
    """

    key: str
    label: str
    parts: Sequence[str]

    def make(self, site: Site) -> None:
        """Write the rows with their keys."""
        rows = pl.concat([site.store.read(key, "part") for key in self.parts])
        keys = _step(site, self.label).keys(rows, site.context(self.label))
        if keys.dtype != pl.UInt64 or keys.len() != rows.height or keys.null_count():
            raise DataError(
                f"{self.label}.keys returned {keys.len()} of {keys.dtype} with "
                f"{keys.null_count()} nulls; it must return {rows.height} of UInt64 without"
            )
        rows = rows.with_columns(keys.alias(KEY)).sort(KEY, maintain_order=True)
        with site.store.write(self.key) as writer:
            writer.table("cut", in_order(rows))


@dataclass(frozen=True, slots=True)
class Survey:
    """What the fits of other ranges must know of a range.

    Attributes:
        cuts: keys of all cuts, in the order of the shards; there are as many ranges.
        place: which range, from 0.
    """

    key: str
    label: str
    cuts: Sequence[str]
    place: int

    def make(self, site: Site) -> None:
        """Write it."""
        found = _step(site, self.label).survey(_rows(site.store, self.cuts, self.place).drop(RUN))
        with site.store.write(self.key) as writer:
            writer.table("survey", found)


@dataclass(frozen=True, slots=True)
class FitRange:
    """What a dataset step decides about the rows of one range.

    Attributes:
        cuts, place: as of `Survey`.
        surveys: keys of the surveys of all ranges; empty if the step wants none.
    """

    key: str
    label: str
    cuts: Sequence[str]
    place: int
    surveys: Sequence[str] = ()

    def make(self, site: Site) -> None:
        """Write the decisions, sorted by where their rows came from, and the range's facts."""
        step, name = _step(site, self.label), _decided(site, self.label)
        rows = _rows(site.store, self.cuts, self.place)
        surveys = [site.store.read(key, "survey") for key in self.surveys]
        with written(site, self.key, site.context(self.label)) as (writer, ctx):
            state = step.fit_range(rows.drop(RUN), surveys, self.place, ctx)
            if not isinstance(state, State) or set(state.tables) != {name}:
                raise DataError(
                    f"{self.label}.fit_range must return a `State` with the table {name!r} alone"
                )
            writer.table("decided", _with_runs(state.tables[name], rows, self.label))
            writer.info["info"] = dict(state.info)


@dataclass(frozen=True, slots=True)
class HandBack:
    """What was decided about the rows of a run of shards: their step's state.

    Attributes:
        ranges: keys of the decisions of all ranges.
        run: which run of shards, from 0.
    """

    key: str
    label: str
    ranges: Sequence[str]
    run: int

    def make(self, site: Site) -> None:
        """Write the decisions, and the facts of all ranges."""
        records = [site.store.open(key) for key in self.ranges]
        infos = [record.info["info"] for record in records if record is not None]
        if len(infos) < len(records):
            raise DataError(f"the store has lost what {self.label} decided; run again")
        pieces = [
            _slice(site.store.read(key, "decided"), RUN, self.run, self.run + 1)
            for key in self.ranges
        ]
        rows = pl.concat(pieces).drop(RUN)
        with site.store.write(self.key) as writer:
            writer.table(_decided(site, self.label), rows.sort(rows.columns[0]))
            writer.info["info"] = _step(site, self.label).facts(infos)


def _step(site: Site, label: str) -> Exchanged:
    return cast("Exchanged", site.step(label))


def _decided(site: Site, label: str) -> str:
    return cast("FittedFilter", site.step(label)).decided


def _rows(store: Store, cuts: Sequence[str], place: int) -> pl.DataFrame:
    """The rows of one range, sorted by id as those of `fit` are, with `KEY` and `RUN`."""
    low, high = (at * _KEYS // len(cuts) for at in (place, place + 1))
    pieces = [
        _slice(store.read(key, "cut"), KEY, low, high).with_columns(
            pl.lit(run, dtype=pl.UInt32).alias(RUN)
        )
        for run, key in enumerate(cuts)
    ]
    rows = pl.concat(pieces)
    return rows.sort(rows.columns[0], maintain_order=True)


def in_order(rows: pl.DataFrame) -> pl.DataFrame:
    """The same table with the bytes of its texts in the order of its rows.

    Sorted texts are views into bytes that lie as they lay before, so that a slice of the file would
    touch all its pages.
    """
    laid = pl.from_arrow(rows.to_arrow(compat_level=pl.CompatLevel.oldest()))
    return cast("pl.DataFrame", laid)


def _slice(rows: pl.DataFrame, column: str, low: int, high: int) -> pl.DataFrame:
    """Rows whose value of a sorted column of whole numbers is in [low, high)."""
    values = rows[column]
    start, stop = (
        values.len() if edge == _KEYS else int(values.search_sorted(edge, side="left"))
        for edge in (low, high)
    )
    return rows.slice(start, stop - start)


def _with_runs(decided: pl.DataFrame, rows: pl.DataFrame, label: str) -> pl.DataFrame:
    """Decisions with the run of shards that their unit is in, sorted by it."""
    unit = "unit" if "unit" in rows.columns else rows.columns[0]
    own = decided.columns[0]
    runs = rows.select(pl.col(unit).alias(own), RUN).unique(own, keep="first")
    found = decided.join(runs, on=own, how="left", maintain_order="left")
    if unknown := found[RUN].null_count():
        raise DataError(
            f"{label}.fit_range decided about {unknown} units that its range does not have"
        )
    return in_order(found.sort(RUN, maintain_order=True))
