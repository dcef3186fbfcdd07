"""Which rows of near-duplicates stay: one of each cluster, or none beside a kept row."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prefactory.near.pairs import Edges, clusters
from prefactory.near.shingles import I64


class Choice(NamedTuple):
    """What goes.

    Attributes:
        dropped: Int64[m], positions of the rows that go, sorted.
        kept: Int64[m], for each the row that stays in its place.
        via: Int64[m], the row most like it that links it to that one (often that one itself).
    """

    dropped: I64
    kept: I64
    via: I64


def ranks(ids: pl.Series, score: pl.Series | None) -> I64:
    """Place of each row in the order of preference: best score first, then lowest id.

    Args:
        ids: String[n], distinct.
        score: Float64[n]; null and NaN come last.

    Returns:
        Int64[n], a permutation of 0 to n - 1.
    """
    table = pl.DataFrame({"id": ids, "score": score}, schema_overrides={"score": pl.Float64})
    order = table.with_columns(pl.col("score").fill_nan(None)).select(
        pl.arg_sort_by("score", "id", descending=[True, False], nulls_last=True)
    )
    rank = np.empty(len(ids), dtype=np.int64)
    rank[order.to_series().to_numpy()] = np.arange(len(ids))
    return rank


def one_of_each_cluster(edges: Edges, rank: I64) -> Choice:
    """Keep the best row of every connected component.

    Args:
        edges: verified pairs.
        rank: Int64[n], place in the order of preference.
    """
    n = rank.size
    cluster = clusters(edges, n)
    best = np.full(n, n, dtype=np.int64)
    np.minimum.at(best, cluster, rank)
    row_of = np.empty(n + 1, dtype=np.int64)
    row_of[rank] = np.arange(n)
    kept = row_of[best[cluster]] if n else cluster
    dropped = np.flatnonzero(kept != np.arange(n))
    return Choice(dropped, kept[dropped], _most_alike(edges, kept)[dropped])


def none_beside_kept(edges: Edges, rank: I64) -> Choice:
    """Go through the rows, best first, and drop those that have an edge to a row that was kept.

    Rows of equal sets have edges to the first of them only (see `near_edges`); they count as one.

    Args:
        edges: verified pairs.
        rank: Int64[n], place in the order of preference.
    """
    n = rank.size
    equal = edges.jaccard >= 1.0
    same = clusters(Edges(edges.left[equal], edges.right[equal], edges.jaccard[equal]), n)
    best = np.full(n, n, dtype=np.int64)
    np.minimum.at(best, same, rank)
    row_of = np.empty(n + 1, dtype=np.int64)
    row_of[rank] = np.arange(n)
    leader = row_of[best[same]] if n else same
    kept_beside = greedy(leader[edges.left[~equal]], leader[edges.right[~equal]], rank)
    kept = leader.copy()
    beside = kept_beside[leader] >= 0 if n else np.zeros(0, dtype=bool)
    kept[beside] = kept_beside[leader[beside]]
    dropped = np.flatnonzero(kept != np.arange(n))
    return Choice(dropped, kept[dropped], kept[dropped])


def greedy(left: I64, right: I64, rank: I64) -> I64:
    """Of each row the best kept row that it has an edge to, -1 if the row itself is kept.

    Args:
        left: Int64[m], one end of each edge, in any order.
        right: Int64[m], the other end.
        rank: Int64[n], place in the order of preference.
    """
    swap = rank[left] > rank[right]
    better, worse = np.where(swap, right, left), np.where(swap, left, right)
    order = np.lexsort((rank[better], rank[worse]))
    beside = np.full(rank.size, -1, dtype=np.int64)
    keeper = beside.tolist()
    for b, w in zip(better[order].tolist(), worse[order].tolist(), strict=True):
        if keeper[w] < 0 and keeper[b] < 0 and b != w:
            keeper[w] = b
    return np.asarray(keeper, dtype=np.int64)


def _most_alike(edges: Edges, kept: I64) -> I64:
    """Of each row the neighbour that links it: the kept row if they share an edge, or the nearest.

    Returns:
        Int64[n]; -1 without an edge.
    """
    source = np.concatenate([edges.left, edges.right])
    target = np.concatenate([edges.right, edges.left])
    weight: NDArray[np.float64] = np.tile(edges.jaccard, 2)
    weight = np.where(target == kept[source], 2.0, weight)
    order = np.lexsort((target, -weight, source))
    source, target = source[order], target[order]
    first = np.ones(source.size, dtype=bool)
    first[1:] = source[1:] != source[:-1]
    via = np.full(kept.size, -1, dtype=np.int64)
    via[source[first]] = target[first]
    return via
