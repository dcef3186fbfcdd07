"""What the models of a recipe will be asked, and what that costs, at most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from catalog.sources import OpenSource
from prefactory.engines.accounts import Price, read_prices
from prefactory.plan import PlannedStep
from prefactory.step import Asks, Step
from prefactory.tables import Shape


@dataclass(frozen=True)
class Estimate:
    """Calls of one step to one model, at most.

    Attributes:
        step: label of the step.
        model: name of the model.
        calls: all samples and rounds, without corrections of answers of the wrong form.
        prompt_tokens, completion_tokens: of all calls.
        usd: US dollars; None if no price is known and somebody may bill.
        seen: calls of the step to the model that the journal has.
        likely_prompt_tokens, likely_completion_tokens: of all calls, by the mean of those; None if
            the journal has none.
        likely_usd: their cost.
    """

    step: str
    model: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    usd: float | None
    seen: int = 0
    likely_prompt_tokens: int | None = None
    likely_completion_tokens: int | None = None
    likely_usd: float | None = None


def estimate(
    planned: Sequence[PlannedStep],
    sources: Sequence[OpenSource],
    prices: Path | None = None,
    means: pl.DataFrame | None = None,
) -> list[Estimate]:
    """Estimate the calls of every step; the sources are read only if some step asks a model.

    Args:
        planned: the steps.
        sources: where the rows come from.
        prices: a YAML file over the prices that come with prefactory.
        means: what the calls made so far used (`means_of`), if any were.

    Raises:
        ConfigError: the price file has the wrong form.
    """
    if not any(type(p.placed.step).asks is not Step.asks for p in planned):
        return []
    known = read_prices(prices)
    rows, prompts = _counted(sources)
    estimates = []
    for step in planned:
        shape_rows = prompts if step.shape == Shape.PROMPTS else rows
        unpaired = step.shape not in step.placed.step.takes()  # two answers a pair, at most
        for asked in step.placed.step.asks(shape_rows * (2 if unpaired else 1), prompts):
            estimates.append(_priced(step.placed.label, asked, known, means))
        rows, prompts = step.placed.step.grows(shape_rows, prompts)
    return [e for e in estimates if e.calls]


@dataclass(frozen=True)
class Kept:
    """What a step runs through a local model, and how much it keeps of it, at most."""

    step: str
    model: str
    passes: int
    bytes: int


def kept(planned: Sequence[PlannedStep], sources: Sequence[OpenSource]) -> list[Kept]:
    """The forward passes of steps that keep much of them; the sources are read only if there are.

    Args:
        planned: the steps.
        sources: where the rows come from.
    """
    if not any(type(p.placed.step).passes is not Step.passes for p in planned):
        return []
    rows, prompts = _counted(sources)
    found = []
    for step in planned:
        table = prompts if step.shape == Shape.PROMPTS else rows
        unpaired = step.shape not in step.placed.step.takes()
        for p in step.placed.step.passes(table * (2 if unpaired else 1)):
            found.append(Kept(step.placed.label, p.model, p.rows, p.bytes))
        rows, prompts = step.placed.step.grows(table, prompts)
    return found


def means_of(answers: pl.DataFrame, recipe: str) -> pl.DataFrame:
    """Calls, and mean tokens of a call, by step and model of a recipe.

    Args:
        answers: of the journal (`pipelines.journal.answers`).
        recipe: its name.

    Returns:
        `step`, `model`, `seen`, `prompt`, `completion`; only where the server told tokens.
    """
    told = pl.col("prompt_tokens") + pl.col("completion_tokens") > 0
    return (
        answers.filter(told, recipe=recipe)
        .group_by("step", "model")
        .agg(
            pl.len().alias("seen"),
            pl.mean("prompt_tokens").alias("prompt"),
            pl.mean("completion_tokens").alias("completion"),
        )
    )


def _priced(
    label: str, asked: Asks, known: dict[str, Price], means: pl.DataFrame | None
) -> Estimate:
    config = asked.engine
    tokens_in, tokens_out = asked.calls * asked.prompt_tokens, asked.calls * asked.completion_tokens
    free = not type(config).metered
    price = known.get(config.model, Price() if free else None)
    share = config.price_share
    usd = None if price is None else price.usd(tokens_in, tokens_out) * share
    atmost = Estimate(label, config.model, asked.calls, tokens_in, tokens_out, usd)
    found = [] if means is None else means.filter(step=label, model=config.model).to_dicts()
    if not found:
        return atmost
    counts = [round(asked.calls * found[0][name]) for name in ("prompt", "completion")]
    return replace(
        atmost,
        seen=found[0]["seen"],
        likely_prompt_tokens=counts[0],
        likely_completion_tokens=counts[1],
        likely_usd=None if price is None else price.usd(*counts) * share,
    )


def _counted(sources: Sequence[OpenSource]) -> tuple[int, int]:
    """Rows and distinct prompts of the sources."""
    rows = 0
    seen: set[str] = set()
    for source in sources:
        for file in source.files:
            for block in source.read(file):
                rows += block.rows.height
                seen.update(block.rows["prompt_id"].unique())
    return rows, len(seen)
