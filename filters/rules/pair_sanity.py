"""Pairs leave whose two answers are hardly a contrast: lengths far apart, or nearly one text."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import polars as pl
from pydantic import Field
from rapidfuzz.distance import Levenshtein

from prefactory.context import Context
from prefactory.step import Filter, verdict
from prefactory.tables import SIDES, Shape, text_of


class PairSanity(Filter):
    """Keep pairs whose answers are of comparable length and differ by more than a few letters.

    These are the text filters that MIA-DPO (arXiv:2410.17637) applies after pairing; their numbers
    are our choice, as the paper gives none.

    Reasons, the first that holds: `same_text`, `length_ratio` (chosen over rejected outside
    [1 / max_ratio, max_ratio]; an empty side is outside), `small_edit` (edit distance over
    characters, divided by the longer text's length, is under `min_edit`). The detail is the number.

    Attributes:
        max_ratio: greatest ratio of the longer to the shorter answer; null for no such rule.
        unit: what lengths are counted in.
        min_edit: least normalised edit distance, in [0, 1]; 0 for no such rule.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PAIRS,)

    max_ratio: float | None = Field(default=3.0, ge=1)
    unit: Literal["characters", "words"] = "characters"
    min_edit: float = Field(default=0.05, ge=0, le=1)

    def keep(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Judge PAIRS rows by their two texts.

        Args:
            table: PAIRS.
            ctx: not used.

        Returns:
            `reason` and `detail` (String), same height and order.
        """
        texts = table.select(text_of(pl.col(s)).fill_null("").alias(s) for s in SIDES)
        chosen, rejected = (self._length(pl.col(s)).cast(pl.Float64) for s in SIDES)
        texts = texts.with_columns(
            same=pl.col("chosen") == pl.col("rejected"),
            ratio=pl.when((chosen > 0) & (rejected > 0)).then(chosen / rejected),
        )
        ratio = pl.col("ratio")
        limit = self.max_ratio
        apart = pl.lit(value=False)
        if limit is not None:
            apart = ratio.is_null() | (ratio > limit) | (1 / ratio > limit)
        texts = texts.with_columns(apart=apart).with_columns(edit=self._edits(texts, apart))
        return verdict(
            texts,
            (pl.col("same"), "same_text", pl.lit("both answers are one text")),
            (pl.col("apart"), "length_ratio", pl.format("{} to 1", ratio.round(3).fill_null(0.0))),
            (
                pl.col("edit") < self.min_edit,
                "small_edit",
                pl.format("{}", pl.col("edit").round(4)),
            ),
        )

    def _length(self, text: pl.Expr) -> pl.Expr:
        return text.str.len_chars() if self.unit == "characters" else text.str.count_matches(r"\S+")

    def _edits(self, texts: pl.DataFrame, apart: pl.Expr) -> pl.Series:
        """Normalised edit distance where it may be under `min_edit`, else null."""
        longer = pl.max_horizontal(*[pl.col(s).str.len_chars() for s in SIDES])
        shorter = pl.min_horizontal(*[pl.col(s).str.len_chars() for s in SIDES])
        close = (longer - shorter) < self.min_edit * longer
        open_ = texts.select((~apart & ~pl.col("same") & close).fill_null(value=False)).to_series()
        distances: list[float | None] = [None] * texts.height
        wanted = texts.with_row_index("row").filter(open_).select("row", *SIDES)
        for row, a, b in wanted.iter_rows():
            distances[row] = small_edit(a, b, self.min_edit)
        return pl.Series("edit", distances, dtype=pl.Float64)


def small_edit(a: str, b: str, below: float) -> float | None:
    """Normalised edit distance of two texts if it is below a limit, else None.

    Args:
        a: a text.
        b: another, not both empty.
        below: the limit, in [0, 1].
    """
    longest = max(len(a), len(b))
    edit = Levenshtein.distance(a, b, score_cutoff=math.ceil(below * longest)) / longest
    return edit if edit < below else None
