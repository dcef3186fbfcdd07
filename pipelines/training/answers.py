"""What a judge and a reference say of models' own answers to the same prompts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from labelers.rules.flames import metrics, overall_rate
from labelers.rules.r3 import R3
from pipelines.judged import Named, judge_step, judged
from pipelines.settings import Settings
from pipelines.training.answering import Asked, answers_of, message, name_of
from pipelines.training.panel import Panel
from pipelines.vectors import embedder
from prefactory.context import Context
from prefactory.errors import ConfigError
from prefactory.measures.agreement import standard_error
from prefactory.measures.judge_report import position_bias, votes_of
from prefactory.measures.win_rate import length_controlled_win_rate
from prefactory.tables import MESSAGES, Shape, text_of, with_ids
from trainers.evaluate.answered import Answered, Harm, Relevance, Wins

CHOSEN = "chosen"
"""What the data's chosen answers are called among the models."""


def answered(
    models: Sequence[str],
    rows: pl.DataFrame,
    asked: Asked,
    seed: int,
    settings: Settings,
) -> Answered:
    """Let models answer the prompts of rows, and measure the answers.

    Args:
        models: folders, hub ids or engines.
        rows: with `prompt_id`, `prompt`, maybe `chosen` (messages), and the columns of `asked`.
        asked: who judges what, and how answers are drawn.
        seed: of the draws.
        settings: home of the journal, budget, prices.

    Raises:
        ConfigError: two models have one name, or harm is to be labelled without a judge.
    """
    names = [name_of(model) for model in models]
    if len({*names, CHOSEN}) <= len(names):
        raise ConfigError(f"two models are called alike ({', '.join(names)}): rename a folder")
    judge, reference = asked.judge, asked.reference
    if asked.risk is not None and judge is None:
        raise ConfigError("--risk needs a --judge, who labels the harm of answers")
    prompts = rows.unique("prompt_id", keep="first", maintain_order=True).sort("prompt_id")
    answers = answers_of(models, prompts, asked.sampling, 1, seed, settings)
    lost = answers.drop_nulls("reason").group_by("model", "reason").len().sort("model", "reason")
    said = answers
    if CHOSEN in prompts.columns and len(models) == 1:
        said = pl.concat([answers, _chosen(prompts)])
        names.append(CHOSEN)
    said = said.join(prompts.drop(CHOSEN, strict=False), on="prompt_id", maintain_order="left")
    return Answered(
        tuple(names),
        prompts.height,
        {m: dict(p.select("reason", "len").iter_rows()) for (m,), p in lost.group_by("model")},
        "" if judge is None else judge_step(judge).judge[0].model,
        () if judge is None else tuple(
            _wins(said, one, other, judge, seed, settings) for one, other in combinations(names, 2)
        ),
        () if judge is None or asked.risk is None else _harm(
            said, names, asked.risk, judge, settings
        ),
        () if reference is None else _relevance(said, names, _text(prompts, reference), settings),
        reference or "",
    )  # fmt: skip


def _chosen(prompts: pl.DataFrame) -> pl.DataFrame:
    """The data's chosen answers in the form of a model's."""
    return prompts.select(
        model=pl.lit(CHOSEN),
        prompt_id="prompt_id",
        sample=pl.lit(0, pl.Int64),
        text=text_of(pl.col(CHOSEN)),
        reason=pl.lit(None, pl.String),
    )


def _wins(
    said: pl.DataFrame, one: str, other: str, judge: Named, seed: int, settings: Settings
) -> Wins:
    """Two models on the prompts that both answered, each two answers in both orders."""
    asked = said["prompt_id"].n_unique()
    mine, theirs = (
        said.filter(model=name).drop_nulls("text").select("prompt_id", "prompt", text="text")
        for name in (one, other)
    )
    both = mine.join(theirs.drop("prompt"), on="prompt_id", suffix="_other").sort("prompt_id")
    pairs = with_ids(
        both.select(
            "prompt", chosen=message(pl.col("text")), rejected=message(pl.col("text_other"))
        ),
        Shape.PAIRS,
    )
    if not pairs.height:
        return Wins(one, other, None, 0, asked, None)
    found = judged(judge_step(judge, early_stop=False), pairs, seed, settings)
    half = found["judge_reason"].is_in(["same_text", "abstained"]).fill_null(value=False)
    won = pl.Series(found["judge_prefers"]).replace_strict(
        {"chosen": 1.0, "tie": 0.5, "rejected": 0.0}, default=None, return_dtype=pl.Float64
    )
    won = both.select(pl.when(half).then(0.5).otherwise(won)).to_series()
    there = won.is_not_null()
    longer = (
        both["text"].str.len_chars().cast(pl.Int64) - both["text_other"].str.len_chars()
    ).cast(pl.Float64)
    rate = None
    if there.any():
        rate = length_controlled_win_rate(
            won.filter(there).to_numpy(), longer.filter(there).to_numpy()
        )
    votes = votes_of(found)
    first: dict[str, Any] = position_bias(votes)["first"] if votes.height else {"value": None}
    ties = int((won == 0.5).sum())
    return Wins(one, other, rate, ties, asked - int(there.sum()), first["value"])


def _harm(
    said: pl.DataFrame, names: Sequence[str], risk: str, judge: Named, settings: Settings
) -> tuple[Harm, ...]:
    """Flames' metrics by model, of the answers to prompts with a risk."""
    word = pl.col(risk).cast(pl.String).str.to_lowercase().str.strip_chars()
    rows = said.with_columns(risk_dimension=word.str.replace_all(r"[\s_-]+", "_"))
    rows = rows.drop_nulls("risk_dimension")
    rows = rows.with_columns(label=Panel().harm(judge, rows, settings))
    found = []
    for name in names:
        mine = rows.filter(model=name)
        by = metrics(mine["risk_dimension"], mine["label"])
        dimensions = {str(r.pop("dimension")): r for r in by.to_dicts()}
        found.append(Harm(name, dimensions, overall_rate(by), mine["label"].null_count()))
    return tuple(found)


def _text(prompts: pl.DataFrame, column: str) -> pl.DataFrame:
    """`prompt_id` and the text of a column of texts or messages."""
    texts = prompts[column]
    text = text_of(pl.col(column)) if texts.dtype == MESSAGES else pl.col(column).cast(pl.String)
    return prompts.select("prompt_id", reference=text)


def _relevance(
    said: pl.DataFrame, names: Sequence[str], references: pl.DataFrame, settings: Settings
) -> tuple[Relevance, ...]:
    """R3 by model, of the answers whose prompt has a reference."""
    step = R3(objectives=("r3",), reference="reference")
    rows = said.drop("reference", strict=False).drop_nulls("text")
    rows = rows.join(references.drop_nulls("reference"), on="prompt_id", maintain_order="left")
    rows = rows.with_columns(response=message(pl.col("text")))
    scores = step.label(rows, Context(embed=embedder(settings)))["score_r3"]
    rows = rows.with_columns(score=scores)
    found = []
    for name in names:
        mine = rows.filter(model=name)
        values = mine["score"].to_numpy()
        if not len(values):
            found.append(Relevance(name, 0, None, None))
            continue
        off = (values - values.mean()) / len(values)
        se = standard_error(np.asarray(off), mine["prompt_id"])
        found.append(Relevance(name, len(values), float(values.mean()), se))
    return tuple(found)
