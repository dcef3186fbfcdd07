"""Orders of a fit in rounds: a look at each run of rows, and one conclusion of all looks.

`Look` holds a run of rows, `Conclude` what all looks left, which are sums, counts and a few numbers
of each row. What a filter decided about the rows of a run `HandOut` gives back to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import polars as pl

from prefactory.context import State
from prefactory.errors import DataError
from prefactory.orders import Site, put_state, read_state, written
from prefactory.orders.ranges import in_order
from prefactory.step import FittedFilter
from prefactory.step.exchange import Concluded, Rounds


@dataclass(frozen=True, slots=True)
class Look:
    """What a run of shards says in a round.

    Attributes:
        parts: keys of the looks at these shards, in their order.
        known: key of the conclusion of the round before; empty in the first.
    """

    key: str
    label: str
    parts: Sequence[str]
    known: str = ""

    def make(self, site: Site) -> None:
        """Write the tables of what it says, and its facts."""
        rows = pl.concat([site.store.read(key, "part") for key in self.parts])
        rows = rows.sort(rows.columns[0], maintain_order=True)
        known = site.state(self.known) if self.known else None
        with written(site, self.key, site.context(self.label)) as (writer, ctx):
            said = _step(site, self.label).look(rows, known, ctx)
            if not isinstance(said, State):
                raise DataError(f"{self.label}.look must return a `State`")
            put_state(writer, said)


@dataclass(frozen=True, slots=True)
class Conclude:
    """What follows of the looks of a round; of the last round it is the step's state.

    Attributes:
        looks: their keys, in the order of the shards.
        known: as of `Look`.
    """

    key: str
    label: str
    looks: Sequence[str]
    known: str = ""

    def make(self, site: Site) -> None:
        """Write the tables, the facts, and whether it is the last one."""
        looks = [read_state(site.store, key) for key in self.looks]
        known = site.state(self.known) if self.known else None
        with written(site, self.key, site.context(self.label)) as (writer, ctx):
            found = _step(site, self.label).conclude(looks, known, ctx)
            if not isinstance(found, Concluded):
                raise DataError(f"{self.label}.conclude must return a `Concluded`")
            put_state(writer, found.state)
            writer.info["last"] = found.last


@dataclass(frozen=True, slots=True)
class HandOut:
    """What a filter concluded about the rows of a run: their step's state.

    Attributes:
        concluded: key of the last conclusion.
        first, rows: where the run's rows are among all that it decided about.
    """

    key: str
    label: str
    concluded: str
    first: int
    rows: int

    def make(self, site: Site) -> None:
        """Write the decisions, and the facts of all rows."""
        state = read_state(site.store, self.concluded)
        name = cast("FittedFilter", site.step(self.label)).decided
        with site.store.write(self.key) as writer:
            writer.table(name, in_order(state.tables[name].slice(self.first, self.rows)))
            writer.info["info"] = dict(state.info)


def _step(site: Site, label: str) -> Rounds:
    return cast("Rounds", site.step(label))
