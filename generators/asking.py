"""Asking models about rows in batches: tasks on their way, and what becomes of those that fail."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import polars as pl
from pydantic import BaseModel, Field

from generators.answers.calls import Truncated, opened
from generators.forms import Form, storable
from prefactory.context import Context
from prefactory.engines.ask import ask
from prefactory.engines.base import Conversation, EngineConfig, Failure, Message, Sampling

T = TypeVar("T")

QUESTION_TOKENS, FORM_TOKENS = 600, 300
"""What `plan` takes a question about a row, and an answer of a form, to have."""


@dataclass
class Task:
    """Something that is to be made of a row; a step adds what it needs to know.

    Attributes:
        row: place of the row in the table.
        key: what its questions are drawn by: content ids and a number, no place.
        reason, detail: why it came to nothing, for the ledger; null while it may become something.
        tokens: that models wrote for it, as far as they tell.
    """

    row: int
    key: str
    reason: str | None = None
    detail: str | None = None
    tokens: int = 0

    def fail(self, reason: str, detail: str) -> None:
        """Give the task up."""
        self.reason, self.detail = reason, storable(detail)[:500]


K = TypeVar("K", bound=Task)


def open_tasks(tasks: Sequence[K]) -> list[K]:
    """Tasks that may become something."""
    return [task for task in tasks if task.reason is None]


def lost(ids: pl.Series, tasks: Sequence[Task]) -> pl.DataFrame:
    """Rows none of whose tasks came to something, with the reason of the first, for the ledger.

    Args:
        ids: row ids of the table, String[n].
        tasks: all of them, at least one per row.

    Returns:
        `row_id`, `reason`, `detail`.
    """
    fine = {task.row for task in tasks if task.reason is None}
    first: dict[int, Task] = {}
    for task in tasks:
        if task.row not in fine:
            first.setdefault(task.row, task)
    rows = [(ids[row], task.reason, task.detail) for row, task in first.items()]
    schema = {"row_id": pl.String, "reason": pl.String, "detail": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def missed(tasks: Sequence[Task]) -> dict[str, int]:
    """Tasks that came to nothing though another of their row did not, counted by reason."""
    fine = {task.row for task in tasks if task.reason is None}
    counts = Counter(t.reason for t in tasks if t.reason is not None and t.row in fine)
    return dict(sorted(counts.items()))


class Asking(BaseModel):
    """Mixin of steps that ask a model for forms; write it before the base.

    Attributes:
        temperature, top_p, max_tokens: of these questions, see `Sampling`.
        attempts: how often a question is asked until its answer has the right form.
        guided: hand the JSON schema to the engine; False for servers that refuse schemas.
    """

    temperature: float = Field(default=0.7, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=1024, ge=1)
    attempts: int = Field(default=3, ge=1)
    guided: bool = True

    def sampling(self, ctx: Context, form: Form | None = None) -> Sampling:
        """How one answer is drawn: of a form, or free text."""
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            seed=ctx.seed,
            json_schema=form.schema if form is not None and self.guided else None,
        )

    def ask_form(
        self,
        ctx: Context,
        engine: EngineConfig,
        tasks: Sequence[K],
        stage: str,
        form: Form,
        question: Callable[[K], str],
        take: Callable[[K, dict[str, Any]], None],
        temperature: float | None = None,
    ) -> None:
        """Ask for a form about all open tasks in one batch; see `ask_all`."""
        sampling = self.sampling(ctx, form)
        if temperature is not None:
            sampling = sampling.model_copy(update={"temperature": temperature})
        ask_all(ctx, engine, tasks, stage, sampling, form.parse, question, take, self.attempts)


def ask_all(
    ctx: Context,
    engine: EngineConfig,
    tasks: Sequence[K],
    stage: str,
    sampling: Sampling,
    parse: Callable[[str], T],
    question: Callable[[K], str | Conversation],
    take: Callable[[K, T], None],
    attempts: int,
) -> None:
    """Ask a model about all open tasks in one batch; a question without an answer ends its task.

    Args:
        ctx: opens the engine.
        engine: what is asked.
        tasks: of which the open ones are asked about.
        stage: names the question: part of its draw, and of the detail of a failure.
        sampling: how an answer is drawn.
        parse: see `prefactory.engines.ask.ask`.
        question: a task's question, a text or a conversation.
        take: is given the task and what was parsed; may fail the task.
        attempts: how often is asked in all.
    """
    live = open_tasks(tasks)
    if not live:
        return
    ids = [f"{task.key}/{ctx.step}/{stage}" for task in live]
    asked = [conversation(question(task)) for task in live]
    replies = ask(opened(ctx, engine), asked, sampling, parse, ids, attempts)
    for task, (reply,) in zip(live, replies, strict=True):
        if isinstance(reply, Failure):
            task.fail(reply.reason, f"{stage}: {reply.detail}")
        else:
            task.tokens += reply.completion.completion_tokens
            take(task, reply.value)


def write_all(
    ctx: Context,
    engine: EngineConfig,
    tasks: Sequence[K],
    stage: str,
    sampling: Sampling,
    question: Callable[[K], str | Conversation],
    take: Callable[[K, str], None],
    truncated: Truncated = "drop",
) -> None:
    """Let a model write a text for each open task, in one batch.

    A task ends with the engine's reason, `empty_answer`, or `truncated` (cut at `max_tokens`, where
    `drop` is said). See `ask_all` for the arguments.
    """
    live = open_tasks(tasks)
    if not live:
        return
    ids = [f"{task.key}/{ctx.step}/{stage}" for task in live]
    asked = [conversation(question(task)) for task in live]
    replies = opened(ctx, engine).generate(asked, sampling, ids)
    for task, (reply,) in zip(live, replies, strict=True):
        if isinstance(reply, Failure):
            task.fail(reply.reason, f"{stage}: {reply.detail}")
            continue
        task.tokens += reply.completion_tokens
        if not (text := storable(reply.text)):
            task.fail("empty_answer", f"{stage}: nothing but white space")
        elif truncated == "drop" and reply.finish_reason == "length":
            task.fail("truncated", f"{stage}: cut at {sampling.max_tokens} tokens")
        else:
            take(task, text)


def conversation(question: str | Conversation) -> list[Message]:
    """A question as messages: a text is one message of the user."""
    if isinstance(question, str):
        return [{"role": "user", "content": question}]
    return list(question)


def transcript(messages: Sequence[Message]) -> str:
    """A conversation as text; one message of a user alone is its words, else roles are told."""
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return "\n\n".join(f"[{m['role']}]\n{m['content']}" for m in messages)


def fence(*texts: str) -> str:
    """Eight hex digits for the lines around texts in a question.

    They are a digest of these texts, so no text can be written that closes its own block.
    """
    joined = "\0".join(texts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(joined, digest_size=4).hexdigest()
