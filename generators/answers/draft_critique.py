"""Draft, critique, look up, refine: the refined answer is chosen over the draft."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np
import polars as pl
from pydantic import Field

from generators.answers.step import Origin
from generators.contests import BETTER, Contest, confirm
from generators.made_rows import ORIGINS, Column, children, sides
from prefactory.asking import (
    FORM_TOKENS,
    QUESTION_TOKENS,
    Asking,
    Task,
    fence,
    lost,
    missed,
    open_tasks,
    request_text,
)
from prefactory.asking.forms import Form
from prefactory.asking.gate import Gated
from prefactory.context import Context
from prefactory.engines.base import Message
from prefactory.engines.configs import AnyEngine
from prefactory.engines.encoder import Encoder
from prefactory.errors import DataError
from prefactory.near.vectors import similarity, unit
from prefactory.prompts import Prompted, Text
from prefactory.step import Asks, Generated, Generator, Scope
from prefactory.tables import Shape

_TEXTS = "generators/answers/prompts/draft_critique"
_CRITIQUE = Form({"flaws": "texts", "queries": "texts"})
_CRITERION = "it is more correct, more complete, clearer, and nearer to what was asked"


@dataclass
class _Draft(Task):
    """One prompt from draft to final answer."""

    prompt: list[Message] = field(default_factory=list)
    documents: list[str] = field(default_factory=list)
    draft: str = ""
    flaws: list[str] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    passages: list[str] = field(default_factory=list)
    refined: str = ""

    @property
    def text(self) -> str:
        return request_text(self.prompt)


class DraftCritique(Gated, Prompted, Asking, Generator):
    """Draft an answer, criticise it, look up what is in doubt, refine; the refined one is chosen.

    Self-Refine (arXiv:2303.17651) with a look-up between critique and refinement: the critic names
    flaws and questions; the passages of the row's own `documents` whose vectors are nearest to the
    questions are shown to the refiner. A draft without flaws makes no pair. That refining helps is
    a hope, not a fact: give a `judge`. Texts and numbers are ours.

    New columns: `flaws`, `queries`, `passages` (List[String]) and the sides' origins.

    Reasons: `nothing_to_mend`, `same_text`, `not_confirmed`, those of the gate and of the
    engines.

    Attributes:
        model: drafts, and refines.
        critic: criticises; null takes the model.
        documents: column with a list of texts to look up in (name it in the source's `mapping`);
            null: nothing is looked up.
        encoder: of questions and documents.
        passages: at most, of a row.
        queries: questions that a critic may name.
        judge: confirms in both orders that the refined answer is better; null: nobody does.
        origin: of the answers.

    Example:
        - generators.DraftCritique:
            model: {engine: server, base_url: 'http://localhost:8000/v1', model: writer}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS,)
    scope: ClassVar[Scope] = "prompt"
    parents: ClassVar[tuple[str, ...]] = ("prompt_id",)
    templates: ClassVar = {
        "critique": Text(f"{_TEXTS}/critique.j2", ("prompt", "draft", "queries", "mark")),
        "refine": Text(f"{_TEXTS}/refine.j2", ("prompt", "draft", "flaws", "passages", "mark")),
        "confirm": BETTER,
    }

    model: AnyEngine
    critic: AnyEngine | None = None
    documents: str | None = None
    encoder: Encoder = Encoder()
    passages: int = Field(default=3, ge=1)
    queries: int = Field(default=3, ge=0)
    judge: AnyEngine | None = None
    origin: Origin = "open_model"

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The documents."""
        return {self.documents: pl.List(pl.String)} if self.documents else {}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """What the critic said, and what was looked up."""
        texts: pl.DataType = pl.List(pl.String)
        return {"flaws": texts, "queries": texts, "passages": texts, **ORIGINS}

    def out_shape(self, shape: Shape) -> Shape:
        """PAIRS."""
        return Shape.PAIRS

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """Draft, critique and final answer per prompt, and two verdicts."""
        critic = self.critic or self.model
        asks = [
            Asks(self.model, 2 * rows, 2 * QUESTION_TOKENS, self.sampling.max_tokens),
            Asks(critic, rows, QUESTION_TOKENS + self.sampling.max_tokens, FORM_TOKENS),
        ]
        if self.judge is not None:
            asks.append(Asks(self.judge, 2 * rows, 2 * self.sampling.max_tokens, FORM_TOKENS))
        return asks

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Make the pairs of a table's prompts.

        Args:
            table: PROMPTS.
            ctx: opens models and encoder; draws by prompt id.

        Returns:
            PAIRS in canonical order, and the prompts without a pair.
        """
        known = table[self.documents].to_list() if self.documents else [None] * table.height
        columns = zip(table["prompt_id"], table["prompt"].to_list(), known, strict=True)
        tasks = [
            _Draft(row, key, prompt=prompt, documents=[d for d in documents or [] if d])
            for row, (key, prompt, documents) in enumerate(columns)
        ]
        self._draft(tasks, ctx)
        self._criticise(tasks, ctx)
        self._look_up(open_tasks(tasks), ctx)
        self._refine(tasks, ctx)
        if self.judge is not None:
            judge = self.asker(ctx, self.judge, greedy=True)
            confirm(judge, tasks, _contest, partial(self.render, "confirm"))
        return Generated(
            self._rows(table, open_tasks(tasks)), lost(table["prompt_id"], tasks), missed(tasks)
        )

    def _draft(self, tasks: list[_Draft], ctx: Context) -> None:
        def take(task: _Draft, text: str) -> None:
            task.draft = text

        writer = self.asker(ctx, self.model)
        writer.texts(tasks, "draft", lambda t: t.prompt, take)

    def _criticise(self, tasks: list[_Draft], ctx: Context) -> None:
        def question(task: _Draft) -> str:
            mark = fence(task.text, task.draft)
            return self.render(
                "critique", prompt=task.text, draft=task.draft, queries=self.queries, mark=mark
            )

        def take(task: _Draft, answer: dict[str, Any]) -> None:
            task.flaws, task.queries = answer["flaws"], answer["queries"][: self.queries]
            if not task.flaws:
                task.fail("nothing_to_mend", "the critic finds no flaw")

        critic = self.critic or self.model
        self.asker(ctx, critic, greedy=True).forms(tasks, "critique", _CRITIQUE, question, take)

    def _look_up(self, tasks: list[_Draft], ctx: Context) -> None:
        """Passages nearest to any question of their row, nearest first, ties by place."""
        wanting = [t for t in tasks if t.queries and t.documents]
        if not wanting:
            return
        if ctx.embed is None:
            raise DataError(f"{ctx.step} compares texts, but this context has no encoder")
        texts = [text for t in wanting for text in (*t.queries, *t.documents)]
        vectors = unit(ctx.embed(self.encoder, pl.Series(texts, dtype=pl.String)))
        start = 0
        for task in wanting:
            middle = start + len(task.queries)
            end = middle + len(task.documents)
            near = similarity(vectors[middle:end], vectors[start:middle]).max(axis=1)
            best = np.argsort(-near, kind="stable")[: self.passages]
            task.passages = [task.documents[i] for i in best]
            start = end

    def _refine(self, tasks: list[_Draft], ctx: Context) -> None:
        def question(task: _Draft) -> str:
            return self.render(
                "refine",
                prompt=task.text,
                draft=task.draft,
                flaws=task.flaws,
                passages=task.passages,
                mark=fence(task.text, task.draft, *task.flaws, *task.passages),
            )

        def take(task: _Draft, text: str) -> None:
            task.refined = text
            if text == task.draft:
                task.fail("same_text", "refining changed nothing")

        writer = self.asker(ctx, self.model)
        writer.texts(tasks, "refine", question, take)

    def _rows(self, table: pl.DataFrame, fine: list[_Draft]) -> pl.DataFrame:
        texts: pl.DataType = pl.List(pl.String)
        name = self.model.model
        new: dict[str, Column] = {
            "flaws": (texts, [t.flaws for t in fine]),
            "queries": (texts, [t.queries for t in fine]),
            "passages": (texts, [t.passages for t in fine]),
            **sides(
                [(t.refined, t.draft) for t in fine],
                (name, name),
                (self.origin, self.origin),
                "rule" if self.judge is None else "judge",
            ),
        }
        return children(table, [t.row for t in fine], new, Shape.PAIRS)


def _contest(task: _Draft) -> Contest:
    return Contest(task.text, task.refined, task.draft, _CRITERION)
