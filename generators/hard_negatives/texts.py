"""Texts in pieces: sentences, words, contexts, and what is blacked out of them. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MARK = "[...]"
"""What stands for one or more words that were blacked out."""

_SENTENCE = re.compile(
    r"""\s*+\S(?:[.!?]++["')\]*_]*+(?=\s|$)|.*?(?:(?<![.!?])[.!?]++["')\]*_]*+(?=\s|$)"""
    r"""|[\u3002\uff01\uff1f]+["')\u300d\u300f]*|\n|$))\s*""",
    re.S,
)
_UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uff60"
    r"\u3000-\u303f"
)
_PIECE = re.compile(rf"(?<!\s)\s*(?:[{_UNSPACED}]|[^\s{_UNSPACED}]+)")
_YES_NO = re.compile(r"(\W*)(yes|no)(\W*)", re.I)
_OPPOSITE = {"yes": "no", "no": "yes", "Yes": "No", "No": "Yes", "YES": "NO", "NO": "YES"}


def sentences(text: str) -> list[str]:
    """Cut a text after its sentences and lines; joined, they are the text."""
    parts = [] if text.isspace() else _SENTENCE.findall(text)
    return parts if "".join(parts) == text else [text] if text else []


def pieces(text: str) -> list[str]:
    """Cut a text into words with the white space before each; letters in scripts without spaces.

    Joined, they are the text without its last white space.
    """
    return _PIECE.findall(text)


def cut(sentence: str, pivot: int) -> tuple[str, str]:
    """The first `pivot` words of a sentence, and the white space that ends it."""
    end = sentence[len(sentence.rstrip()) :]
    return "".join(pieces(sentence)[:pivot]), end


def completed(prefix: str, suffix: str, end: str) -> str | None:
    """A sentence from its own beginning and a model's continuation of it.

    Args:
        prefix: the words that stay, as they were.
        suffix: what the model wrote; a repetition of the prefix and further sentences are cut off.
        end: the white space after the sentence.

    Returns:
        The sentence, which begins with the prefix; None if the model wrote nothing.
    """
    text = suffix.strip()
    if text.startswith(prefix.strip()):
        text = text[len(prefix.strip()) :].lstrip()
    text = next((s.strip() for s in sentences(text)), "")
    if not text:
        return None
    joined = bool(re.match(rf"[{_UNSPACED}.,;:!?%)\]]", text)) or bool(
        re.search(rf"[{_UNSPACED}]$", prefix)
    )
    return f"{prefix}{'' if joined else ' '}{text}{end}"


def opposite(answer: str) -> str | None:
    """Turn "Yes." into "No." and the other way round; None for an answer that is more than that."""
    match = _YES_NO.fullmatch(answer)
    if match is None or match[2] not in _OPPOSITE:
        return None
    return f"{match[1]}{_OPPOSITE[match[2]]}{match[3]}"


def context_spans(text: str, pattern: str | None) -> list[tuple[int, int]]:
    """Where the context stands in a request.

    Args:
        text: the request.
        pattern: a regular expression; its first group, or without one the whole match, is context.
            None: all paragraphs but the last.

    Returns:
        Spans that hold more than white space, in order.
    """
    if pattern is None:
        whole = text.rstrip()
        last = max((m.start() for m in re.finditer(r"\n\s*\n", whole)), default=0)
        spans = [(0, last)]
    else:
        compiled = re.compile(pattern, re.S)
        group = min(compiled.groups, 1)
        spans = [m.span(group) for m in compiled.finditer(text)]
    return [(a, b) for a, b in spans if a >= 0 and text[a:b].strip()]


def masked(
    text: str, spans: Sequence[tuple[int, int]], keep: float, rng: np.random.Generator
) -> str:
    """Black out the words of spans, each with its own draw; neighbours share one mark.

    Args:
        text: the request.
        spans: of the context, in order.
        keep: share of words that stay, in [0, 1].
        rng: draws one number per word.
    """
    parts, last = [], 0
    for start, stop in spans:
        words = pieces(text[start:stop])
        parts += [text[last:start], blacked_out(words, rng.random(len(words)) >= 1 - keep)]
        last = stop
    return "".join([*parts, text[last:]])


def blacked_out(words: Sequence[str], stays: NDArray[np.bool_]) -> str:
    """Words as one text, those that do not stay as marks; the first of a run leaves its space."""
    parts, marked = [], False
    for word, keep in zip(words, stays, strict=True):
        if keep:
            parts.append(word)
        elif not marked:
            parts.append(word[: len(word) - len(word.lstrip())] + MARK)
        marked = not keep
    return "".join(parts)
