"""Persona-IF: the answer to a prompt with one condition less is rejected for the whole prompt."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import polars as pl

from generators.answers.step import Origin
from generators.contests import BETTER, Contest, confirm
from generators.made_rows import (
    ORIGINS,
    Column,
    children,
    sides,
    text_column,
    user_turn,
    with_user_turn,
)
from prefactory.asking import (
    FORM_TOKENS,
    QUESTION_TOKENS,
    Asking,
    Task,
    fence,
    lost,
    missed,
    open_tasks,
)
from prefactory.asking.forms import Form
from prefactory.asking.gate import Gated
from prefactory.context import Context
from prefactory.engines.base import Message, SamplingParams
from prefactory.engines.configs import AnyEngine
from prefactory.prompts import Prompted, Text
from prefactory.step import Asks, Generated, Generator, Scope
from prefactory.tables import Shape

_RELAXED = Form({"condition": "maybe", "relaxed": "maybe"})


@dataclass
class _Relaxed(Task):
    """One prompt, its condition, and both answers."""

    prompt: list[Message] = field(default_factory=list)
    text: str = ""
    condition: str = ""
    relaxed: str = ""
    chosen: str = ""
    rejected: str = ""


class PersonaIF(Gated, Prompted, Asking, Generator):
    """Relax one condition of a prompt; what is said to that is rejected for the whole prompt.

    The instruction-following pairs of Tulu 3 (arXiv:2411.15124): both answers are
    of one model and alike but for the condition. Prompts with conditions come from
    `generators.PersonaPrompts` (kind `constrained`), or from anywhere. `labelers.Constraints`
    checks conditions of IFEval's kinds by rule; else give a `judge`. Our texts.

    New columns: `condition` (the words of the prompt that were relaxed), `relaxed_prompt`, and the
    sides' origins.

    Reasons: `not_single_turn`, `no_condition` (the model finds none, or its words are not in the
    prompt), `not_relaxed` (the words still stand in the relaxed prompt), `same_text`,
    `not_confirmed`, those of the gate, and those of the engines.

    Attributes:
        model: what answers.
        relaxer: relaxes; null takes the model.
        judge: confirms in both orders that the chosen answer meets the condition better; null:
            nobody does.
        origin: of the answers.

    Example:
        - generators.PersonaIF:
            model: {engine: server, base_url: 'http://localhost:8000/v1', model: writer}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS,)
    scope: ClassVar[Scope] = "prompt"
    parents: ClassVar[tuple[str, ...]] = ("prompt_id",)
    templates: ClassVar = {
        "relax": Text("generators/personas/prompts/persona_if/relax.j2", ("prompt", "mark")),
        "confirm": BETTER,
    }

    model: AnyEngine
    relaxer: AnyEngine | None = None
    judge: AnyEngine | None = None
    origin: Origin = "open_model"
    sampling: SamplingParams = SamplingParams(max_tokens=1024)

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """What was relaxed, and the sides' origins."""
        text: pl.DataType = pl.String()
        return {"condition": text, "relaxed_prompt": text, **ORIGINS}

    def out_shape(self, shape: Shape) -> Shape:
        """PAIRS."""
        return Shape.PAIRS

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """A relaxation and two answers per prompt, and two verdicts."""
        relaxer = self.relaxer or self.model
        asks = [
            Asks(relaxer, rows, QUESTION_TOKENS, FORM_TOKENS),
            Asks(self.model, 2 * rows, QUESTION_TOKENS, self.sampling.max_tokens),
        ]
        if self.judge is not None:
            asks.append(Asks(self.judge, 2 * rows, 2 * self.sampling.max_tokens, FORM_TOKENS))
        return asks

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Make the pairs of a table's prompts.

        Args:
            table: PROMPTS.
            ctx: opens the models; draws by prompt id.

        Returns:
            PAIRS in canonical order, and the prompts without a pair.
        """
        tasks = []
        prompts = zip(table["prompt_id"], table["prompt"].to_list(), strict=True)
        for row, (key, prompt) in enumerate(prompts):
            task = _Relaxed(row, key, prompt=prompt, text=user_turn(prompt) or "")
            if not task.text:
                task.fail("not_single_turn", "more than a single message of a user")
            tasks.append(task)
        self._relax(tasks, ctx)
        self._answer(tasks, ctx)
        if self.judge is not None:
            judge = self.asker(ctx, self.judge, greedy=True)
            confirm(judge, tasks, _contest, partial(self.render, "confirm"))
        fine = open_tasks(tasks)
        name = self.model.model
        new: dict[str, Column] = {
            "condition": text_column([t.condition for t in fine]),
            "relaxed_prompt": text_column([t.relaxed for t in fine]),
            **sides(
                [(t.chosen, t.rejected) for t in fine],
                (name, name),
                (self.origin, self.origin),
                "rule" if self.judge is None else "judge",
            ),
        }
        rows = children(table, [t.row for t in fine], new, Shape.PAIRS)
        return Generated(rows, lost(table["prompt_id"], tasks), missed(tasks))

    def _relax(self, tasks: list[_Relaxed], ctx: Context) -> None:
        def question(task: _Relaxed) -> str:
            return self.render("relax", prompt=task.text, mark=fence(task.text))

        def take(task: _Relaxed, answer: dict[str, Any]) -> None:
            task.condition, task.relaxed = answer["condition"], answer["relaxed"]
            words = _folded(task.condition)
            if not words or not task.relaxed:
                task.fail("no_condition", "the model finds none")
            elif words not in _folded(task.text):
                task.fail("no_condition", f"not in the prompt: {task.condition!r}")
            elif words in _folded(task.relaxed):
                task.fail("not_relaxed", f"still there: {task.condition!r}")

        relaxer = self.relaxer or self.model
        self.asker(ctx, relaxer).forms(tasks, "relax", _RELAXED, question, take)

    def _answer(self, tasks: list[_Relaxed], ctx: Context) -> None:
        def take_chosen(task: _Relaxed, text: str) -> None:
            task.chosen = text

        def take_rejected(task: _Relaxed, text: str) -> None:
            task.rejected = text
            if text == task.chosen:
                task.fail("same_text", "the condition changed nothing")

        answerer = self.asker(ctx, self.model)
        answerer.texts(tasks, "whole", lambda t: t.prompt, take_chosen)
        answerer.texts(tasks, "relaxed", _less, take_rejected)


def _less(task: _Relaxed) -> list[Message]:
    return with_user_turn(task.prompt, task.relaxed)


def _contest(task: _Relaxed) -> Contest:
    criterion = f"it meets this condition of the request: {task.condition}"
    return Contest(task.text, task.chosen, task.rejected, criterion)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .,;:")
