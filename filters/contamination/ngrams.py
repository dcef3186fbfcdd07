"""Which benchmark prompts stand in which texts: shared runs of 8 words, and equal short ones.

A word of a benchmark prompt is matched by a text if it lies in a run of `n` words that stands in
that text; the prompt is in the text if more than half of its words are matched (Tulu 3's rule,
arXiv 2411.15124). A prompt of fewer than n words has no such run, so it must be the whole text;
on request a whole line of it, or, from `INSIDE` words on, anywhere in it.
Words are those of `prefactory.near.shingles`: no case, no punctuation, one for each character of
scripts without spaces.
"""

from __future__ import annotations

import os
import re
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prefactory.near.shingles import I64, U64, Words, finalise, word_hashes

N = 8
SHARE = 0.3
COMMON = 100
"""A run of words that stands in more prompts than this is boilerplate: it counts as matched, but no
match is looked for because of it alone (unless a prompt has none that is rarer)."""
INSIDE = 5
"""Fewest words of a prompt that is looked for inside of texts as a whole (ours: of 2,500 dialogues
and 9,000 instructions two held one by chance; at 4 words seven did)."""
BLOCK = 8192
"""Texts that are compared at a time."""
_MIX = np.uint64(0x9E3779B97F4A7C15)
_BITS = 22
Short = Literal["text", "line", "inside"]
MATCHES = pl.Schema({"text": pl.Int64, "prompt": pl.Int64, "words": pl.Int64, "share": pl.Float64})


