"""Tell answers that refuse, by how they begin, in seventeen languages.

The lists are ours (`refusals.yaml`). On 483 answers to harmless prompts that people judged
(XSTest, CC BY 4.0), lists written with 213 of them in view find 45 of the 57 refusals, full or
partial, among the other 270, and take 3 of the 213 that comply for refusals.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import yaml

HEAD = 300
"""Characters of an answer in which a refusal begins."""
_START = (
    r"(?:^[\s\p{P}]*|[.!?:;\x{3002}\x{FF01}\x{FF1F}\n]\s*"
    r"|[,\x{FF0C}]\s*(?:but |however,? |and |so )?"
    r"|(?-u:\b)(?:but|however|though),? |(?-u:\b)(?:that|because) )"
)
"""Where a clause begins."""


class Lists(NamedTuple):
    """What tells refusals of one language: needed literals, pattern, pattern of what is none."""

    holds: tuple[str, ...]
    pattern: str
    without: str | None


@lru_cache(maxsize=1)
def languages() -> dict[str, Lists]:
    """The lists of each language."""
    text = Path(__file__).with_name("refusals.yaml").read_text("utf-8")
    by_language = {}
    for code, lists in yaml.safe_load(text).items():
        parts = dict(lists["parts"])
        refusal = "|".join(_filled(pattern, parts) for pattern in lists["patterns"])
        without = "|".join(_filled(pattern, parts) for pattern in lists["except"])
        by_language[code] = Lists(tuple(lists["holds"]), f"{_START}(?:{refusal})", without or None)
    return by_language


def _filled(pattern: str, parts: dict[str, str]) -> str:
    for name, value in parts.items():
        pattern = pattern.replace("{" + name + "}", value)
    return pattern


def refuses(texts: pl.Series) -> pl.Series:
    """Tell which answers refuse.

    Args:
        texts: String[n]; null is no refusal.

    Returns:
        Boolean[n].
    """
    refusing = np.zeros(texts.len(), dtype=bool)
    text, head = pl.col("text"), pl.col("head")
    heads = texts.alias("text").to_frame().lazy().select(
        head=text.fill_null("").str.strip_chars().str.head(HEAD)
        .str.replace_all("[\u2019\u02bc\u00b4`]", "'").str.to_lowercase()
    ).with_row_index("row").filter(head.str.contains(_any_holds())).collect()  # fmt: skip
    for lists in languages().values() if heads.height else ():
        suspects = heads.filter(head.str.contains_any(list(lists.holds)))
        if suspects.height:
            if lists.without is not None:
                suspects = suspects.with_columns(head.str.replace_all(lists.without, " "))
            found = suspects.filter(head.str.contains(lists.pattern))
            refusing[found["row"].to_numpy()] = True
            heads = heads.filter(~pl.col("row").is_in(found["row"].implode()))
    return pl.Series("refuses", refusing)


@lru_cache(maxsize=1)
def _any_holds() -> str:
    """Pattern of the literals of all languages; Polars keeps a compiled pattern, no automaton."""
    holds = {literal for lists in languages().values() for literal in lists.holds}
    return "|".join(re.escape(literal) for literal in sorted(holds))
