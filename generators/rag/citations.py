"""Claims of an answer with the documents that each cites, and whether these bear it out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from generators.evidence.claims import align, claim_spans
from generators.rag.rules import abstains, cited
from prefactory.near.bm25 import BM25

Borne = Literal["supported", "contradicted", "absent", "uncited"]

_NUMBERS = pl.List(pl.Int64)
CITED: pl.DataType = pl.List(
    pl.Struct(
        {
            "start": pl.Int64,
            "end": pl.Int64,
            "cited": _NUMBERS,
            "needed": _NUMBERS,
            "verdict": pl.String,
        }
    )
)
"""Claims of an answer: place in characters, the documents cited (from 1), those of them without
which the claim is not supported, and what all cited ones say of it (see `Cited`)."""


class Cited(NamedTuple):
    """A claim with its citations.

    Attributes:
        start, end: its place in characters.
        cited: numbers of documents, from 1.
        needed: those that support it alone, or without which the others don't.
        verdict: of the cited documents together (`generators.evidence.claims.align`); `uncited`
            where there are none.
    """

    start: int
    end: int
    cited: list[int]
    needed: list[int]
    verdict: Borne


def cited_claims(answer: str, documents: Sequence[str], words: BM25 | None = None) -> list[Cited]:
    """The claims of an answer, each held against the documents that it cites.

    Citations that stand behind the end of a sentence belong to it. Claims that say that the
    documents do not hold something need no citation and are left out.

    Args:
        answer: with citations such as [1] or [1, 2].
        documents: as they were shown.
        words: of a corpus, to tell which words are rare; None: of the documents.
    """
    words = BM25(documents) if words is None else words
    claims = []
    for start, end in _joined(answer):
        text = answer[start:end]
        numbers = sorted(n for n in cited(text) if 1 <= n <= len(documents))
        if not numbers and abstains(text):
            continue
        borne = _verdict(text, numbers, documents, words)
        needed = [n for n in numbers if borne == "supported" and _needs(text, n, numbers, documents,
                                                                        words)]  # fmt: skip
        claims.append(Cited(start, end, sorted(cited(text)), needed, borne))
    return claims


def _joined(answer: str) -> list[tuple[int, int]]:
    """Claims, with what is nothing but citations joined to the claim before."""
    spans: list[tuple[int, int]] = []
    for start, end in claim_spans(answer):
        alone = not any(c.isalpha() for c in answer[start:end]) and cited(answer[start:end])
        if alone and spans:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans


def _verdict(text: str, numbers: Sequence[int], documents: Sequence[str], words: BM25) -> Borne:
    if not numbers:
        return "uncited"
    together = "\n".join(documents[n - 1] for n in numbers)
    return align(text, [together], np.array([np.nan]), words).verdict


def _needs(
    text: str, number: int, numbers: Sequence[int], documents: Sequence[str], words: BM25
) -> bool:
    """Whether a citation supports a claim alone, or is missed if it is taken away."""
    rest = [n for n in numbers if n != number]
    alone = _verdict(text, [number], documents, words) == "supported"
    return alone or _verdict(text, rest, documents, words) != "supported"


def claim_f1(claims: Sequence[Cited]) -> float:
    """How well citations bear the claims (after ALCE, arXiv:2305.14627, by our rule).

    Returns:
        Harmonic mean of recall (claims that their citations support) and precision (citations that
        are needed); 0 without claims or citations.
    """
    given = sum(len(c.cited) for c in claims)
    if not claims or not given:
        return 0.0
    recall = sum(c.verdict == "supported" for c in claims) / len(claims)
    precision = sum(len(c.needed) for c in claims) / given
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def told(claims: Sequence[Cited]) -> list[dict[str, object]]:
    """Claims as `CITED`."""
    return [claim._asdict() for claim in claims]
