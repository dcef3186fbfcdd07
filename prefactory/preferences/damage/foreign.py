"""Answers in another language than most: `garbled` is not for them, they are only unlike."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from prefactory.measures.scripts import scripts
from prefactory.preferences.damage import RULES, answers

LanguageOf = Callable[[pl.Series], pl.Series]
"""Texts -> the language of each, or its script: String [N]."""


def main_language(sample: pl.DataFrame, language_of: LanguageOf = scripts) -> str:
    """The language, or script, that most answers of a sample are in."""
    side = "chosen" if "chosen" in sample.columns else "response"
    found = language_of(answers(sample, side)).value_counts(name="n")
    return str(found.sort("n", found.columns[0], descending=[True, False])[0, 0])


def without_foreign(
    hits: pl.DataFrame, table: pl.DataFrame, main: str, language_of: LanguageOf = scripts
) -> pl.DataFrame:
    """Hits without those of `garbled` in another language than most answers are in."""
    suspects = hits.filter(pl.col("rule") == "garbled")
    parts = [hits.filter(pl.col("rule") != "garbled")]
    for (side,), part in suspects.group_by("side", maintain_order=True):
        texts = answers(table[part["row"]], str(side))
        parts.append(part.filter(language_of(texts) == main))
    order = {rule: i for i, rule in enumerate(RULES)}
    found = pl.concat(parts).with_columns(_o=pl.col("rule").replace_strict(order))
    return found.sort("_o", "side", "row").drop("_o")
