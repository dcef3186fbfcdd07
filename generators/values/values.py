"""Which two values meet in a dilemma, and which of them comes first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catalog.values import Node, ValueSystem, load
from prefactory.errors import ConfigError

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

KINDS = ("values", "preferences")
"""Kinds of value systems whose nodes can be held against each other."""


@dataclass(frozen=True, eq=False)
class Ranked:
    """Leaves of a value system that have a place in a declared order.

    Attributes:
        system: the tree.
        leaves: those with a place.
        rank: place of each, 0 the most important, Int64[L].
        partners: which two may meet, Bool[L, L], symmetric: never two of one place.
    """

    system: ValueSystem
    leaves: tuple[Node, ...]
    rank: Ints
    partners: Bools

    def chosen_first(self, pair: tuple[int, int]) -> tuple[Node, Node]:
        """Two leaves by number, the more important one first."""
        a, b = sorted(pair, key=lambda leaf: self.rank[leaf])
        return self.leaves[a], self.leaves[b]

    def above(self, leaf: Node) -> str:
        """Label of the node above a leaf; empty on a system of one level."""
        return "" if leaf.parent is None else self.system.by_id[leaf.parent].label


def ranked(values: str, priority: tuple[str, ...], opposed_only: bool) -> Ranked:
    """Read a value system and give its leaves their places.

    A leaf takes the place of the nearest node on its way to the root that the order names.

    Args:
        values: name of the system, or a file.
        priority: ids of nodes, the most important first.
        opposed_only: let only values meet that oppose each other by the system.

    Raises:
        ConfigError: an id is unknown or there twice; the system's nodes are no values; or no two
            values can meet.
    """
    system = load(values)
    if system.kind not in KINDS:
        raise ConfigError(f"values: {system.system} names {system.kind}, which nobody weighs")
    places = {node: i for i, node in enumerate(priority)}
    if len(places) < len(priority):
        raise ConfigError("priority: a node is there twice")
    for node in priority:
        system.ancestors(node)
    placed = []
    for leaf in system.leaves:
        named = [places[n] for n in reversed(system.ancestors(leaf)) if n in places]
        if named:
            placed.append((system.by_id[leaf], named[0]))
    leaves = tuple(leaf for leaf, _ in placed)
    rank = np.array([r for _, r in placed], dtype=np.int64)
    partners: Bools = rank[:, None] != rank[None, :]
    if opposed_only:
        pulls = [[system.opposed(a.id, b.id) for b in leaves] for a in leaves]
        partners &= np.array(pulls, dtype=bool).reshape(len(leaves), len(leaves))
    if not partners.any():
        pulling = " that oppose each other" if opposed_only else ""
        raise ConfigError(
            f"priority: no two values of {system.system}{pulling} have different places in it; "
            "name at least two nodes, the most important first"
        )
    return Ranked(system, leaves, rank, partners)


def least_covered(n: int, partners: Bools, rng: np.random.Generator) -> Ints:
    """Draw n pairs of leaves, least covered first.

    The first of each pair is one that was taken least so far, the second one of its partners that
    was taken least, ties at random.

    Args:
        n: how many.
        partners: which two may be drawn together, Bool[L, L], at least one pair.
        rng: breaks ties.

    Returns:
        Numbers of leaves, Int64[n, 2].
    """
    usable = partners.any(axis=1)
    taken = np.where(usable, 0.0, np.inf)
    pairs = np.zeros((n, 2), dtype=np.int64)
    for i in range(n):
        order = taken + 0.5 * rng.random(len(taken))
        first = int(order.argmin())
        second = int(np.where(partners[first], order, np.inf).argmin())
        pairs[i] = first, second
        taken[[first, second]] += 1
    return pairs
