"""Counts of a text that need no model and no language: length, variety, Markdown, questions."""

from __future__ import annotations

from typing import ClassVar, get_args

import polars as pl
from pydantic import Field, field_validator

from prefactory.context import Context
from prefactory.measures.text_statistics import FENCED, Statistic, statistic
from prefactory.step import Labeler
from prefactory.tables import SCORE, Shape, text_of


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

    objectives: tuple[Statistic, ...] = Field(default=get_args(Statistic), min_length=1)
    prefix: str = ""

    @field_validator("objectives")
    @classmethod
    def _each_once(cls, value: tuple[Statistic, ...]) -> tuple[Statistic, ...]:
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
