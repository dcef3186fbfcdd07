"""What differs between two answers, word by word."""

from __future__ import annotations

import difflib
import re

from markupsafe import Markup

from review.app.text import visible

MOST = 3000
"""Words of one side that are compared; longer answers are compared line by line."""
_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
_LINES = re.compile(r"[^\n]*\n|[^\n]+")


def diff(a: str, b: str) -> tuple[Markup, bool]:
    """Two texts in one: what only the first has is `<del>`, what only the second has `<ins>`.

    Returns:
        HTML, and whether all of both texts was compared.
    """
    a, b = visible(a), visible(b)
    pieces = _WORDS
    if max(len(_WORDS.findall(t)) for t in (a, b)) > MOST:
        pieces = _LINES
    first, second = pieces.findall(a), pieces.findall(b)
    whole = max(len(first), len(second)) <= MOST
    first, second = first[:MOST], second[:MOST]
    out = []
    matcher = difflib.SequenceMatcher(None, first, second, autojunk=False)
    for kind, i, j, k, m in matcher.get_opcodes():
        if kind == "equal":
            out.append(Markup("{}").format("".join(first[i:j])))
            continue
        if i < j:
            out.append(Markup("<del>{}</del>").format("".join(first[i:j])))
        if k < m:
            out.append(Markup("<ins>{}</ins>").format("".join(second[k:m])))
    return Markup("").join(out), whole
