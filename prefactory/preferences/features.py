"""Features of an answer to a prompt: statistics of its text, and vectors of a sentence encoder.

Statistics that count enter as `log1p` of the count, per answer and before any difference: as raw
counts they are led by a few long answers (our choice, measured). The log of the characters is there
twice, so that length pays half the penalty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prefactory.engines.encoder import Encoder
from prefactory.measures.calibration import Floats
from prefactory.measures.text_statistics import (
    FENCED,
    Statistic,
    cut_answer,
    length_incentive,
    repetition,
    statistic,
)
from prefactory.tables import SIDES, in_parts, last_user_text, text_of

Embed = Callable[[Encoder, pl.Series], np.ndarray]
"""`(encoder, texts) -> Float32[N, d]`."""

COUNTS = tuple(name for name in get_args(Statistic) if name != "type_token_ratio")
PLAIN = ("length", "repetition", *get_args(Statistic), "log_characters")
RELEVANCE = ("relevance", "r3")
CAP = 512
"""Tokens beyond so many do not count in `length` and `r3`, as in `labelers.R3`."""
LENGTH = "log_characters"


@dataclass(frozen=True)
class Answers:
    """What one side of some pairs, or some answers, come to.

    Attributes:
        statistics: Float64 columns, named as `names` says.
        query, answer: vectors of the last user message and of the answer, Float32[n, d]; d is 0
            without an encoder.
    """

    statistics: pl.DataFrame
    query: NDArray[np.float32]
    answer: NDArray[np.float32]

    def vectors(self, rows: NDArray[np.int64] | slice = slice(None)) -> Floats:
        """`[e(y), e(x) * e(y), |e(x) - e(y)|]` of some rows, by place: Float64[m, 3d]."""
        return vector_features(self.query[rows], self.answer[rows])

    def take(self, rows: NDArray[np.int64]) -> Answers:
        """Some rows, by place."""
        return Answers(self.statistics[rows], self.query[rows], self.answer[rows])


def names(encoder: bool) -> tuple[str, ...]:
    """Names of the statistics, with those that need vectors or without."""
    return (*RELEVANCE, *PLAIN) if encoder else PLAIN


def vector_features(query: NDArray[Any], answer: NDArray[Any]) -> Floats:
    """`[e(y), e(x) * e(y), |e(x) - e(y)|]` of vectors [n, d]: Float64[n, 3d]."""
    x, y = query.astype(np.float64), answer.astype(np.float64)
    return np.concatenate([y, x * y, np.abs(x - y)], axis=1)


def describe(
    prompt: pl.Series, response: pl.Series, encoder: Encoder, embed: Embed | None
) -> Answers:
    """Features of answers, row by row.

    Args:
        prompt: conversations, `list<struct<role, content>>`.
        response: answers, same type and length; null counts as empty.
        encoder: of the vectors.
        embed: None leaves out all that needs vectors.
    """
    table = pl.DataFrame({"prompt": prompt, "response": response})
    texts = table.select(
        query=last_user_text(pl.col("prompt")),
        text=text_of(pl.col("response")).fill_null(""),
        answer=text_of(pl.col("response"), "assistant").fill_null(""),
    ).with_columns(cut=cut_answer(pl.col("text")))
    statistics = in_parts(_plain, texts)
    if embed is None:
        none = np.zeros((texts.height, 0), np.float32)
        return Answers(statistics.select(PLAIN), none, none)
    query = np.asarray(embed(encoder, texts["query"]), np.float32)
    answer = np.asarray(embed(encoder, texts["answer"]), np.float32)
    cut = np.asarray(embed(encoder, texts["cut"]), np.float64)
    relevance = np.einsum("nd,nd->n", query.astype(np.float64), cut)
    statistics = statistics.with_columns(relevance=relevance).with_columns(
        r3=pl.col("relevance") * pl.col("incentive") * pl.col("repetition") + 0.0
    )
    return Answers(statistics.select(names(True)), query, answer)


def _plain(texts: pl.DataFrame) -> pl.DataFrame:
    prose = texts.with_columns(prose=pl.col("text").str.replace_all(FENCED, "\n"))
    found = prose.select(
        incentive=length_incentive(pl.col("cut"), CAP),
        repetition=repetition(pl.col("cut")),
        **{name: statistic(name).cast(pl.Float64) for name in get_args(Statistic)},
    ).with_columns(
        pl.col("type_token_ratio").fill_null(0.0),
        length=pl.col("incentive").log1p(),
        log_characters=pl.col("characters").log1p(),
    )
    return found.with_columns(pl.col(name).log1p() for name in COUNTS)


def describe_pairs(
    pairs: pl.DataFrame, encoder: Encoder, embed: Embed | None
) -> tuple[Answers, Answers]:
    """Features of the chosen and of the rejected answers of a table of pairs."""
    chosen, rejected = (describe(pairs["prompt"], pairs[side], encoder, embed) for side in SIDES)
    return chosen, rejected
