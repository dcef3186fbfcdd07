"""Safety prompts in other clothes: the same request, asked as people ask who want to get past."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from generators.made_rows import PARENT, children, talks, text_column, user_turn, with_user_turn
from prefactory.asking import Task, lost, open_tasks
from prefactory.context import Context
from prefactory.prompts import Prompted, Text
from prefactory.step import Generated, Generator, Scope
from prefactory.tables import Shape

Style = Literal["disguise", "presupposition", "role_play", "reverse", "everyday"]
STYLES: tuple[Style, ...] = ("disguise", "presupposition", "role_play", "reverse", "everyday")


class AdversarialWrappers(Prompted, Generator):
    """Wrap safety prompts in styles of attack, so that safe answers are learned there, too.

    Styles after Flames (arXiv:2311.06899; the list is from memory): `disguise` (a good purpose),
    `presupposition` (it was allowed already), `role_play`, `reverse` (to avoid it), and `everyday`
    (in passing). The wrappers are mild and our own, in English; no model is asked. This is for
    preference data on safety only, never to publish attacks: let models answer
    (`generators.Responses`), label the answers (`labelers.FlamesRisk`, a judge), and choose safe
    and helpful ones over a model's own harmful ones.

    New columns: `source_prompt_id` and `attack_style` (null on a prompt as it was).

    Reasons: `no_risk` (with `risk`: the prompt has none), `not_single_turn`.

    Attributes:
        styles: that are used.
        per_prompt: styles drawn for each prompt, without replacement; null: all.
        keep_source: keep the prompts as they were, too.
        risk: column that tells the risk of a prompt; where it is null the prompt is not wrapped.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS,)
    scope: ClassVar[Scope] = "prompt"
    parents: ClassVar[tuple[str, ...]] = (PARENT,)
    new_prompts: ClassVar[bool] = True
    templates: ClassVar = {
        style: Text(f"generators/new_prompts/prompts/adversarial/{style}.j2", ("prompt",))
        for style in STYLES
    }

    styles: tuple[Style, ...] = Field(default=STYLES, min_length=1)
    per_prompt: int | None = Field(default=None, ge=1)
    keep_source: bool = False
    risk: str | None = None

    @model_validator(mode="after")
    def _validate_styles(self) -> AdversarialWrappers:
        if len(set(self.styles)) < len(self.styles):
            raise ValueError("styles: one is there twice")
        if self.per_prompt is not None and self.per_prompt > len(self.styles):
            raise ValueError(f"per_prompt: there are only {len(self.styles)} styles")
        if unwrapped := [n for n in self.prompts if "prompt" not in self.prompts[n]]:
            raise ValueError(f"prompts.{unwrapped[0]}: the text has no {{{{ prompt }}}}")
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The risk."""
        return {self.risk: pl.String()} if self.risk else {}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Where a prompt comes from, and its style."""
        return {PARENT: pl.String(), "attack_style": pl.String()}

    def grows(self, rows: int, prompts: int) -> tuple[int, int]:
        """A prompt per style."""
        wrapped = rows * ((self.per_prompt or len(self.styles)) + self.keep_source)
        return wrapped, wrapped

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Wrap the prompts of a table.

        Args:
            table: PROMPTS.
            ctx: draws styles by prompt id.

        Returns:
            PROMPTS in canonical order, and the prompts that were not wrapped.
        """
        ids, prompts = table["prompt_id"], table["prompt"].to_list()
        risks = table[self.risk].to_list() if self.risk else [""] * table.height
        tasks = [Task(row, key) for row, key in enumerate(ids)]
        for task, prompt, risk in zip(tasks, prompts, risks, strict=True):
            if not (user_turn(prompt) or "").strip():
                task.fail("not_single_turn", "no single message of a user with text")
            elif risk is None:
                task.fail("no_risk", f"{self.risk} is null")
        drawn = self._drawn(ids, ctx)
        picks = [(t.row, style) for t in open_tasks(tasks) for style in drawn[t.row]]
        wrapped = []
        for row, style in picks:
            text = user_turn(prompts[row]) or ""
            request = text if style is None else self.render(style, prompt=text)
            wrapped.append(with_user_turn(prompts[row], request))
        new = {"prompt": talks(wrapped), "attack_style": text_column([s for _, s in picks])}
        rows = children(table, [row for row, _ in picks], new, Shape.PROMPTS, PARENT)
        return Generated(rows, lost(ids, tasks))

    def _drawn(self, ids: pl.Series, ctx: Context) -> list[list[Style | None]]:
        """Styles of each prompt; None is the prompt as it was."""
        n = len(self.styles)
        lots = np.stack([ctx.uniform(ids, f"style {s}").to_numpy() for s in self.styles], axis=1)
        orders = np.argsort(lots.reshape(ids.len(), n), axis=1, kind="stable")
        source: list[Style | None] = [None] if self.keep_source else []
        return [
            [*source, *(self.styles[i] for i in sorted(row[: self.per_prompt].tolist()))]
            for row in orders
        ]
