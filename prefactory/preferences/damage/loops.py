"""Answers that say the same again and again."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prefactory.tables import in_parts
from prefactory.utf8 import utf8

WORD = r"\p{L}[\p{L}\p{M}]*"
"""A word of letters only, so that grids and tablature don't count."""
TABLE = r"(?m)^[ \t]*\|.*$"
"""A line of a table, which doesn't either."""
SENTENCE_TIMES, SENTENCE_SHARE, SENTENCE_WORDS = 4, 0.3, 3
TRIGRAMS, DISTINCT = 40, 0.35


def loops(texts: pl.Series) -> pl.Series:
    """What an answer repeats, or null if it does not loop; String [N].

    An answer loops if a sentence of three words or more is there at least four times and is over
    30 % of its sentences (cut at `.!?` and at line ends; lines of tables don't count), or if it has
    40 word trigrams or more of which under 35 % are distinct. The limits are ours.
    """
    return in_parts(_loops, texts.rename("text"))["loop"]


def _loops(texts: pl.Series) -> pl.DataFrame:
    """Only texts of few distinct words, or with four pieces that open alike, are read in full."""
    text = pl.col("text")
    prose = pl.when(text.str.contains(TABLE)).then(text.str.replace_all(TABLE, "")).otherwise(text)
    table = texts.to_frame().with_columns(low=prose.str.to_lowercase())
    words = table.select(w=pl.col("low").str.extract_all(WORD)).select(
        pl.col("w").list.len().alias("total"), pl.col("w").list.n_unique().alias("distinct")
    )
    few = (words["total"] >= TRIGRAMS + 2) & (
        words["distinct"].cast(pl.Int64) - 2 <= DISTINCT * (words["total"].cast(pl.Int64) - 2)
    )
    found = pl.Series("loop", [None] * len(texts), dtype=pl.String)
    alike = pl.Series(may_repeat(table["low"])).arg_true()
    if alike.len():
        found = found.scatter(alike, _sentences(table["low"].gather(alike)))
    at = (few & found.is_null()).arg_true()
    if at.len():
        found = found.scatter(at, _trigrams(table["low"].gather(at)))
    return found.rename("loop").to_frame()


def _trigrams(low: pl.Series) -> pl.Series:
    word = pl.element()
    lists = low.rename("t").to_frame().select(w=pl.col("t").str.extract_all(WORD))
    grams = lists.select(
        g=pl.col("w")
        .list.eval(word + " " + word.shift(-1) + " " + word.shift(-2))
        .list.drop_nulls()
    ).select(n=pl.col("g").list.len(), d=pl.col("g").list.n_unique())
    share = pl.col("d") / pl.col("n")
    fires = (pl.col("n") >= TRIGRAMS) & (share < DISTINCT)
    told = pl.format(
        "{} % of its word trigrams are distinct", (share * 100).round(0).cast(pl.Int64)
    )
    return grams.select(loop=pl.when(fires).then(told))["loop"]


def _sentences(low: pl.Series) -> pl.Series:
    """The share of the sentence that is there most often, told where it is a loop."""
    frame = pl.DataFrame({"row": pl.int_range(low.len(), eager=True), "t": low})
    pieces = frame.select(
        "row", s=pl.col("t").str.replace_all(r"[.!?]+(?:\s|$)|\n", "\x00").str.split("\x00")
    ).explode("s")
    pieces = pieces.with_columns(pl.col("s").str.strip_chars())
    pieces = pieces.filter(pl.col("s") != "").with_columns(n=pl.len().over("row"))
    counts = pieces.filter(pl.col("n") >= SENTENCE_TIMES).group_by("row", "s", "n").agg(k=pl.len())
    hits = counts.filter(
        (pl.col("k") >= SENTENCE_TIMES) & (pl.col("k") > SENTENCE_SHARE * pl.col("n"))
    ).filter(pl.col("s").str.count_matches(WORD) >= SENTENCE_WORDS)
    worst = hits.sort("row", "k", "s", descending=[False, True, False]).unique("row", keep="first")
    told = worst.select("row", loop=pl.format("one sentence {} of {} times", "k", "n"))
    return frame.select("row").join(told, on="row", how="left", maintain_order="left")["loop"]


_ENDS = np.zeros(256, dtype=bool)
_ENDS[[ord(c) for c in ".!?\n"]] = True
_KEY = 8
"""Bytes of a piece that are compared."""


def may_repeat(texts: pl.Series) -> NDArray[np.bool_]:
    """Texts in which four pieces between `.!?` and line ends open with the same eight bytes.

    Every sentence that `_sentences` finds four times is such a piece; most texts have none.

    Args:
        texts: String [N], no nulls.
    """
    joined, first = utf8(texts + "\n")
    data = np.concatenate([joined, np.full(_KEY + 3, ord("\n"), dtype=np.uint8)])
    ends = np.flatnonzero(_ENDS[data])
    starts = np.concatenate(([0], ends[:-1] + 1))
    for _ in range(3):  # a sentence starts after a blank or two, its copies perhaps not
        starts += (data[np.minimum(starts, data.size - 1)] == 32) & (starts < ends)
    long = ends - starts >= 2 * SENTENCE_WORDS - 1
    starts, ends = starts[long], ends[long]
    key = np.zeros(starts.size, dtype=np.uint64)
    for i in range(_KEY):
        inside = starts + i < ends
        key = (key << np.uint64(8)) | np.where(inside, data[starts + i], 0).astype(np.uint64)
    row = np.searchsorted(first, starts, side="right") - 1
    mixed = key * np.uint64(0x9E3779B97F4A7C15) + row.astype(np.uint64) * np.uint64(
        0xD6E8FEB86659FD93
    )
    ordered = np.sort(mixed)
    step = SENTENCE_TIMES - 1
    often = np.unique(ordered[step:][ordered[step:] == ordered[:-step]])
    found = np.zeros(texts.len(), dtype=bool)
    if often.size:
        at = np.minimum(np.searchsorted(often, mixed), often.size - 1)
        found[row[often[at] == mixed]] = True
    return found
