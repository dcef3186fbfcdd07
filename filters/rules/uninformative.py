"""Prompts leave whose answers teach nothing: all good, all alike, or too few."""

from __future__ import annotations

from typing import ClassVar, Self

import polars as pl
from pydantic import Field, model_validator

from filters.duplicates.exact import normalised
from filters.rules.margin import score_columns
from prefactory.context import Context
from prefactory.step import Filter, Scope, verdict
from prefactory.tables import Shape, text_of


class UninformativePrompts(Filter):
    """Keep prompts whose answers differ: drop those whose answers are all good, or all alike.

    Without an objective only texts count: a prompt with fewer than `min_answers` distinct answers
    goes (equal up to case, white space and Unicode form). Put that after
    `filters.NearIdenticalAnswers` and before a judge, so that no judge is asked about a prompt that
    the models answer alike. With an objective its scores count as well.

    All rows of such a prompt go. Reasons, the first that holds: `too_few_answers`,
    `too_few_scores` (fewer than `min_answers` of them have a finite score), `all_good` (the worst
    is at `good` of the scale or above), `all_bad` (the best is at `bad` or below, if set),
    `all_alike` (best minus worst is under `spread` of the scale).

    The rule is of Baichuan's report (arXiv:2410.14940), which gives no numbers: 0.85 and 0.1 are
    our choice.

    Attributes:
        objective: whose scores are read; null for texts alone.
        scale: worst and best score of the objective.
        good: share of the scale from which an answer is good; null for no such rule.
        bad: share of the scale up to which an answer is bad; null for no such rule.
        spread: least difference of best and worst, as a share of the scale.
        min_answers: distinct answers that a prompt must have.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    scope: ClassVar[Scope] = "prompt"

    objective: str | None = Field(default=None, min_length=1)
    scale: tuple[float, float] | None = None
    good: float | None = Field(default=0.85, ge=0, le=1)
    bad: float | None = Field(default=None, ge=0, le=1)
    spread: float = Field(default=0.1, ge=0, le=1)
    min_answers: int = Field(default=2, ge=1)

    @model_validator(mode="after")
    def _validate_scale(self) -> Self:
        if (self.objective is None) != (self.scale is None):
            raise ValueError("an objective needs its scale, and a scale its objective")
        if self.scale is not None and self.scale[0] >= self.scale[1]:
            raise ValueError(f"scale: the worst score ({self.scale[0]}) must be below the best")
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The objective's score (Float64), if one is named."""
        return score_columns(self.objective, shape)

    def keep(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Judge each prompt by all its answers.

        Args:
            table: RESPONSES with all answers of each prompt.
            ctx: not used.

        Returns:
            `reason` and `detail` (String), same height and order.
        """
        text = normalised(
            text_of(pl.col("response")).fill_null(""), nfc=True, casefold=True, whitespace=True
        )
        facts = table.select("prompt_id", text=text, score=self._share()).select(
            distinct=pl.col("text").n_unique().over("prompt_id"),
            scored=pl.col("score").count().over("prompt_id"),
            worst=pl.col("score").min().over("prompt_id"),
            best=pl.col("score").max().over("prompt_id"),
        )
        distinct, scored, worst, best = (pl.col(c) for c in ("distinct", "scored", "worst", "best"))
        few = pl.format("{} distinct, {} wanted", distinct, self.min_answers)
        rules = [(distinct < self.min_answers, "too_few_answers", few)]
        if self.objective is not None:
            unscored = pl.format("{} scored, {} wanted", scored, self.min_answers)
            seen = pl.format("{} to {} of the scale", worst.round(3), best.round(3))
            rules.append((scored < self.min_answers, "too_few_scores", unscored))
            if self.good is not None:
                rules.append((worst >= self.good, "all_good", seen))
            if self.bad is not None:
                rules.append((best <= self.bad, "all_bad", seen))
            rules.append(((best - worst).round(9) < self.spread, "all_alike", seen))
        return verdict(facts, *rules)

    def _share(self) -> pl.Expr:
        """The score as a share of the scale, rounded beyond doubt; null if not finite."""
        if self.objective is None or self.scale is None:
            return pl.lit(None, dtype=pl.Float64)
        low, high = self.scale
        score = pl.col(f"score_{self.objective}")
        return pl.when(score.is_finite()).then(((score - low) / (high - low)).round(9))
