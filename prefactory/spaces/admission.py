"""Whether a fused space is admitted: odd one out, and retrieval between encoders.

A fused space must beat what can be had without it, on texts that it was not fitted on: the vectors
side by side, the best single encoder, and for retrieval a ridge map between encoders. Each is
cheaper, and on real answers each was better (our gate and its numbers).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefactory.errors import DataError
from prefactory.measures.calibration import Floats
from prefactory.preferences.clustered import Estimate, clustered_mean, codes
from prefactory.spaces.fusion import STEPS, Fusion, Vectors, fit
from prefactory.spaces.sphere import uniformity, unit

TRIPLETS = 2000
HELD_OUT = 0.3
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Candidate:
    """A space that texts may be kept in.

    Attributes:
        name: an encoder, `side by side`, or a fusion.
        odd_one_out: share of triplets in which two texts of one group are nearer to each other
            than each to a third one, on held-out texts; chance is 1/3.
        recall: share of held-out texts whose vector of one encoder is nearest to its own of
            another, mean over ordered pairs of encoders; of `side by side` by a ridge map; None
            for a single encoder.
        uniformity: of the held-out vectors; it only compares.
        accepted: of a fusion, whether it is admitted; None of all else.
        over: what it is better by in odd one out, and in recall, with intervals; of a fusion.
    """

    name: str
    odd_one_out: Estimate
    recall: Estimate | None
    uniformity: float
    accepted: bool | None = None
    over: tuple[Estimate, Estimate] | None = None


@dataclass(frozen=True)
class Admission:
    """All candidates, and the fusion.

    Attributes:
        candidates: single encoders, side by side, fusions.
        fusion: the admitted one with the most hits; else the one by the mean.
        accepted: whether one was admitted.
        held_out: texts on which all was measured.
    """

    candidates: tuple[Candidate, ...]
    fusion: Fusion
    accepted: bool
    held_out: int


def triplets(group: NDArray[Any], seed: int, count: int = TRIPLETS) -> Ints:
    """Draw two texts of one group and one of another: Int64[count, 3].

    Raises:
        DataError: no group has two texts, or there is one group only.
    """
    own = codes(group)
    sizes = np.bincount(own)
    if len(sizes) < 2 or sizes.max(initial=0) < 2:
        raise DataError("odd one out wants groups of two texts or more, and two such groups")
    order = np.argsort(own, kind="stable")
    starts = np.cumsum(sizes) - sizes
    rng = np.random.default_rng(seed)
    first = rng.choice(np.flatnonzero(sizes >= 2), count)
    a = rng.integers(0, sizes[first])
    b = (a + rng.integers(1, sizes[first])) % sizes[first]
    rest = rng.integers(0, len(own) - sizes[first])
    odd = np.where(rest < starts[first], rest, rest + sizes[first])
    return np.stack([order[starts[first] + a], order[starts[first] + b], order[odd]], axis=1)


def hits(vectors: Floats, drawn: Ints) -> Floats:
    """1 where the first two of a triplet are the nearest of the three, else 0: Float64[count]."""
    x = unit(vectors)
    a, b, odd = (x[drawn[:, i]] for i in range(3))
    same = (a * b).sum(axis=1)
    found: Floats = (same > np.maximum((a * odd).sum(axis=1), (b * odd).sum(axis=1))).astype(float)
    return found


def found_again(one: Floats, other: Floats) -> Floats:
    """1 where a row's nearest row of another space is its own, else 0: Float64[n]."""
    nearest = (unit(one) @ unit(other).T).argmax(axis=1)
    found: Floats = (nearest == np.arange(len(one))).astype(np.float64)
    return found


def ridge_map(one: Floats, other: Floats, new: Floats) -> Floats:
    """Predict the other space's vectors of new rows by ridge, with a penalty of n x variance.

    Args:
        one: training rows, Float64[n, d].
        other: the same rows in the other space, Float64[n, e].
        new: Float64[q, d].

    Returns:
        Float64[q, e], about the other space's mean.
    """
    mean = one.mean(axis=0)
    x, y = one - mean, other - other.mean(axis=0)
    penalty = len(x) * float((x**2).mean())
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)
    found: Floats = (new - mean) @ weights
    return found


