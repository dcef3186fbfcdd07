"""Which values each system message asks for: balanced over all prompts, varied within one.

Least covered first: in the order of the prompts (by hash), each message takes, of the values of
its dimension, one that was taken least so far, ties in a fresh random order each time around. So at
any moment the counts of a dimension's values differ by at most one. Sets that would hold opposed
values, or share too much with another set of their prompt, then swap a value with another prompt's
set, which leaves the counts as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from catalog.values import ValueSystem
from prefactory.errors import ConfigError

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

ROUNDS = 100
"""Rounds of swaps at most; each mends most of the sets that are left."""

TRIES = 3
"""Partners that are looked at for each set that swaps, to find distinct prompts."""


@dataclass(frozen=True)
class Grid:
    """What sets are drawn from, as numbers.

    Attributes:
        values: leaves by number.
        roots: numbers of the leaves of each dimension.
        combos: dimensions of a message, one row per way, Int64[C, k].
        opposed: which leaves pull in opposite ways, Bool[L, L].
        shared: most values that two sets of one prompt may share.
    """

    values: tuple[str, ...]
    roots: tuple[Ints, ...]
    combos: Ints
    opposed: Bools
    shared: int

    @property
    def sets(self) -> int:
        """Number of different sets, opposed values among them."""
        sizes = [len(r) for r in self.roots]
        return int(sum(np.prod([sizes[d] for d in combo], dtype=float) for combo in self.combos))


class Balanced(NamedTuple):
    """Sets of all prompts.

    Attributes:
        values: numbers of leaves, Int64[n, m, k].
        swapped: values that changed places.
        moved: values that were replaced, because nobody could swap; counts may differ by more.
        crowded: prompts whose sets still break a rule.
    """

    values: Ints
    swapped: int
    moved: int
    crowded: int


def grid(system: ValueSystem, per_message: int | None, shared: int | None = None) -> Grid:
    """Lay out a value system for drawing.

    Args:
        system: what to draw from; its first level are the dimensions.
        per_message: dimensions that a message draws from. None: all of them or, where some oppose
            each other, as many as can go together; one if there are no levels below.
        shared: most values that two sets of a prompt may share; None: half of them, as two of
            Janus' four.

    Raises:
        ConfigError: there are not so many dimensions, or they can't go together.
    """
    leaves = system.leaves
    number = {leaf: i for i, leaf in enumerate(leaves)}
    roots = tuple(
        np.array([number[leaf] for leaf in system.leaves_under(r)], dtype=np.int64)
        for r in system.roots
    )
    flat = all(len(r) == 1 for r in roots)
    if per_message is None:
        sizes = [1] if flat else list(range(len(roots), 0, -1))
    else:
        sizes = [per_message]
    ways: list[tuple[int, ...]] = []
    for k in sizes:
        ways = _together(system, k)
        if len({d for way in ways for d in way}) == len(roots):
            break
    if not ways:
        raise ConfigError(
            f"value system {system.system}: there are no {sizes[0]} of its {len(roots)} dimensions "
            "that go together; lower values_per_message"
        )
    opposed = np.array([[system.opposed(a, b) for b in leaves] for a in leaves], dtype=bool)
    k = len(ways[0])
    return Grid(leaves, roots, np.array(ways), opposed, k // 2 if shared is None else shared)


def _together(system: ValueSystem, k: int) -> list[tuple[int, ...]]:
    """Ways to choose k dimensions none of which opposes another."""
    pairs = {
        (i, j)
        for (i, a), (j, b) in combinations(enumerate(system.roots), 2)
        if system.opposed(a, b)
    }
    ways = combinations(range(len(system.roots)), k)
    return [way for way in ways if not any(p in pairs for p in combinations(way, 2))]


def balanced_sets(n: int, messages: int, grid: Grid, rng: np.random.Generator) -> Balanced:
    """Draw `messages` sets for each of n prompts, in their order.

    Args:
        n: prompts.
        messages: sets of each.
        grid: what to draw from.
        rng: decides ties.
    """
    slots = n * messages
    ways = grid.combos[rounds(rng, len(grid.combos), slots)]
    values = np.full(ways.shape, -1, dtype=np.int64)
    for root, leaves in enumerate(grid.roots):
        at = ways == root
        values[at] = leaves[rounds(rng, len(leaves), int(at.sum()))]
    sets = values.reshape(n, messages, grid.combos.shape[1])
    dims = ways.reshape(sets.shape)
    swapped = _swap(sets, dims, grid, rng)
    moved = _move(sets, dims, grid)
    return Balanced(sets, swapped, moved, int(breaks(sets, grid).any(axis=1).sum()))


def rounds(rng: np.random.Generator, size: int, count: int) -> Ints:
    """Numbers below `size` by turns, each time around in a fresh order: Int64[count]."""
    turns = -(-count // size) if count else 0
    table = np.broadcast_to(np.arange(size, dtype=np.int64), (turns, size))
    return rng.permuted(table, axis=1).ravel()[:count]


def breaks(sets: Ints, grid: Grid) -> Bools:
    """Which sets hold opposed values, or share too many with an earlier set of their prompt.

    Args:
        sets: Int64[n, m, k].
        grid: the rules.

    Returns:
        Bool[n, m].
    """
    _, messages, k = sets.shape
    broken = np.zeros(sets.shape[:2], dtype=bool)
    for i, j in combinations(range(k), 2):
        broken |= grid.opposed[sets[:, :, i], sets[:, :, j]]
    for a, b in combinations(range(messages), 2):
        same = (sets[:, a, :, None] == sets[:, b, None, :]).sum(axis=(1, 2))
        broken[:, b] |= same > grid.shared
    return broken


def _swap(sets: Ints, dims: Ints, grid: Grid, rng: np.random.Generator) -> int:
    """Mend sets by swapping values of one dimension between prompts; returns how many swapped."""
    done = 0
    n, _, k = sets.shape
    broken = breaks(sets, grid)
    for _ in range(ROUNDS):
        bad = np.flatnonzero(broken.any(axis=1))
        if bad.size == 0 or n < 2:
            break
        message = broken[bad].argmax(axis=1)
        column = rng.integers(0, k, bad.size)
        fine = np.logical_not(broken.any(axis=1))
        other, its_message, its_column = _partners(
            bad, dims[bad, message, column], dims, np.asarray(fine), rng
        )
        keep = other >= 0
        a = (bad[keep], message[keep], column[keep])
        b = (other[keep], its_message[keep], its_column[keep])
        sets[a], sets[b] = sets[b], sets[a]
        worse = breaks(sets[b[0]], grid).any(axis=1) | (
            breaks(sets[a[0]], grid).sum(axis=1) > broken[a[0]].sum(axis=1)
        )
        back_a, back_b = tuple(x[worse] for x in a), tuple(x[worse] for x in b)
        sets[back_a], sets[back_b] = sets[back_b], sets[back_a]
        broken[a[0]] = breaks(sets[a[0]], grid)
        done += int((~worse).sum())
    return done


def _partners(
    bad: Ints, roots: Ints, dims: Ints, fine: Bools, rng: np.random.Generator
) -> tuple[Ints, Ints, Ints]:
    """For each bad prompt a fine one of its own whose set draws from the same dimension.

    Returns:
        Prompt (-1: none found), message and column, Int64[b] each.
    """
    n, messages, _ = dims.shape
    prompt = rng.integers(0, n, (bad.size, TRIES))
    message = rng.integers(0, messages, prompt.shape)
    match = dims[prompt, message] == roots[:, None, None]
    usable = match.any(axis=2) & fine[prompt]
    pick = usable.argmax(axis=1)
    rows = np.arange(bad.size)
    chosen = np.where(usable.any(axis=1), prompt[rows, pick], -1)
    first = np.zeros(bad.size, dtype=bool)
    first[np.unique(chosen, return_index=True)[1]] = True  # a prompt swaps once a round
    return (
        np.where(first, chosen, -1),
        message[rows, pick],
        match[rows, pick].argmax(axis=1),
    )


def _move(sets: Ints, dims: Ints, grid: Grid) -> int:
    """Mend what no swap mended by the least covered value that does; returns how many changed."""
    counts = np.bincount(sets.ravel(), minlength=len(grid.values))
    changed = 0
    for prompt in np.flatnonzero(breaks(sets, grid).any(axis=1)):
        own = sets[prompt : prompt + 1]
        for _ in range(own.size):
            now = breaks(own, grid)
            if not now.any():
                break
            message = int(now[0].argmax())
            best: tuple[int, int, int, int] | None = None
            for column in range(own.shape[2]):
                before = own[0, message, column]
                for leaf in grid.roots[dims[prompt, message, column]]:
                    own[0, message, column] = leaf
                    key = (int(breaks(own, grid).sum()), int(counts[leaf]), column, int(leaf))
                    best = key if best is None or key < best else best
                own[0, message, column] = before
            if best is None or best[0] >= int(now.sum()):
                break
            counts[own[0, message, best[2]]] -= 1
            counts[best[3]] += 1
            own[0, message, best[2]] = best[3]
            changed += 1
    return changed
