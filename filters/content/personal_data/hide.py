"""Find personal data in texts by putting one unused character in place of each piece of it.

Pieces can then be counted, or replaced by a mask, and no later rule sees into an earlier one's.
Columns throughout: a pattern is searched in all texts at once, its matches are set apart by a
character that no text holds, and only they are looked at one by one, each distinct one once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from filters.content.personal_data.rules import Rule, checked, rules

BLOCK = 0x100
_AREAS = (*range(0xE000, 0xF800, BLOCK), *range(0xF0000, 0xFFF00, BLOCK))
_CUT = 0xFF
"""Place in a block of the character that sets matches apart."""


@dataclass(frozen=True)
class Hidden:
    """Texts without their personal data.

    Attributes:
        texts: String[n], with one mark for each piece of personal data.
        marks: kind -> its mark, one character.
    """

    texts: pl.Series = field(repr=False)
    marks: dict[str, str]

    def counts(self) -> pl.DataFrame:
        """Pieces of each kind (UInt32) in each text."""
        text = pl.col("text")
        return (
            self.texts.alias("text")
            .to_frame()
            .select(
                text.str.count_matches(mark, literal=True).alias(kind)
                for kind, mark in self.marks.items()
            )
        )

    def masked(self, form: str) -> pl.Series:
        """The texts with a mask for each piece; `{kind}` and `{KIND}` in the form are its kind."""
        masks = [form.replace("{kind}", k).replace("{KIND}", k.upper()) for k in self.marks]
        return self.texts.str.replace_many(list(self.marks.values()), masks)


def marks_for(texts: pl.Series, kinds: Sequence[str]) -> tuple[dict[str, str], str]:
    """Marks of kinds, and a character that cuts; none of them is in any text."""
    for area in _AREAS:
        used = texts.str.contains(rf"[\x{{{area:X}}}-\x{{{area + BLOCK - 1:X}}}]")
        if not used.any():
            return {kind: chr(area + i) for i, kind in enumerate(kinds)}, chr(area + _CUT)
    raise ValueError("the texts hold every character of private use")  # of 137,000


def hide(texts: pl.Series, kinds: Sequence[str], allow: Sequence[str] = ()) -> Hidden:
    """Put marks in place of personal data.

    Args:
        texts: String[n]; null stays null.
        kinds: of `personal_data_rules.KINDS`, what to look for.
        allow: pieces that stay, in any case; one that begins with @ allows a mail domain.

    Returns:
        The texts, marked. A text's marks depend on the text alone, but for the characters chosen.
    """
    marks, cut = marks_for(texts, kinds)
    allowed = [a.lower() for a in allow]
    for rule in rules():
        if rule.kind in marks:
            holds = texts.str.contains(rule.holds, literal=rule.literal)
            at = holds.fill_null(value=False).arg_true()
            if at.len():
                new = _marked(texts.gather(at), rule, marks[rule.kind], cut, allowed)
                texts = texts.clone().scatter(at, new)
    return Hidden(texts, marks)


def _marked(texts: pl.Series, rule: Rule, mark: str, cut: str, allowed: list[str]) -> pl.Series:
    apart = texts.str.replace_all(f"({rule.lead})({rule.pattern})", f"${{1}}{cut}${{2}}{cut}")
    pieces = pl.DataFrame({"row": pl.int_range(texts.len(), eager=True), "text": apart})
    pieces = pieces.filter(pl.col("text").str.contains(cut, literal=True))
    if not pieces.height:
        return texts
    pieces = pieces.with_columns(pl.col("text").str.split(cut)).explode("text")
    odd = pl.int_range(pl.len()).over("row") % 2 == 1
    around = pieces.with_columns(
        before=pl.col("text").shift(1).over("row").str.tail(2),
        after=pl.col("text").shift(-1).over("row").str.head(2),
        candidate=odd,
    )
    candidates = around.filter("candidate").with_columns(pl.col("before", "after").fill_null(""))
    taken = checked(candidates, rule) & ~_allowed(candidates["text"], allowed)
    candidates = candidates.select(text=pl.when(taken).then(pl.lit(mark)).otherwise(pl.col("text")))
    at = around["candidate"].arg_true()
    new = pieces.with_columns(pieces["text"].scatter(at, candidates["text"]))
    new = new.group_by("row", maintain_order=True).agg(pl.col("text").str.join(""))
    return texts.clone().scatter(new["row"], new["text"])


def _allowed(candidates: pl.Series, allowed: list[str]) -> pl.Series:
    low = candidates.str.to_lowercase()
    hits = low.is_in(allowed)
    for domain in (a for a in allowed if a.startswith("@")):
        hits = hits | low.str.ends_with(domain)
    return hits
