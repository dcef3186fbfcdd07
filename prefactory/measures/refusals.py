"""Tell answers that refuse, by how they begin, in seventeen languages.

The lists are ours (`refusals.yaml`). On 483 answers to harmless prompts that people judged
(XSTest, CC BY 4.0), lists written with 213 of them in view find 45 of the 57 refusals, full or
partial, among the other 270, and take 3 of the 213 that comply for refusals.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

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
    text = pl.col("text")
    heads = texts.alias("text").to_frame().select(
        text.fill_null("").str.strip_chars().str.head(HEAD)
        .str.replace_all("[\u2019\u02bc\u00b4`]", "'").str.to_lowercase()
    )["text"]  # fmt: skip
    refusing = pl.Series("refuses", [False], dtype=pl.Boolean).new_from_index(0, texts.len())
    for lists in languages().values():
        at = (heads.str.contains_any(list(lists.holds)) & ~refusing).arg_true()
        if at.len():
            suspects = heads.gather(at)
            if lists.without is not None:
                suspects = suspects.str.replace_all(lists.without, " ")
            refusing = refusing.scatter(at, suspects.str.contains(lists.pattern))
    return refusing
