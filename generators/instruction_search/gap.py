"""When a tree's best and worst differ by more than luck: null gaps, and what is to be compared.

With K scores a node and equally good nodes, the best of n means lies E_n sigma / sqrt(K) above the
truth, E_n being the expected greatest of n standard normal numbers. So 21 equal nodes with K = 3
differ by 2.18 sigma from best to worst, with nothing behind it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from scipy.integrate import quad
from scipy.special import ndtr

from generators.instruction_search.tree import Node, Tree

Output = Literal["instructions", "pairs", "siblings", "steps", "trees"]


@cache
def expected_max(n: int) -> float:
    """Expected greatest of n independent standard normal numbers; 0 for one."""
    if n < 2:
        return 0.0

    def weighed(z: float) -> float:
        return float(z * n * ndtr(z) ** (n - 1) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi))

    return float(quad(weighed, -12.0, 12.0, limit=200)[0])


def null_gap(best_of: int, worst_of: int, samples: int) -> float:
    """Expected gap between equally good nodes, in standard deviations of one score.

    Args:
        best_of: nodes that the better one is the best of.
        worst_of: nodes that the worse one is the worst of.
        samples: scores of each node, K.
    """
    return (expected_max(best_of) + expected_max(worst_of)) / math.sqrt(samples)


def pooled_sd(nodes: Sequence[Node]) -> float | None:
    """Standard deviation of one score within its node, pooled over nodes; None without any two."""
    squares, freedom = [], 0
    for node in nodes:
        if node.mean is not None and len(node.scores) > 1:
            squares += [(score - node.mean) ** 2 for score in node.scores]
            freedom += len(node.scores) - 1
    return math.sqrt(math.fsum(squares) / freedom) if freedom else None


@dataclass(frozen=True)
class Contest:
    """Nodes that may become chosen, and nodes that may become rejected.

    Attributes:
        tops: places of the candidates for chosen, best first.
        bottoms: of those for rejected, worst first; none of them is in `tops`.
        best_of, worst_of: how many nodes the first of each was picked from.
        origin: the node whose instruction is to be improved.
        gap: between the first of each, by the means of the search.
    """

    tops: tuple[int, ...]
    bottoms: tuple[int, ...]
    best_of: int
    worst_of: int
    origin: int
    gap: float


def contests(tree: Tree, output: Output, ends: int) -> list[Contest]:
    """What a finished tree has to compare for an output.

    Args:
        tree: with its root measured.
        output: `pairs`: best node against worst node; `instructions`: best node against the root;
            `siblings`: best against worst child of each node; `steps`: each child against its
            parent; `trees`: nothing.
        ends: candidates at either end, as far as there are nodes for it.
    """
    means = [node.mean if node.mean is not None else -math.inf for node in tree.nodes]
    order = sorted(range(len(means)), key=lambda place: (-means[place], place))
    if output == "pairs":
        return _of_one(order, means, ends, 0)
    if output == "instructions":
        rest = [place for place in order if place]
        return [_contest(rest[:ends], [0], len(rest), 1, 0, means)] if rest else []
    pairings: list[Contest] = []
    for place, node in enumerate(tree.nodes):
        if output == "siblings":
            children = sorted(node.children, key=lambda child: (-means[child], child))
            pairings += _of_one(children, means, ends, place)
        elif output == "steps":
            pairings += [_contest([c], [place], 1, 1, place, means) for c in node.children]
    return pairings


def _of_one(order: list[int], means: list[float], ends: int, origin: int) -> list[Contest]:
    """Best against worst of one list, best first; nothing if there is only one node."""
    ends = min(ends, len(order) // 2)
    if not ends:
        return []
    return [_contest(order[:ends], order[::-1][:ends], len(order), len(order), origin, means)]


def _contest(
    tops: list[int], bottoms: list[int], best_of: int, worst_of: int, origin: int,
    means: list[float],
) -> Contest:  # fmt: skip
    gap = means[tops[0]] - means[bottoms[0]]
    return Contest(tuple(tops), tuple(bottoms), best_of, worst_of, origin, gap)


@dataclass(frozen=True)
class Verdict:
    """What became of a contest.

    Attributes:
        chosen, rejected: places of the nodes; None if there is no pair.
        gap: between the two by fresh scores, or by the search's where there are none.
        reason, detail: why there is no pair.
    """

    chosen: int | None = None
    rejected: int | None = None
    gap: float | None = None
    reason: str | None = None
    detail: str | None = None


def passes(contest: Contest, threshold: float) -> Verdict:
    """Judge a contest by the search's own means, before it costs fresh samples."""
    if not contest.gap > threshold:
        detail = f"{contest.gap:.4g} between best and worst, expected of equals: {threshold:.4g}"
        return Verdict(reason="below_null_gap", detail=detail)
    return Verdict(contest.tops[0], contest.bottoms[0], contest.gap)


def decided(
    contest: Contest, fresh: dict[int, float], sd: float, samples: int, factor: float
) -> Verdict:
    """Judge a contest that passed by fresh scores: whom they choose, and by how much.

    Args:
        contest: the candidates.
        fresh: mean of the fresh scores by place; a node without is no candidate.
        sd: standard deviation of one score.
        samples: fresh scores of each node.
        factor: times the null gap that the fresh gap must exceed.
    """
    tops = [place for place in contest.tops if place in fresh]
    bottoms = [place for place in contest.bottoms if place in fresh]
    if not tops or not bottoms:
        return Verdict(reason="no_fresh_scores", detail="no candidate at one end could be measured")
    chosen = max(tops, key=fresh.__getitem__)
    rejected = min(bottoms, key=fresh.__getitem__)
    gap = fresh[chosen] - fresh[rejected]
    threshold = factor * sd * null_gap(len(tops), len(bottoms), samples)
    if not gap > threshold:
        detail = f"{gap:.4g} by fresh samples ({contest.gap:.4g} in the search), {threshold:.4g}"
        return Verdict(reason="gap_not_confirmed", detail=f"{detail} expected of equals")
    return Verdict(chosen, rejected, gap)
