"""Longest common subsequence and edit distance, a machine word of a column at a time.

Python's integers are the words, as long as needed: a pair of texts of n and m symbols takes m
operations on n bits, some 60 microseconds for 300 words against 300.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence

_UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    r"\U00020000-\U0003ffff"
)
WORDS = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
"""Words: runs of letters and digits; in scripts without spaces each letter is one."""


def words(text: str) -> list[str]:
    """Words of a text in lower case; punctuation and white space are none."""
    return WORDS.findall(text.lower())


def lcs(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence (Hyyro 2004, bit-parallel)."""
    places = _places(a)
    full = (1 << len(a)) - 1
    open_ = full
    for symbol in b:
        found = places.get(symbol)
        if found:
            matched = open_ & found
            open_ = ((open_ + matched) | (open_ - matched)) & full
    return len(a) - open_.bit_count()


def edit_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Insertions, deletions and substitutions from one to the other (Myers 1999, bit-parallel)."""
    if not a:
        return len(b)
    places = _places(a)
    full = (1 << len(a)) - 1
    last = 1 << (len(a) - 1)
    up, down, distance = full, 0, len(a)
    for symbol in b:
        match = places.get(symbol, 0)
        diagonal = ((((match & up) + up) ^ up) | match | down) & full
        more = (down | ~(diagonal | up)) & full
        less = up & diagonal
        distance += bool(more & last) - bool(less & last)
        more = (more << 1 | 1) & full
        less = (less << 1) & full
        up = (less | ~(diagonal | more)) & full
        down = more & diagonal
    return distance


def _places(symbols: Sequence[Hashable]) -> dict[Hashable, int]:
    """Bit i is set where the symbol stands at place i."""
    bits: dict[Hashable, int] = {}
    for i, symbol in enumerate(symbols):
        bits[symbol] = bits.get(symbol, 0) | (1 << i)
    return bits
