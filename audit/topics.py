"""Topics of prompts: a column that names them, clusters of embeddings, sources, or one for all."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from audit.subject import Rows, Subject
from filters.rules.length import WORD
from prefactory.near.vectors import unit

COLUMNS = ("topic", "category", "domain", "subject", "task")
MOST = 50
"""Values of a column beyond which it names no topics."""
CLUSTERS = 12
_COMMON = (
    r"^(?:the|and|that|for|with|are|was|this|you|have|not|what|how|does|can|your|from|they|which|"
    r"who|why|when|there|their|will|would|should|could|about|please|make|some|any|has|had|more|"
    r"than|but|one|them|then|into|its|also)$"
)


@dataclass(frozen=True)
class Topics:
    """Topics of some rows.

    Attributes:
        rows: rows of the table that have one, ascending.
        of: topic of each of these rows (String).
        how: where the topics come from.
    """

    rows: Rows
    of: pl.Series
    how: str


def topics(subject: Subject) -> Topics:
    """Find the topics: `options.topic` or a usual column, else k-means, else the sources."""
    every = np.arange(subject.height, dtype=np.int64)
    named = [subject.options.topic] if subject.options.topic else list(COLUMNS)
    for column in named:
        if column in subject.table.columns and _names_topics(subject.table[column]):
            values = subject.table[column].cast(pl.String)
            rows = every[values.is_not_null().to_numpy()]
            return Topics(rows, values.drop_nulls(), f"column {column}")
    if subject.options.embeddings and subject.n_prompts >= 4 * CLUSTERS:
        return _clusters(subject)
    sources = subject.table["source"].fill_null("unknown")
    if 1 < sources.n_unique() <= MOST:
        return Topics(every, sources, "column source")
    return Topics(every, pl.Series(["all prompts"] * subject.height), "all prompts as one topic")


def _names_topics(values: pl.Series) -> bool:
    fits = values.dtype in (pl.String, pl.Categorical, pl.Enum)
    return fits and 1 < values.drop_nulls().n_unique() <= MOST


def _clusters(subject: Subject) -> Topics:
    """K-means of the last user messages of a sample, named by the words that mark each cluster."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    every = np.arange(subject.height, dtype=np.int64)
    rows = subject.sample(every, subject.options.embed_rows, "texts")
    texts = subject.question.gather(pl.Series(rows))
    distinct = texts.unique().sort()
    vectors = unit(subject.embed(distinct))
    n = max(1, min(CLUSTERS, distinct.len() // 4))
    seed = int(subject.rng("topics").integers(2**31))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different prompts than clusters
        clusters = KMeans(n, n_init=3, random_state=seed).fit(vectors).labels_
    names = _names(distinct, clusters)
    known = pl.DataFrame({"text": distinct, "topic": [names[i] for i in clusters]})
    of = pl.DataFrame({"text": texts}).join(known, on="text", how="left", maintain_order="left")
    return Topics(rows, of["topic"], f"{n} k-means clusters of prompt embeddings")


def _names(texts: pl.Series, clusters: NDArray[np.int32]) -> dict[int, str]:
    """Three words of each cluster with the largest share of prompts here against elsewhere."""
    frame = pl.DataFrame({"text": texts, "cluster": clusters}).with_columns(
        word=pl.col("text").str.head(500).str.to_lowercase().str.extract_all(WORD).list.unique()
    )
    sizes = frame.group_by("cluster").len("size")
    words = frame.explode("word").drop_nulls("word").filter(pl.col("word").str.len_chars() > 2)
    words = words.filter(~pl.col("word").str.contains(_COMMON))
    counts = words.group_by("cluster", "word").len("here").join(sizes, on="cluster")
    counts = counts.with_columns(all=pl.col("here").sum().over("word"))
    elsewhere = (pl.col("all") - pl.col("here")) / (texts.len() - pl.col("size") + 1)
    weight = (
        pl.col("here")
        / pl.col("size")
        * ((pl.col("here") / pl.col("size") + 1e-3) / (elsewhere + 1e-3)).log()
    )
    best = counts.with_columns(weight=weight).sort("weight", "word", descending=[True, False])
    named = {
        int(cluster): ", ".join(part["word"].head(3))
        for (cluster,), part in best.group_by("cluster", maintain_order=True)
    }
    taken: dict[str, int] = {}
    for cluster in range(int(clusters.max()) + 1):
        name = named.get(cluster) or f"cluster {cluster + 1}"
        taken[name] = taken.get(name, 0) + 1
        named[cluster] = name if taken[name] == 1 else f"{name} ({taken[name]})"
    return named