@dataclass(frozen=True)
class NgramIndex:
    """The runs of words of benchmark prompts, ready to be looked up.

    Attributes:
        n: words of a run.
        lengths: Int64[m], words of each prompt (0 for an empty one).
        grams: `gram` (UInt64), `prompt` and `at` (Int64): every run of every prompt.
        keys: sorted distinct grams, UInt64.
        telling: sorted grams that matches are looked for by, UInt64.
        whole: `whole` (UInt64) and `prompt` of the prompts that are too short for a run, and `line`
            (Boolean): whether a line can be one (of two words or more, some of them no numbers).
        short_runs: `gram`, `prompt` and `n` (Int64): those of them with at least `INSIDE` words, as
            one run each.
    """

    n: int
    lengths: I64
    grams: pl.DataFrame = field(repr=False)
    keys: U64 = field(repr=False)
    telling: U64 = field(repr=False)
    whole: pl.DataFrame = field(repr=False)
    short_runs: pl.DataFrame = field(repr=False)

    @classmethod
    def build(cls, prompts: pl.Series, n: int = N) -> NgramIndex:
        """Index prompts.

        Args:
            prompts: String[m]; one without any word is never found.
            n: words of a run, at least 1.
        """
        worded = prompts.fill_null("").str.contains(r"[\p{L}\p{N}]").to_numpy()
        words = word_hashes(prompts)
        lengths = np.where(worded, np.diff(words.offsets), 0)
        hashes, rows, at = _runs(words, n)
        keep = worded[rows] & (np.diff(words.offsets)[rows] >= n)
        grams = pl.DataFrame({"gram": hashes[keep], "prompt": rows[keep], "at": at[keep]})
        spread = grams.group_by("gram").agg(spread=pl.col("prompt").n_unique())
        near = grams.join(spread, on="gram")
        least = pl.col("spread").min().over("prompt")
        telling = near.filter((pl.col("spread") <= COMMON) | (pl.col("spread") == least))
        short = np.flatnonzero(worded & (lengths < n))
        lettered = prompts.fill_null("").str.contains(r"\p{L}").to_numpy()
        whole = pl.DataFrame(
            {
                "whole": _whole(words)[short],
                "prompt": short.astype(np.int64),
                "line": (lettered & (lengths >= 2))[short],
            }
        )
        keys = [np.unique(t["gram"].to_numpy()) for t in (grams, telling)]
        alone = _short_runs(words, lengths, n)
        return cls(n, lengths.astype(np.int64), grams, keys[0], keys[1], whole, alone)

    def search(self, texts: pl.Series, least: float = SHARE, short: Short = "text") -> pl.DataFrame:
        """Find the prompts that stand in texts.

        Args:
            texts: String[k].
            least: share of a prompt's words above which it is in a text.
            short: where a prompt of fewer than n words must stand: it is the whole `text`, or also
                a whole `line`, or also, from `INSIDE` words on, `inside` of a line or text.

        Returns:
            `text` and `prompt` (their numbers), `words` (of the prompt, matched) and `share` (of
            its words), sorted by both numbers.
        """

        def look(start: int) -> pl.DataFrame:
            part = texts[start : start + BLOCK]
            words = word_hashes(part)
            parts = [self._long(words, least), self._short(words)]
            if short != "text":
                parts.append(self._lines(part))
            if short == "inside":
                parts.append(self._inside(words))
            hits = pl.concat(parts).unique(["text", "prompt"])
            return hits.with_columns(pl.col("text") + start)

        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            parts = list(pool.map(look, range(0, texts.len(), BLOCK)))
        return pl.concat([pl.DataFrame(schema=MATCHES), *parts]).sort("text", "prompt")

    def _short(self, words: Words) -> pl.DataFrame:
        texts = pl.DataFrame({"whole": _whole(words), "text": np.arange(len(words.offsets) - 1)})
        return self._all_of(texts.join(self.whole, on="whole"))

    def _lines(self, texts: pl.Series) -> pl.DataFrame:
        """Short prompts that are a whole line of a text."""
        known = self.whole.filter("line")
        of = pl.int_range(pl.len(), dtype=pl.Int64)
        lines = texts.alias("line").to_frame().select(of.alias("of"), pl.col("line"))
        lines = lines.filter(pl.col("line").str.contains("\n", literal=True))
        lines = lines.with_columns(pl.col("line").str.split("\n")).explode("line")
        lines = lines.filter(pl.col("line").str.contains(r"[\p{L}\p{N}]"))
        if not lines.height or not known.height:
            return pl.DataFrame(schema=MATCHES)
        wholes = pl.DataFrame({"whole": _whole(word_hashes(lines["line"]))}).with_columns(text=of)
        hits = self._all_of(wholes.join(known, on="whole"))
        return hits.with_columns(text=lines["of"].gather(hits["text"]))

    def _inside(self, words: Words) -> pl.DataFrame:
        """Short prompts whose words stand in a row in a text."""
        parts = [pl.DataFrame(schema=MATCHES)]
        for n in range(INSIDE, self.n):
            index = self.short_runs.filter(pl.col("n") == n)
            if index.height:
                hashes, rows, _ = _runs(words, n)
                known = _inside(hashes, np.unique(index["gram"].to_numpy()))
                hits = pl.DataFrame({"gram": hashes[known], "text": rows[known]}).unique()
                parts.append(self._all_of(hits.join(index, on="gram")))
        return pl.concat(parts)

    def _all_of(self, hits: pl.DataFrame) -> pl.DataFrame:
        size = pl.Series(self.lengths).gather(hits["prompt"])
        return hits.select("text", "prompt", words=size, share=pl.lit(1.0)).cast(MATCHES)

    def _long(self, words: Words, least: float) -> pl.DataFrame:
        if not self.keys.size:
            return pl.DataFrame(schema=MATCHES)
        hashes, rows, _ = _runs(words, self.n)
        known = _inside(hashes, self.keys)
        hits = pl.DataFrame({"gram": hashes[known], "text": rows[known]}).unique()
        wanted = hits.filter(pl.Series(_inside(hits["gram"].to_numpy(), self.telling)))
        candidates = wanted.join(self.grams, on="gram").select("text", "prompt").unique()
        both = candidates.join(hits, on="text").join(self.grams, on=["gram", "prompt"])
        covered = both.select(
            "text", "prompt", word=pl.int_ranges("at", pl.col("at") + self.n)
        ).explode("word")
        counts = covered.group_by("text", "prompt").agg(words=pl.col("word").n_unique())
        size = pl.Series(self.lengths).gather(counts["prompt"])
        shares = counts.with_columns(share=pl.col("words") / size)
        shares = shares.filter(pl.col("share") > least)
        return shares.select(MATCHES.names()).cast(MATCHES)


