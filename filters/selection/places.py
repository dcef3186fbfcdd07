"""A budget as places that rows take: rows or tokens, in one lot or shared out among groups."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from filters.selection.information import quotas

I64 = NDArray[np.int64]
Bools = NDArray[np.bool_]
Shares = Literal["proportional", "equal"]


def equal_shares(sizes: I64, k: int) -> I64:
    """Share out k places evenly; what a small group can't fill goes to the others.

    Args:
        sizes: Int64[g], group sizes, sum n.
        k: places, 0 <= k <= n.

    Returns:
        Int64[g], sums to k, none above its size; what can't be divided goes to earlier groups.
    """
    places, left = np.zeros_like(sizes), k
    while left:
        open_groups = np.flatnonzero(places < sizes)
        share = left // open_groups.size
        if not share:
            places[open_groups[:left]] += 1
            break
        given = np.minimum(share, sizes[open_groups] - places[open_groups])
        places[open_groups] += given
        left -= int(given.sum())
    return places


def rooms(limit: int, sizes: I64, shares: Shares) -> I64:
    """Share a budget out among groups, Int64[g].

    Args:
        limit: the budget; more than all groups have is cut to that.
        sizes: Int64[g], what each group has.
        shares: in proportion to that, or `equal`.
    """
    limit = max(0, min(limit, int(sizes.sum())))
    share = quotas if shares == "proportional" else equal_shares
    return share(sizes, limit) if limit else np.zeros_like(sizes)


class Places:
    """What is left of a budget while rows are chosen.

    A row fits as long as its group has room for its cost. A row that no longer fits never will
    again, so a budget of tokens is filled by smaller rows when larger ones no longer fit.

    Attributes:
        cost: Int64[n], at least 1: places that a row takes.
        group: Int64[n], group numbers from 0.
        room: Int64[g], places that each group has left.
        open: Bool[n], rows that were not taken and may be (they may still cost too much).
        eligible: Bool[n], rows that might be taken at the start.
    """

    def __init__(self, cost: I64, group: I64, room: I64, eligible: Bools) -> None:
        self.cost, self.group, self.room, self.open = cost, group, room.copy(), eligible.copy()
        self.eligible = eligible

    @classmethod
    def of(
        cls,
        limit: int,
        cost: I64,
        group: I64 | None = None,
        *,
        shares: Shares = "proportional",
        eligible: Bools | None = None,
    ) -> Places:
        """Share a budget out among groups, by the cost of their eligible rows.

        Args:
            limit: the budget; more than all rows cost is cut to that.
            cost: Int64[n].
            group: Int64[n], group numbers from 0; by default one group.
            shares: in proportion to what each group's rows cost, or `equal`.
            eligible: Bool[n], rows that may be taken; by default all.
        """
        group = np.zeros(cost.size, dtype=np.int64) if group is None else group
        eligible = np.ones(cost.size, dtype=bool) if eligible is None else eligible
        sizes = np.zeros(int(group.max(initial=0)) + 1, dtype=np.int64)
        np.add.at(sizes, group[eligible], cost[eligible])
        return cls(cost, group, rooms(limit, sizes, shares), eligible)

    def again(self) -> Places:
        """The same places, to be filled another time."""
        return Places(self.cost, self.group, self.room, self.open)

    def varies(self) -> bool:
        """Tell whether rows differ in cost, so that as many places hold more or fewer rows."""
        return bool(self.cost.size) and bool((self.cost != self.cost[0]).any())

    def rows(self) -> I64:
        """Rows that may still be taken, Int64[m], ascending."""
        return np.flatnonzero(self.open & (self.cost <= self.room[self.group]))

    def fit(self, rows: I64) -> Bools:
        """Tell for each of some rows whether it may still be taken, Bool[m]."""
        return np.asarray(self.open[rows] & (self.cost[rows] <= self.room[self.group[rows]]))

    def take(self, row: int) -> None:
        """Give a row its places."""
        self.open[row] = False
        self.room[self.group[row]] -= self.cost[row]

    def fill(self, order: I64) -> I64:
        """Take the rows of an order one after the other, as long as they fit.

        Args:
            order: Int64[m], distinct rows, first come first served.

        Returns:
            Int64[<= m], the rows taken, in that order.
        """
        order = order[self.fit(order)]
        if not order.size:
            return order
        if (self.cost[order] == 1).all():
            taken = order[rank_in_group(self.group[order]) < self.room[self.group[order]]]
            self.open[taken] = False
            np.subtract.at(self.room, self.group[taken], 1)
            return taken
        chosen = []
        for row in order.tolist():
            if self.cost[row] <= self.room[self.group[row]]:
                self.take(row)
                chosen.append(row)
        return np.asarray(chosen, dtype=np.int64)


def rank_in_group(group: I64) -> I64:
    """Number the members of each group from 0 in the order they come: Int64[m] -> Int64[m]."""
    by_group = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    rank = np.empty(group.size, dtype=np.int64)
    rank[by_group] = np.arange(group.size) - (np.cumsum(sizes) - sizes)[group[by_group]]
    return rank
