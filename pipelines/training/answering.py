"""Models answer prompts: each by its engine, journalled, one model in memory at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from pipelines.engines import engines
from pipelines.judged import Named, judge_step
from pipelines.settings import Settings
from prefactory.engines.base import Completion, EngineConfig, SamplingParams
from prefactory.engines.converted import converted, is_gguf
from prefactory.engines.steering.config import Steered
from prefactory.engines.transformers import Transformers
from prefactory.tables import MESSAGES

ANSWERS = {
    "model": pl.String(), "prompt_id": pl.String(), "sample": pl.Int64(), "text": pl.String(),
    "reason": pl.String(),
}  # fmt: skip
"""Columns of answers: `text` is null where there is none, and `reason` says why."""

LIKELIEST = SamplingParams(temperature=0.0, max_tokens=256)


@dataclass(frozen=True)
class Asked:
    """How models answer the prompts themselves, beside scoring pairs.

    Attributes:
        judge: an engine that compares their answers in both orders; None: nobody does.
        risk: column with a dimension of Flames; the judge labels the harm of answers to prompts
            that have one. None: none.
        reference: column whose text their answers are held against by R3; None: none.
        sampling: how answers are drawn; the likeliest tokens by default.
    """

    judge: Named | None = None
    risk: str | None = None
    reference: str | None = None
    sampling: SamplingParams = LIKELIEST


def is_engine(model: str) -> bool:
    """Whether a model is given as an engine, `{engine: server, ...}` or a YAML file of that."""
    return model.lstrip().startswith("{") or Path(model).suffix in (".yaml", ".yml")


def engine_of(model: str) -> EngineConfig:
    """The engine of a model: an engine as it is written, else transformers on its folder or id.

    A GGUF model is read as it is trained: its weights as float32. The folder of a vector is the
    model that it was fitted to, steered.

    Raises:
        ConfigError: this is no engine.
    """
    if is_engine(model):
        return judge_step(model).judge[0]
    from prefactory.engines.steering.vector import fitted_to  # torch

    if steered := fitted_to(model):
        return Steered(model=_plain(steered), vector=model)
    return Transformers(model=_plain(model))


def _plain(model: str) -> str:
    return str(converted(model)) if is_gguf(model) else model


def name_of(model: str) -> str:
    """What a model is called in tables: the last part of its folder or id."""
    found = engine_of(model).model if is_engine(model) else model
    return Path(found).name or found


def answers_of(
    models: Sequence[str],
    prompts: pl.DataFrame,
    sampling: SamplingParams,
    samples: int,
    seed: int,
    settings: Settings,
) -> pl.DataFrame:
    """Let models answer prompts.

    Args:
        models: folders, hub ids or engines; an adapter's folder is read with its base model.
        prompts: distinct `prompt_id`, and `prompt` (messages).
        sampling: how answers are drawn.
        samples: answers to each prompt.
        seed: of the draws: the same answers for the same seed, whatever else is asked.
        settings: home of the journal, budget, prices.

    Returns:
        `ANSWERS`, sorted by model (in the order given), prompt and sample.
    """
    conversations = prompts["prompt"].to_list()
    ids = prompts["prompt_id"].to_list()
    parts = []
    for model in models:
        with engines(settings) as session:
            engine = session.engine(engine_of(model))
            replies = engine.generate(conversations, sampling.drawn(seed, samples), ids)
        flat = [r for of_one in replies for r in of_one]
        answered = [isinstance(r, Completion) and bool(r.text.strip()) for r in flat]
        parts.append(
            pl.DataFrame(
                {
                    "model": [name_of(model)] * len(flat),
                    "prompt_id": [i for i in ids for _ in range(samples)],
                    "sample": list(range(samples)) * len(ids),
                    "text": [
                        r.text.strip() if isinstance(r, Completion) and there else None
                        for r, there in zip(flat, answered, strict=True)
                    ],
                    "reason": [
                        None if there else getattr(r, "reason", "empty")
                        for r, there in zip(flat, answered, strict=True)
                    ],
                },
                schema=ANSWERS,
            )
        )
    return pl.concat(parts) if parts else pl.DataFrame(schema=ANSWERS)


def message(text: pl.Expr) -> pl.Expr:
    """A text as the assistant's message."""
    said = pl.concat_list(pl.struct(role=pl.lit("assistant"), content=text))
    return pl.when(text.is_not_null()).then(said).cast(MESSAGES)
