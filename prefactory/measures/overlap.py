"""How much of two texts is the same, in the same order: ROUGE-L by RapidFuzz."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence

from rapidfuzz.distance import LCSseq

_UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    r"\U00020000-\U0003ffff"
)
WORDS = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
"""Words: runs of letters and digits; in scripts without spaces each letter is one."""


def words(text: str) -> list[str]:
    """Words of a text in lower case; punctuation and white space are none."""
    return WORDS.findall(text.lower())


def rouge_l(a: Sequence[Hashable], b: Sequence[Hashable], above: float = 0.0) -> float:
    """F1 of the longest common subsequence of two sequences: 2 LCS / (m + n), in [0, 1].

    Args:
        a: m words.
        b: n words.
        above: 0 may be returned in place of an F1 that is not above it, which is faster.

    Returns:
        1 for the same words in the same order (and for two empty sequences), 0 for none in common.
    """
    total = len(a) + len(b)
    if not total:
        return 1.0
    return 2 * LCSseq.similarity(a, b, score_cutoff=int(above * total / 2)) / total
