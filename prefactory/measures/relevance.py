"""Whether an answer is about its own prompt: its likelihood there against that after other prompts.

The text form of SoftREPA (arXiv 2503.08250), which takes a model's error on a picture under each
text of a batch as the logits of which text it belongs to. Here the error is the mean negative
log-likelihood (NLL) of an answer's token after a prompt, and the softmax is over prompts for a
fixed answer, so that what makes an answer hard as such cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from prefactory.engines.base import (
    Conversation,
    Engine,
    EngineError,
    Failure,
)
from prefactory.engines.chat_form import present
from prefactory.engines.configs import AnyEngine
from prefactory.engines.pictured import has_pictures

Floats = NDArray[np.float64]
ASKED = 512
"""Conversations that an engine is asked about at a time: what a kill may cost, and no more."""


def relevance(own: Floats, others: Floats, temperature: float = 0.25) -> Floats:
    """`log softmax(-N / T)` at an answer's own prompt, among it and m others; 0 at most.

    Adding a constant to all NLLs of an answer changes nothing. Chance is `-log(m + 1)`: an answer
    that fits every prompt alike is there, one that fits others better is below.

    Args:
        own: NLL of each answer after its own prompt, in nats a token, Float64[n].
        others: after m other prompts, Float64[n, m]; NaN where it is not known.
        temperature: T, in nats a token.

    Returns:
        Float64[n]; NaN where `own` is.
    """
    gaps = (own[:, None] - others) / temperature
    known = np.where(np.isnan(gaps) & ~np.isnan(own)[:, None], -np.inf, gaps)
    logs = np.concatenate([np.zeros((len(own), 1)), known], axis=1)
    most = logs.max(axis=1)
    shares: Floats = -(most + np.log(np.exp(logs - most[:, None]).sum(axis=1)))
    return np.minimum(shares, 0.0)


def chance(others: Floats) -> Floats:
    """Relevance of an answer that fits every prompt alike: `-log(m + 1)`, Float64[n]."""
    return np.asarray(-np.log1p((~np.isnan(others)).sum(axis=1)))


@dataclass(frozen=True, slots=True)
class Unlikeliness:
    """What a model makes of n answers.

    Attributes:
        nll: mean negative log-likelihood of a token, in nats, Float64[n]; NaN where there is none.
        tokens: of each answer, Int64[n].
        reasons: why there is none: the engine's, or `empty`.
    """

    nll: Floats
    tokens: NDArray[np.int64]
    reasons: list[str | None]


def unlikeliness(engine: Engine, asked: Sequence[Conversation], who: str) -> Unlikeliness:
    """Mean NLL of the last messages of conversations, from the engine's journal where it is known.

    The token that ends the turn counts among an answer's where the model's template has one.

    Args:
        engine: with log-probabilities.
        asked: conversations whose last message is an assistant's.
        who: the step that asks.

    Raises:
        EngineError: the engine offers none, or a prompt has pictures.
    """
    nll: list[float] = []
    tokens: list[int] = []
    reasons: list[str | None] = []
    for start in range(0, len(asked), ASKED):
        some = [present(c) for c in asked[start : start + ASKED]]
        if any(has_pictures(c) for c in some):
            raise EngineError(
                f"{who} asks how likely answers are, which no engine tells of prompts with "
                "pictures: filter these rows out before it"
            )
        for scored in engine.logprobs(some):
            if isinstance(scored, Failure) or not scored.logprobs:
                reasons.append(scored.reason if isinstance(scored, Failure) else "empty")
                tokens.append(0)
                nll.append(np.nan)
                continue
            reasons.append(None)
            tokens.append(len(scored.logprobs))
            nll.append(-scored.total / len(scored.logprobs))
    return Unlikeliness(np.asarray(nll, np.float64), np.asarray(tokens, np.int64), reasons)


def _offers(config: AnyEngine) -> AnyEngine:
    if "logprobs" not in config.capabilities:
        raise ValueError(
            f"{config.model} offers no log-probabilities: take engine llama, transformers or vllm, "
            "or a vLLM server with prompt_logprobs: true"
        )
    return config


LikelihoodEngine = Annotated[AnyEngine, AfterValidator(_offers)]
"""Field of a step: an engine that tells how likely a given answer is."""


def other_prompts(same: NDArray[np.bool_], starts: Floats, m: int) -> NDArray[np.int64]:
    """For each of n prompts, m of a pool in random order that are no near copies of it.

    Args:
        same: which of the p may not be taken, Bool[n, p].
        starts: where in the pool each prompt begins to look, Float64[n] in [0, 1).
        m: how many, at most.

    Returns:
        Places in the pool, Int64[n, m]; -1 where there are no more.
    """
    p = same.shape[1]
    width = min(m, p)
    out = np.full((len(starts), m), -1, dtype=np.int64)
    if not width:
        return out
    turned = (np.floor(starts * p).astype(np.int64)[:, None] + np.arange(p)) % p
    free = np.take_along_axis(~same, turned, axis=1)
    first = np.argsort(~free, axis=1, kind="stable")[:, :width]
    chosen = np.take_along_axis(turned, first, axis=1)
    out[:, :width] = np.where(np.take_along_axis(free, first, axis=1), chosen, -1)
    return out