def spans(text: str, prompt: str, n: int = N) -> list[tuple[int, int]]:
    """Where a text repeats a prompt: character ranges of the runs of n words that they share.

    For showing a match; a prompt of fewer than n words is one run.
    """
    words, prompt_words = _words_of(text), [word for word, _, _ in _words_of(prompt)]
    n = min(n, len(prompt_words)) or 1
    runs = {tuple(prompt_words[i : i + n]) for i in range(len(prompt_words) - n + 1)}
    ranges: list[tuple[int, int]] = []
    for i in range(len(words) - n + 1):
        if tuple(word for word, _, _ in words[i : i + n]) in runs:
            start, end = words[i][1], words[i + n - 1][2]
            if ranges and start <= ranges[-1][1]:
                ranges[-1] = (ranges[-1][0], end)
            else:
                ranges.append((start, end))
    return ranges


_ALONE = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\\W_]+"
)


def _words_of(text: str) -> list[tuple[str, int, int]]:
    words = []
    for run in _ALONE.finditer(text):
        word = unicodedata.normalize("NFKC", run.group()).lower()
        words.append((word, run.start(), run.end()))
    return words


def _runs(words: Words, n: int) -> tuple[U64, I64, I64]:
    """Hash of every run of n words inside a row, its row, and its first word's place in the row."""
    counts = np.diff(words.offsets)
    rows = np.repeat(np.arange(counts.size, dtype=np.int64), counts)
    at = np.arange(words.values.size, dtype=np.int64) - words.offsets[rows]
    total = words.values.size - n + 1
    if total <= 0:
        none = np.zeros(0, dtype=np.int64)
        return none.astype(np.uint64), none, none
    hashes = words.values[:total].copy()
    for step in range(1, n):
        hashes = hashes * _MIX + words.values[step : step + total]
    inside = at[:total] + n <= counts[rows[:total]]
    return finalise(hashes[inside]), rows[:total][inside], at[:total][inside]


def _short_runs(words: Words, lengths: I64, n: int) -> pl.DataFrame:
    """Every row of INSIDE to n - 1 words as one run (rows of length 0 are none)."""
    schema = pl.Schema({"gram": pl.UInt64, "prompt": pl.Int64, "n": pl.Int64})
    parts = [pl.DataFrame(schema=schema)]
    for size in range(INSIDE, n):
        hashes, rows, _ = _runs(words, size)
        keep = lengths[rows] == size
        part = pl.DataFrame({"gram": hashes[keep], "prompt": rows[keep]})
        parts.append(part.with_columns(n=pl.lit(size, pl.Int64)).cast(schema))
    return pl.concat(parts)


def _whole(words: Words) -> U64:
    """One hash for the words of each row, in order, and their number."""
    counts = np.diff(words.offsets)
    if not counts.size:
        return np.zeros(0, dtype=np.uint64)
    rows = np.repeat(np.arange(counts.size), counts)
    position = (np.arange(words.values.size) - words.offsets[rows]).astype(np.uint64)
    mixed = finalise(words.values + (position + np.uint64(1)) * _MIX)
    return np.add.reduceat(mixed, words.offsets[:-1]) + counts.astype(np.uint64)


def _inside(values: U64, keys: U64) -> NDArray[np.bool_]:
    """Which values are among sorted keys; a table of their first bits sorts most out at once."""
    table = np.zeros(1 << _BITS, dtype=bool)
    shift = np.uint64(64 - _BITS)
    table[(keys >> shift).astype(np.int64)] = True
    among = table[(values >> shift).astype(np.int64)]
    at = np.flatnonzero(among)
    if at.size and keys.size:
        nearest = np.minimum(np.searchsorted(keys, values[at]), keys.size - 1)
        among[at] = keys[nearest] == values[at]
    return among
