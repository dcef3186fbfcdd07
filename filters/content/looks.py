"""What a probe reads of an answer's looks: style, opening words and hashed words; no meaning."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

from filters.content.style import COUNTS, FLAGS, style_features
from prefactory.near.pairs import array_column
from prefactory.preferences.probe import Columns, Floats
from prefactory.tables import in_parts

BUCKETS = 1 << 14
OPENING = 3
"""Words of an opening, which count together."""
_WORD = r"[\p{L}\p{N}\p{M}']+|[^\s\p{L}\p{N}]"


def looks(texts: pl.Series, style: pl.DataFrame | None = None) -> pl.DataFrame:
    """What answers look like, one row each, to be kept in a table and read by `columns`.

    Args:
        texts: String [N], no nulls.
        style: `style_features` of the texts, if they are known.

    Returns:
        `dense`: Array(Float64), log counts, densities and flags. `words`: List(UInt32), sorted
        hashes of all words and signs, and of the first three together.
    """
    dense = _style(in_parts(style_features, texts) if style is None else style)
    words = _hashed(texts, OPENING, 0).list.concat(_hashed(texts, None, BUCKETS))
    return pl.DataFrame({"dense": array_column(dense, pl.Float64()), "words": words})


def columns(table: pl.DataFrame, side: str = "") -> Columns:
    """What `looks` made as columns of a probe; `side` is a prefix of its names."""
    words = table[f"{side}words"]
    ends = np.concatenate([[0], words.list.len().cum_sum().to_numpy()])
    at = words.explode(empty_as_null=False, keep_nulls=False).to_numpy()
    cells: Any = (np.ones(at.size), at, ends)
    matrix = sparse.csr_matrix(cells, shape=(table.height, 2 * BUCKETS))
    return Columns(table[f"{side}dense"].to_numpy().astype(np.float64), matrix)


def _style(style: pl.DataFrame) -> Floats:
    counts = [*COUNTS, "markdown", "chars", "words", "sentences", "lines"]
    chars = pl.col("chars").clip(lower_bound=1)
    columns = style.select(
        *[(pl.col(c) + 1).log().alias(c) for c in counts],
        *[(100 * pl.col(c) / chars).alias(f"{c}_density") for c in (*COUNTS, "markdown")],
        *[pl.col(c).cast(pl.Float64) for c in FLAGS],
        word_length=pl.col("chars") / pl.col("words").clip(lower_bound=1) / 5,
    ).to_numpy()
    return np.asarray(columns, dtype=np.float64)


def _hashed(texts: pl.Series, first: int | None, start: int) -> pl.Series:
    """Hashed words of each text, from `start`, as List(UInt32); with `first`, those as one."""
    word = pl.col("w")
    words = texts.rename("w").to_frame().select(word.str.to_lowercase().str.extract_all(_WORD))
    if first is not None:
        words = words.select(w=pl.concat_list(word.list.head(first).list.join(" ")))
    rows = words.with_row_index("row").explode("w").drop_nulls()
    cells = rows.select("row", w=(word.hash(0) % BUCKETS + start).cast(pl.UInt32)).unique()
    lists = cells.sort("row", "w").group_by("row", maintain_order=True).agg("w")
    every = pl.DataFrame({"row": pl.int_range(texts.len(), dtype=pl.UInt32, eager=True)})
    found = every.join(lists, on="row", how="left", maintain_order="left")["w"]
    return found.to_frame().select(pl.col("w").fill_null([]))["w"]
