"""What can be told by rule about answers from documents; and documents that were made false."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

Situation = Literal["multi_hop", "citation", "abstention", "conflict"]
SITUATIONS: tuple[Situation, ...] = get_args(Situation)

UNDECIDED = 0.25
"""Signal of an answer to a conflict that takes no side (our choice)."""

_CITED = re.compile(r"\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")
_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_SOURCES = r"(?:documents?|passages?|sources?|context|texts?)"
_TELL = r"(?:say|state|mention|contain|hold|include|provide|give|specify|answer|tell|name|cover)"
_TOLD = r"(?:said|stated|mentioned|contained|included|provided|given|specified|answered|told|found)"
_NOT = r"(?: not|n['\u2019]t)"
_ABSTAINS = re.compile(
    rf"\b{_SOURCES}\b[^.!?\n]{{0,40}}?\b(?:do|does|did){_NOT}(?: \w+)?"
    rf" {_TELL}\b"
    rf"|\b(?:is|are){_NOT} {_TOLD}\b"
    r"|\bi (?:do not|don['\u2019]t) know\b"
    r"|\bi can(?:not|['\u2019]t) (?:tell|say|answer|determine|find)\b"
    r"|\b(?:no|not enough|insufficient|too little) (?:information|evidence)\b"
    r"|\bcan(?:not|['\u2019]t) be (?:answered|determined|found|told|said)\b"
    rf"|\b(?:none of the|no|neither) {_SOURCES}\b[^.!?\n]{{0,20}}?\b(?:{_TELL}s?|{_TOLD})\b",
    re.IGNORECASE,
)


def words_of(text: str) -> list[str]:
    """Words and numbers of a text without case; "1,000" is "1000"."""
    return [w.replace(",", "") for w in _WORD.findall(text.casefold())]


def has(text: str, span: str) -> bool:
    """Tell whether a text holds a span as a run of words, whatever case and punctuation."""
    inside, wanted = words_of(text), words_of(span)
    n = len(wanted)
    return n > 0 and any(inside[i : i + n] == wanted for i in range(len(inside) - n + 1))


def abstains(answer: str) -> bool:
    """Tell whether an answer says that the documents do not hold it, in English."""
    return bool(_ABSTAINS.search(answer))


def cited(answer: str) -> set[int]:
    """Numbers of the documents that an answer cites, as [1] or [1, 2]."""
    groups = _CITED.findall(answer)
    return {int(n) for group in groups for n in group.split(",")}


def citation_f1(numbers: set[int], right: set[int], fitting: set[int]) -> float:
    """How well citations fit.

    Args:
        numbers: documents that are cited.
        right: documents that hold the answer.
        fitting: documents whose citation is no mistake: the right ones, and others that hold the
            claimed words.

    Returns:
        Harmonic mean of precision (cited ones that fit) and recall (right ones that are cited).
    """
    if not numbers or not right:
        return 0.0
    precision = len(numbers & fitting) / len(numbers)
    recall = len(numbers & right) / len(right)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def signal(
    situation: Situation,
    answer: str,
    golds: Sequence[str],
    wrong: str | None,
    documents: Sequence[str],
    right: set[int],
) -> float:
    """How good an answer is, as far as a rule can tell.

    Args:
        situation: what the documents were made for.
        answer: the answer.
        golds: right answers in other words; one is enough.
        wrong: what the false document says.
        documents: as they were shown.
        right: numbers, from 1, of the documents that hold the answer.

    Returns:
        A number in [0, 1]. `multi_hop`: it holds the right answer and does not abstain. `citation`:
        so, times the F1 of its citations. `abstention`: it abstains; half if it says the right
        answer nevertheless. `conflict`: it holds the right answer; half if it holds the wrong one
        too, a quarter if neither and it abstains.
    """
    correct = any(has(answer, gold) for gold in golds)
    silent = abstains(answer)
    if situation == "abstention":
        return (0.5 if correct else 1.0) if silent else 0.0
    if situation == "conflict":
        misled = wrong is not None and has(answer, wrong)
        if correct:
            return 0.5 if misled else 1.0
        return UNDECIDED if silent and not misled else 0.0
    sound = float(correct and not silent)
    if situation == "citation":
        holding = {i for i, d in enumerate(documents, 1) if any(has(d, gold) for gold in golds)}
        return sound * citation_f1(cited(answer), right, right | holding)
    return sound


def other_number(gold: str, rng: np.random.Generator) -> str | None:
    """A gold answer with another number in it, of as many digits; None where it has none."""
    match = _NUMBER.search(gold)
    if match is None:
        return None
    value = match.group(0)
    digits = [c for c in value if c.isdigit()]
    while True:
        drawn = [str(int(d)) for d in rng.integers(0, 10, len(digits))]
        if len(drawn) > 1 and drawn[0] == "0":
            drawn[0] = "1"
        if drawn != digits:
            break
    fresh = iter(drawn)
    changed = "".join(next(fresh) if c.isdigit() else c for c in value)
    return gold[: match.start()] + changed + gold[match.end() :]


def made_false(document: str, gold: str, wrong: str) -> str | None:
    """A document that says something else; None where the gold answer is not literally in it."""
    pattern = re.compile(rf"(?<!\w){re.escape(gold)}(?!\w)", re.IGNORECASE)
    changed, count = pattern.subn(lambda _: wrong, document)
    return changed if count else None
