"""Words around a statement in a model's prose that take it back: negations, conditions, doubts."""

from __future__ import annotations

import re

_BEFORE = re.compile(
    r"\b(?:not|no|never|neither|nor|none|cannot|without|hardly|barely|less than|"
    r"more than|other than|rather than|instead of|instead|except|if|unless|whether|would|could|"
    r"should|might|may|perhaps|maybe|almost|nearly|had|were|suppose|supposing|assuming|otherwise|"
    r"either|or|wrong|incorrect|example)\b|\bn['\u2019]t\b|\w{2,10}n['\u2019]t\b",
    re.IGNORECASE,
)
_AFTER = re.compile(
    r"[\s,;:.!*_`)(\"'\u2014-]{0,20}(?:but|unless|if|or|only|although|though|however|except|would|could|"
    r"might|were|had|no|not|wait|"
    r"(?:is|was|isn['\u2019]t|wasn['\u2019]t)(?: (?:not|wrong|incorrect|worse|no))?)\b",
    re.IGNORECASE,
)
_ENDS = re.compile(r"[.!?\u3002\uff01\uff1f](?=[\s*_)\"'\u201d]|$)|\n")
_LONGEST = 400


def sentence_before(text: str, place: int) -> str:
    """The beginning of the sentence in which a place of a text stands, at most 400 characters."""
    before = text[max(0, place - _LONGEST) : place]
    ends = [m.end() for m in _ENDS.finditer(before)]
    return before[ends[-1] :] if ends else before


def hedged(text: str, start: int, end: int) -> bool:
    """Whether the words of its sentence before or right after a statement may take it back.

    "Not X", "if it were shorter, X", "X would be unfair", "X, but ..." are; being asked again costs
    a call, a verdict that was not meant costs a label.

    Args:
        text: what was said.
        start: where the statement begins in it.
        end: where it ends.
    """
    return bool(_BEFORE.search(sentence_before(text, start)) or _AFTER.match(text, end))
