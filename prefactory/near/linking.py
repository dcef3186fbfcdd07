"""Clusters of near-duplicate rows by as few comparisons as link them, whole or piece by piece.

Two rows that meet (see `prefactory.near.pairs`) have a turn: the band, and how far apart they are
in its order. Of the near-duplicates among all rows the links are the smallest forest by turn (then
by the rows themselves): there is one, so it does not depend on who compares what. A pair whose rows
earlier turns have joined can't be in it, and is not looked at, so that rows with many near copies
cost no more than others. For the same reason the forest of all rows is that of the forests of every
two runs of rows: runs are compared two by two, and no worker holds more. Who needs all links, not
those that join clusters, has them the same way (`every_link`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree

from prefactory.ahead import in_order
from prefactory.near.likeness import Floats, Rule, similarity
from prefactory.near.pairs import (
    WINDOW,
    Edges,
    Meeting,
    Rows,
    clusters,
    equal_sets,
    least_index,
    may_be_near,
    ordered,
    orders,
)
from prefactory.near.shingles import I64

FEW = 8192
"""Rows of which twice as many neighbours are compared at each look at which are joined."""
TURNS = WINDOW + 1
"""Turns of a band; rows with equal sets have turn 0, before all bands."""


class Links(NamedTuple):
    """Near-duplicates that link rows, each pair once.

    Attributes:
        left, right: Int64[m], rows, left < right.
        jaccard: Float64[m].
        turn: Int64[m].
    """

    left: I64
    right: I64
    jaccard: Floats
    turn: I64

    @property
    def edges(self) -> Edges:
        """Without their turns."""
        return Edges(self.left, self.right, self.jaccard)

    def some(self, which: NDArray[np.generic] | slice) -> Links:
        """Those of an index, a mask or a slice."""
        return Links(self.left[which], self.right[which], self.jaccard[which], self.turn[which])

    def placed(self, rows: I64) -> Links:
        """With the positions of their rows among ascending ones that have them all."""
        left, right = (np.searchsorted(rows, end) for end in (self.left, self.right))
        return self._replace(left=left, right=right)


def links_of(left: I64, right: I64, jaccard: Floats, turn: I64 | int) -> Links:
    """Links of pairs of rows in any order."""
    turns = np.full(left.size, turn, dtype=np.int64) if isinstance(turn, int) else turn
    return Links(np.minimum(left, right), np.maximum(left, right), jaccard, turns)


def linking_edges(rows: Rows, rule: Rule) -> Edges:
    """Find near-duplicates enough to link every cluster that `near_edges` links.

    Args:
        rows: n rows.
        rule: when two are near-duplicates.

    Returns:
        The forest, sorted by both rows; its connected components are those of `near_edges`.
    """
    left, right, first = equal_sets(rows.digest, rows.group)
    same = links_of(left, right, np.ones(left.size), 0)
    meeting = Meeting.of(rows, least_index(rows, rule))
    return forest([same, links(rows, rule, bands_of(meeting, np.flatnonzero(first)))]).edges


def bands_of(meeting: Meeting, some: I64) -> Iterator[tuple[I64, I64]]:
    """Yield the rows of each band that meet another, and their places in its order.

    Args:
        meeting: of n rows.
        some: rows that take part.

    Returns:
        Rows, and places (Int64, ascending): rows meet that are at most `WINDOW` apart.
    """
    for keys, order in orders(meeting, some):
        other = np.ones(keys.size + 1, dtype=bool)
        other[1:-1] = keys[1:] != keys[:-1]
        place = np.arange(keys.size) + WINDOW * np.cumsum(other[:-1])
        met = ~(other[1:] & other[:-1])
        yield some[order[met]], place[met]


def links(
    rows: Rows,
    rule: Rule,
    bands: Iterable[tuple[I64, I64]],
    known: Links | None = None,
    side: NDArray[np.bool_] | None = None,
    stride: int = 1,
) -> Links:
    """Find the links among rows that meet.

    Args:
        rows: n rows.
        rule: when two are near-duplicates.
        bands: of each band the rows that meet others, and their places (see `bands_of`).
        known: links found before, which join rows at their turn.
        side: Bool[n]; if given, only pairs of a row that is one and a row that is not.
        stride: of how many rows that meet one is here; changes nothing but the time.

    Returns:
        Pairs with all that belong to the forest of these rows and are not known, and some more.
    """
    work = _Linker(rows, rule, side, known, stride)
    for band, (bucketed, place) in enumerate(in_order(iter(bands), tuple, 2)):
        work.band(band, bucketed, place)
    found = [_NONE, *work.found]
    return Links(*(np.concatenate(column) for column in zip(*found, strict=True)))


def every_link(
    rows: Rows,
    rule: Rule,
    bands: Iterable[tuple[I64, I64]],
    side: NDArray[np.bool_] | None = None,
) -> Links:
    """All near-duplicates among rows that meet, but those with equal sets.

    Args:
        rows: n rows.
        rule: when two are near-duplicates.
        bands: of each band the rows that meet others, and their places (see `bands_of`).
        side: Bool[n]; if given, only pairs of a row that is one and a row that is not.

    Returns:
        Each pair once, sorted by both rows; their turn is that of none (1).
    """
    least, n = least_index(rows, rule), max(1, rows.digest.size)
    packed: I64 = np.zeros(0, dtype=np.int64)
    for bucketed, place in bands:
        found, at = [packed], np.arange(place.size)
        for ahead in range(1, WINDOW + 1):
            at = at[at < place.size - ahead]
            at = at[place[at + ahead] - place[at] <= WINDOW]
            left, right = bucketed[at], bucketed[at + ahead]
            if side is not None:
                apart = side[left] != side[right]
                left, right = left[apart], right[apart]
            alike = may_be_near(rows, left, right, least)
            found.append(ordered(left[alike], right[alike], n))
        packed = np.unique(np.concatenate(found))
    left, right = np.divmod(packed, n)
    index, near, _ = similarity(rows.parts, left, right, rule)
    return links_of(left[near], right[near], index[near], 1)


def forest(pieces: Sequence[Links]) -> Links:
    """The smallest forest by turn, then by rows, of links of which no pair comes twice."""
    every = Links(*(np.concatenate(column) for column in zip(_NONE, *pieces, strict=True)))
    if not every.left.size:
        return every
    order = np.lexsort((every.right, every.left, every.turn))
    ends, number = np.unique(np.concatenate([every.left, every.right]), return_inverse=True)
    left, right = np.split(number, 2)
    rank = np.arange(1, order.size + 1, dtype=np.float64)
    graph = coo_array((rank, (left[order], right[order])), shape=(ends.size, ends.size))
    kept = every.some(order[minimum_spanning_tree(graph.tocsr()).data.astype(np.int64) - 1])
    return kept.some(np.lexsort((kept.right, kept.left)))


_NO_ROW: I64 = np.zeros(0, dtype=np.int64)
_NONE = links_of(_NO_ROW, _NO_ROW, np.zeros(0), 0)


@dataclass
class _Linker:
    """Rows that are compared band by band, and what joins them so far."""

    rows: Rows
    rule: Rule
    side: NDArray[np.bool_] | None
    known: Links | None
    stride: int
    found: list[Links] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.n = self.rows.digest.size
        self.root = np.arange(self.n)
        self.least = least_index(self.rows, self.rule)
        self.unlike: I64 = np.zeros(0, dtype=np.int64)
        self.linked = np.zeros((2, 0), dtype=np.int64)
        self.told = 0
        if self.known is not None:
            self.known = self.known.some(np.argsort(self.known.turn, kind="stable"))

    def band(self, number: int, bucketed: I64, place: I64) -> None:
        """Compare the rows of a band that meet, nearest first."""
        self._tell(number * TURNS)
        self._join()
        ends = np.append(place, np.iinfo(np.int64).max)
        at, apart, failed = np.flatnonzero(self._parted(bucketed, place)), 0, [self.unlike]
        ahead = at + 1
        while at.size and apart < WINDOW:
            wide = apart + self.stride if at.size > FEW else 2 * apart + 1
            stop = min(wide, WINDOW)
            at, ahead, met = self._met(bucketed, ends, at, ahead, stop)
            self._compare(met, number * TURNS, failed)
            apart = stop
            self._tell(number * TURNS + apart)
            if self.linked.shape[1] * WINDOW > at.size:  # else it costs more than it saves
                self._join()
                still = self._parted(bucketed, place).take(at)
                at, ahead = at[still], ahead[still]
        self._join()
        if len(failed) > 1:
            self.unlike = np.sort(np.concatenate(failed))

    def _met(
        self, bucketed: I64, ends: I64, at: I64, ahead: I64, stop: int
    ) -> tuple[I64, I64, NDArray[np.int64]]:
        """Pairs of rows at most so far apart that are not joined, and their distance.

        Args:
            bucketed: rows of the band.
            ends: their places, and a last one that nothing meets.
            at: positions in `bucketed` that meet others yet.
            ahead: of each the first position that it has not met.
            stop: how far.

        Returns:
            `at` and `ahead` after it, and Int64[3, m].
        """
        past = ends.searchsorted(ends.take(at) + stop, side="right")
        count = past - ahead
        left, first = np.repeat(at, count), np.repeat(past - np.cumsum(count), count)
        right = first + np.arange(first.size)
        rows, others = bucketed.take(left), bucketed.take(right)
        new = self.root.take(rows) != self.root.take(others)
        if self.side is not None:
            new &= self.side.take(rows) != self.side.take(others)
        new = np.flatnonzero(new)
        gap = ends.take(right[new]) - ends.take(left[new])
        within = ends.take(past) - ends.take(at) <= WINDOW
        return at[within], past[within], np.stack([rows[new], others[new], gap])

    def _compare(self, met: NDArray[np.int64], turn: int, failed: list[I64]) -> None:
        """Keep those that are near; those that only seemed so are not compared again."""
        left, right, apart = met
        sieved = may_be_near(self.rows, left, right, self.least)
        left, right, apart = left[sieved], right[sieved], apart[sieved]
        keys = ordered(left, right, self.n)
        fresh = ~_among(keys, self.unlike)
        left, right, apart, keys = left[fresh], right[fresh], apart[fresh], keys[fresh]
        alike = similarity(self.rows.parts, left, right, self.rule)
        near = alike.near
        failed.append(keys[~near])
        self.found.append(
            links_of(left[near], right[near], alike.jaccard[near], turn + apart[near])
        )
        self.linked = np.concatenate([self.linked, np.stack([left[near], right[near]])], axis=1)

    def _tell(self, turn: int) -> None:
        """Let known links up to a turn join their rows."""
        if self.known is None:
            return
        stop = int(np.searchsorted(self.known.turn, turn, side="right"))
        new = self.known.some(slice(self.told, stop))
        self.told = stop
        self.linked = np.concatenate([self.linked, np.stack([new.left, new.right])], axis=1)

    def _join(self) -> None:
        """Give all rows of a component one root, the first of them."""
        left, right = self.linked
        self.linked = self.linked[:, :0]
        if not left.size:
            return
        roots = np.concatenate([self.root[left], self.root[right]])
        heads, ends = np.unique(roots, return_inverse=True)
        a, b = np.split(ends, 2)
        number = clusters(Edges(a, b, np.ones(left.size)), heads.size)
        first = np.arange(self.n)
        first[heads] = heads[np.unique(number, return_index=True)[1]][number]
        self.root = first[self.root]

    def _parted(self, bucketed: I64, place: I64) -> NDArray[np.bool_]:
        """Which rows of a band may meet a row of another component (and side), Bool[m]."""
        if not place.size:
            return np.zeros(0, dtype=bool)
        starts = np.flatnonzero(np.concatenate([[True], np.diff(place) > WINDOW]))
        parted = _differ(self.root[bucketed], starts)
        if self.side is not None:
            parted &= _differ(self.side[bucketed], starts)
        return np.repeat(parted, np.diff(np.append(starts, place.size)))


def _differ(values: NDArray[np.generic], starts: I64) -> NDArray[np.bool_]:
    """Whether the values of each run are not all the same."""
    differ: NDArray[np.bool_] = np.minimum.reduceat(values, starts) != np.maximum.reduceat(
        values, starts
    )
    return differ


def _among(keys: I64, known: I64) -> NDArray[np.bool_]:
    """Whether keys are among sorted known ones, Bool[m]."""
    if not known.size:
        return np.zeros(keys.size, dtype=bool)
    slot = np.searchsorted(known, keys)
    there: NDArray[np.bool_] = known[np.minimum(slot, known.size - 1)] == keys
    return there
