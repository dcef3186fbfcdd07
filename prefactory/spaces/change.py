"""How much of a space's neighbourhoods another encoder of the same texts keeps (STRUCTURE).

STRUCTURE's regulariser compares, level by level, how likely a walk among the texts is to go from
one to another in both spaces. As a measure its diagonal is masked (our choice): at its temperature
of .05 the walk would else stay where it is in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefactory.errors import DataError
from prefactory.measures.calibration import Floats
from prefactory.preferences.clustered import Estimate, clustered_mean
from prefactory.spaces.sphere import unit

NEIGHBOURS, LEVELS, TEMPERATURE = 10, 3, 0.05


@dataclass(frozen=True)
class Change:
    """What another encoder keeps.

    Attributes:
        overlap: share of a text's 10 nearest texts that are among its 10 nearest in the other
            space, with an interval of 95 % by cluster.
        chance: of that, for spaces that have nothing in common.
        structure: STRUCTURE's divergence, 0 where all walks are alike, in nats.
    """

    overlap: Estimate
    chance: float
    structure: float

    def kept(self, least: float) -> bool:
        """Whether the lower end of the overlap is at least `least`."""
        return bool(self.overlap.low >= least)


def change(old: Floats, new: Floats, cluster: NDArray[Any]) -> Change:
    """Compare two spaces of the same texts.

    Args:
        old: vectors, Float[n, d].
        new: vectors, Float[n, e].
        cluster: which texts belong together, length n.

    Raises:
        DataError: there are fewer than 12 texts.
    """
    n = len(old)
    if n < NEIGHBOURS + 2:
        raise DataError(f"neighbours are told of {NEIGHBOURS + 2} texts or more, not of {n}")
    shares = overlaps(old, new)
    return Change(clustered_mean(shares, cluster), NEIGHBOURS / (n - 1), divergence(old, new))


def overlaps(old: Floats, new: Floats, neighbours: int = NEIGHBOURS) -> Floats:
    """Share of the nearest rows by cosine that two spaces have in common: Float64[n]."""
    near = []
    for vectors in (old, new):
        x = unit(vectors)
        likeness = x @ x.T
        np.fill_diagonal(likeness, -np.inf)
        near.append(np.argsort(-likeness, axis=1, kind="stable")[:, :neighbours])
    both = (near[0][:, :, None] == near[1][:, None, :]).any(axis=2)
    found: Floats = both.mean(axis=1)
    return found


def divergence(
    old: Floats, new: Floats, levels: int = LEVELS, temperature: float = TEMPERATURE
) -> float:
    """`(1/L) sum_l (1/l) JS(P^l, Q^l)`, JS the mean over rows, in nats: 0 to log 2 at most.

    Args:
        old: vectors, Float[n, d].
        new: vectors, Float[n, e].
        levels: L, steps of the walks.
        temperature: of the softmax of the products of unit, centred rows.
    """
    one, other = (_walk(v, temperature) for v in (old, new))
    p, q, total = one, other, 0.0
    for level in range(1, levels + 1):
        total += _jensen_shannon(p, q) / level
        p, q = p @ one, q @ other
    return total / levels


def _walk(vectors: Floats, temperature: float) -> Floats:
    x = unit(vectors)
    x = x - x.mean(axis=0)
    gram = x @ x.T / temperature
    np.fill_diagonal(gram, -np.inf)
    weights = np.exp(gram - gram.max(axis=1, keepdims=True))
    found: Floats = weights / weights.sum(axis=1, keepdims=True)
    return found


def _jensen_shannon(p: Floats, q: Floats) -> float:
    middle = (p + q) / 2

    def against(x: Floats) -> Floats:
        ratio = np.divide(x, middle, out=np.ones_like(x), where=x > 0)
        return np.asarray((x * np.log(ratio)).sum(axis=1))

    return float(((against(p) + against(q)) / 2).mean())
