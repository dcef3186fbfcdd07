"""Prompts that follow from who somebody is (PersonaHub)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field

from generators.made_rows import PARENT, children, text_column, turns
from generators.new_prompts.rules import copied
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
from prefactory.engines.base import SamplingParams
from prefactory.engines.configs import AnyEngine
from prefactory.prompts import Prompted, Text
from prefactory.step import Asks, Generated, Generator, Scope
from prefactory.tables import Shape

Kind = Literal["instruction", "question", "maths", "constrained"]

KINDS: dict[Kind, str] = {
    "instruction": "a request",
    "question": "a question that takes knowledge to answer",
    "maths": "a problem of mathematics with one answer, all its numbers given,",
    "constrained": (
        "a request with two to four conditions that can be checked (on length, form, words to use "
        "or to avoid, order, language)"
    ),
}
_PROMPT = Form({"prompt": "text"})


@dataclass
class _Wanted(Task):
    """One prompt of one person."""

    persona: str = ""
    kind: Kind = "instruction"
    question: str = ""
    text: str = ""


class PersonaPrompts(Gated, Prompted, Asking, Generator):
    """Write prompts that follow from descriptions of persons, one of each kind.

    PersonaHub (arXiv:2406.20094): the rows are personas, a short description of somebody as the
    prompt's text; what a person would ask is as varied as persons are. Remove near copies of
    personas before and of prompts after (`filters.SemanticDuplicates`; the source keeps below a
    cosine of 0.9). The source's own personas must not be used commercially (CC BY-NC-SA): take
    yours. Kinds and texts are ours; temperature and top_p are the source's.

    New columns: `source_prompt_id`, `persona_text` and `kind`. New prompts are single messages of a
    user.

    Reasons, for personas of which nothing came: `refuses`, `copied` (from the orders),
    `no_persona`, and those of the engine.

    Attributes:
        writer: what writes.
        kinds: `instruction`, `question`, `maths`, `constrained` (for `generators.PersonaIF`).

    Example:
        - generators.PersonaPrompts:
            writer: {engine: server, base_url: 'http://localhost:8000/v1', model: writer}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS,)
    scope: ClassVar[Scope] = "prompt"
    parents: ClassVar[tuple[str, ...]] = (PARENT,)
    new_prompts: ClassVar[bool] = True
    templates: ClassVar = {
        "prompt": Text("generators/personas/prompts/prompt.j2", ("persona", "kind", "mark"))
    }

    writer: AnyEngine
    kinds: tuple[Kind, ...] = Field(default=("instruction",), min_length=1)
    sampling: SamplingParams = SamplingParams(temperature=0.6, top_p=0.95, max_tokens=1024)

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Whose prompt it is, and of what kind."""
        text: pl.DataType = pl.String()
        return {PARENT: text, "persona_text": text, "kind": text}

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """A call per persona and kind."""
        return [Asks(self.writer, rows * len(self.kinds), QUESTION_TOKENS, FORM_TOKENS)]

    def grows(self, rows: int, prompts: int) -> tuple[int, int]:
        """A prompt per persona and kind."""
        return rows * len(self.kinds), rows * len(self.kinds)

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Write the prompts of a table's personas.

        Args:
            table: PROMPTS whose texts describe persons.
            ctx: opens the model; draws by prompt id.

        Returns:
            PROMPTS in canonical order, and the personas of which nothing came.
        """
        tasks = []
        for row, (key, prompt) in enumerate(
            zip(table["prompt_id"], table["prompt"].to_list(), strict=True)
        ):
            for kind in dict.fromkeys(self.kinds):
                task = _Wanted(row, f"{key}/{kind}", persona=request_text(prompt), kind=kind)
                if not task.persona.strip():
                    task.fail("no_persona", "the prompt has no text")
                task.question = self.render(
                    "prompt", persona=task.persona, kind=KINDS[kind], mark=fence(task.persona)
                )
                tasks.append(task)

        def take(task: _Wanted, answer: dict[str, Any]) -> None:
            task.text = answer["prompt"]
            if (words := copied(task.text, task.question, task.persona)) is not None:
                task.fail("copied", f"it says {words!r}")

        self.asker(ctx, self.writer).forms(
            tasks, "prompt", _PROMPT, lambda t: t.question, take, _text
        )
        fine = open_tasks(tasks)
        new = {
            "prompt": turns([t.text for t in fine], "user"),
            "persona_text": text_column([t.persona for t in fine]),
            "kind": text_column([t.kind for t in fine]),
        }
        rows = children(table, [t.row for t in fine], new, Shape.PROMPTS, PARENT)
        return Generated(rows, lost(table["prompt_id"], tasks), missed(tasks))


def _text(answer: dict[str, Any]) -> str:
    return str(answer["prompt"])
