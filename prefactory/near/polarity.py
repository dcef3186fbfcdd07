"""A guard for semantic duplicates: texts that say the opposite are no duplicates.

Sentence vectors hardly see polarity: of "it is right to keep a promise" and "it is wrong to keep a
promise" MiniLM makes a cosine of .95, more than of many paraphrases. Without a model of entailment
two signs of opposition are read off the words: the number of negations is even in one text and odd
in the other, or one text has a word and the other only its opposite. The word lists are ours:
English, and the negations of Chinese.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prefactory.near.leaders import Allowed
from prefactory.near.shingles import I64, U64, word_hashes

# fmt: off
NEGATIONS = (
    "not", "no", "never", "none", "nobody", "nothing", "nowhere", "neither", "nor",
    "without", "cannot", "dont", "cant", "wont", "isnt", "arent", "doesnt", "didnt",
    "wasnt", "werent", "shouldnt", "wouldnt", "couldnt", "hasnt", "havent", "hadnt",
    "mustnt", "不", "没", "沒", "非", "无", "無", "别", "勿", "莫", "未", "否",
)
# fmt: on
# fmt: off
CONTRACTED = (
    "don", "can", "won", "isn", "aren", "doesn", "didn", "wasn", "weren", "shouldn",
    "wouldn", "couldn", "hasn", "haven", "hadn", "mustn", "needn", "ain",
)
# fmt: on
"""Words before an apostrophe and a t."""
OPPOSITES = (
    "right wrong, good bad, good evil, true false, yes no, always never, more less, most least, "
    "allow forbid, allowed forbidden, permit prohibit, permitted prohibited, accept reject, "
    "accept refuse, agree disagree, legal illegal, lawful unlawful, moral immoral, ethical "
    "unethical, fair unfair, just unjust, safe unsafe, safe dangerous, safe harmful, acceptable "
    "unacceptable, appropriate inappropriate, possible impossible, likely unlikely, increase "
    "decrease, increases decreases, raise lower, rise fall, high low, higher lower, best worst, "
    "better worse, start stop, begin end, open close, add remove, include exclude, buy sell, win "
    "lose, love hate, like dislike, hot cold, help harm, helpful harmful, healthy unhealthy, "
    "honest dishonest, support oppose, before after, with without, enable disable, success "
    "failure, positive negative, advantage disadvantage, advantages disadvantages, pros cons, "
    "maximum minimum, maximize minimize, encourage discourage, trust distrust, guilty innocent"
)
"""Words and their opposites, at most 64 couples."""
MOST_COUPLES = 3
"""Couples that a word may be in, on one side."""

FEATURES = ("length", "odd", "ones", "others")


@lru_cache(maxsize=1)
def _lists() -> tuple[U64, U64, np.uint64, U64, U64]:
    """Hashes of negations, of contracted words, of the t, and of both sides of the opposites."""
    couples = [couple.split() for couple in OPPOSITES.split(",")]
    lists = [NEGATIONS, CONTRACTED, ["t"], [c[0] for c in couples], [c[1] for c in couples]]
    hashed = [word_hashes(pl.Series(list(texts))).values for texts in lists]
    return hashed[0], hashed[1], hashed[2][0], hashed[3], hashed[4]


def polarity(texts: pl.Series) -> pl.DataFrame:
    """Read the signs of polarity off texts.

    Args:
        texts: String[n]; null is the empty text.

    Returns:
        `length` (UInt32, words), `odd` (Boolean, the number of negations is), `ones` and `others`
        (UInt64, one bit for each couple of `OPPOSITES` whose first, or second, word occurs).
    """
    words = word_hashes(texts)
    negations, contracted, t, first, second = _lists()
    before = np.concatenate([np.zeros(1, np.uint64), words.values[:-1]])
    before[words.offsets[:-1]] = 0
    negated = np.isin(words.values, negations)
    negated |= (words.values == t) & np.isin(before, contracted)
    starts = words.offsets[:-1]
    none = np.zeros(0, dtype=np.uint64)
    columns = {
        "length": np.diff(words.offsets).astype(np.uint32),
        "odd": np.add.reduceat(negated.astype(np.int64), starts) % 2 == 1 if starts.size else none,
        "ones": _bits(words.values, first, starts),
        "others": _bits(words.values, second, starts),
    }
    schema = {"length": pl.UInt32, "odd": pl.Boolean, "ones": pl.UInt64, "others": pl.UInt64}
    return pl.DataFrame({k: pl.Series(k, v).cast(schema[k]) for k, v in columns.items()})


def _bits(values: U64, wanted: U64, starts: I64) -> U64:
    """Bit i of each row: whether word i is in it."""
    if not starts.size:
        return np.zeros(0, dtype=np.uint64)
    bits = np.zeros(values.size, dtype=np.uint64)
    order = np.argsort(wanted, kind="stable")
    for copy in range(MOST_COUPLES):
        at = np.searchsorted(wanted[order], values) + copy
        at = np.minimum(at, wanted.size - 1)
        hit = wanted[order][at] == values
        bits |= np.where(hit, np.uint64(1) << order[at].astype(np.uint64), np.uint64(0))
    return np.bitwise_or.reduceat(bits, starts)


class Polarity(Allowed):
    """Forbids pairs of short texts with signs of opposition.

    Rows with two texts are forbidden if they are opposed in both ways to match the texts.
    """

    def __init__(self, sides: list[pl.DataFrame], most: int) -> None:
        """Keep the features.

        Args:
            sides: of each text of the rows what `polarity` returns.
            most: words of the longest text that is guarded.
        """
        columns = [{k: side[k].to_numpy() for k in FEATURES} for side in sides]
        self.sides = [
            (c["length"] <= most, c["odd"], c["ones"] & ~c["others"], c["others"] & ~c["ones"])
            for c in columns
        ]

    def __call__(self, left: I64, right: I64) -> NDArray[np.bool_]:
        """Tell which pairs of rows are not opposed, Bool[m]."""
        ways = [[(0, 0)]] if len(self.sides) == 1 else [[(0, 0), (1, 1)], [(0, 1), (1, 0)]]
        allowed = np.zeros(left.size, dtype=bool)
        for way in ways:
            opposed = np.zeros(left.size, dtype=bool)
            for a, b in way:
                opposed |= self._opposed(a, b, left, right)
            allowed |= ~opposed
        return allowed

    def _opposed(self, a: int, b: int, left: I64, right: I64) -> NDArray[np.bool_]:
        short_a, odd_a, ones_a, others_a = (f[left] for f in self.sides[a])
        short_b, odd_b, ones_b, others_b = (f[right] for f in self.sides[b])
        words_opposed = (ones_a & others_b) | (others_a & ones_b)
        opposed: NDArray[np.bool_] = short_a & short_b & ((odd_a != odd_b) | (words_opposed != 0))
        return opposed


class SameScore(Allowed):
    """Forbids pairs whose stance differs, on top of another say."""

    def __init__(self, stance: NDArray[np.float64], first: Allowed) -> None:
        """Keep the scores (NaN equals NaN) and what is asked first."""
        self.stance = np.nan_to_num(stance, nan=np.inf)
        self.first = first

    def __call__(self, left: I64, right: I64) -> NDArray[np.bool_]:
        """Tell which pairs of rows have one stance and are allowed by the other say, Bool[m]."""
        same: NDArray[np.bool_] = self.stance[left] == self.stance[right]
        return same & self.first(left, right)
