"""R3, the regularised relevance reward: scores from text alone, with no judge and no labels.

Source: arXiv 2402.03469. A reward model's score is approximated by relevance to the question x a
length incentive x a penalty on repetition.
"""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

import numpy as np
import polars as pl
from pydantic import Field, field_validator

from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError
from prefactory.measures.text_statistics import TOKEN, cut_answer, distinct_share, hundreds
from prefactory.step import Labeler
from prefactory.tables import Shape, last_user_text, text_of

LONGEST = 512
"""Tokens of the longest answer in the paper: what a constrained question's reward is scaled by."""
Objective = Literal["relevance", "length", "repetition", "r3"]


class R3(Labeler):
    """Score responses by relevance, length and repetition, and by their product.

    Adds `score_relevance` (dot product of the vectors of the last user message and the response),
    `score_length` (tokens / 100), `score_repetition` (distinct trigrams / trigrams, 1 without any)
    and `score_r3` (relevance / relevance_scale x length x repetition). An empty response has 0.

    With `reference`, a row that has a reference answer is a constrained question: its relevance is
    that of the reference and the response, and its `score_r3` is relevance / relevance_scale x
    length_cap / 100 x repetition, without the length of the response. Known answer: at the scale
    3.5 and a cap of 512, a relevance of 1.75 is 2.56.

    Attributes:
        objectives: which of the scores to add; without relevance and r3 no encoder is opened.
        encoder: for the relevance. The paper's is Contriever, cut on the left; ours cuts on the
            right like every sentence encoder.
        length_cap: tokens beyond so many earn nothing; None is the paper's unbounded incentive.
        relevance_scale: relevance that counts as 1 in the product; 1 suits unit-length vectors,
            3.5 is the paper's for Contriever.
        reference: String column with a reference answer, null where the question is open.
        cut: score the text before the first later role marker, four newlines or a ruled line.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)

    objectives: tuple[Objective, ...] = get_args(Objective)
    encoder: Encoder = Encoder()
    length_cap: int | None = Field(default=LONGEST, ge=1)
    relevance_scale: float = Field(default=1.0, gt=0)
    reference: str | None = None
    cut: bool = True

    @field_validator("objectives")
    @classmethod
    def _each_once(cls, value: tuple[Objective, ...]) -> tuple[Objective, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("name at least one objective, each once")
        return value

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The column of references, String, if one is named."""
        return {} if self.reference is None else {self.reference: pl.String()}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """One `score_<objective>` per objective, Float64."""
        return {f"score_{name}": pl.Float64() for name in self.objectives}

    def opens_engines(self) -> bool:
        """Only relevance needs the encoder."""
        return bool({"relevance", "r3"} & set(self.objectives))

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Score every response.

        Raises:
            ConfigError: relevance is asked for and the run has no encoder to give.
        """
        text = text_of(pl.col("response")).fill_null("")
        reference = pl.lit(None, pl.String) if self.reference is None else pl.col(self.reference)
        texts = table.select(
            query=pl.coalesce(reference, last_user_text(pl.col("prompt"))),
            text=cut_answer(text) if self.cut else text,
            constrained=reference.is_not_null(),
        )
        tokens = texts["text"].str.extract_all(TOKEN)
        scores = pl.DataFrame(
            {
                "length": hundreds(tokens.list.len(), self.length_cap),
                "repetition": distinct_share(tokens),
            }
        )
        if self.opens_engines():
            scores = scores.with_columns(relevance=self._relevance(texts, ctx))
            whole = (self.length_cap or LONGEST) / 100
            length = pl.when(texts["constrained"]).then(whole).otherwise(pl.col("length"))
            product = pl.col("relevance") / self.relevance_scale * length
            scores = scores.with_columns(r3=product * pl.col("repetition") + 0.0)
        return scores.select(pl.col(name).alias(f"score_{name}") for name in self.objectives)

    def _relevance(self, texts: pl.DataFrame, ctx: Context) -> pl.Series:
        if ctx.embed is None:
            raise ConfigError("labelers.R3 needs an encoder for relevance and this run has none")
        query = ctx.embed(self.encoder, texts["query"]).astype(np.float64)
        answer = ctx.embed(self.encoder, texts["text"]).astype(np.float64)
        return pl.Series(np.einsum("nd,nd->n", query, answer), dtype=pl.Float64)
