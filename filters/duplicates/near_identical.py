"""Rows leave that say nearly the same as another answer to the same prompt."""

from __future__ import annotations

from typing import ClassVar

import polars as pl
from pydantic import Field

from filters.rules.margin import score_columns
from prefactory.context import Context
from prefactory.measures.overlap import rouge_l, words
from prefactory.step import Filter, Scope
from prefactory.tables import Shape, text_of


class NearIdenticalAnswers(Filter):
    """Keep one of the answers to a prompt that are nearly the same, by ROUGE-L.

    Answers of a prompt are taken in order, best score of `keep_best` first, then by id (without
    `keep_best`, ids alone decide: they are hashes and favour none). One stays unless its ROUGE-L F1
    with an answer that stayed is above `threshold`: greedy against those kept, so that a chain of
    small changes does not fall as a whole. F1 = 2 LCS / (m + n) over words in lower case; in
    scripts without spaces each letter is a word. Answers without any word are compared as texts.

    Baichuan's report (arXiv:2410.14940) drops near-identical answers by "a ROUGE rule" without
    saying which; ROUGE-L F1 above 0.8 is our choice.

    Reason: `near_identical`; the detail is `rouge_l <F1> with <id that stayed>`.

    Attributes:
        threshold: greatest F1 that two answers may have, in [0, 1].
        keep_best: objective whose score chooses the answer that stays; missing scores come last.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    scope: ClassVar[Scope] = "prompt"

    threshold: float = Field(default=0.8, ge=0, le=1)
    keep_best: str | None = Field(default=None, min_length=1)

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The score of `keep_best` (Float64), if it is set."""
        return score_columns(self.keep_best, shape)

    def keep(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Compare the answers of each prompt.

        Args:
            table: RESPONSES with all answers of each prompt.
            ctx: not used.

        Returns:
            `reason` and `detail` (String), same height and order.
        """
        score = [pl.col(c).fill_nan(None) for c in self.needs(Shape.RESPONSES)]
        ranked = (
            table.with_row_index("row")
            .select(
                "row",
                "prompt_id",
                "response_id",
                score=score[0] if score else pl.lit(None, dtype=pl.Float64),
                text=text_of(pl.col("response")).fill_null(""),
            )
            .sort(
                ["prompt_id", "score", "response_id"],
                descending=[False, True, False],
                nulls_last=True,
            )
        )
        details: list[str | None] = [None] * table.height
        last, kept = None, list[tuple[str, list[str]]]()
        for row, prompt, answer_id, _, text in ranked.iter_rows():
            if prompt != last:
                last, kept = prompt, []
            answer = words(text) or [text]  # of emoji and signs alone the text is the word
            details[row] = next(
                (
                    f"rouge_l {f1:.3f} with {other_id}"
                    for other_id, other in kept
                    if (f1 := rouge_l(answer, other, self.threshold)) > self.threshold
                ),
                None,
            )
            if details[row] is None:
                kept.append((answer_id, answer))
        detail = pl.Series("detail", details, dtype=pl.String)
        reason = pl.when(detail.is_not_null()).then(pl.lit("near_identical"))
        return pl.DataFrame([detail]).select(reason=reason, detail=pl.col("detail"))
