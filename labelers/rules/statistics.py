"""Counts of a text that need no model and no language: length, variety, Markdown, questions."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal, get_args

import polars as pl
from pydantic import Field, field_validator

from labelers.rules.constraint_checks import count_sentences
from prefactory.context import Context
from prefactory.step import Labeler
from prefactory.tables import SCORE, Shape, text_of

_ALONE = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
WORD = rf"[{_ALONE}]|[\w--[{_ALONE}]]+(?:['\x{{2019}}]\w+)*"
"""A word; in scripts without spaces between words, a letter."""

FENCED = r"(?ms)^[ \t]*```.*?(?:^[ \t]*```[^\n]*$|\z)"
"""A code block; one that is never closed runs to the end."""

Objective = Literal[
    "characters",
    "words",
    "sentences",
    "type_token_ratio",
    "questions",
    "headings",
    "bullets",
    "numbered",
    "bold",
    "code_blocks",
    "links",
]


class TextStatistics(Labeler):
    """Add `score_<prefix><objective>`: what can be counted in an answer.

    Direction: none of its own, higher is more; weigh it in `labelers.Combine` or use it to find
    and remove a bias. Range: counts from 0, but `type_token_ratio` in (0, 1].

    - `characters`, `words` (a letter each in scripts without spaces), `sentences`.
    - `type_token_ratio`: distinct words / words, ignoring case; null without words. It falls with
      length: compare texts of like length.
    - `questions`: runs of question marks, of any script.
    - Markdown outside code blocks: `headings`, `bullets` and `numbered` lines, `bold` spans,
      `links` (also images and bare addresses); and `code_blocks`.

    Attributes:
        objectives: which to add.
        prefix: put before their names.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    score_range: ClassVar[tuple[float | None, float | None]] = (0.0, None)
    direction: ClassVar[str] = "none"

    objectives: tuple[Objective, ...] = Field(default=get_args(Objective), min_length=1)
    prefix: str = ""

    @field_validator("objectives")
    @classmethod
    def _each_once(cls, value: tuple[Objective, ...]) -> tuple[Objective, ...]:
        if len(set(value)) != len(value):
            raise ValueError("name each objective once")
        return value

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`score_<prefix><objective>` for each objective, Float64."""
        return {f"{SCORE}{self.prefix}{o}": pl.Float64() for o in self.objectives}

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Count in every answer.

        Returns:
            The columns of `adds`, same height and order.
        """
        texts = table.select(text=text_of(pl.col("response")).fill_null(""))
        texts = texts.with_columns(prose=pl.col("text").str.replace_all(FENCED, "\n"))
        return texts.select(
            statistic(o).cast(pl.Float64).alias(f"{SCORE}{self.prefix}{o}") for o in self.objectives
        )


def statistic(objective: Objective) -> pl.Expr:
    """Expression of one objective over String columns `text` and `prose` (text without code)."""
    return _STATISTICS[objective](pl.col("text"), pl.col("prose"))


def _variety(text: pl.Expr, _: pl.Expr) -> pl.Expr:
    words = text.str.to_lowercase().str.extract_all(WORD)
    count = words.list.len()
    return pl.when(count > 0).then(words.list.n_unique() / count)


def _prose(pattern: str) -> Callable[[pl.Expr, pl.Expr], pl.Expr]:
    return lambda _, prose: prose.str.count_matches(pattern)


_STATISTICS: dict[Objective, Callable[[pl.Expr, pl.Expr], pl.Expr]] = {
    "characters": lambda text, _: text.str.len_chars(),
    "words": lambda text, _: text.str.count_matches(WORD),
    "sentences": lambda text, _: count_sentences(text),
    "type_token_ratio": _variety,
    "questions": lambda text, _: text.str.count_matches(r"[?\x{FF1F}\x{61F}\x{37E}\x{55E}]+"),
    "headings": _prose(r"(?m)^ {0,3}#{1,6}[ \t]+\S"),
    "bullets": _prose(r"(?m)^[ \t]*[-*+\x{2022}][ \t]+\S"),
    "numbered": _prose(r"(?m)^[ \t]*\d{1,3}[.)][ \t]+\S"),
    "bold": _prose(r"\*\*[^\s*](?:[^*\n]*[^\s*])?\*\*|\b__[^\s_](?:[^_\n]*[^\s_])?__\b"),
    "code_blocks": lambda text, _: text.str.count_matches(FENCED),
    "links": _prose(r"\[[^\]\n]*\]\([^)\s]+[^)\n]*\)|https?://[^\s)>\]]+"),
}
