"""Whether an answer is about its prompt: how much likelier it is there than after other prompts."""

from __future__ import annotations

import json
from typing import ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from prefactory.context import Context
from prefactory.engines.base import Conversation
from prefactory.engines.chat_form import present
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError
from prefactory.measures.relevance import (
    Floats,
    LikelihoodEngine,
    chance,
    other_prompts,
    relevance,
    unlikeliness,
)
from prefactory.near.vectors import blocks, similarity, unit32
from prefactory.step import Labeler, Passes, Scope, State
from prefactory.tables import SCORE, Shape, last_user_text, text_of

BLOCK = 256
"""Rows in work at a time; a bound on memory, it changes nothing."""


class Relevance(Labeler):
    """Add how surely an answer belongs to its own prompt, by a language model (contrastive).

    `score_<name>` (Float64, 0 at most) is `log softmax(-NLL / T)` of an answer at its own prompt,
    among it and `negatives` others, drawn from a pool for each prompt. NLL is the mean negative
    log-likelihood of the answer's tokens under the model; as the softmax is over prompts, an answer
    that is hard as such loses nothing, and one that any prompt could have is at chance. The text
    form of SoftREPA (arXiv:2503.08250), ours; temperature and numbers are set on planted data.
    Direction: higher is more on topic. Two random negatives find answers about something else; for
    rejected answers that are hard to tell, see `generators.MismatchedPairs`.

    Beside it `<name>_chance` (Float64), `-log(1 + negatives)`, where an answer is that fits all
    prompts alike (a refusal): scores of different numbers of negatives do not compare. Then
    `<name>_negatives` (Int16): those that the model could read. `reason_<name>` (String) says why
    a score is null: the engine's reason, `empty`, `short`, or `no_negatives`.

    Prompts that are near copies of an answer's own are no negatives for it. The pool is at most
    `pool` prompts, drawn evenly by id, whose texts are held together: the one bounded exception to
    the rule that a dataset step holds no texts. Each answer takes `1 + negatives` forward passes,
    kept in the journal. Of an answer of several messages the last one is scored, after the others;
    the token that ends a turn counts where the model's template has one.

    Attributes:
        model: an engine with log-probabilities: llama, transformers, vllm, or a vLLM server.
        negatives: other prompts for each prompt; 4 find nearly all answers that are off topic.
        temperature: T, in nats a token.
        least_tokens: shorter answers have no score.
        most: greatest cosine similarity of two prompts that are taken for different ones.
        pool: prompts from which negatives are drawn.
        name: of the score.
        encoder: of the prompts.

    Example:
        - labelers.Relevance:
            model: {engine: transformers, model: PATH_OR_HUB_ID}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    scope: ClassVar[Scope] = "dataset"
    score_range: ClassVar[tuple[float | None, float | None]] = (None, 0.0)
    direction: ClassVar[str] = "higher"

    model: LikelihoodEngine
    negatives: int = Field(default=4, ge=1, le=1000)
    temperature: float = Field(default=0.25, gt=0)
    least_tokens: int = Field(default=5, ge=1)
    most: float = Field(default=0.9, ge=-1, le=1)
    pool: int = Field(default=1000, ge=2)
    name: str = Field(default="relevance", min_length=1)
    encoder: Encoder = Encoder()

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`score_<name>`, `<name>_chance` (Float64), `<name>_negatives`, `reason_<name>`."""
        return {
            f"{SCORE}{self.name}": pl.Float64(),
            f"{self.name}_chance": pl.Float64(),
            f"{self.name}_negatives": pl.Int16(),
            f"reason_{self.name}": pl.String(),
        }

    def passes(self, rows: int) -> list[Passes]:
        """A pass for each answer after its own and the other prompts."""
        return [Passes(self.model.model, rows * (1 + self.negatives), 0)]

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to the prompts that may be in the pool.

        Returns:
            `prompt_id`, `draw` (Float64), `messages` (String, JSON) and `vector` (List[Float32],
            length 1) of at most `pool` prompts.
        """
        prompts = table.select("prompt_id", "prompt").unique("prompt_id", keep="first")
        prompts = prompts.sort("prompt_id")
        draws = ctx.uniform(prompts["prompt_id"], "pool").alias("draw")
        prompts = _lowest(prompts.with_columns(draws), self.pool)
        vectors = self._vectors(prompts, ctx)
        held = pl.Series("vector", vectors, dtype=pl.Array(pl.Float32, vectors.shape[1]))
        texts = [json.dumps(present(p)) for p in prompts["prompt"].to_list()]
        return prompts.select("prompt_id", "draw").with_columns(
            pl.Series("messages", texts, dtype=pl.String), held.cast(pl.List(pl.Float32))
        )

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Draw the pool: the table `pool`, in random order, and its height as a fact."""
        pool = _lowest(parts.unique("prompt_id", keep="first", maintain_order=True), self.pool)
        return State({"pool": pool.drop("draw")}, {"pool": pool.height})

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Score every answer; see `adds`.

        Raises:
            EngineError: a prompt has pictures.
        """
        pool = ctx.fitted.tables["pool"]
        prompts = table.select("prompt_id", "prompt").unique("prompt_id", maintain_order=True)
        drawn = self._drawn(prompts, pool, ctx)
        row_of = dict(zip(prompts["prompt_id"], range(prompts.height), strict=True))
        picks = drawn[[row_of[i] for i in table["prompt_id"]]].reshape(table.height, self.negatives)
        others = [json.loads(text) for text in pool["messages"]]
        parts = [
            self._scored(table[rows], picks[rows], others, ctx)
            for rows in blocks(table.height, BLOCK)
        ]
        return pl.concat([pl.DataFrame(schema=self.adds(Shape.RESPONSES)), *parts])

    def _scored(
        self,
        table: pl.DataFrame,
        picks: NDArray[np.int64],
        others: list[Conversation],
        ctx: Context,
    ) -> pl.DataFrame:
        """The columns of some rows."""
        n, m = picks.shape
        filled = table.select(text_of(pl.col("response")).fill_null("").str.strip_chars() != "")
        told = filled.to_series().to_numpy()
        prompts, answers = table["prompt"].to_list(), table["response"].to_list()
        rows, places = np.nonzero((picks >= 0) & told[:, None])
        own = np.flatnonzero(told)
        asked = [[*prompts[i], *answers[i]] for i in own]
        asked += [[*others[picks[i, j]], *answers[i]] for i, j in zip(rows, places, strict=True)]
        found = unlikeliness(ctx.open(self.model), asked, ctx.step)
        mine, theirs = np.full(n, np.nan), np.full((n, m), np.nan)
        mine[own], theirs[rows, places] = found.nll[: len(own)], found.nll[len(own) :]
        reasons: list[str | None] = ["empty"] * n
        for place, i in enumerate(own):
            short = found.reasons[place] is None and found.tokens[place] < self.least_tokens
            reasons[i] = "short" if short else found.reasons[place]
            if reasons[i] is None and np.isnan(theirs[i]).all():
                reasons[i] = "no_negatives"
        return self._columns(mine, theirs, reasons)

    def _columns(self, own: Floats, others: Floats, reasons: list[str | None]) -> pl.DataFrame:
        schema = self.adds(Shape.RESPONSES)
        values = (
            relevance(own, others, self.temperature),
            chance(others),
            (~np.isnan(others)).sum(axis=1),
            reasons,
        )
        columns = pl.DataFrame(dict(zip(schema, values, strict=True)), schema=schema)
        *scores, reason = schema
        there = pl.col(reason).is_null()
        return columns.with_columns(pl.when(there).then(pl.col(c)).alias(c) for c in scores)

    def _drawn(self, prompts: pl.DataFrame, pool: pl.DataFrame, ctx: Context) -> NDArray[np.int64]:
        """Places in the pool of each prompt's negatives, Int64[n, negatives]; -1: none."""
        out = np.full((prompts.height, self.negatives), -1, dtype=np.int64)
        if not prompts.height:
            return out
        vectors = self._vectors(prompts, ctx)
        held = np.asarray(pool["vector"].to_list(), dtype=np.float32)
        ids, of_pool = prompts["prompt_id"].to_numpy(), pool["prompt_id"].to_numpy()
        starts = ctx.uniform(prompts["prompt_id"], "negatives").to_numpy()
        for rows in blocks(prompts.height, BLOCK):
            alike = similarity(vectors[rows], held) > self.most
            same = alike | (ids[rows, None] == of_pool[None, :])
            out[rows] = other_prompts(same, starts[rows], self.negatives)
        return out

    def _vectors(self, prompts: pl.DataFrame, ctx: Context) -> NDArray[np.float32]:
        """Unit vectors of the last user messages, Float32[n, d]."""
        if ctx.embed is None:
            raise ConfigError(f"{ctx.step} compares prompts, but this context has no encoder")
        texts = prompts.select(last_user_text(pl.col("prompt"))).to_series()
        return unit32(ctx.embed(self.encoder, texts))


def _lowest(prompts: pl.DataFrame, most: int) -> pl.DataFrame:
    """The prompts of the lowest draws, in their order."""
    return prompts.sort("draw", "prompt_id").head(most)
