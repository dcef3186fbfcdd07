"""Pairs of one model's answers: steered towards what a vector was fitted to, and away from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Self

import polars as pl
from pydantic import Field, model_validator

from generators.answers.step import Origin
from generators.contests import BETTER, Contest, confirm
from generators.made_rows import ORIGINS, Column, children, sides
from prefactory.asking import (
    FORM_TOKENS,
    QUESTION_TOKENS,
    Asking,
    Task,
    lost,
    missed,
    open_tasks,
    request_text,
)
from prefactory.asking.gate import Gated
from prefactory.context import Context
from prefactory.engines.base import Conversation, Message, SamplingParams
from prefactory.engines.configs import AnyEngine
from prefactory.engines.steering.config import Steered
from prefactory.prompts import Prompted
from prefactory.step import Asks, Generated, Generator, Scope
from prefactory.tables import Shape


@dataclass
class _Both(Task):
    """One prompt that is answered towards and away."""

    prompt: list[Message] = field(default_factory=list)
    chosen: str = ""
    rejected: str = ""


class SteeredPairs(Gated, Prompted, Asking, Generator):
    """Pair what a model says when a vector steers it with what it says when it steers away.

    The vector is one of `prefactory train yapo` (YaPO, arXiv:2601.08441): fitted to few pairs, it
    makes many for prompts that have none, in the model's own words and without an instruction in
    the prompt. What it was fitted to is what these pairs teach, with its faults: look at some, and
    give a `judge` with a `criterion` where the vector may do nothing, or break answers. Making
    pairs so is ours.

    New columns: `chosen_strength`, `rejected_strength` (Float64), and the sides' origins.

    Reasons: `same_text`, `not_confirmed`, those of the gate, and those of the engines.

    Attributes:
        model: what answers; its `strength` is that of the chosen side.
        away: strength of the rejected side; 0 is the plain model. The model is loaded twice.
        per_prompt: pairs of each prompt.
        judge: confirms in both orders that the chosen answer is the better one by `criterion`;
            null: nobody does.
        criterion: in what respect, as a sentence.
        origin: of the answers.

    Example:
        - generators.SteeredPairs:
            model: {engine: steered, model: PATH_OR_HUB_ID, vector: FOLDER}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS,)
    scope: ClassVar[Scope] = "prompt"
    parents: ClassVar[tuple[str, ...]] = ("prompt_id",)
    templates: ClassVar = {"confirm": BETTER}

    model: Steered
    away: float = -1.0
    per_prompt: int = Field(default=1, ge=1)
    judge: AnyEngine | None = None
    criterion: str | None = Field(default=None, min_length=1)
    origin: Origin = "self"
    sampling: SamplingParams = SamplingParams(max_tokens=1024)

    @model_validator(mode="after")
    def _validate_fields(self) -> Self:
        if self.away >= self.model.strength:
            raise ValueError(
                f"away ({self.away:g}) must be below the model's strength ({self.model.strength:g})"
            )
        if (self.judge is None) != (self.criterion is None):
            raise ValueError("judge and criterion: give both, or none")
        return self

    @property
    def opposite(self) -> Steered:
        """What writes the rejected side."""
        return self.model.model_copy(update={"strength": self.away})

    def configs(self) -> list[tuple[Any, str]]:
        """The model on both sides, and the judge."""
        both = [(self.model, "model"), (self.opposite, "away")]
        return both if self.judge is None else [*both, (self.judge, "judge")]

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """The strengths, and the sides' origins."""
        number: pl.DataType = pl.Float64()
        return {"chosen_strength": number, "rejected_strength": number, **ORIGINS}

    def out_shape(self, shape: Shape) -> Shape:
        """PAIRS."""
        return Shape.PAIRS

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """An answer of each side for a pair, and two verdicts."""
        pairs, tokens = rows * self.per_prompt, self.sampling.max_tokens
        asks = [Asks(m, pairs, QUESTION_TOKENS, tokens) for m in (self.model, self.opposite)]
        if self.judge is not None:
            asks.append(Asks(self.judge, 2 * pairs, 2 * tokens, FORM_TOKENS))
        return asks

    def grows(self, rows: int, prompts: int) -> tuple[int, int]:
        """`per_prompt` pairs per prompt."""
        return rows * self.per_prompt, prompts

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Make the pairs of a table's prompts.

        Args:
            table: PROMPTS.
            ctx: opens the models.

        Returns:
            PAIRS in canonical order, and the prompts without a pair.
        """
        prompts = zip(table["prompt_id"], table["prompt"].to_list(), strict=True)
        tasks = [
            _Both(row, f"{key}/{number}", prompt=prompt)
            for row, (key, prompt) in enumerate(prompts)
            for number in range(self.per_prompt)
        ]

        def take_chosen(task: _Both, text: str) -> None:
            task.chosen = text

        def take_rejected(task: _Both, text: str) -> None:
            task.rejected = text
            if text == task.chosen:
                task.fail("same_text", "the vector changed nothing")

        self.asker(ctx, self.model).texts(tasks, "toward", _prompt, take_chosen)
        self.asker(ctx, self.opposite).texts(tasks, "away", _prompt, take_rejected)
        if self.judge is not None:
            judge = self.asker(ctx, self.judge, greedy=True)
            confirm(judge, tasks, self._contest, partial(self.render, "confirm"))
        return Generated(
            self._rows(table, open_tasks(tasks)), lost(table["prompt_id"], tasks), missed(tasks)
        )

    def _contest(self, task: _Both) -> Contest:
        asked = request_text(task.prompt)
        return Contest(asked, task.chosen, task.rejected, self.criterion or "")

    def _rows(self, table: pl.DataFrame, fine: list[_Both]) -> pl.DataFrame:
        name = self.model.model
        strengths = {"chosen_strength": self.model.strength, "rejected_strength": self.away}
        new: dict[str, Column] = {
            **{column: (pl.Float64(), [s] * len(fine)) for column, s in strengths.items()},
            **sides(
                [(t.chosen, t.rejected) for t in fine],
                (name, name),
                (self.origin, self.origin),
                "rule" if self.judge is None else "judge",
            ),
        }
        rows = children(table, [t.row for t in fine], new, Shape.PAIRS)
        return rows.unique("pair_id", keep="first", maintain_order=True)


def _prompt(task: _Both) -> Conversation:
    return task.prompt
