"""Rules for prompts that a model wrote: too alike, too long, refused, copied from its orders."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from generators.hard_negatives.texts import pieces
from prefactory.measures.diversity import tokens
from prefactory.measures.overlap import rouge_l

_DENIED = (
    r"(?:help|assist|fulfil|comply|rewrite|provide|answer|create|write|do (?:that|this|it)|support"
    r"|continue|generate|produce|give|engage)"
)
_REFUSES = re.compile(
    r"^\W{0,3}(?:i['\u2019]?m (?:very |really )?sorry|sorry[,.!]|as an? (?:ai|language model)\b"
    r"|(?:unfortunately,? )?i(?: can(?:not|['\u2019]t)| won['\u2019]t| am (?:unable|not able) to"
    rf"|['\u2019]m (?:unable|not able) to)(?: \w+)? {_DENIED}\b)",
    re.IGNORECASE,
)
_ORDERS = re.compile(
    r"(?:\bthe |#\s?)(?:given|rewritten|evolved|original|new) (?:prompt|request)\b"
    r"|\brequest below\b|\bjson object\b",
    re.IGNORECASE,
)
_RUN = 8
"""Words in a row that are no chance any more."""

SHORT_REFUSAL = 80
"""A refusal in fewer words than this is one; longer answers explain (Evol-Instruct's number)."""


def refuses(text: str) -> bool:
    """Tell whether a text begins as a refusal does, in English."""
    return bool(_REFUSES.match(text))


def says_nothing(answer: str) -> bool:
    """Tell whether an answer is a short refusal, or has no word of two letters."""
    if refuses(answer) and len(answer.split()) < SHORT_REFUSAL:
        return True
    return not re.search(r"[^\W\d_]{2}|\d|[\u3040-\u9fff\uac00-\ud7a3]", answer)


def copied(text: str, orders: str, prompt: str) -> str | None:
    """What a text copies from the orders that a model was given.

    Args:
        text: what it wrote.
        orders: the whole question that it was asked.
        prompt: the part of the question that it may repeat.

    Returns:
        The words, or None: a phrase that only orders have, or eight words in a row of them.
    """
    phrase = _ORDERS.search(text)
    if phrase and phrase.group(0).lower() not in prompt.lower():
        return phrase.group(0)
    runs = _runs(orders) - _runs(prompt)
    shared = sorted(runs & _runs(text))
    return " ".join(shared[0]) if shared else None


def _runs(text: str) -> set[tuple[str, ...]]:
    words = tokens(text)
    return {tuple(words[i : i + _RUN]) for i in range(len(words) - _RUN + 1)}


def nearest_rouge_l(text: str, others: Iterable[str]) -> float:
    """Greatest ROUGE-L F1 of a text with any of others, by words in lower case; 0 without any."""
    own = tokens(text)
    return max((rouge_l(own, tokens(other)) for other in others), default=0.0)


def unwanted(text: str, phrases: Sequence[str]) -> str | None:
    """The first of some phrases that a text has, as whole words, whatever their case."""
    for phrase in phrases:
        if re.search(rf"\b{re.escape(phrase)}\b", text, re.IGNORECASE):
            return phrase
    return None


def word_count(text: str) -> int:
    """Words of a text; in scripts without spaces two letters count as one."""
    words_and_letters = pieces(text)
    letters = sum(len(p.strip()) == 1 and ord(p.strip()) > 0x0DFF for p in words_and_letters)
    return len(words_and_letters) - letters + -(-letters // 2)
