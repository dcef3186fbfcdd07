"""When a tree's best and worst differ by more than luck: null gaps, and what is to be compared.

With K scores a node and equally good nodes, the best of n means lies E_n sigma / sqrt(K) above the
truth, E_n being the expected greatest of n standard normal numbers. So 21 equal nodes with K = 3
differ by 2.18 sigma from best to worst, with nothing behind it. Fresh samples of few candidates say
whether a gap is more: `chance` is the p-value of their gap, `accepted` bounds false discoveries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import chdtri, ndtr, roots_legendre

from generators.instruction_search.tree import Node, Tree

Output = Literal["instructions", "pairs", "siblings", "steps", "trees"]
_NODES, _EDGE, _STEPS = 64, 9.0, 721
"""Points over the sampling distribution of sigma; of the grid over a normal number."""


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


def chance(gap: float, tops: int, bottoms: int, samples: int, freedom: int) -> float:
    """How likely equally good nodes show such a gap or more on fresh samples: its p-value.

    The gap is the best of `tops` fresh means less the worst of `bottoms` others, in units of an
    estimated standard deviation of one score; scores are taken to be normal, of one spread.

    Args:
        gap: in estimated standard deviations of one score; infinite where that is 0.
        tops: candidates at the upper end.
        bottoms: candidates at the lower end.
        samples: fresh scores of each.
        freedom: degrees of freedom of the estimate.

    Returns:
        A number in [0, 1].
    """
    if math.isinf(gap):
        return 0.0 if gap > 0 else 1.0
    points, weights = roots_legendre(_NODES)
    upper = chdtri(freedom, (points + 1) / 2)  # of chi-square, at evenly weighted shares
    scale = gap * np.sqrt(samples * upper / freedom)
    x = np.linspace(-_EDGE, _EDGE, _STEPS)
    worst = bottoms * ndtr(-x) ** (bottoms - 1) * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    below = ndtr(scale[:, None] + x) ** tops @ worst * (x[1] - x[0])
    return float(min(max(1 - below @ weights / 2, 0.0), 1.0))


@cache
def critical(level: float, tops: int, bottoms: int, samples: int, freedom: int) -> float:
    """The gap whose p-value is `level`, in estimated standard deviations of one score.

    1.84 at .05 for two candidates at either end, 3 samples, and the estimate of 21 nodes with 3.
    """

    def over(gap: float) -> float:
        return chance(gap, tops, bottoms, samples, freedom) - level

    high = 4.0
    while over(high) > 0:
        high *= 2
    return float(brentq(over, -high, high, xtol=1e-9))


def accepted(chances: Sequence[float], level: float) -> list[bool]:
    """Which of n comparisons of a tree stand, by Benjamini and Hochberg (JRSS B 57, 1995).

    Of what stands a share of at most `level` is expected to be luck; where all are equals, one or
    more stands with a probability of at most `level` (both for independent comparisons).

    Args:
        chances: n p-values.
        level: see above.
    """
    order = sorted(chances)
    allowed = [p for rank, p in enumerate(order, 1) if p <= level * rank / len(order)]
    most = max(allowed, default=-1.0)
    return [p <= most for p in chances]


class Spread(NamedTuple):
    """Standard deviation of one score within its node, pooled over nodes.

    Attributes:
        sd: in the scorer's units.
        freedom: degrees of freedom, at least 1.
    """

    sd: float
    freedom: int


def spread_of(nodes: Sequence[Node]) -> Spread | None:
    """The spread of scores in nodes whose answers differ; None where no node has such.

    Equal answers say nothing of luck: their one score was counted several times.
    """
    squares, freedom = [], 0
    for node in nodes:
        if node.mean is not None and node.distinct > 1:
            squares += [(score - node.mean) ** 2 for score in node.scores]
            freedom += len(node.scores) - 1
    return Spread(math.sqrt(math.fsum(squares) / freedom), freedom) if freedom else None


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
        gap: between the two by the scores that chose them.
        chance: p-value of the gap; None where nothing was measured again.
        reason, detail: why there is no pair.
    """

    chosen: int | None = None
    rejected: int | None = None
    gap: float | None = None
    chance: float | None = None
    reason: str | None = None
    detail: str | None = None


def passes(contest: Contest) -> Verdict:
    """Judge a contest by the search's own means: is there any gap?"""
    if not contest.gap > 0:
        return Verdict(reason="no_gap", detail=f"{contest.gap:.4g} between best and worst")
    return Verdict(contest.tops[0], contest.bottoms[0], contest.gap)


def measured(
    contest: Contest, fresh: Mapping[int, float], spread: Spread | None, samples: int
) -> Verdict:
    """Judge a contest by fresh scores: whom they choose, by how much, and how likely by chance.

    Args:
        contest: the candidates.
        fresh: mean of the fresh scores by place; a node without is no candidate.
        spread: of one score; None: there is no p-value.
        samples: fresh scores of each node.
    """
    tops = [place for place in contest.tops if place in fresh]
    bottoms = [place for place in contest.bottoms if place in fresh]
    if not tops or not bottoms:
        return Verdict(reason="no_fresh_scores", detail="no candidate at one end could be measured")
    chosen = max(tops, key=fresh.__getitem__)
    rejected = min(bottoms, key=fresh.__getitem__)
    gap = fresh[chosen] - fresh[rejected]
    if not gap > 0:
        detail = f"{gap:.4g} by fresh samples ({contest.gap:.4g} in the search)"
        return Verdict(reason="gap_not_confirmed", detail=detail)
    if spread is None:
        return Verdict(chosen, rejected, gap)
    size = gap / spread.sd if spread.sd else math.inf
    luck = chance(size, len(tops), len(bottoms), samples, spread.freedom)
    return Verdict(chosen, rejected, gap, luck)


def confirmed(
    verdicts: Sequence[tuple[Contest, Verdict]], level: float
) -> list[tuple[Contest, Verdict]]:
    """Let stand what a tree's comparisons allow at a level; the others lose their pair.

    A comparison without a pair counts among them with a p-value of 1.
    """
    chances = [1.0 if v.chance is None else v.chance for _, v in verdicts]
    kept = []
    for (contest, verdict), stands in zip(verdicts, accepted(chances, level), strict=True):
        if verdict.chosen is not None and not stands:
            detail = (
                f"{verdict.gap:.4g} by fresh samples ({contest.gap:.4g} in the search): equals "
                f"show that with a probability of {verdict.chance:.2g}"
            )
            verdict = Verdict(reason="gap_not_confirmed", detail=detail)
        kept.append((contest, verdict))
    return kept
