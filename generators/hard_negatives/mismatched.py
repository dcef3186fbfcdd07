"""Rejected answers to another prompt, chosen by how likely a model finds them after this one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from generators.hard_negatives.masked import rule_pairs
from prefactory.context import Context
from prefactory.engines.base import Engine
from prefactory.engines.chat_form import present
from prefactory.engines.encoder import Encoder
from prefactory.errors import DataError
from prefactory.measures.relevance import (
    Floats,
    LikelihoodEngine,
    chance,
    other_prompts,
    relevance,
    unlikeliness,
)
from prefactory.near.vectors import similarity, unit32
from prefactory.step import Generated, Generator, Passes, Scope, State
from prefactory.tables import SCORE, Shape, canonical_order, last_user_text, text_of

Ints = NDArray[np.int64]


class MismatchedPairs(Generator):
    """Pair an answer (chosen) with one to a similar prompt that a model finds nearly as likely.

    The rejected answer is written by nobody for this pair: it answers another prompt whose cosine
    to this one is in [`least`, `most`]. Of the `candidates` most similar ones that answer is taken
    whose NLL (mean negative log-likelihood of a token under `model`) after this prompt is lowest
    *beside its own mean over random prompts*. By the plain NLL two generic answers would be taken
    for nearly all prompts. It must fit its own prompt better by `gap`, and both answers must fit
    their prompts better than chance (`labelers.Relevance`), which refusals do not; for the chosen
    one that is ours. The text form of SoftREPA (arXiv:2503.08250); thresholds are set on planted
    data.

    Such pairs teach what a question is about and nothing else: mix in at most a tenth of them.
    `generators.NearMisses` needs no model, and takes the nearest prompt's answer.

    `sample` answers, one a prompt, are drawn evenly by id over the whole dataset, and get a pair if
    there is one; their texts are held in memory together, the one bounded exception to the rule
    that a dataset step holds no texts. Each takes `1 + negatives + candidates` forward passes at
    most, which the journal keeps.

    Columns beside those of pairs: `contrast` (`mismatch`), `chosen_prompt_id` and
    `rejected_prompt_id` (the prompt that each answer was given to), `similarity` of the prompts,
    `mismatch_gap` (Float64: by how many nats a token the rejected answer fits its own prompt
    better), the sides' origins, and all scores of the chosen answer. `label_source` is `rule`.

    Reasons for answers without a pair: `not_drawn`, `empty_answer`, `off_topic` (at chance or below
    after its own prompt), `no_similar_prompt` (none in the band with an answer on topic),
    `fits_too_well` (no candidate fits its own prompt better by `gap`), `used_up` (all were taken
    `uses` times), and the engine's.

    Attributes:
        model: an engine with log-probabilities: llama, transformers, vllm, or a vLLM server.
        least: least cosine similarity of the two prompts.
        most: greatest; above it the other answer may be right here as well.
        sample: answers that may get a pair.
        candidates: similar prompts whose answers are tried, for each prompt.
        negatives: random prompts, for the mean NLL and the relevance of each answer.
        temperature: of the relevance, in nats a token.
        gap: least `mismatch_gap`.
        uses: of one answer as rejected, at most.
        encoder: of the prompts.

    Example:
        - generators.MismatchedPairs:
            model: {engine: transformers, model: PATH_OR_HUB_ID}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    scope: ClassVar[Scope] = "dataset"
    parents: ClassVar[tuple[str, ...]] = ("chosen_id",)

    model: LikelihoodEngine
    least: float = Field(default=0.3, ge=-1, le=1)
    most: float = Field(default=0.9, ge=-1, le=1)
    sample: int = Field(default=1000, ge=2)
    candidates: int = Field(default=8, ge=1)
    negatives: int = Field(default=4, ge=1)
    temperature: float = Field(default=0.25, gt=0)
    gap: float = Field(default=0.2, ge=0)
    uses: int = Field(default=3, ge=1)
    encoder: Encoder = Encoder()

    @model_validator(mode="after")
    def _validate_band(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"least ({self.least}) is above most ({self.most})")
        return self

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Where each rejected answer comes from; scores of the chosen side are carried over."""
        names = ("chosen_origin", "rejected_origin", "contrast")
        ids = ("chosen_prompt_id", "rejected_prompt_id")
        return {
            **dict.fromkeys((*names, *ids), pl.String()),
            "similarity": pl.Float64(),
            "mismatch_gap": pl.Float64(),
        }

    def out_shape(self, shape: Shape) -> Shape:
        """PAIRS."""
        return Shape.PAIRS

    def passes(self, rows: int) -> list[Passes]:
        """Forward passes of the answers that may be drawn."""
        each = 1 + self.negatives + self.candidates
        return [Passes(self.model.model, min(rows, self.sample) * each, 0)]

    def grows(self, rows: int, prompts: int) -> tuple[int, int]:
        """A pair of each answer that is drawn."""
        return min(prompts, self.sample), min(prompts, self.sample)

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to the answers that may be drawn.

        Returns:
            `response_id`, `prompt_id`, `draw` (Float64), `messages` (String, JSON, the prompt),
            `text`, `model`, `origin` (String) and `vector` (List[Float32], length 1).
        """
        if ctx.embed is None:
            raise DataError(f"{ctx.step} compares texts, but this context has no encoder")
        drawn = _drawn(_told(table, ctx), self.sample).sort("response_id")
        vectors = unit32(ctx.embed(self.encoder, drawn["query"]))
        held = pl.Series("vector", vectors, dtype=pl.Array(pl.Float32, vectors.shape[1]))
        texts = [json.dumps(present(p)) for p in drawn["prompt"].to_list()]
        return drawn.drop("query", "prompt").with_columns(
            pl.Series("messages", texts, dtype=pl.String), held.cast(pl.List(pl.Float32))
        )

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Draw the answers, ask the model about them, and decide which is rejected where.

        Args:
            parts: the rows of `fit_shard`.
            ctx: opens the model.

        Returns:
            State with the tables `pairs` (by `response_id` of the chosen answer) and `without`
            (`response_id` and `reason` of those that were drawn and have none), and the counts
            `drawn` and `pairs`.
        """
        drawn = _drawn(parts, self.sample).sort("response_id")
        n = drawn.height
        vectors = np.array(drawn["vector"].to_list(), dtype=np.float32).reshape(n, -1 if n else 0)
        cosine = similarity(vectors, vectors)
        known = self._known(drawn, cosine, ctx)
        rows, others = self._candidates(cosine, drawn["text"], known)
        after = np.full(len(rows), np.nan)
        if len(rows):
            after = self._ask(drawn, rows, others, ctx.open(self.model), ctx)
        gap = (after - known.own[others]).round(9)
        fits = gap >= self.gap
        order = np.lexsort((others, rows, np.round(after - known.mean[others], 9)))
        taken = assigned(rows[order], others[order], fits[order], n, self.uses)
        place = {(int(j), int(i)): k for k, (j, i) in enumerate(zip(rows, others, strict=True))}
        good = [j for j in range(n) if taken[j] >= 0]
        at = [place[j, int(taken[j])] for j in good]
        pairs = (
            drawn[good]
            .select("response_id")
            .hstack(
                drawn[taken[good].tolist()].select(
                    "text", "model", "origin", rejected_prompt_id="prompt_id"
                )
            )
        )
        pairs = pairs.with_columns(
            similarity=pl.Series(cosine[good, taken[good]], dtype=pl.Float64),
            mismatch_gap=pl.Series(gap[at], dtype=pl.Float64),
        )
        reasons = _why_not(known.reasons, rows, rows[fits])
        without = drawn.select("response_id", reason=pl.Series(reasons, dtype=pl.String))
        without = without.filter(pl.Series(taken < 0))
        return State({"pairs": pairs, "without": without}, {"drawn": n, "pairs": pairs.height})

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Make the pairs that `fit` decided on, of the answers of a table.

        Args:
            table: RESPONSES.
            ctx: holds the state.

        Returns:
            PAIRS in canonical order, and the answers without a pair.
        """
        pairs, without = ctx.fitted.tables["pairs"], ctx.fitted.tables["without"]
        blank = text_of(pl.col("response")).fill_null("").str.strip_chars() == ""
        left = table.select("response_id", blank=blank)
        left = left.join(pairs.select("response_id"), on="response_id", how="anti")
        left = left.join(without, on="response_id", how="left", maintain_order="left")
        empty = pl.when("blank").then(pl.lit("empty_answer"))
        dropped = left.select(
            row_id="response_id",
            reason=pl.coalesce("reason", empty, pl.lit("not_drawn")),
            detail=pl.lit(None, dtype=pl.String),
        )
        chosen = table.filter(pl.col("response_id").is_in(pairs["response_id"].implode()))
        found = chosen.select("response_id").join(
            pairs, on="response_id", how="left", maintain_order="left"
        )
        scores = [c for c in table.columns if c.startswith(SCORE)]
        rows = rule_pairs(chosen, found["text"], scores).with_columns(
            found["similarity"],
            found["mismatch_gap"],
            found["rejected_prompt_id"],
            found["model"].alias("rejected_model"),
            found["origin"].alias("rejected_origin"),
            chosen_prompt_id="prompt_id",
            contrast=pl.lit("mismatch"),
        )
        return Generated(canonical_order(rows, Shape.PAIRS), dropped)

    def _known(self, drawn: pl.DataFrame, cosine: Floats, ctx: Context) -> _Known:
        """What the model makes of each answer after its own and after random prompts."""
        n, m = drawn.height, self.negatives
        starts = ctx.uniform(drawn["prompt_id"], "negatives").to_numpy()
        # answers lie in the order of their ids, which are digests: any run of them is at random
        picks = other_prompts((cosine > self.most) | np.eye(n, dtype=bool), starts, m)
        answers, places = np.nonzero(picks >= 0)
        prompts = np.concatenate([np.arange(n), picks[answers, places]])
        asked = _asked(drawn, prompts, np.concatenate([np.arange(n), answers]))
        found = unlikeliness(ctx.open(self.model), asked, ctx.step)
        own, others = found.nll[:n], np.full((n, m), np.nan)
        others[answers, places] = found.nll[n:]
        counts = (~np.isnan(others)).sum(axis=1)
        mean = np.where(counts > 0, np.nansum(others, axis=1) / np.maximum(counts, 1), np.nan)
        above = relevance(own, others, self.temperature) > chance(others)
        reasons = [
            reason if reason is not None else None if fits else "off_topic"
            for reason, fits in zip(found.reasons[:n], above, strict=True)
        ]
        return _Known(own, mean, reasons)

    def _candidates(self, cosine: Floats, texts: pl.Series, known: _Known) -> tuple[Ints, Ints]:
        """Prompts and the answers that may be rejected there: places in the sample, Int64[c]."""
        good = np.array([reason is None for reason in known.reasons], dtype=bool)
        words = texts.str.strip_chars().to_numpy()
        allowed = (cosine >= self.least) & (cosine <= self.most) & good[:, None] & good[None, :]
        allowed &= words[:, None] != words[None, :]
        np.fill_diagonal(allowed, val=False)
        nearest = np.argsort(np.where(allowed, -cosine, np.inf), axis=1, kind="stable")
        nearest = nearest[:, : self.candidates]
        rows, columns = np.nonzero(np.take_along_axis(allowed, nearest, axis=1))
        return rows, nearest[rows, columns]

    def _ask(
        self, drawn: pl.DataFrame, prompts: Ints, answers: Ints, engine: Engine, ctx: Context
    ) -> Floats:
        return unlikeliness(engine, _asked(drawn, prompts, answers), ctx.step).nll


