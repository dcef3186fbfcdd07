"""Orders of a fit that links near-duplicates of more rows than one worker holds.

`Keys` lays the band keys of a run of shards out by band; `Places` reads one band of all runs at a
time, a few numbers a row, and says which rows meet; `Link` compares the rows of a run, or of two
runs with each other, and keeps what links them; `Choose` decides by all links, and `Settle` says
of a run what that means for its rows. `Link` and `Settle` hold two runs of rows, `Places` a few
numbers of each row, `Choose` of each link.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple, cast

import numpy as np
import polars as pl

from prefactory.errors import DataError
from prefactory.identity import fingerprint
from prefactory.near.choose import Choice, none_beside_kept, one_of_each_cluster, ranks
from prefactory.near.linking import Links, bands_of, every_link, forest, links, links_of
from prefactory.near.pairs import MISSED, Meeting, equal_sets, least_of, read_rows
from prefactory.near.shingles import I64, U32, U64
from prefactory.orders import Order, Site, written
from prefactory.step.exchange import Linked, Linking
from prefactory.store import Store


@dataclass(frozen=True, slots=True)
class Keys:
    """What decides which rows of a run of shards meet others, by band.

    Attributes:
        parts: keys of the looks at these shards, in their order.
    """

    key: str
    label: str
    how: Linking
    parts: Sequence[str]

    def make(self, site: Site) -> None:
        """Write `id`, `digest`, `enough`, perhaps `score` and `group`, and a column a band."""
        rows = _parts(site.store, self.parts)
        how = self.how
        names = [c.removeprefix("set_") for c in rows.columns if c.startswith("set_")]
        words = [rows[f"words_{name}"].to_numpy() for name in names]
        enough = how.cut.enough(least_of(words, how.rule, names), MISSED)
        more = {"score": "score", "group": how.group}
        keys = rows["bands"].to_numpy()
        table = rows.select(
            pl.col(rows.columns[0]).alias("id"),
            "digest",
            pl.Series("enough", enough, dtype=pl.Int64),
            *(pl.col(own).alias(name) for name, own in more.items() if own in rows.columns),
            *(pl.Series(_band(i), keys[:, i]) for i in range(how.cut.bands)),
        )
        with site.store.write(self.key) as writer:
            writer.table("keys", table)
            writer.info |= {"parts": list(self.parts), "rows": rows.height}


@dataclass(frozen=True, slots=True)
class Places:
    """Which rows of all runs meet, band by band.

    Attributes:
        runs: keys of the `Keys` of all runs.
    """

    key: str
    label: str
    how: Linking
    runs: Sequence[str]

    def make(self, site: Site) -> None:
        """Write each row's place by id, what has equal sets, and a table a band.

        Rows are numbered run by run; `Link` reads its runs' slices.
        """
        cut = self.how.cut

        def column(name: str) -> pl.Series:
            return pl.concat([site.store.read(k, "keys", [name]) for k in self.runs]).to_series()

        number = column("id").to_frame().with_row_index("n").sort("id", "n")["n"].to_numpy()
        number = number.astype(np.int64)
        place = np.empty_like(number)
        place[number] = np.arange(number.size)
        group: U64 | None = None
        if "group" in site.store.read(self.runs[0], "keys").columns:
            group = column("group").rank("dense").cast(pl.UInt64).to_numpy()[number]
        left, right, first = equal_sets(column("digest").to_numpy()[number], group)

        def keys(band: int) -> U32:
            found: U32 = column(_band(band)).to_numpy()[number]
            return found

        meeting = Meeting(keys, cut.bands, column("enough").to_numpy()[number], group)
        with site.store.write(self.key) as writer:
            writer.table("place", pl.DataFrame({"place": place}))
            writer.table("links", _table(links_of(left, right, np.ones(left.size), 0)))
            bands = 0
            for rows, places in bands_of(meeting, np.flatnonzero(first)):
                met = pl.DataFrame({"row": number[rows], "place": places}).sort("row")
                writer.table(_band(bands), met)
                bands += 1
            writer.info |= {"bands": bands, "rows": _sizes(site.store, self.runs, self.label)}


@dataclass(frozen=True, slots=True)
class Link:
    """The links among the rows of a run, or between those of two runs.

    Attributes:
        runs: keys of the `Keys` of all runs.
        places: key of the `Places`.
        of: which run, or which two.
        known: keys of the links of each of the two, where only those that join clusters are kept.
    """

    key: str
    label: str
    how: Linking
    runs: Sequence[str]
    places: str
    of: tuple[int, ...]
    known: Sequence[str] = ()

    def make(self, site: Site) -> None:
        """Write those that may be links of all rows, the rows as their places by id."""
        store, info = site.store, _info(site.store, self.places, self.label)
        spans = [_span(info["rows"], i) for i in self.of]
        parts = [key for i in self.of for key in _info(store, self.runs[i], self.label)["parts"]]
        table = _parts(store, parts)
        place = pl.concat([store.read(self.places, "place")[a:b] for a, b in spans]).to_series()
        order = place.arg_sort()
        own, here = order.arg_sort().to_numpy().astype(np.int64), place.gather(order).to_numpy()
        rows = read_rows(table.drop("bands")[order], self.how.cut)
        side = None
        if len(self.of) > 1:
            side = order.to_numpy() >= spans[0][1] - spans[0][0]
        met = _met(store, self.places, spans, info["bands"], own)
        if self.how.every:
            kept = every_link(rows, self.how.rule, met, side)
        else:
            known = forest([_links(store, key).placed(here) for key in self.known])
            stride = max(1, sum(info["rows"]) // max(1, here.size))
            kept = forest([known, links(rows, self.how.rule, met, known, side, stride)])
            if side is not None:
                kept = kept.some(side[kept.left] != side[kept.right])
        kept = kept._replace(left=here[kept.left], right=here[kept.right])
        with site.store.write(self.key) as writer:
            writer.table("links", _table(kept))


@dataclass(frozen=True, slots=True)
class Choose:
    """Which rows of all runs go, and for which other ones.

    Attributes:
        how: what rows are linked by.
        runs: keys of the `Keys` of all runs.
        places: key of the `Places`.
        links: keys of the links of all runs and of every two of them.
    """

    key: str
    label: str
    how: Linking
    runs: Sequence[str]
    places: str
    links: Sequence[str]

    def make(self, site: Site) -> None:
        """Write the rows that go, by number, those that stay for them, and what links them."""
        store = site.store
        of = [self.places, *self.links]
        linked = together(store, of) if self.how.every else all_links(store, of)
        rows = np.unique(np.concatenate([linked.left, linked.right]))
        told = of_places(store, self.places, self.runs, rows)
        rank = ranks(told["place"], told["score"] if "score" in told.columns else None)
        choose = none_beside_kept if self.how.every else one_of_each_cluster
        choice = choose(linked.placed(rows).edges, rank)
        table = pl.DataFrame({n: told["number"].gather(v) for n, v in choice._asdict().items()})
        with store.write(self.key) as writer:
            writer.table("choice", table.sort("dropped"))
            writer.info["info"] = {
                "units": sum(_sizes(store, self.runs, self.label)),
                "pairs": int(linked.left.size),
            }


@dataclass(frozen=True, slots=True)
class Settle:
    """What was chosen about the rows of a run: their step's state.

    Attributes:
        runs: keys of the `Keys` of all runs.
        choice: key of the `Choose`.
        run: which run, from 0.
    """

    key: str
    label: str
    runs: Sequence[str]
    choice: str
    run: int

    def make(self, site: Site) -> None:
        """Write the decisions, and what is counted of them."""
        store, step = site.store, cast("Linked", site.step(self.label))
        starts = np.concatenate([[0], np.cumsum(_sizes(store, self.runs, self.label))])
        chosen = store.read(self.choice, "choice")
        dropped = chosen["dropped"].to_numpy()
        low, high = np.searchsorted(dropped, starts[self.run : self.run + 2])
        columns = [chosen[low:high, name].to_numpy() for name in Choice._fields]
        wanted, at = np.unique(np.concatenate(columns), return_inverse=True)
        edges = np.searchsorted(wanted, starts)
        rows = [
            _parts(store, _info(store, key, self.label)["parts"])[wanted[a:b] - start]
            for key, start, a, b in zip(self.runs, starts, edges, edges[1:], strict=False)
            if b > a or start == 0
        ]
        with written(site, self.key, site.context(self.label)) as (writer, _):
            state = step.settle(pl.concat(rows), Choice(*np.split(at, 3)))
            for name, table in state.tables.items():
                writer.table(name, table.sort(table.columns[0]))
            writer.info["info"] = dict(state.info)


class Plan(NamedTuple):
    """The orders that link runs of rows.

    Attributes:
        batches: what each kind is called, and its orders; one kind after the other.
        runs: keys of the `Keys` of all runs.
        places: key of the `Places`.
        links: keys of the links of all runs and of every two of them.
    """

    batches: list[tuple[str, list[Order]]]
    runs: list[str]
    places: str
    links: list[str]

    @property
    def objects(self) -> list[str]:
        """Keys of what they make."""
        return [*self.runs, self.places, *self.links]


def linked_in(label: str, how: Linking, runs: Sequence[Sequence[str]]) -> Plan:
    """Plan the orders that link runs of rows.

    Args:
        label: of the stage.
        how: what rows are linked by.
        runs: keys of the looks at the shards of each run.
    """
    keys = [fingerprint(["keys", parts]) for parts in runs]
    places = fingerprint(["places", keys])
    alone = [fingerprint(["links", keys, i]) for i in range(len(runs))]
    pairs = list(combinations(range(len(runs)), 2))
    both = [fingerprint(["links", keys, pair]) for pair in pairs]
    batches: list[tuple[str, list[Order]]] = [
        ("keys", [Keys(k, label, how, parts) for k, parts in zip(keys, runs, strict=True)]),
        ("places", [Places(places, label, how, keys)]),
        ("links", [Link(k, label, how, keys, places, (i,)) for i, k in enumerate(alone)]),
        (
            "links between",
            [
                Link(k, label, how, keys, places, (i, j), () if how.every else (alone[i], alone[j]))
                for k, (i, j) in zip(both, pairs, strict=True)
            ],
        ),
    ]
    return Plan(batches, keys, places, [*alone, *both])


def all_links(store: Store, keys: Sequence[str]) -> Links:
    """The forest of all links that are written, read one after the other."""
    linked = forest([])
    for key in keys:
        linked = forest([linked, _links(store, key)])
    return linked


def together(store: Store, keys: Sequence[str]) -> Links:
    """All links that are written, which no two have in common."""
    every = zip(*(_links(store, key) for key in keys), strict=True)
    return Links(*(np.concatenate(column) for column in every))


def _info(store: Store, key: str, label: str) -> Mapping[str, Any]:
    record = store.open(key)
    if record is None:
        raise DataError(f"the store has lost what {label} linked; run again")
    return record.info


def _sizes(store: Store, runs: Sequence[str], label: str) -> list[int]:
    return [_info(store, key, label)["rows"] for key in runs]


def _span(sizes: Sequence[int], i: int) -> tuple[int, int]:
    """First number of the rows of a run, and of the next one."""
    first = sum(sizes[:i])
    return first, first + sizes[i]


def _met(
    store: Store, places: str, spans: Sequence[tuple[int, int]], bands: int, own: I64
) -> Iterator[tuple[I64, I64]]:
    """Rows of some runs that meet others, and their places, band by band (see `bands_of`).

    Args:
        store: that has them.
        places: key of the `Places`.
        spans: numbers of the rows of each run.
        bands: how many there are.
        own: of each row of these runs, one run after the other, where it stands among them.
    """
    for band in range(bands):
        table = store.read(places, _band(band))
        edges = [np.searchsorted(table["row"].to_numpy(), span).tolist() for span in spans]
        held = np.concatenate([[0], np.cumsum([b - a for a, b in spans])])
        rows = [
            table[a:b, "row"].to_numpy() - span[0] + before
            for (a, b), span, before in zip(edges, spans, held, strict=False)
        ]
        place = np.concatenate([table[a:b, "place"].to_numpy() for a, b in edges])
        order = np.argsort(place)
        yield own[np.concatenate(rows)[order]], place[order]


def of_places(store: Store, places: str, runs: Sequence[str], rows: I64) -> pl.DataFrame:
    """`place`, `number`, `id` and perhaps `score` of rows that are told by place, by place."""
    every, first = store.read(places, "place").to_series(), 0
    pieces = []
    for run in runs:
        table = store.read(run, "keys")
        table = table.select([c for c in ("id", "score") if c in table.columns])
        at = every[first : first + table.height].to_numpy()
        here = np.flatnonzero(np.isin(at, rows, assume_unique=True))
        pieces.append(
            table[here].with_columns(
                place=pl.Series(at[here], dtype=pl.Int64),
                number=pl.Series(here + first, dtype=pl.Int64),
            )
        )
        first += table.height
    return pl.concat(pieces).sort("place")


def _parts(store: Store, keys: Sequence[str]) -> pl.DataFrame:
    return pl.concat([store.read(key, "part") for key in keys])


def _band(number: int) -> str:
    return f"band-{number:03d}"


def _table(found: Links) -> pl.DataFrame:
    return pl.DataFrame(found._asdict())


def _links(store: Store, key: str) -> Links:
    table = store.read(key, "links")
    return Links(*(table[name].to_numpy() for name in Links._fields))
