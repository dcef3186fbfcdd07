"""Several votes on a prompt's tags as one, with how far they agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from labelers.prompt_labels.axes import TAGS, Axis, Vote


class Agreed(NamedTuple):
    """What the votes on one prompt come to.

    Attributes:
        tags: axis -> categories; None without a valid vote. Free tags under `TAGS`.
        confidence: share of votes that agree, on the axis on which they agree least; in [0, 1].
    """

    tags: Vote | None
    confidence: float | None


def agreed(votes: Sequence[Vote], axes: Sequence[Axis], asked: int, free: int = 0) -> Agreed:
    """Majority on every axis.

    On an axis of one category the most frequent one wins (of equal ones the first of the axis,
    or of the alphabet), and the votes for it agree. On an axis of several, a category stays if
    more than half of the valid votes have it, and the votes on its larger side agree: about the
    category that is disputed most. A vote that could not be read agrees with nothing.

    Free tags are those of the votes together, the most frequent first, then by the alphabet.

    Args:
        votes: the valid ones.
        axes: that were asked.
        asked: votes in all, at least as many as there are valid ones, above 0.
        free: most free tags.
    """
    if not votes:
        return Agreed(None, None)
    tags: Vote = {}
    least = len(votes)
    for axis in axes:
        kept, agree = _several(votes, axis) if axis.several else _one(votes, axis)
        tags[axis.name] = kept
        least = min(least, agree)
    if free:
        counts = Counter(tag for vote in votes for tag in vote[TAGS])
        ranked = sorted(counts, key=lambda tag: (-counts[tag], tag))
        tags[TAGS] = tuple(ranked[:free])
    return Agreed(tags, least / asked)


def _one(votes: Sequence[Vote], axis: Axis) -> tuple[tuple[str, ...], int]:
    counts = Counter(vote[axis.name][0] for vote in votes)
    order = list(axis.values) or sorted(counts)
    winner = min(counts, key=lambda value: (-counts[value], order.index(value)))
    return (winner,), counts[winner]


def _several(votes: Sequence[Vote], axis: Axis) -> tuple[tuple[str, ...], int]:
    n = len(votes)
    counts = Counter(value for vote in votes for value in vote[axis.name])
    order = list(axis.values) or sorted(counts)
    kept = tuple(value for value in order if 2 * counts[value] > n)
    return kept, min((max(c, n - c) for c in counts.values()), default=n)