class _Known(NamedTuple):
    """What a model makes of n answers.

    Attributes:
        own: NLL of each after its own prompt, Float64[n].
        mean: its mean after random prompts.
        reasons: why an answer is in no pair, as far as that is its own fault.
    """

    own: Floats
    mean: Floats
    reasons: list[str | None]


def assigned(prompts: Ints, answers: Ints, fits: NDArray[np.bool_], n: int, uses: int) -> Ints:
    """Give each prompt the first answer that is still free.

    Args:
        prompts: of c possible pairs, the best first.
        answers: their answers.
        fits: which may be taken, Bool[c].
        n: prompts, and answers.
        uses: of an answer, at most.

    Returns:
        The answer of each prompt, Int64[n]; -1: none.
    """
    taken, used = np.full(n, -1, dtype=np.int64), np.zeros(n, dtype=np.int64)
    for j, i in zip(prompts[fits].tolist(), answers[fits].tolist(), strict=True):
        if taken[j] < 0 and used[i] < uses:
            taken[j] = i
            used[i] += 1
    return taken


def _why_not(reasons: Sequence[str | None], tried: Ints, fitting: Ints) -> list[str]:
    """Why each prompt of the sample would have no pair."""
    some, good = set(tried.tolist()), set(fitting.tolist())
    why = ("no_similar_prompt", "fits_too_well", "used_up")
    return [r or why[(j in some) + (j in good)] for j, r in enumerate(reasons)]


def _asked(drawn: pl.DataFrame, prompts: Ints, answers: Ints) -> list[list[dict[str, str]]]:
    """Conversations of some prompts with some answers."""
    asked = [json.loads(text) for text in drawn["messages"]]
    said = [{"role": "assistant", "content": text} for text in drawn["text"]]
    return [[*asked[j], said[i]] for j, i in zip(prompts, answers, strict=True)]


def _told(table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
    """Answers that say something, with their draws."""
    answers = table.select(
        "response_id",
        "prompt_id",
        "prompt",
        "model",
        "origin",
        text=text_of(pl.col("response")).fill_null(""),
        query=last_user_text(pl.col("prompt")),
    ).filter(pl.col("text").str.strip_chars() != "")
    return answers.with_columns(ctx.uniform(answers["response_id"], "sample").alias("draw"))


def _drawn(answers: pl.DataFrame, most: int) -> pl.DataFrame:
    """One answer a prompt, of the lowest draws."""
    answers = answers.sort("draw", "response_id").unique(
        "prompt_id", keep="first", maintain_order=True
    )
    return answers.head(most)
