"""What can be counted of answers and prompts for their style."""

from __future__ import annotations

from typing import get_args

import numpy as np
import polars as pl

from prefactory.measures.text_statistics import FENCED, WORD, Statistic, statistic
from prefactory.near.vectors import Floats

STATISTICS: tuple[Statistic, ...] = tuple(s for s in get_args(Statistic) if s != "type_token_ratio")
MARKS = (",", ".", ";", ":", "!", "?", "-", "(", '"', "'", "\u2019", "\u2014", "\u2026")
FREQUENT = 100
"""Most frequent words of the corpus whose rates count."""
LIST = pl.List(pl.Float32)
WORDS: dict[str, pl.DataType] = {"words": pl.List(pl.UInt64), "times": pl.List(pl.UInt32)}


def counted(texts: pl.Series, name: str) -> pl.DataFrame:
    """Count in texts, without keeping them.

    Args:
        texts: String[n].
        name: begins the columns.

    Returns:
        `<name>_length` (UInt32, words), `<name>_counts` (List[Float32]: statistics as
        `log(1 + count)`, then marks per 1,000 words), `<name>_words` and `<name>_times` (hashes of
        the distinct words in lower case, and how often each is there).
    """
    table = pl.DataFrame({"text": texts.fill_null("")})
    table = table.with_columns(prose=pl.col("text").str.replace_all(FENCED, "\n"))
    lengths = pl.col("text").str.count_matches(WORD)
    rates = [
        pl.col("text").str.count_matches(mark, literal=True) * 1000 / lengths.clip(1)
        for mark in MARKS
    ]
    counts = [statistic(s).cast(pl.Float64).log1p() for s in STATISTICS]
    said = (
        pl.DataFrame({"row": pl.int_range(texts.len(), eager=True), "text": table["text"]})
        .select("row", word=pl.col("text").str.to_lowercase().str.extract_all(WORD))
        .explode("word")
        .drop_nulls()
        .with_columns(word=pl.col("word").hash())
        .group_by("row", "word")
        .agg(times=pl.len())
        .sort("row", "word")
        .group_by("row", maintain_order=True)
        .agg("word", "times")
    )
    joined = pl.DataFrame({"row": pl.int_range(texts.len(), eager=True)}).join(
        said, on="row", how="left", maintain_order="left"
    )
    empty = pl.lit([], dtype=pl.List(pl.UInt64)), pl.lit([], dtype=pl.List(pl.UInt32))
    return table.select(
        lengths.alias(f"{name}_length"),
        pl.concat_list(*counts, *rates).cast(LIST).alias(f"{name}_counts"),
    ).with_columns(
        joined["word"].cast(pl.List(pl.UInt64)).alias(f"{name}_words"),
        joined["times"].cast(pl.List(pl.UInt32)).alias(f"{name}_times"),
    ).with_columns(
        pl.col(f"{name}_words").fill_null(empty[0]), pl.col(f"{name}_times").fill_null(empty[1])
    )  # fmt: skip


def frequent(table: pl.DataFrame, name: str) -> pl.Series:
    """Hashes of the most frequent words of a column of texts, most frequent first: UInt64."""
    flat = table.select(
        word=pl.col(f"{name}_words").explode(), times=pl.col(f"{name}_times").explode()
    )
    total = flat.drop_nulls().group_by("word").agg(pl.col("times").sum())
    return total.sort("times", "word", descending=[True, False]).head(FREQUENT)["word"]


def matrix(table: pl.DataFrame, name: str, words: pl.Series) -> Floats:
    """Counts of n texts, then the rates of some words per 1,000: Float64[n, s]."""
    n = table.height
    own = np.array(table[f"{name}_counts"].to_list(), dtype=np.float64).reshape(n, -1)
    rates = np.zeros((n, words.len()))
    flat = table.select(
        row=pl.int_range(pl.len()).repeat_by(pl.col(f"{name}_words").list.len()).explode(),
        word=pl.col(f"{name}_words").explode(),
        times=pl.col(f"{name}_times").explode(),
    ).drop_nulls()
    places = pl.DataFrame({"word": words, "place": np.arange(words.len(), dtype=np.int64)})
    hits = flat.join(places, on="word", how="inner")
    lengths = np.maximum(table[f"{name}_length"].to_numpy().astype(np.float64), 1)
    rows = hits["row"].to_numpy()
    rates[rows, hits["place"].to_numpy()] = 1000 * hits["times"].to_numpy() / lengths[rows]
    return np.hstack([own, rates])
