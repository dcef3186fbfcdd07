"""Context-distilled pairs: one model answers with and without an instruction nobody sees later."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Self

import numpy as np
import polars as pl
from pydantic import Field, field_validator, model_validator

from generators.answers.step import Origin, with_system
from generators.contests import BETTER, Contest, confirm
from generators.made_rows import ORIGINS, Column, children, sides, text_column
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
from prefactory.prompts import Prompted
from prefactory.step import Asks, Generated, Generator, Scope
from prefactory.tables import Shape


@dataclass
class _Style(Task):
    """One prompt under one hidden instruction."""

    prompt: list[Message] = field(default_factory=list)
    hidden: str = ""
    against: str = ""
    chosen: str = ""
    rejected: str = ""


class StylePairs(Gated, Prompted, Asking, Generator):
    """Pair what a model says under a hidden instruction with what it says without; hide it.

    The data of MaPO (Pick-Style, Pick-Safety; arXiv:2406.06424) for text: both sides come from one
    model, the chosen one with an instruction in its system message, the rejected one without, or
    with one `against` it. The prompt is stored as it was, so that what is learned is to do so
    unasked. Give a `judge` where the instruction may do nothing or change the task.

    New columns: `hidden_instruction`, `against_instruction` (null if none) and the sides' origins.

    Reasons: `same_text`, `not_confirmed`, those of the gate, and those of the engines.

    Attributes:
        model: what answers.
        hidden: instructions; `per_prompt` are drawn for each prompt, without replacement.
        against: instructions for the rejected side, one drawn for each pair; none: nothing is said.
        per_prompt: pairs of each prompt.
        judge: confirms in both orders that the chosen side follows the instruction better and
            serves the request no worse; null: nobody does.
        origin: of the answers.

    Example:
        - generators.StylePairs:
            model: {engine: server, base_url: 'http://localhost:8000/v1', model: writer}
            hidden: [Be brief.]
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS,)
    scope: ClassVar[Scope] = "prompt"
    parents: ClassVar[tuple[str, ...]] = ("prompt_id",)
    templates: ClassVar = {"confirm": BETTER}

    model: AnyEngine
    hidden: tuple[str, ...] = Field(min_length=1)
    against: tuple[str, ...] = ()
    per_prompt: int = Field(default=1, ge=1)
    judge: AnyEngine | None = None
    origin: Origin = "self"
    sampling: SamplingParams = SamplingParams(max_tokens=1024)

    @field_validator("hidden", "against")
    @classmethod
    def _validate_texts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value) or not all(text.strip() for text in value):
            raise ValueError("an instruction is empty, or there twice")
        return value

    @model_validator(mode="after")
    def _validate_number(self) -> Self:
        if self.per_prompt > len(self.hidden):
            raise ValueError(f"per_prompt: there are only {len(self.hidden)} instructions")
        return self

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """The instructions, and the sides' origins."""
        text: pl.DataType = pl.String()
        return {"hidden_instruction": text, "against_instruction": text, **ORIGINS}

    def out_shape(self, shape: Shape) -> Shape:
        """PAIRS."""
        return Shape.PAIRS

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """Two answers per pair, and two verdicts."""
        calls = 2 * rows * self.per_prompt
        asks = [Asks(self.model, calls, QUESTION_TOKENS, self.sampling.max_tokens)]
        if self.judge is not None:
            asks.append(Asks(self.judge, calls, 2 * self.sampling.max_tokens, FORM_TOKENS))
        return asks

    def grows(self, rows: int, prompts: int) -> tuple[int, int]:
        """`per_prompt` pairs per prompt."""
        return rows * self.per_prompt, prompts

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Make the pairs of a table's prompts.

        Args:
            table: PROMPTS.
            ctx: opens the models; draws by prompt id.

        Returns:
            PAIRS in canonical order, and the prompts without a pair.
        """
        tasks = self._tasks(table, ctx)

        def take_chosen(task: _Style, text: str) -> None:
            task.chosen = text

        def take_rejected(task: _Style, text: str) -> None:
            task.rejected = text
            if text == task.chosen:
                task.fail("same_text", "the instruction changed nothing")

        write = partial(self.asker(ctx, self.model).texts, tasks)
        write("with", _with_hidden, take_chosen)
        write("without", _without, take_rejected)
        if self.judge is not None:
            judge = self.asker(ctx, self.judge, greedy=True)
            confirm(judge, tasks, _contest, partial(self.render, "confirm"))
        return Generated(
            self._rows(table, open_tasks(tasks)), lost(table["prompt_id"], tasks), missed(tasks)
        )

    def _tasks(self, table: pl.DataFrame, ctx: Context) -> list[_Style]:
        ids = table["prompt_id"]
        lots = np.stack(
            [ctx.uniform(ids, f"hidden {i}").to_numpy() for i in range(len(self.hidden))], axis=1
        ).reshape(ids.len(), len(self.hidden))
        drawn = np.argsort(lots, axis=1, kind="stable")[:, : self.per_prompt]
        tasks = []
        for row, (key, prompt) in enumerate(zip(ids, table["prompt"].to_list(), strict=True)):
            for number in drawn[row].tolist():
                hidden = self.hidden[number]
                tasks.append(_Style(row, f"{key}/{hidden}", prompt=prompt, hidden=hidden))
        if self.against:
            keys = pl.Series([t.key for t in tasks], dtype=pl.String)
            for task, lot in zip(tasks, ctx.uniform(keys, "against"), strict=True):
                task.against = self.against[int(lot * len(self.against))]
        return tasks

    def _rows(self, table: pl.DataFrame, fine: list[_Style]) -> pl.DataFrame:
        name = self.model.model
        new: dict[str, Column] = {
            "hidden_instruction": text_column([t.hidden for t in fine]),
            "against_instruction": text_column([t.against or None for t in fine]),
            **sides(
                [(t.chosen, t.rejected) for t in fine],
                (name, name),
                (self.origin, self.origin),
                "rule" if self.judge is None else "judge",
            ),
        }
        rows = children(table, [t.row for t in fine], new, Shape.PAIRS)
        return rows.unique("pair_id", keep="first", maintain_order=True)


def _with_hidden(task: _Style) -> Conversation:
    return with_system(task.prompt, task.hidden)


def _without(task: _Style) -> Conversation:
    return with_system(task.prompt, task.against) if task.against else task.prompt


def _contest(task: _Style) -> Contest:
    criterion = f"it does this better, and answers the request no worse: {task.hidden}"
    return Contest(request_text(task.prompt), task.chosen, task.rejected, criterion)
