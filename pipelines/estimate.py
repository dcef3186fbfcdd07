"""What the models of a recipe will be asked, and what that costs, at most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
    """

    step: str
    model: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    usd: float | None


def estimate(
    planned: Sequence[PlannedStep], sources: Sequence[OpenSource], prices: Path | None = None
) -> list[Estimate]:
    """Estimate the calls of every step; the sources are read only if some step asks a model.

    Args:
        planned: the steps.
        sources: where the rows come from.
        prices: a YAML file over the prices that come with prefactory.

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
            estimates.append(_priced(step.placed.label, asked, known))
        rows, prompts = step.placed.step.grows(shape_rows, prompts)
    return [e for e in estimates if e.calls]


def _priced(label: str, asked: Asks, known: dict[str, Price]) -> Estimate:
    config = asked.engine
    tokens_in, tokens_out = asked.calls * asked.prompt_tokens, asked.calls * asked.completion_tokens
    free = not type(config).metered
    price = known.get(config.model, Price() if free else None)
    usd = None if price is None else price.usd(tokens_in, tokens_out)
    return Estimate(label, config.model, asked.calls, tokens_in, tokens_out, usd)


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
