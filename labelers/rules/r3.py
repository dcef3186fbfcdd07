"""R3, the regularised relevance reward: scores from text alone, with no judge and no labels.

Source: arXiv 2402.03469. A reward model's score is approximated by relevance to the question x a
length incentive x a penalty on repetition.
"""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import Field, field_validator

from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError
from prefactory.step import Labeler
from prefactory.tables import Shape, last_user_text, text_of

TOKEN = r"\w+|[^\w\s]+"  # noqa: S105 - a pattern, not a secret
CUT = r"(?s)(?:\n[ \t]*(?:Human|User|Assistant|System|AI)[ \t]*:|\n{4}|\n[ \t]*\n[ \t]*[-_]{2,}).*"
"""Where a model went on talking to itself: the rest of the text is not part of the answer."""

_ODD = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)
_SHIFT = np.uint64(29)

Objective = Literal["relevance", "length", "repetition", "r3"]


class R3(Labeler):
    """Score responses by relevance, length and repetition, and by their product.

    Adds `score_relevance` (dot product of the vectors of the last user message and the response),
    `score_length` (tokens / 100), `score_repetition` (distinct trigrams / trigrams, 1 without any)
    and `score_r3` (relevance / relevance_scale x length x repetition). An empty response has 0.

    Attributes:
        objectives: which of the scores to add; without relevance and r3 no encoder is opened.
        encoder: for the relevance. The paper's is Contriever, cut on the left; ours cuts on the
            right like every sentence encoder.
        length_cap: tokens beyond so many earn nothing; None is the paper's unbounded incentive.
        relevance_scale: relevance that counts as 1 in the product; 1 suits unit-length vectors.
        cut: score the text before the first later role marker, four newlines or a ruled line.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)

    objectives: tuple[Objective, ...] = get_args(Objective)
    encoder: Encoder = Encoder()
    length_cap: int | None = Field(default=512, ge=1)
    relevance_scale: float = Field(default=1.0, gt=0)
    cut: bool = True

    @field_validator("objectives")
    @classmethod
    def _each_once(cls, value: tuple[Objective, ...]) -> tuple[Objective, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("name at least one objective, each once")
        return value

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
        texts = table.select(
            query=last_user_text(pl.col("prompt")), text=cut_answer(text) if self.cut else text
        )
        tokens = texts["text"].str.extract_all(TOKEN)
        scores = pl.DataFrame(
            {
                "length": _hundreds(tokens.list.len(), self.length_cap),
                "repetition": _distinct_share(tokens),
            }
        )
        if self.opens_engines():
            scores = scores.with_columns(relevance=self._relevance(texts, ctx))
            product = pl.col("relevance") / self.relevance_scale * pl.col("length")
            scores = scores.with_columns(r3=product * pl.col("repetition") + 0.0)
        return scores.select(pl.col(name).alias(f"score_{name}") for name in self.objectives)

    def _relevance(self, texts: pl.DataFrame, ctx: Context) -> pl.Series:
        if ctx.embed is None:
            raise ConfigError("labelers.R3 needs an encoder for relevance and this run has none")
        query = ctx.embed(self.encoder, texts["query"]).astype(np.float64)
        answer = ctx.embed(self.encoder, texts["text"]).astype(np.float64)
        return pl.Series(np.einsum("nd,nd->n", query, answer), dtype=pl.Float64)


def cut_answer(text: pl.Expr) -> pl.Expr:
    """Cut a String where the model goes on as somebody else (see `CUT`)."""
    return text.str.replace(CUT, "")


def length_incentive(text: pl.Expr, cap: int | None = None) -> pl.Expr:
    """Tokens / 100 of a String, tokens counted up to `cap`: Float64."""
    return text.str.count_matches(TOKEN).map_batches(
        lambda tokens: _hundreds(tokens, cap), return_dtype=pl.Float64, is_elementwise=True
    )


def repetition(text: pl.Expr) -> pl.Expr:
    """Distinct trigrams / trigrams of a String's tokens, in (0, 1]; 1 if it has none: Float64."""
    return text.str.extract_all(TOKEN).map_batches(
        _distinct_share, return_dtype=pl.Float64, is_elementwise=True
    )


def _hundreds(tokens: pl.Series, cap: int | None) -> pl.Series:
    counted = tokens.cast(pl.Float64)
    return (counted if cap is None else counted.clip(upper_bound=cap)) / 100


def _distinct_share(tokens: pl.Series) -> pl.Series:
    """`repetition` of lists of tokens. Trigrams are told apart by 64 bits each."""
    counts = tokens.list.len().fill_null(0).to_numpy().astype(np.int64)
    flat = tokens.explode(empty_as_null=False, keep_nulls=False).hash().to_numpy()
    last = flat.size - 2
    if last < 1:
        return pl.Series([1.0] * counts.size, dtype=pl.Float64)
    first, second, third = (flat[i : last + i] for i in range(3))
    mixed = (first * _ODD[0] ^ (second >> _SHIFT)) + second * _ODD[1] ^ (third * _ODD[2])
    ends = np.cumsum(counts)
    opens = np.ones(flat.size, dtype=bool)
    opens[ends[counts > 0] - 1] = False  # the last two tokens of a text open no trigram
    opens[ends[counts > 1] - 2] = False
    total = np.maximum(counts - 2, 0)
    places = np.concatenate(([0], np.cumsum(total)))
    lists = pl.from_arrow(pa.LargeListArray.from_arrays(places, mixed[opens[:last]]))
    assert isinstance(lists, pl.Series)  # noqa: S101 - an array always gives a series
    distinct = lists.list.n_unique().to_numpy().astype(np.float64)
    share = np.divide(distinct, total, out=np.ones(counts.size), where=total > 0)
    return pl.Series(tokens.name, share, dtype=pl.Float64)


def constrained_reward(
    relevance: np.ndarray, repetition: np.ndarray, scale: float = 3.5, max_tokens: int = 512
) -> np.ndarray:
    """R3 of a prompt with a reference answer: no length incentive (arXiv 2402.03469).

    Args:
        relevance: dot product of reference and response vectors, float [n].
        repetition: share of distinct trigrams, float [n].
        scale: relevance of a perfect answer; 3.5 is Contriever's, 1 suits unit-length vectors.
        max_tokens: longest answer, which sets the reward's range to that of open prompts.

    Returns:
        float64 [n], not clamped.
    """
    reward: np.ndarray = np.asarray(relevance, np.float64) / scale * (max_tokens / 100) * repetition
    return reward
