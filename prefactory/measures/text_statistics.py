"""What can be counted in a text without a model: length, variety, Markdown, repetition.

Expressions and series of texts; `labelers.TextStatistics` and `labelers.R3` add them as scores, and
`prefactory.preferences.features` learns from them. The parts of R3 are of arXiv 2402.03469.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import polars as pl

from prefactory.near.shingles import as_lists

TOKEN = r"\w+|[^\w\s]+"  # noqa: S105 - a pattern, not a secret
CUT = r"(?s)(?:\n[ \t]*(?:Human|User|Assistant|System|AI)[ \t]*:|\n{4}|\n[ \t]*\n[ \t]*[-_]{2,}).*"
"""Where a model went on talking to itself: the rest of the text is not part of the answer."""

_ODD = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)
_SHIFT = np.uint64(29)

_ALONE = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
WORD = rf"[{_ALONE}]|[\w--[{_ALONE}]]+(?:['\x{{2019}}]\w+)*"
"""A word; in scripts without spaces between words, a letter."""

FENCED = r"(?ms)^[ \t]*```.*?(?:^[ \t]*```[^\n]*$|\z)"
"""A code block; one that is never closed runs to the end."""

Statistic = Literal[
    "characters",
    "words",
    "sentences",
    "type_token_ratio",
    "questions",
    "headings",
    "bullets",
    "numbered",
    "bold",
    "code_blocks",
    "links",
]


def statistic(name: Statistic) -> pl.Expr:
    """Expression of one statistic over String columns `text` and `prose` (text without code)."""
    return _STATISTICS[name](pl.col("text"), pl.col("prose"))


def _variety(text: pl.Expr, _: pl.Expr) -> pl.Expr:
    words = text.str.to_lowercase().str.extract_all(WORD)
    count = words.list.len()
    return pl.when(count > 0).then(words.list.n_unique() / count)


def _prose(pattern: str) -> Callable[[pl.Expr, pl.Expr], pl.Expr]:
    return lambda _, prose: prose.str.count_matches(pattern)


_STATISTICS: dict[Statistic, Callable[[pl.Expr, pl.Expr], pl.Expr]] = {
    "characters": lambda text, _: text.str.len_chars(),
    "words": lambda text, _: text.str.count_matches(WORD),
    "sentences": lambda text, _: count_sentences(text),
    "type_token_ratio": _variety,
    "questions": lambda text, _: text.str.count_matches(r"[?\x{FF1F}\x{61F}\x{37E}\x{55E}]+"),
    "headings": _prose(r"(?m)^ {0,3}#{1,6}[ \t]+\S"),
    "bullets": _prose(r"(?m)^[ \t]*[-*+\x{2022}][ \t]+\S"),
    "numbered": _prose(r"(?m)^[ \t]*\d{1,3}[.)][ \t]+\S"),
    "bold": _prose(r"\*\*[^\s*](?:[^*\n]*[^\s*])?\*\*|\b__[^\s_](?:[^_\n]*[^\s_])?__\b"),
    "code_blocks": lambda text, _: text.str.count_matches(FENCED),
    "links": _prose(r"\[[^\]\n]*\]\([^)\s]+[^)\n]*\)|https?://[^\s)>\]]+"),
}


def count_sentences(text: pl.Expr) -> pl.Expr:
    """Sentences of a String: stops and marks before white space, and paragraph ends. UInt32.

    Abbreviations, initials and list numbers ("Dr.", "e.g.", "J.", "1.") end no sentence.
    """
    titles = r"mr|mrs|ms|dr|prof|st|jr|sr|vs|etc|inc|ltd|co|no|e\.g|i\.e|a\.m|p\.m|p\.?s|p\.p\.s"
    short = rf"(?i)\b({titles})\."
    plain = text.str.replace_all(short, "$1").str.replace_all(r"\b(\p{Lu})\.", "$1")
    plain = plain.str.replace_all(r"(?m)^(\s*\d+)\.", "$1")
    ends = r"[.!?…।。！？]+[\"'”’)\]*_]*(?:\s+|$)|[。！？।]+|\n\s*\n"  # noqa: RUF001
    pieces = plain.str.replace_all(ends, "\u0000").str.split("\u0000")
    return pieces.list.eval(pl.element().str.contains(r"[\p{L}\p{N}]")).list.sum()


def cut_answer(text: pl.Expr) -> pl.Expr:
    """Cut a String where the model goes on as somebody else (see `CUT`)."""
    return text.str.replace(CUT, "")


def length_incentive(text: pl.Expr, cap: int | None = None) -> pl.Expr:
    """Tokens / 100 of a String, tokens counted up to `cap`: Float64."""
    return text.str.count_matches(TOKEN).map_batches(
        lambda tokens: hundreds(tokens, cap), return_dtype=pl.Float64, is_elementwise=True
    )


def repetition(text: pl.Expr) -> pl.Expr:
    """Distinct trigrams / trigrams of a String's tokens, in (0, 1]; 1 if it has none: Float64."""
    return text.str.extract_all(TOKEN).map_batches(
        distinct_share, return_dtype=pl.Float64, is_elementwise=True
    )


def hundreds(tokens: pl.Series, cap: int | None) -> pl.Series:
    """Counts of tokens / 100, up to `cap` tokens: Float64."""
    counted = tokens.cast(pl.Float64)
    return (counted if cap is None else counted.clip(upper_bound=cap)) / 100


def distinct_share(tokens: pl.Series) -> pl.Series:
    """`repetition` of lists of tokens. Trigrams are told apart by 64 bits each."""
    counts = tokens.list.len().fill_null(0).to_numpy().astype(np.int64)
    flat = tokens.explode(empty_as_null=False, keep_nulls=False).hash().to_numpy()
    last = flat.size - 2
    if last < 1:
        return pl.Series([1.0] * counts.size, dtype=pl.Float64)
    first, second, third = (flat[i : last + i] for i in range(3))
    mixed = (first * _ODD[0] ^ (second >> _SHIFT)) + second * _ODD[1] ^ (third * _ODD[2])
    ends = np.cumsum(counts)
    opens = np.ones(flat.size, dtype=bool)
    opens[ends[counts > 0] - 1] = False  # the last two tokens of a text open no trigram
    opens[ends[counts > 1] - 2] = False
    total = np.maximum(counts - 2, 0)
    offsets = np.concatenate(([0], np.cumsum(total)))
    distinct = as_lists(mixed[opens[:last]], offsets).list.n_unique().to_numpy().astype(np.float64)
    share = np.divide(distinct, total, out=np.ones(counts.size), where=total > 0)
    return pl.Series(tokens.name, share, dtype=pl.Float64)
