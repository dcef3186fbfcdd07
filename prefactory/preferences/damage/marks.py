"""Marks in an answer that no answer should have: other turns, template tokens, judges, mojibake.

All patterns are ours. They are literal and anchored, so that one is rare in real answers: none of
them fires on more than one in a hundred answers of six public sets, and where one does it is true.
"""

from __future__ import annotations

import polars as pl

LEAK = r"(?:\A|\n[ \t]*\n)[ \t]*(?:Human|User|Assistant|System)[ \t]*:"
"""Another turn inside an answer."""
TOKEN = r"<\|\w+\|>|\[/?INST\]|<</?SYS>>|</s>|</?(?:start|end)_of_turn>"  # noqa: S105 - no password
"""Tokens of a chat template or of an end; not `<s>`, which is a strike-through in HTML."""
CUE = r"(?:\A|\n)[ \t]*(?:Human|User|Assistant|AI|Answer|Response)[ \t]*:\s*\z"
"""A last line that cues another turn."""
PROMPT_CUE = r"(?:\A|\n)[ \t]*(?:Human|User|Assistant|AI)[ \t]*:\s*\z"
"""A last line of a prompt that a chat template would write; `Answer:` may well be asked for."""
JUDGE = (
    r"\[\[(?:[A-C]|\d+(?:\.\d+)?)\]\]|\[RESULT\]|(?i:assistant [AB] is (?:slightly |much )?better)|"
    r"\A\s*(?:Verdict|Feedback)[ \t]*:|(?m:^[ \t]*(?:Score|Rating)[ \t]*:[ \t]*\d)|"
    r"(?i:overall (?:score|rating):?[ \t]*\d)"
)
"""Words of a judge that was asked about the answer."""
VISIBLE = r"[^\p{Z}\p{C}\p{M}.\x{2025}\x{2026}\x{3002}]"
"""A sign that says something: no space, control or invisible sign, mark by itself, or dot."""
LAST_LINE = r"(?:\A|\n)([^\n]*)\s*\z"
UNENDED = r"(?:[\p{L}\p{M}]|[,\p{Pd}])\z"
STRUCTURE = r"^\s*(?:[-*+\u2022|#>]|\d{1,3}[.)])|\||`|https?://|\]\("
"""List items, headings, tables, links and code, which end without a full stop."""
_SIGNS = "\ufffd"
_SUSPECT = r"[^\x00-\x7F]{2}|[\x{80}-\x{9F}\x{152}\x{153}\x{C2}\x{C3}]"
"""What every text that ftfy calls bad holds: signs beyond ASCII side by side, or one of a few."""

_ODD = r"(?:[\x00-\x7F]{0,3}[^\x00-\x7F]+)+[\x00-\x7F]{0,3}"
"""The signs that ftfy judges, with as much ASCII around them as its patterns see."""


def marks(texts: pl.Series) -> pl.DataFrame:
    """Which marks an answer has.

    Args:
        texts: String [N], no nulls.

    Returns:
        Boolean columns [N]: `role_leak` (another turn or a template token), `trailing_cue`,
        `judge`, `mojibake`.
    """
    text = pl.col("text")
    found = (
        texts.rename("text")
        .to_frame()
        .select(
            role_leak=text.str.contains(LEAK) | text.str.contains(TOKEN),
            trailing_cue=text.str.tail(40).str.contains(CUE),
            judge=text.str.contains(JUDGE),
        )
    )
    return found.with_columns(mojibake=mojibake(texts))


def has_token(texts: pl.Series) -> pl.Series:
    """Whether an answer holds a template or end token, Boolean [N]."""
    return texts.str.contains(TOKEN)


def mojibake(texts: pl.Series) -> pl.Series:
    """Whether an answer was decoded wrongly: by ftfy's heuristic, or with U+FFFD; Boolean [N].

    Only texts in which ftfy could find anything are read by it.
    """
    from ftfy.badness import is_bad

    found = texts.str.contains(_SIGNS, literal=True)
    at = (texts.str.contains(_SUSPECT) & ~found).arg_true()
    if not at.len():
        return found
    odd = texts.gather(at).str.extract_all(_ODD).list.join("\n\n\n")
    return found.scatter(at, pl.Series([is_bad(text) for text in odd], dtype=pl.Boolean))


def unfinished(texts: pl.Series, characters: int = 60, words: int = 6) -> pl.Series:
    """Whether an answer ends in the middle, Boolean [N]: a number, never a fault.

    Its last line has so many `words` or more and ends in a letter, a comma or a dash; the answer
    has so many `characters` or more; the line is no list item, heading or table and holds no link
    and no code.
    """
    text = pl.col("text")
    last = (
        texts.rename("text")
        .to_frame()
        .select(
            long=text.str.len_chars() >= characters,
            fenced=text.str.count_matches("```", literal=True) > 0,
            line=text.str.strip_chars().str.extract(LAST_LINE),
        )
    )
    line = pl.col("line").fill_null("")
    return last.select(
        unfinished=pl.col("long")
        & ~pl.col("fenced")
        & line.str.contains(UNENDED)
        & ~line.str.contains(STRUCTURE)
        & (line.str.count_matches(r"\S+") >= words)
    )["unfinished"]
