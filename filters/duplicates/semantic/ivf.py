"""Candidates for semantic duplicates from an inverted file of faiss, for very many rows."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType

import numpy as np

from filters.duplicates.semantic.greedy import BORDER, EVERY_PAIR, Allowed, Vectors, exact_cosine
from prefactory.errors import ConfigError
from prefactory.near.choose import greedy
from prefactory.near.shingles import I64

QUERIES = 1 << 14


def load_faiss() -> ModuleType:
    """Import faiss.

    Raises:
        ConfigError: if it is not installed.
    """
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise ConfigError(
            "index: ivf needs faiss: pip install faiss-cpu, or faiss-gpu-cu12 with CUDA; "
            "index: exact needs neither"
        ) from error


def greedy_by_ivf(
    sides: Sequence[Vectors],
    rank: I64,
    threshold: float,
    probes: int,
    *,
    group: I64 | None = None,
    allowed: Allowed = EVERY_PAIR,
) -> I64:
    """The same as `semantic_greedy.greedy_kept` on the pairs that an inverted file finds.

    Vectors are put into about 4 sqrt(n) cells around k-means centres (faiss, fixed seed); a row is
    compared with those in the `probes` cells nearest to it. Every pair found is decided exactly; a
    pair whose cells are far apart is missed, so more rows stay than with all pairs.
    """
    faiss = load_faiss()
    n, d = sides[0].shape
    beside = np.full(n, -1, dtype=np.int64)
    if n < 2:
        return beside
    everything = np.ascontiguousarray(np.concatenate(list(sides)))
    cells = max(1, min(int(4 * np.sqrt(len(everything))), len(everything) // 39))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, cells, faiss.METRIC_INNER_PRODUCT)
    index.train(everything)
    index.add(everything)
    index.nprobe = min(probes, cells)
    pairs = []
    for low in range(0, n, QUERIES):
        limits, _, found = index.range_search(
            np.ascontiguousarray(sides[0][low : low + QUERIES]), threshold - BORDER["fp32"]
        )
        left = low + np.repeat(np.arange(limits.size - 1), np.diff(limits).astype(np.int64))
        right = found.astype(np.int64) % n
        keep = left != right
        if group is not None:
            keep &= group[left] == group[right]
        left, right = left[keep], right[keep]
        low_end, high_end = np.minimum(left, right), np.maximum(left, right)
        pairs.append(np.unique(low_end * n + high_end))
    keys = np.unique(np.concatenate(pairs))
    left, right = keys // n, keys % n
    near = exact_cosine(sides, left, right) >= threshold
    near[near] = allowed(left[near], right[near])
    return greedy(left[near], right[near], rank)
