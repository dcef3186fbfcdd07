"""Votes that are read out of a model's log-probabilities, not out of what it says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

import numpy as np
import polars as pl

from labelers.judges.votes import Rules
from prefactory.engines.base import Conversation, Engine, EngineConfig, Failure
from prefactory.step import verdict

EXACT = ("fp32", "float32")


def why_not(config: EngineConfig) -> str | None:
    """Why a model can't vote by its log-probabilities; None if it can."""
    if "logprobs" not in config.capabilities:
        return (
            f"{config.model} offers no log-probabilities: take engine llama, transformers or vllm, "
            "or a vLLM server with prompt_logprobs: true"
        )
    precision = getattr(config, "precision", None)
    if precision is not None and precision not in EXACT:
        exact = get_args(type(config).model_fields["precision"].annotation)
        name = next((p for p in EXACT if p in exact), EXACT[0])
        return (
            f"{config.model}: in bf16 two answers tie in half of the questions; set precision: "
            f"{name}"
        )
    return None


def read(
    engine: Engine, conversations: Sequence[Conversation], replies: Sequence[str]
) -> list[list[float] | Failure]:
    """How likely a model gives each of k replies, if it gives one of them.

    Args:
        engine: with log-probabilities.
        conversations: n questions.
        replies: k texts.

    Returns:
        For each question k log-probabilities, natural log, whose probabilities add up to 1; or why
        there are none.
    """
    asked = [
        [*conversation, {"role": "assistant", "content": reply}]
        for conversation in conversations
        for reply in replies
    ]
    scored = engine.logprobs(asked)
    found: list[list[float] | Failure] = []
    for start in range(0, len(scored), len(replies)):
        own = scored[start : start + len(replies)]
        failed = next((one for one in own if isinstance(one, Failure)), None)
        totals = [one.total for one in own if not isinstance(one, Failure)]
        if failed is None and not all(map(math.isfinite, totals)):
            failed = Failure("no_logprobs", f"not all finite: {totals}")
        found.append(failed or _normalised(totals))
    return found


def _normalised(totals: Sequence[float]) -> list[float]:
    values = np.asarray(totals, dtype=np.float64)
    shifted = values - values.max()
    return [float(x) for x in shifted - np.log(np.exp(shifted).sum())]


def outcomes(votes: pl.DataFrame, questions: pl.DataFrame, rules: Rules) -> pl.DataFrame:
    """Decide questions by log-probabilities, averaged over the places of the answers.

    Of each judge that answered in every order the mean log-probability of each answer is taken over
    its orders, in which every answer stood in every place equally often, so a constant liking for
    a place cancels; then over judges. The likeliest answer wins with a share of at least
    `agreement`. A judge that failed in some order does not count: its average would lean.

    Args:
        votes: of all questions, with `logprobs` (by number of the answer).
        questions: `question`, `planned` (votes of all judges) and `each` (votes of one).
        rules: `agreement` and `min_valid`; strength does not apply.

    Returns:
        As `labelers.judges.votes.outcomes`; `agreement` is the leader's share. Reasons: `abstained`
        and `no_valid_vote`, or the engine's failure if every vote failed with it.
    """
    asked = votes.group_by("question").agg(
        asked=pl.len().cast(pl.Int64), faults=pl.col("fault").drop_nulls().unique()
    )
    told = votes.filter(pl.col("logprobs").is_not_null()).sort("question", "judge", "round")
    told = told.join(questions.select("question", "each"), on="question", maintain_order="left")
    told = told.filter(pl.len().over("question", "judge") == pl.col("each"))
    flat = told.with_columns(number=pl.int_ranges(pl.col("logprobs").list.len()))
    flat = flat.explode("logprobs", "number")
    means = flat.group_by("question", "number", maintain_order=True).agg(pl.col("logprobs").mean())
    odds = pl.col("logprobs") - pl.col("logprobs").max().over("question")
    shares = means.with_columns(share=odds.exp() / odds.exp().sum().over("question"))
    leaders = (
        shares.sort("question", "share", "number", descending=[False, True, False])
        .group_by("question", maintain_order=True)
        .agg(leader=pl.col("number").first().cast(pl.Int64), agreement=pl.col("share").first())
    )
    valid = told.group_by("question").agg(valid=pl.len().cast(pl.Int64))
    counted = questions
    for part in (asked, leaders, valid):
        counted = counted.join(part, on="question", how="left", maintain_order="left")
    counted = counted.with_columns(pl.col("asked", "valid").fill_null(0))
    enough = pl.col("valid") >= (rules.min_valid * pl.col("planned")).ceil()
    wins = (pl.col("valid") > 0) & enough & (pl.col("agreement") >= rules.agreement)
    shown = pl.format("{} of {} votes count", "valid", "asked")
    share = (100 * pl.col("agreement")).round(1)
    none = pl.col("valid") == 0
    only = pl.when(pl.col("faults").list.len() == 1).then(pl.col("faults").list.first())
    counted = counted.with_columns(winner=pl.when(wins).then("leader"), only=only, told=shown)
    why = pl.format("{}, the likeliest answer has {}%", "told", share)
    reasons = verdict(
        counted,
        (none, "no_valid_vote", pl.col("told")),
        (pl.col("winner").is_null(), "abstained", why),
    )
    decided = counted.hstack(reasons).with_columns(
        reason=pl.when(none & pl.col("only").is_not_null()).then("only").otherwise("reason")
    )
    names = ("question", "winner", "agreement", "asked", "valid", "reason", "detail")
    return decided.select(names)
