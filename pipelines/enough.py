"""How many pairs are enough: a learning curve of the cheap head, and its plateau."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from catalog.splits import prompt_clusters
from filters.selection.plateau import plateau_of_repeats
from pipelines.pays import undamaged
from prefactory.engines.encoder import Encoder
from prefactory.errors import DataError
from prefactory.preferences.arms import design, margins_of
from prefactory.preferences.clustered import codes, hits
from prefactory.preferences.features import Embed, describe_pairs
from prefactory.preferences.folds import cluster_folds
from prefactory.preferences.stack import Differences

SMALLEST, REPEATS = 25, 10
LEAST = 200


def enough(
    pairs: pl.DataFrame, seed: int = 0, embed: Embed | None = None, repeats: int = REPEATS
) -> dict[str, Any]:
    """Measure a learning curve on nested subsets and fit its plateau.

    In each repeat a fifth of the clusters of near-duplicate prompts is held out; the head is fitted
    to growing parts of the rest, each holding the one before, and judged on held-out pairs without
    damage.

    Args:
        pairs: PAIRS, at least 200.
        seed: of the repeats.
        embed: opens an encoder for sentence vectors; None for text statistics alone.
        repeats: of the curve, at least 3.

    Returns:
        Plain data: `sizes`, `accuracy` and `se` at each, `sentence`, `n_95` (null where no number
        can be given) and its `interval`.

    Raises:
        DataError: fewer pairs, or one cluster of prompts.
    """
    if pairs.height < LEAST:
        raise DataError(f"{pairs.height} pairs; a learning curve needs {LEAST}")
    pairs = pairs.sort("pair_id")
    clusters = codes(prompt_clusters(pairs))
    if int(clusters.max()) < 4:
        raise DataError("fewer than five clusters of prompts, so none can be held out")
    chosen, rejected = describe_pairs(pairs, Encoder(), embed)
    vectors = np.zeros((pairs.height, 0))
    if embed is not None:
        vectors = chosen.vectors() - rejected.vectors()
    gaps = (chosen.statistics - rejected.statistics).to_numpy()
    z, penalty = design(Differences(vectors, gaps))
    clean = undamaged(pairs)
    folds = [cluster_folds(clusters, seed + repeat) for repeat in range(repeats)]
    largest = min(int((fold != 0).sum()) for fold in folds)
    sizes = _sizes(largest)
    values = np.empty((repeats, len(sizes) + 1))
    for repeat, fold in enumerate(folds):
        held = (fold == 0) & clean
        order = np.random.default_rng([seed, repeat]).permutation(np.flatnonzero(fold != 0))
        values[repeat, 0] = 0.5  # a head of no pairs is a coin
        for i, size in enumerate(sizes):
            signs = np.zeros(pairs.height)
            signs[order[:size]] = 1.0
            values[repeat, i + 1] = hits(margins_of(z, penalty, signs, held)).mean()
    fit = plateau_of_repeats([0, *sizes], values.tolist(), seed=seed)
    mean, se = values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(repeats)
    interval = fit.intervals.get("n_95") if fit.n_95 is not None else None
    return {
        "sizes": [0, *sizes],
        "accuracy": [round(float(v), 4) for v in mean],
        "se": [round(float(v), 4) for v in se],
        "n_95": None if fit.n_95 is None else round(fit.n_95),
        "interval": interval and [round(v) if np.isfinite(v) else None for v in interval],
        "sentence": fit.summary("pairs"),
    }


def _sizes(largest: int) -> list[int]:
    sizes, size = [], SMALLEST
    while size < 0.75 * largest:
        sizes.append(size)
        size *= 2
    return [*sizes, largest]
