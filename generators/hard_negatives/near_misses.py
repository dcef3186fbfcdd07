"""Rejected answers found, not made: what was answered to another prompt that is much alike."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from generators.hard_negatives.masked import rule_pairs
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.errors import DataError
from prefactory.near.vectors import blocks, similarity, unit32
from prefactory.step import Generated, Generator, Scope, State
from prefactory.tables import SCORE, Shape, canonical_order, last_user_text, text_of

BLOCK = 256
"""Prompts that are compared with the pool at a time; a bound on memory, it changes nothing."""


class NearMisses(Generator):
    """Pair each answer (chosen) with an answer to another, similar prompt (rejected). No model.

    The text form of Re-Align (arXiv:2502.13146), which retrieves an image like the one that is
    asked about: the rejected answer fits a question nearby, so that the two differ in whether they
    answer *this* one. Prompts are compared by the cosine of their last user messages; the nearest
    within [`least`, `most`] is taken, and of equally near ones, and of the answers to it, the one
    of the lowest id. Above `most` the other answer may be right here as well. The band for MiniLM
    and the pool are our choices; the paper's retrieval is over images.

    The pool is at most `pool` answers, drawn evenly by id over the whole dataset, whose texts are
    held in memory together: the one bounded exception to the rule that a dataset step holds no
    texts. Of the prompts of the pool one answer each is enough, so put a filter before this step
    that leaves few answers per prompt, or a larger pool.

    Columns beside those of pairs: `chosen_prompt_id` and `rejected_prompt_id` (String, the prompt
    that each answer was given to), `similarity` (Float64), the sides' origins, and all scores of
    the chosen answer (an answer's score for another prompt says nothing). `rejected_model` is that
    of the other answer; `label_source` is `rule`.

    Reasons for answers without a pair: `empty_answer`, `no_near_miss` (no other prompt in the
    band; the detail names the nearest similarity below it), `same_text`.

    Attributes:
        least: least cosine similarity of the two prompts.
        most: greatest.
        pool: answers among which is searched.
        encoder: for the prompts.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    scope: ClassVar[Scope] = "dataset"
    parents: ClassVar[tuple[str, ...]] = ("chosen_id",)
    version: ClassVar[int] = 2

    least: float = Field(default=0.5, ge=-1, le=1)
    most: float = Field(default=0.9, ge=-1, le=1)
    pool: int = Field(default=10_000, ge=2)
    encoder: Encoder = Encoder()

    @model_validator(mode="after")
    def _validate_band(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"least ({self.least}) is above most ({self.most})")
        return self

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Where each rejected answer comes from; scores of both sides are carried over."""
        return {
            "chosen_origin": pl.String(),
            "rejected_origin": pl.String(),
            "chosen_prompt_id": pl.String(),
            "rejected_prompt_id": pl.String(),
            "similarity": pl.Float64(),
        }

    def out_shape(self, shape: Shape) -> Shape:
        """PAIRS."""
        return Shape.PAIRS

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to the answers that may be in the pool.

        Returns:
            `response_id`, `prompt_id`, `draw` (Float64), `text`, `model`, `origin` (String) and
            `vector` (List[Float32], length 1) of at most `pool` answers.
        """
        answers = table.select(
            "response_id",
            "prompt_id",
            text=text_of(pl.col("response")).fill_null(""),
            model="model",
            origin="origin",
            query=last_user_text(pl.col("prompt")),
        )
        answers = answers.filter(pl.col("text").str.strip_chars() != "")
        draws = ctx.uniform(answers["response_id"], "pool").alias("draw")
        answers = _lowest(answers.with_columns(draws), self.pool)
        vectors = self._vectors(answers["query"], ctx)
        dim = vectors.shape[1]
        held = pl.Series("vector", vectors, dtype=pl.Array(pl.Float32, dim)).cast(
            pl.List(pl.Float32)
        )
        return answers.drop("query").with_columns(held)

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Draw the pool.

        Args:
            parts: the rows of `fit_shard`.
            ctx: not used.

        Returns:
            State with the table `pool`, and the counts `pool` and `offered` (answers that the
            shards sent).
        """
        pool = _lowest(parts, self.pool).drop("draw")
        # of a prompt's answers the first by id is what retrieval would take anyway
        pool = pool.unique("prompt_id", keep="first", maintain_order=True)
        return State({"pool": pool}, {"pool": pool.height, "offered": parts.height})

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Find a rejected answer for each answer of a table.

        Args:
            table: RESPONSES.
            ctx: holds the state; opens the encoder.

        Returns:
            PAIRS in canonical order, and the answers without a pair.
        """
        pool = ctx.fitted.tables["pool"]
        prompts = table.unique("prompt_id", keep="first", maintain_order=True)
        nearest = self._nearest(prompts, pool, ctx)
        text = text_of(pl.col("response")).fill_null("")
        misses = table.select("response_id", "prompt_id", own=text)
        misses = misses.join(nearest, on="prompt_id", how="left", maintain_order="left")
        same = pl.col("own").str.strip_chars() == pl.col("text").str.strip_chars()
        misses = misses.with_columns(
            reason=pl.when(pl.col("own").str.strip_chars() == "")
            .then(pl.lit("empty_answer"))
            .when(pl.col("text").is_null())
            .then(pl.lit("no_near_miss"))
            .when(same)
            .then(pl.lit("same_text")),
            detail=pl.coalesce(
                pl.format("of prompt {}", pl.col("near_prompt_id")),
                pl.format("nearest below the band {}", pl.col("below")),
                pl.lit("no other prompt"),
            ),
        )
        dropped = misses.filter(pl.col("reason").is_not_null())
        dropped = dropped.select(pl.col("response_id").alias("row_id"), "reason", "detail")
        kept = misses["reason"].is_null()
        return Generated(self._rows(table.filter(kept), misses.filter(kept)), dropped)

    def _rows(self, table: pl.DataFrame, misses: pl.DataFrame) -> pl.DataFrame:
        scores = [c for c in table.columns if c.startswith(SCORE)]
        rows = rule_pairs(table, misses["text"], scores).with_columns(
            pl.col("prompt_id").alias("chosen_prompt_id"),
            misses["near_prompt_id"].alias("rejected_prompt_id"),
            misses["similarity"],
            misses["model"].alias("rejected_model"),
            misses["origin"].alias("rejected_origin"),
        )
        return canonical_order(rows, Shape.PAIRS)

    def _vectors(self, texts: pl.Series, ctx: Context) -> NDArray[np.float32]:
        """Unit vectors, Float32[N, d]."""
        if ctx.embed is None:
            raise DataError(f"{ctx.step} compares texts, but this context has no encoder")
        return unit32(ctx.embed(self.encoder, texts))

    def _nearest(self, prompts: pl.DataFrame, pool: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """For each prompt the nearest pool row in the band.

        Returns:
            `prompt_id`, `similarity`, `below` (Float64, the nearest below the band) and, where
            there is one, `near_prompt_id`, `text`, `model`, `origin` of the answer.
        """
        vectors = self._vectors(prompts.select(last_user_text(pl.col("prompt"))).to_series(), ctx)
        held = np.array(pool["vector"].to_list(), dtype=np.float32)
        held = held.reshape(pool.height, vectors.shape[1])
        ids, of_pool = prompts["prompt_id"].to_numpy(), pool["prompt_id"].to_numpy()
        pool_row = np.full(prompts.height, -1)
        likeness, below = np.full((2, prompts.height), np.nan)
        for rows in blocks(prompts.height, BLOCK):
            hits = _search(vectors[rows], held, ids[rows], of_pool, self.least, self.most)
            pool_row[rows], likeness[rows], below[rows] = hits
        answers = pool.select(
            pl.int_range(pl.len()).alias("place"),
            pl.col("prompt_id").alias("near_prompt_id"),
            "text",
            "model",
            "origin",
        )
        nearest = prompts.select("prompt_id").with_columns(
            place=pl.Series(pool_row, dtype=pl.Int64),
            similarity=pl.Series(likeness, dtype=pl.Float64).fill_nan(None),
            below=pl.Series(below, dtype=pl.Float64).fill_nan(None),
        )
        return nearest.join(answers, on="place", how="left", maintain_order="left").drop("place")


def _search(
    vectors: NDArray[np.float32],
    pool: NDArray[np.float32],
    ids: NDArray[np.object_],
    pool_ids: NDArray[np.object_],
    least: float,
    most: float,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Nearest pool row of each query in a band of cosines, another prompt's.

    Args:
        vectors: Float32[n, d], length 1.
        pool: Float32[m, d], length 1, in the order that settles ties.
        ids: prompt ids of the queries.
        pool_ids: prompt ids of the pool.
        least: least cosine.
        most: greatest cosine.

    Returns:
        Place in the pool (-1: none), its cosine (NaN: none), and the greatest cosine below the
        band (NaN: none).
    """
    cosine = similarity(vectors, pool)
    other = ids[:, None] != pool_ids[None, :]
    band = np.where(other & (cosine >= least) & (cosine <= most), cosine, -np.inf)
    under = np.where(other & (cosine < least), cosine, -np.inf).max(axis=1, initial=-np.inf)
    nearest = band.argmax(axis=1) if pool.shape[0] else np.zeros(len(ids), dtype=np.int64)
    best = band.max(axis=1, initial=-np.inf)
    hit = np.isfinite(best)
    return (
        np.where(hit, nearest, -1),
        np.where(hit, best, np.nan),
        np.where(np.isfinite(under), under, np.nan),
    )


def _lowest(answers: pl.DataFrame, most: int) -> pl.DataFrame:
    """The answers of the lowest draws, in order of their ids."""
    return answers.sort("draw", "response_id").head(most).sort("response_id")
