"""Near-duplicate texts for the audit, as `filters.NearDuplicates` finds them by default."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from filters.duplicates.near import NearDuplicates
from prefactory.near.likeness import Rule, similarity
from prefactory.near.pairs import (
    Edges,
    Rows,
    clusters,
    near_edges,
    read_rows,
    reduce_sets,
    reduce_texts,
    sets_of,
)

BLOCK = 16_384
PASSES = 8
"""Bands of the quick pass that takes piles of near-copies out of the search."""
Ints = NDArray[np.int64]


class Near(NamedTuple):
    """Near-duplicates among some rows.

    Attributes:
        edges: verified pairs of positions, enough of them to link every cluster that was found.
        leader: Int64[n], the row of the same kind that stands for each row in the search.
        rule: what counts as near, in a sentence.
    """

    edges: Edges
    leader: Ints
    rule: str

    def extra(self) -> int:
        """Rows that would go if one of each cluster stayed."""
        n = self.leader.size
        return n - int(np.unique(clusters(self.edges, n)).size) if n else 0


def near_of(texts: dict[str, pl.Series], others: NDArray[np.bool_] | None = None) -> Near:
    """Find near-duplicates.

    Args:
        texts: String[n] by name: `prompt`, and `response` or `chosen` and `rejected`.
        others: see `near_among`.
    """
    return near_among(reduced(texts), others)


def near_among(table: pl.DataFrame, others: NDArray[np.bool_] | None = None) -> Near:
    """Find near-duplicates.

    In a dataset of piles of near-copies the search would compare all rows of a pile with each other
    in every band. So a quick pass first links each row to the first row of its bucket, in a few
    bands, if the two are near; a row that found one takes no further part.

    Args:
        table: of `reduced` or `reduced_prompts`, n rows.
        others: Bool[n]: only pairs of a row that is one and a row that is not. The quick pass links
            rows of one kind, and its links are in `leader` only.
    """
    step = NearDuplicates()
    rows = read_rows(table, step.banding)
    leader, quick = _leaders(rows, step.rule, others)
    left = np.flatnonzero(leader == np.arange(leader.size))
    kept = read_rows(table[pl.Series(left)], step.banding) if left.size < leader.size else rows
    near = near_edges(kept, step.rule, None if others is None else others[left])
    edges = Edges(left[near.left], left[near.right], near.jaccard)
    rule = (
        f"Near: Jaccard index of {step.words}-word shingles at least {step.threshold:g} in every "
        "text, and more in short texts. Rows that are exact copies count once here."
    )
    return Near(edges if others is not None else _together(edges, quick), leader, rule)


def reduced(texts: dict[str, pl.Series]) -> pl.DataFrame:
    """Hashes of the texts (String[n] by name)."""
    step = NearDuplicates()

    def reduce(part: pl.DataFrame) -> pl.DataFrame:
        return reduce_texts({c: part[c] for c in part.columns}, step.words, step.banding)

    return _by_block(pl.DataFrame(texts), reduce)


def reduced_prompts(table: pl.DataFrame, rows: Ints) -> pl.DataFrame:
    """What `reduced` would make of the prompts of some of its rows, without reading them again."""
    step = NearDuplicates()
    if {c for c in table.columns if c.startswith("set_")} == {"set_prompt"}:
        return table[pl.Series(rows)]

    def reduce(part: pl.DataFrame) -> pl.DataFrame:
        return reduce_sets([("prompt", sets_of(part, "prompt"))], step.banding)

    return _by_block(table.select("set_prompt", "words_prompt")[pl.Series(rows)], reduce)


def _by_block(frame: pl.DataFrame, work: Callable[[pl.DataFrame], pl.DataFrame]) -> pl.DataFrame:
    """Work on some thousand rows at a time on a few threads."""
    parts = [frame[start : start + BLOCK] for start in range(0, max(frame.height, 1), BLOCK)]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return pl.concat(list(pool.map(work, parts)))


def _leaders(
    rows: Rows, rule: Rule, others: NDArray[np.bool_] | None
) -> tuple[Ints, list[tuple[Ints, Ints, NDArray[np.float64]]]]:
    """The row that stands for each row, and the links by which it does (first, row, index)."""
    n = rows.digest.size
    leader = np.arange(n)
    kind = np.zeros(n, dtype=np.uint64) if others is None else others.astype(np.uint64)
    links = []
    for band in range(min(PASSES, rows.keys.shape[1])):
        here = np.flatnonzero(leader == np.arange(n))
        keys = rows.keys[here, band].astype(np.uint64) | (kind[here] << np.uint64(32))
        _, first, bucket = np.unique(keys, return_index=True, return_inverse=True)
        head = here[first[bucket]]
        asked = np.flatnonzero(head != here)
        alike = similarity(rows.parts, head[asked], here[asked], rule)
        row, to = here[asked][alike.near], head[asked][alike.near]
        leader[row] = to
        links.append((to, row, alike.jaccard[alike.near]))
    while (leader[leader] != leader).any():
        leader = leader[leader]
    return leader, links


def _together(edges: Edges, links: list[tuple[Ints, Ints, NDArray[np.float64]]]) -> Edges:
    """All edges, sorted by both rows."""
    parts = [tuple(edges), *links]
    left, right, index = (np.concatenate([part[i] for part in parts]) for i in range(3))
    order = np.lexsort((right, left))
    return Edges(
        left[order].astype(np.int64), right[order].astype(np.int64), index[order].astype(np.float64)
    )
