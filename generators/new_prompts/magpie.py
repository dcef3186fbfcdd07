"""Magpie: prompts that an aligned model writes when it is shown a chat up to the user's turn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

import polars as pl
from pydantic import Field, model_validator

from generators.made_rows import PARENT, children, talks, text_column
from generators.new_prompts.rules import word_count
from prefactory.asking import (
    QUESTION_TOKENS,
    Asker,
    Sampled,
    Task,
    lost,
    missed,
    open_tasks,
)
from prefactory.asking.gate import Gated
from prefactory.context import Context
from prefactory.engines.base import Conversation, Message, SamplingParams, Writes
from prefactory.engines.configs import AnyEngine
from prefactory.prompts import Prompted, Text
from prefactory.step import Asks, Generated, Generator, Scope
from prefactory.tables import Shape

SYSTEM = "{system}"
"""Stands in `prefix` for the system message of a row."""


@dataclass
class _Wanted(Task):
    """One prompt that is to be written."""

    before: list[Message] = field(default_factory=list)
    sample: int = 0
    text: str = ""

    @property
    def system(self) -> str:
        return "\n\n".join(m["content"] for m in self.before if m["role"] == "system")


class Magpie(Gated, Prompted, Sampled, Generator):
    """Let an aligned model write what its users ask, with no seed prompt at all.

    Magpie (arXiv:2406.08464): the model is fed its chat template up to the words of the user, and
    goes on with a request. Rows of the table are openings: each is asked `n` times, its system
    message before, if it has one (a table of system messages for topics or persons steers what is
    asked; rows of plain prompts only count). `before: conversation` continues talks instead, whose
    last message is the assistant's.

    How the model is fed:

    - `template`: its own chat template; engines in this process (`transformers`, `vllm`).
    - `prefix`: a raw text that you give, continued at a server's `/completions`; `{system}` in it
      stands for the system message.
    - `ask`: an emulation for servers with chat alone: the model is told to speak as a user. That is
      no Magpie: it writes what it thinks that users say.

    Left out is what is `truncated`, `empty_answer`, `ends_with_colon` (something was to follow),
    `too_short`, `too_long`, `refuses`, or `same_text` (as an earlier sample of the row). Compare
    the rest by `filters.SemanticDuplicates` (the source drops neighbours within 0.05), tag it by
    `labelers.PromptTags`, answer it by `generators.Responses`. The source's set of 300,000 is of
    its longest answers; don't do that: it teaches length.

    New columns: `source_prompt_id`, `sample` (Int64) and `prompt_model`.

    Reasons, for rows of which nothing came: those above, of their first sample, those of the
    engine, and `no_assistant_turn` (of `before: conversation`).

    Attributes:
        model: what writes.
        n: prompts per row.
        how: see above.
        prefix: see above.
        before: `system` message of a row, its whole `conversation`, or `nothing`.
        keep_system: keep the system message in the new prompt (a conversation always stays).
        sampling: how prompts are drawn; the source stops at a line's end.
        words: fewest and most words of a prompt.

    Example:
        - generators.Magpie:
            model: {engine: server, base_url: 'http://localhost:8000/v1', model: aligned}
            how: ask
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS,)
    scope: ClassVar[Scope] = "prompt"
    parents: ClassVar[tuple[str, ...]] = (PARENT,)
    new_prompts: ClassVar[bool] = True
    templates: ClassVar = {"ask": Text("generators/new_prompts/prompts/magpie/ask.j2", ("system",))}

    model: AnyEngine
    n: int = Field(default=1, ge=1)
    how: Literal["template", "prefix", "ask"] = "template"
    prefix: str | None = Field(default=None, min_length=1)
    before: Literal["system", "conversation", "nothing"] = "system"
    keep_system: bool = False
    sampling: SamplingParams = SamplingParams(max_tokens=512, stop=("\n",))
    words: tuple[int, int] = (2, 500)

    @model_validator(mode="after")
    def _validate_how(self) -> Self:
        if (self.prefix is not None) != (self.how == "prefix"):
            raise ValueError("prefix goes with `how: prefix`, and that needs it")
        needed = {"template": "user_turn", "prefix": "text", "ask": "generate"}[self.how]
        if needed not in self.model.capabilities:
            raise ValueError(
                f"how: {self.how} is nothing that the engine {self.model.engine!r} can do: give "
                "the text of its chat template up to the user's words with `how: prefix`, or "
                "emulate it with `how: ask`"
            )
        if self.before == "conversation" and self.how != "template":
            raise ValueError("before: a conversation needs `how: template`")
        if not 0 <= self.words[0] <= self.words[1]:
            raise ValueError("words: fewest, then most")
        return self

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Where a prompt comes from."""
        return {PARENT: pl.String(), "sample": pl.Int64(), "prompt_model": pl.String()}

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """`n` calls per row."""
        return [Asks(self.model, rows * self.n, QUESTION_TOKENS // 6, self.sampling.max_tokens)]

    def grows(self, rows: int, prompts: int) -> tuple[int, int]:
        """`n` prompts per row."""
        return rows * self.n, rows * self.n

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Let the model write.

        Args:
            table: PROMPTS.
            ctx: opens the model; draws by prompt id.

        Returns:
            PROMPTS in canonical order, and the rows of which nothing came.
        """
        tasks = [
            self._wanted(row, key, prompt, sample)
            for row, (key, prompt) in enumerate(
                zip(table["prompt_id"], table["prompt"].to_list(), strict=True)
            )
            for sample in range(self.n)
        ]
        writes: dict[str, Writes] = {"template": "user_turn", "prefix": "text", "ask": "answer"}
        sampling = self.sampling.drawn(ctx.seed, writes=writes[self.how])
        seen: dict[int, set[str]] = {}

        def take(task: _Wanted, text: str) -> None:
            task.text = text
            self._judge(task, seen.setdefault(task.row, set()))

        writer = Asker(ctx, self.model, self.sampling, gate=self.gate)
        writer.texts(tasks, "prompt", self._shown, take, sampling)
        fine = open_tasks(tasks)
        new = {
            "prompt": talks([self._kept(t) for t in fine]),
            "sample": (pl.Int64(), [t.sample for t in fine]),
            "prompt_model": text_column([self.model.model] * len(fine)),
        }
        rows = children(table, [t.row for t in fine], new, Shape.PROMPTS, PARENT)
        return Generated(rows, lost(table["prompt_id"], tasks), missed(tasks))

    def _wanted(self, row: int, key: str, prompt: list[Message], sample: int) -> _Wanted:
        task = _Wanted(row, f"{key}/{sample}", sample=sample)
        if self.before == "system":
            task.before = [m for m in prompt if m["role"] == "system"]
        elif self.before == "conversation":
            task.before = prompt
            if prompt[-1]["role"] != "assistant":
                task.fail("no_assistant_turn", "the last message is not the assistant's")
        return task

    def _shown(self, task: _Wanted) -> str | Conversation:
        """What the model is fed."""
        if self.how == "prefix":
            return (self.prefix or "").replace(SYSTEM, task.system)
        if self.how == "ask":
            return self.render("ask", system=task.system)
        return task.before

    def _judge(self, task: _Wanted, seen: set[str]) -> None:
        """Leave out what is no request."""
        text, (low, high) = task.text, self.words
        count = word_count(text)
        if text.endswith((":", "\uff1a")):
            task.fail("ends_with_colon", text[-100:])
        elif count < low:
            task.fail("too_short", f"{count} words")
        elif count > high:
            task.fail("too_long", f"{count} words")
        elif text in seen:
            task.fail("same_text", "an earlier sample says the same")
        seen.add(text)

    def _kept(self, task: _Wanted) -> list[Message]:
        stays = task.before if self.keep_system or self.before == "conversation" else []
        return [*stays, {"role": "user", "content": task.text}]
