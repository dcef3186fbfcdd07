"""BM25, and rankings of several retrievers made one.

The inverse document frequency is Lucene's, which is never negative. Known answers: of "the cat
sat", "the dog sat down" and "a bird flew over the house", "cat sat" gives 1.684, .487 and 0, "the"
.155, .138 and .114.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from prefactory.near.shingles import I64
from prefactory.near.vectors import Floats

K1, B = 1.5, 0.75
RRF = 60
"""What reciprocal rank fusion adds to a rank (Cormack et al., SIGIR 2009)."""
DEPTH = 100
"""Ranks of a retriever that count."""


def word_lists(texts: Sequence[str]) -> pl.Series:
    r"""Words (`\w+`) of texts, casefolded: List(String)[n]."""
    folded = pl.Series("words", [text.casefold() for text in texts], dtype=pl.String)
    return folded.str.extract_all(r"\w+")


class BM25:
    """Texts that are looked up by their words.

    Attributes:
        size: N, texts.
        holders: word -> how many texts hold it.
    """

    def __init__(self, texts: Sequence[str], k1: float = K1, b: float = B) -> None:
        """Index N texts; time and memory are linear in their words.

        Args:
            texts: N texts.
            k1: how soon a word that comes again counts no more.
            b: how much a text's length counts, 0 to 1.
        """
        words = word_lists(texts)
        lengths = words.list.len().to_numpy().astype(np.float64)
        self.size = len(texts)
        postings = (
            pl.DataFrame({"row": np.arange(self.size, dtype=np.int64), "word": words})
            .explode("word")
            .drop_nulls()
            .group_by("word", "row")
            .len("times")
            .sort("word", "row")
        )
        runs = postings["word"].rle()
        names, held = runs.struct.field("value"), runs.struct.field("len").to_numpy()
        held = held.astype(np.int64)
        ends = np.cumsum(held)
        self.holders: dict[str, int] = dict(zip(names, held.tolist(), strict=True))
        self._spans = dict(zip(names, zip(ends - held, ends, strict=True), strict=True))
        self._rows = postings["row"].to_numpy()
        weight = np.log1p((self.size - held + 0.5) / (held + 0.5)).repeat(held)
        times = postings["times"].to_numpy().astype(np.float64)
        mean = lengths.mean() if self.size else 1.0
        length = lengths[self._rows] / mean if mean else lengths[self._rows]
        self._weights: Floats = weight * times * (k1 + 1) / (times + k1 * (1 - b + b * length))

    def scores(self, query: str) -> Floats:
        """Score of each text for the distinct words of a query: Float64[N], 0 without any."""
        total = np.zeros(self.size)
        for word in sorted(set(word_lists([query])[0])):
            if word in self._spans:
                start, end = self._spans[word]
                total[self._rows[start:end]] += self._weights[start:end]
        return total


def best_first(scores: Floats, depth: int = DEPTH, above: float = -np.inf) -> I64:
    """Places of the highest scores, highest first, of equal ones the earlier place first.

    Args:
        scores: Float64[N].
        depth: places at most.
        above: a score must be more than that to have a rank (0 for BM25).
    """
    places = np.flatnonzero(scores > above)
    if places.size > depth:
        least = np.partition(scores[places], places.size - depth)[places.size - depth]
        places = places[scores[places] >= least]
    order = np.argsort(-scores[places], kind="stable")
    return np.asarray(places[order][:depth], dtype=np.int64)


def fused(rankings: Sequence[I64], size: int) -> Floats:
    """Reciprocal rank fusion: the sum of 1 / (60 + rank), ranks from 1; without a rank nothing.

    Known answers: ranks (1, 2, 3) and (3, 1, 2) give .03227, .03252, .03200.

    Args:
        rankings: places of each retriever, best first.
        size: N.

    Returns:
        Float64[N].
    """
    total = np.zeros(size)
    for places in rankings:
        total[places] += 1 / (RRF + np.arange(1, places.size + 1))
    return total
