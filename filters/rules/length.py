"""Rows leave that are too short or too long, counted in characters or in words."""

from __future__ import annotations

from typing import ClassVar, Self

import polars as pl
from pydantic import Field, model_validator

from prefactory.context import Context
from prefactory.step import Filter, verdict
from prefactory.tables import Shape, text_of

UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
"""Scripts written without spaces between words, as members of a regex character class."""

WORD = (
    rf"[[{UNSPACED}]--\p{{M}}]\p{{M}}*"
    rf"|[\w--[{UNSPACED}]]+(?:['\u2019][\w--[{UNSPACED}]]+)*"
)
"""Regex of one word: letters, digits, marks and inner apostrophes; one character (with its marks)
in a script that puts no spaces between words."""


class Length(Filter):
    """Keep answers and prompts whose length lies within limits; null switches a limit off.

    Characters are Unicode code points of the joined messages, without outer white space. Words
    follow `WORD`. A missing answer has length 0. Limits are inclusive.

    Reasons: `too_short`, `too_long`, `prompt_too_short`, `prompt_too_long`; the detail is the
    number that broke the limit, such as `3 words`.

    Attributes:
        min_characters: fewest characters of the answer.
        max_characters: most characters of the answer.
        min_words: fewest words of the answer.
        max_words: most words of the answer.
        prompt_min_characters: fewest characters of the whole prompt, system message included.
        prompt_max_characters: most characters of the whole prompt.
        prompt_min_words: fewest words of the whole prompt.
        prompt_max_words: most words of the whole prompt.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)

    min_characters: int | None = Field(default=1, ge=0)
    max_characters: int | None = Field(default=None, ge=0)
    min_words: int | None = Field(default=None, ge=0)
    max_words: int | None = Field(default=None, ge=0)
    prompt_min_characters: int | None = Field(default=None, ge=0)
    prompt_max_characters: int | None = Field(default=None, ge=0)
    prompt_min_words: int | None = Field(default=None, ge=0)
    prompt_max_words: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _validate_limits(self) -> Self:
        limits = {
            (prefix, unit): self._limits(prefix, unit)
            for prefix in ("", "prompt_")
            for unit in ("characters", "words")
        }
        if set(limits.values()) == {(None, None)}:
            raise ValueError("every limit is null: nothing would be filtered")
        for (prefix, unit), (low, high) in limits.items():
            if low is not None and high is not None and low > high:
                raise ValueError(f"{prefix}min_{unit} ({low}) is above {prefix}max_{unit} ({high})")
        return self

    def keep(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Judge RESPONSES rows by their lengths.

        Args:
            table: RESPONSES.
            ctx: not used.

        Returns:
            `reason` and `detail` (String), same height and order.
        """
        counts = table.select(
            expression.alias(f"{prefix}{unit}")
            for prefix, column in (("", "response"), ("prompt_", "prompt"))
            for unit, expression in _counts(column).items()
            if self._limits(prefix, unit) != (None, None)
        )
        rules = [
            rule
            for prefix in ("", "prompt_")
            for unit in ("characters", "words")
            for rule in self._rules(prefix, unit)
        ]
        return verdict(counts, *rules)

    def _limits(self, prefix: str, unit: str) -> tuple[int | None, int | None]:
        return getattr(self, f"{prefix}min_{unit}"), getattr(self, f"{prefix}max_{unit}")

    def _rules(self, prefix: str, unit: str) -> list[tuple[pl.Expr, str, pl.Expr]]:
        low, high = self._limits(prefix, unit)
        number = pl.col(f"{prefix}{unit}")
        detail = pl.format("{} " + unit, number)
        rules = []
        if low is not None:
            rules.append((number < low, f"{prefix}too_short", detail))
        if high is not None:
            rules.append((number > high, f"{prefix}too_long", detail))
        return rules


def _counts(column: str) -> dict[str, pl.Expr]:
    text = text_of(pl.col(column)).fill_null("").str.strip_chars()
    return {"characters": text.str.len_chars(), "words": text.str.count_matches(WORD)}
