"""Folds for cross-fitting: of clusters, so that no near-copy of a row helps to judge it."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prefactory.preferences.clustered import Ints, codes

FOLDS = 5
NONE = -1
"""Fold of rows that no model has left out (there is one cluster only)."""


def cluster_folds(clusters: pl.Series | NDArray[Any], seed: int, folds: int = FOLDS) -> Ints:
    """Fold of each row, the same for all rows of a cluster.

    The distinct clusters, sorted, are permuted by the seed and dealt out, so that the order of the
    rows does not matter. With fewer clusters than folds there are as many folds as clusters; a
    single cluster can't be left out: its rows have fold `NONE`.

    Args:
        clusters: cluster of each row, length n.
        seed: of the permutation.
        folds: how many, at least 2.

    Returns:
        Int64[n], from 0.
    """
    group = codes(clusters)
    count = int(group.max()) + 1 if len(group) else 0
    if count < 2:
        return np.full(len(group), NONE, np.int64)
    dealt = np.empty(count, np.int64)
    dealt[np.random.default_rng(seed).permutation(count)] = np.arange(count) % min(folds, count)
    return dealt[group]
