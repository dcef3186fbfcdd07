"""What can be told by rule about answers from documents; and documents that were made false."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from generators.evidence.claims import NEGATION
from prefactory import yamllines

Situation = Literal["multi_hop", "citation", "abstention", "conflict"]
SITUATIONS: tuple[Situation, ...] = get_args(Situation)

UNDECIDED = 0.25
"""Signal of an answer to a conflict that takes no side (our choice)."""

_CITED = re.compile(r"\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")
_WORD = re.compile(r"\d+(?:[.,]\d+)*(?:(?:st|nd|rd|th)\b)?|[^\W\d_]+")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_YES_NO = (
    "yes",
    "no",
    "true",
    "false",
    "ja",
    "nein",
    "oui",
    "non",
    "sí",
    "si",
    "sim",
    "não",
    "nee",
)
_CLAUSE = re.compile(
    r"[.!?;:\n\u3002\uff01\uff1f](?=\s|$)|\b(?:but|however|rather|instead|sondern|aber|mais|sino|pero|"
    r"ma|mas|maar|lecz)\b|,\s+(?=(?:it|he|she|they|which|who|and|so|the)\b)",
    re.IGNORECASE,
)
_TAKEN_BACK = re.compile(
    NEGATION + r"|\b(?:perhaps|maybe|may|might|could|possibly|whether|if|unless)\b", re.IGNORECASE
)
_DENIED = re.compile(
    r"[^.!?;\n]{0,20}\b(?:(?:is|was|would be) (?:not|wrong|incorrect|false)|(?:is|was)n['\u2019]t|"
    r"cannot be|can['\u2019]t be)\b",
    re.IGNORECASE,
)
_SPECIFIC = re.compile(r"\d+(?:[.,]\d+)*|(?<=[a-z,;] )[A-Z][a-z]{2,}")


def words_of(text: str) -> list[str]:
    """Words and numbers of a text without case; "1,000" is "1000"."""
    return [w.replace(",", "") for w in _WORD.findall(text.casefold())]


def has(text: str, span: str) -> bool:
    """Tell whether a text holds a span as a run of words, whatever case and punctuation."""
    inside, wanted = words_of(text), words_of(span)
    n = len(wanted)
    return n > 0 and any(inside[i : i + n] == wanted for i in range(len(inside) - n + 1))


def asserts(answer: str, span: str) -> bool:
    """Tell whether a clause of an answer says a span, neither negated nor as a mere possibility.

    Known answers for "1871": "the source does not name another; she was born in 1871" does; "not in
    1871 but in 1900", "1871 is wrong", "perhaps 1871" and "the 1871st" do not.
    """
    words = words_of(span)
    if not words or not has(answer, span):
        return False
    text = _THOUSANDS.sub("", answer)
    pattern = r"[\W_]+".join(map(re.escape, words))
    for match in re.finditer(rf"{pattern}(?!(?:st|nd|rd|th)\b)", text, re.IGNORECASE):
        before = _CLAUSE.split(text[: match.start()])[-1]
        if not _TAKEN_BACK.search(before) and not _DENIED.match(text, match.end()):
            return True
    return False


@cache
def _abstentions() -> re.Pattern[str]:
    text = Path(__file__).with_name("abstentions.yaml").read_text("utf-8")
    by_language = yamllines.load(text, "abstentions.yaml")[0]
    patterns = [pattern for patterns in by_language.values() for pattern in patterns]
    return re.compile("|".join(f"(?:{p})" for p in patterns), re.IGNORECASE)


def abstains(answer: str) -> bool:
    """Tell whether an answer says that the documents do not hold it (`abstentions.yaml`)."""
    return bool(_abstentions().search(answer.strip()))


def yes_or_no(golds: Sequence[str]) -> bool:
    """Tell whether the right answer is yes or no: words that stand in any answer by chance."""
    return all(gold.strip(" .!").casefold() in _YES_NO for gold in golds)


def supported(answer: str, material: Sequence[str]) -> float:
    """Share of the numbers and names of an answer that stand in its question or documents.

    Citations do not count; 1 for an answer without any.
    """
    said = {" ".join(words_of(s)) for s in _SPECIFIC.findall(_CITED.sub("", answer))}
    held = {word for text in material for word in words_of(text)}
    return sum(word in held for word in said) / len(said) if said else 1.0


def second_signal(
    situation: Situation,
    answer: str,
    golds: Sequence[str],
    wrong: str | None,
    question: str,
    documents: Sequence[str],
) -> float:
    """What else a rule can tell, by other words of the answer than `signal` goes by.

    Of `citation` it is `generators.rag.citations.claim_f1`.

    Returns:
        A number in [0, 1]. `conflict`: 0 if it says the wrong answer. Else the share of its numbers
        and names that the documents or the question hold; for `multi_hop` 0 if it abstains, for the
        documents hold the answer.
    """
    if situation == "conflict":
        return float(wrong is None or not asserts(answer, wrong))
    backed = supported(answer, [question, *documents])
    silent = abstains(answer) and not any(asserts(answer, gold) for gold in golds)
    return 0.0 if situation == "multi_hop" and silent else backed


def _holding(documents: Sequence[str], golds: Sequence[str]) -> set[int]:
    return {i for i, d in enumerate(documents, 1) if any(has(d, gold) for gold in golds)}


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
    """How good an answer is, as far as a rule can tell; the clause that answers counts.

    Args:
        situation: what the documents were made for.
        answer: the answer.
        golds: right answers in other words; one is enough.
        wrong: what the false document says.
        documents: as they were shown.
        right: numbers, from 1, of the documents that hold the answer.

    Returns:
        A number in [0, 1]. `multi_hop`: it says the right answer (`asserts`). `citation`: so, times
        the F1 of its citations. `abstention`: it abstains; half if it names the right answer
        nevertheless. `conflict`: it says the right answer; half if it says the wrong one too, a
        quarter if neither and it abstains.
    """
    correct = any(asserts(answer, gold) for gold in golds)
    silent = abstains(answer)
    if situation == "abstention":
        named = any(has(answer, gold) for gold in golds)
        return (0.5 if named else 1.0) if silent else 0.0
    if situation == "conflict":
        misled = wrong is not None and asserts(answer, wrong)
        if correct:
            return 0.5 if misled else 1.0
        return UNDECIDED if silent and not misled else 0.0
    if situation == "citation":
        fitting = right | _holding(documents, golds)
        return float(correct) * citation_f1(cited(answer), right, fitting)
    return float(correct)


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
