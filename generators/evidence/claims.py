"""Claims of a text by their places, and whether passages support or contradict one, by rule.

After "unify, align, refine" (arXiv:2303.15932), where sentences of a report are aligned with what
is known. The rule is ours: it sees names, rare words, numbers and negations, no meaning. Of planted
claims it finds what is supported; contradictions want a judge.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from prefactory.near.bm25 import BM25
from prefactory.near.vectors import Floats

Verdict = Literal["supported", "contradicted", "absent"]
Span = tuple[int, int]

RARE = 0.1
"""A word is rare if at most this share of the passages hold it, or one (of few passages; ours)."""
NEAR = 0.6
"""Least cosine of a claim and the passage that it is held against."""
NEGATION = (
    r"\b(?:not|never|no|neither|nor|cannot|without|nicht|kein\w*|niemals|ne|pas|jamais|non|nunca|"
    r"n\u00e3o|niet|geen|nooit|nie|de\u011fil|bukan|tidak|kh\u00f4ng)\b|\w{2,10}n['\u2019]t\b|"
    r"\b\u043d\u0435\b|\u4e0d|\u6ca1|\u0644\u0645|\u0644\u064a\u0633|\u0644\u0627 |"
    r"\u0928\u0939\u0940\u0902"
)
"""Words that negate a clause, in the languages of `measures/refusals.yaml`."""

_NEGATIONS = re.compile(rf"{NEGATION}|\b(?:nobody|nothing|none|nowhere)\b", re.IGNORECASE)
_SHORT = re.compile(
    r"(?:[dmjs]r|m[rs]s?|prof|st|vs|etc|inc|ltd|co|no|fig|vol|pp|cf|approx|dept|est|e\.g|i\.e|u\.[sk]|"
    r"bzw|z\.b|usw|ca)",
    re.IGNORECASE,
)
"""Words before a stop that ends no sentence."""
_END = re.compile(
    r"(?<![.!?\u2026])[.!?\u2026]++[\"'\u2019\u201d\u00bb)\]*_]*+(?=\s)|[\u3002\uff01\uff1f]+[\u300d\u300f\u201d)]*"
)
_TOKEN = re.compile(r"[^\s(\[\"']*$")
_BULLET = re.compile(r"\s*(?:[-*+\u2022]|\d{1,3}[.)])\s+|\s+")
_FENCE = re.compile(r"^[ \t]*(```|~~~).*?(?:^[ \t]*\1[^\n]*$|\Z)", re.MULTILINE | re.DOTALL)
_NO_CLAIM = re.compile(r"\s*(?:\||#{1,6}\s|(?: {4}|\t)\S)")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WORD = re.compile(r"[^\W_]+(?:['\u2019](?!s\b)[^\W_]+)*")
_CITATION = re.compile(r"(?<!\s)\s*+\[\d{1,3}(?:\s*+,\s*+\d{1,3})*+\]")


def claim_spans(text: str) -> list[Span]:
    """Places of the claims of a text: its sentences, without white space around them.

    A sentence ends with its line; with `.`, `!` or `?` before white space, unless a lower-case
    letter follows or an abbreviation or initial stands before; and with the marks of Chinese and
    Japanese. Questions, headings, code and tables are no claims, and marks of lists are not part of
    them.

    Returns:
        (start, end) in characters, in order; they don't overlap.
    """
    spans = []
    code = [m.span() for m in _FENCE.finditer(text)]
    start = 0
    for line in text.splitlines(keepends=True):
        end = start + len(line)
        held = any(a <= start < b for a, b in code)
        if not held and not _NO_CLAIM.match(line):
            spans += _sentences(text, start, end)
        start = end
    return [(a, b) for a, b in spans if not _asks(text[a:b])]


def _sentences(text: str, start: int, end: int) -> list[Span]:
    spans = []
    if (mark := _BULLET.match(text, start, end)) is not None:
        start = mark.end()
    for match in _END.finditer(text, start, end):
        if match.end() > start and _ends(text, match, end):
            spans.append(_trimmed(text, start, match.end()))
            start = match.end()
    spans.append(_trimmed(text, start, end))
    return [(a, b) for a, b in spans if any(c.isalnum() for c in text[a:b])]


def _ends(text: str, match: re.Match[str], end: int) -> bool:
    """Whether a sentence ends at a mark."""
    after = text[match.end() : end].lstrip()
    if after and after[0].islower():
        return False
    if not match.group().startswith(".") or match.group().startswith(".."):
        return True
    token = _TOKEN.search(text, max(0, match.start() - 20), match.start())
    word = token.group() if token else ""
    initial = len(word) == 1 and word.isupper()
    return not (initial or _SHORT.fullmatch(word) is not None)


def _trimmed(text: str, start: int, end: int) -> Span:
    piece = text[start:end]
    left = len(piece) - len(piece.lstrip())
    return (start + left, max(start + left, end - (len(piece) - len(piece.rstrip()))))


def _asks(sentence: str) -> bool:
    return sentence.rstrip("\"'\u2019\u201d)]*_ ").endswith(("?", "\uff1f", "\u061f", "\u037e"))


def replaced(text: str, spans: Sequence[Span], new: Mapping[int, str]) -> tuple[str, list[Span]]:
    """Put other texts in the place of some claims, and nothing else.

    Args:
        text: the whole.
        spans: of its claims, in order.
        new: number of a claim -> its new text.

    Returns:
        The new whole, and where each claim is in it.
    """
    parts, places, last, size = [], [], 0, 0
    for number, (start, end) in enumerate(spans):
        gap, own = text[last:start], new.get(number, text[start:end])
        parts += [gap, own]
        places.append((size + len(gap), size + len(gap) + len(own)))
        size, last = places[-1][1], end
    return "".join([*parts, text[last:]]), places


def account(text: str, spans: Sequence[Span], without: frozenset[int] | set[int]) -> list[str]:
    """SHA-256 of every gap and every claim but some, in order: what must be equal in a new text."""
    pieces, last = [], 0
    for number, (start, end) in enumerate(spans):
        pieces.append(text[last:start])
        if number not in without:
            pieces.append(text[start:end])
        last = end
    encoded = [p.encode("utf-8", "surrogatepass") for p in (*pieces, text[last:])]
    return [hashlib.sha256(piece).hexdigest() for piece in encoded]


# -- the rule ----------------------------------------------------------------------------------


class Alignment(NamedTuple):
    """What passages say of a claim.

    Attributes:
        verdict: of the claim.
        passage: place of the deciding one among those shown; None if it is absent.
        evidence: words of the passage that decide.
        similarity: cosine of claim and deciding passage, else of the nearest; NaN without vectors.
    """

    verdict: Verdict
    passage: int | None = None
    evidence: str = ""
    similarity: float = float("nan")


def words_of(text: str) -> set[str]:
    """Words of a text, casefolded."""
    return {w.casefold() for w in _WORD.findall(text)}


def numbers_of(text: str) -> set[str]:
    """Numbers of a text; "1,871" is 1871."""
    return {re.sub(r",(?=\d{3}(?!\d))", "", n) for n in _NUMBER.findall(text)}


def negated(text: str) -> bool:
    """Whether a text has an odd number of negations ("not only" is misread)."""
    return len(_NEGATIONS.findall(text)) % 2 == 1


def wanted_words(claim: str, words: BM25) -> set[str]:
    """What a passage must hold to be about a claim: its names and its rare words.

    Args:
        claim: a sentence.
        words: of the corpus. A word without digits that at most a tenth of the passages hold (of
            fewer than ten, one) is rare; one that none holds is not looked for, but a name (a
            capitalised word that is not the first) always is.
    """
    said = _WORD.findall(_CITATION.sub("", claim))
    names = {w.casefold() for w in said[1:] if w[0].isupper() and w != "I"}
    most = max(1, RARE * words.size)
    rare = {
        w.casefold()
        for w in said
        if len(w) > 1
        and not any(c.isdigit() for c in w)
        and 0 < words.holders.get(w.casefold(), 0) <= most
    }
    return names | rare


def align(claim: str, passages: Sequence[str], cosines: Floats, words: BM25) -> Alignment:
    """Hold a claim against passages, by rule.

    The nearest passage with all `wanted_words` decides. There is none, or its cosine is below .6:
    absent. A number of the claim is not in it: contradicted (absent if it has no number). Its
    sentence that shares most words with the claim is negated and the claim is not, or the other way
    round: contradicted. Else supported.

    Args:
        claim: a sentence.
        passages: k texts.
        cosines: Float64[k] of the claim and each; NaN: not known, the first one is the nearest and
            near enough.
        words: of the corpus.
    """
    claim = _CITATION.sub("", claim)
    wanted = wanted_words(claim, words)
    about = [i for i, p in enumerate(passages) if wanted <= words_of(p)]
    order = sorted(about, key=lambda i: -np.nan_to_num(cosines[i]))
    if not order or cosines[order[0]] < NEAR:
        nearest = max((float(c) for c in cosines), default=float("nan"))
        return Alignment("absent", similarity=nearest)
    best, near = order[0], float(cosines[order[0]])
    sentence = _nearest_sentence(claim, passages[best])
    numbers, held = numbers_of(claim), numbers_of(passages[best])
    if numbers - held:
        return Alignment("contradicted", best, sentence, near) if held else Alignment(
            "absent", similarity=near
        )  # fmt: skip
    if negated(claim) != negated(sentence):
        return Alignment("contradicted", best, sentence, near)
    return Alignment("supported", best, sentence, near)


def _nearest_sentence(claim: str, passage: str) -> str:
    """The sentence of a passage that shares most words with a claim, the first of equal ones."""
    sentences = [passage[a:b] for a, b in claim_spans(passage)] or [passage.strip()]
    own = words_of(claim)
    shared = [len(own & words_of(s)) / (1 + len(own | words_of(s))) for s in sentences]
    return sentences[int(np.argmax(shared))]