def side_by_side(vectors: Sequence[Vectors], means: Sequence[Floats]) -> Floats:
    """Centred unit vectors of all encoders, one beside the other: Float64[n, sum of d_k]."""
    parts = [unit(np.asarray(v, np.float64) - m) for v, m in zip(vectors, means, strict=True)]
    return np.concatenate(parts, axis=1)


def split(cluster: NDArray[Any], seed: int) -> NDArray[np.bool_]:
    """Which rows are held out: three tenths of the clusters, whole ones."""
    own = codes(cluster)
    count = int(own.max(initial=-1)) + 1
    drawn = np.random.default_rng(seed).permutation(count)
    return np.isin(own, drawn[: max(1, round(HELD_OUT * count))])


def admit(
    vectors: Sequence[Vectors],
    names: Sequence[str],
    group: NDArray[Any],
    cluster: NDArray[Any],
    dim: int | None = None,
    seed: int = 0,
    steps: int = STEPS,
) -> Admission:
    """Fit a fusion of encoders, and hold it against what can be had without one.

    It is admitted only if both differences, odd one out against the better of the vectors side by
    side and the encoder that is best on the training texts, and recall against a ridge map, have
    the lower end of their interval above 0.

    Args:
        vectors: K times Float[n, d_k] of the same texts.
        names: of the encoders.
        group: texts that mean the same or answer one prompt, length n.
        cluster: near copies and answers of one prompt, length n; never on both sides of the split.
        dim: of the fused space; see `fit`.
        seed: of the split, the triplets and the fit.
        steps: of the fit.

    Raises:
        ConfigError: one encoder only.
        DataError: too few texts, or no groups.
    """
    held = split(cluster, seed)
    train = [np.asarray(v, np.float64)[~held] for v in vectors]
    test = [np.asarray(v, np.float64)[held] for v in vectors]
    fusion = fit(train, cluster[~held], dim, steps, seed)
    drawn = triplets(group[held], seed)
    asked = codes(group[held])[drawn[:, 0]]
    learnt = triplets(group[~held], seed)
    spaces = dict(zip(names, test, strict=True)) | {
        "side by side": side_by_side(test, fusion.means)
    }
    found = {name: hits(x, drawn) for name, x in spaces.items()}
    best = max(names, key=lambda n: float(hits(train[names.index(n)], learnt).mean()))
    rival = max((best, "side by side"), key=lambda n: float(found[n].mean()))
    by_ridge = _recall([(a, c) for a in range(len(test)) for c in range(len(test)) if a != c],
                       lambda a, c: found_again(ridge_map(train[a], train[c], test[a]),
                                                test[c] - train[c].mean(axis=0)))  # fmt: skip
    rows = [
        Candidate(n, clustered_mean(found[n], asked),
                  clustered_mean(by_ridge, group[held]) if n == "side by side" else None,
                  uniformity(x, seed=seed))
        for n, x in spaces.items()
    ]  # fmt: skip
    mapped = [fusion.mapped(k, x) for k, x in enumerate(test)]
    recall = _recall([(a, c) for a in range(len(test)) for c in range(len(test)) if a != c],
                     lambda a, c: found_again(mapped[a], mapped[c]))  # fmt: skip
    for how in ("mean", "sphere"):
        fused = replace(fusion, how=how)(test)[0].astype(np.float64)
        own = hits(fused, drawn)
        over = (
            clustered_mean(own - found[rival], asked),
            clustered_mean(recall - by_ridge, group[held]),
        )
        rows.append(
            Candidate(f"fused by the {how}", clustered_mean(own, asked),
                      clustered_mean(recall, group[held]), uniformity(fused, seed=seed),
                      all(bool(o.low > 0) for o in over), over)
        )  # fmt: skip
    taken = [r for r in rows if r.accepted] or [rows[-2]]
    first = max(taken, key=lambda r: r.odd_one_out.value)
    how = first.name.rpartition(" ")[2]
    return Admission(tuple(rows), replace(fusion, how=how), bool(first.accepted), int(held.sum()))


def _recall(pairs: Sequence[tuple[int, int]], one: Any) -> Floats:  # noqa: ANN401
    total = sum((one(a, c) for a, c in pairs), np.zeros(1))
    found: Floats = total / len(pairs)
    return found
