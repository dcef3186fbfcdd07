"""Questions that need two documents, made of two that need one each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl
from pydantic import Field

from generators.made_rows import PARENT, Column, children, text_column, turns
from generators.rag.cases import given
from generators.rag.rules import has, words_of, yes_or_no
from prefactory.asking import (
    FORM_TOKENS,
    QUESTION_TOKENS,
    Asking,
    Task,
    fence,
    lost,
    missed,
    open_tasks,
    storable,
)
from prefactory.asking.forms import after_thoughts
from prefactory.asking.gate import Gated
from prefactory.context import Context
from prefactory.engines.configs import AnyEngine
from prefactory.prompts import Prompted, Text
from prefactory.step import Asks, Generated, Generator, Scope, State
from prefactory.tables import Shape

_MOST_WORDS = 6
"""Words of a bridge, at most."""


@dataclass(kw_only=True)
class _Hops(Task):
    """Two questions on their way to one.

    Attributes:
        second: the row: its `question`, `golds` and `documents` that hold them.
        first: the row whose answer the second's question names.
        bridge: that answer.
        text: the new question.
    """

    second: Mapping[str, Any]
    first: Mapping[str, Any] | None = None
    bridge: str = ""
    text: str = ""


class TwoHopQuestions(Gated, Prompted, Asking, Generator):
    """Make questions that need two documents of pairs of questions that need one.

    Composition after MuSiQue (arXiv:2108.00573): the answer to a first question stands in a second
    one; a writer puts what the first says in its place. The rows have a question (the prompt), its
    answer and documents, as for `generators.RAGPairs`, which makes pairs of the new ones; its
    `verifier` tries whether both documents are needed. By rule the new question names neither the
    bridge nor the answer, and the answer is not in the first document.

    New columns: `source_prompt_id` (of the second question), `first_prompt_id`, `bridge`; `gold` is
    the second's answer, `documents` those that hold either answer, first question first,
    and `gold_documents` all of them.

    Reasons: `no_first_question` (no other row's answer is named in the question), `names_bridge`,
    `names_answer`, `no_question`, those of the gate and of the engines.

    Attributes:
        writer: writes the questions.
        gold, documents, gold_documents: columns, as for `generators.RAGPairs`.
        pool: rows that can be first questions, at most; drawn by a hash of their ids.

    Example:
        - generators.TwoHopQuestions:
            writer: {engine: server, base_url: 'http://localhost:8000/v1', model: writer}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS,)
    scope: ClassVar[Scope] = "dataset"
    parents: ClassVar[tuple[str, ...]] = (PARENT,)
    new_prompts: ClassVar[bool] = True
    templates: ClassVar = {
        "compose": Text("generators/rag/prompts/two_hop.j2", ("first", "second", "bridge", "mark"))
    }

    writer: AnyEngine
    gold: str = "gold"
    documents: str = "documents"
    gold_documents: str = "gold_documents"
    pool: int = Field(default=20_000, ge=1)

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The documents; answer and places may be of several types and are checked as they come."""
        return {self.documents: pl.List(pl.String)}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Where a question comes from, and what it needs."""
        text = pl.String()
        return {
            PARENT: text,
            "first_prompt_id": text,
            "bridge": text,
            self.gold: pl.List(pl.String),
            self.documents: pl.List(pl.String),
            self.gold_documents: pl.List(pl.Int64),
        }

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """A call a row, at most."""
        return [Asks(self.writer, rows, QUESTION_TOKENS, FORM_TOKENS)]

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to the rows that may be first questions.

        Returns:
            `prompt_id`, `question`, `golds` and `documents` (List[String]), `draw` (Float64) of at
            most `pool` rows.
        """
        rows = self._sources(table, ctx)
        fine = [not yes_or_no(golds) for golds in rows["golds"].to_list()]
        rows = rows.with_columns(ctx.uniform(rows["prompt_id"], "pool").alias("draw")).filter(fine)
        return rows.sort("draw", "prompt_id").head(self.pool).sort("prompt_id")

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Draw the pool."""
        pool = parts.sort("draw", "prompt_id").head(self.pool).sort("prompt_id").drop("draw")
        return State({"pool": pool}, {"pool": pool.height})

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Compose the questions of a table.

        Args:
            table: PROMPTS with the columns named above.
            ctx: holds the pool; opens the writer; draws by prompt id.

        Returns:
            PROMPTS in canonical order, and the rows of which nothing came.

        Raises:
            DataError: a column is missing or null, or names a document that there is not.
        """
        pool = ctx.fitted.tables["pool"].to_dicts()
        named: dict[tuple[str, ...], list[tuple[int, str]]] = {}
        for place, row in enumerate(pool):
            for gold in row["golds"]:
                named.setdefault(tuple(words_of(gold)), []).append((place, gold))
        rows = self._sources(table, ctx).to_dicts()
        draws = ctx.uniform(table["prompt_id"], "first").to_list()
        tasks = []
        for number, (row, draw) in enumerate(zip(rows, draws, strict=True)):
            task = _Hops(number, row["prompt_id"], second=row)
            firsts = _firsts(row, pool, named)
            if firsts:
                place, task.bridge = firsts[int(draw * len(firsts))]
                task.first = pool[place]
            else:
                task.fail("no_first_question", "no other row's answer is named in the question")
            tasks.append(task)
        self.asker(ctx, self.writer).parsed(
            tasks, "compose", _one_question, self._question, _take, written=str
        )
        fine = [(t, t.first) for t in open_tasks(tasks) if t.first is not None]
        both = [[*dict.fromkeys([*a["documents"], *t.second["documents"]])] for t, a in fine]
        new: dict[str, Column] = {
            "prompt": turns([t.text for t, _ in fine], "user"),
            "first_prompt_id": text_column([a["prompt_id"] for _, a in fine]),
            "bridge": text_column([t.bridge for t, _ in fine]),
            self.gold: (pl.List(pl.String), [t.second["golds"] for t, _ in fine]),
            self.documents: (pl.List(pl.String), both),
            self.gold_documents: (pl.List(pl.Int64), [list(range(len(d))) for d in both]),
        }
        made = children(table, [t.row for t, _ in fine], new, Shape.PROMPTS, PARENT)
        return Generated(made, lost(table["prompt_id"], tasks), missed(tasks))

    def _sources(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """`prompt_id`, `question`, `golds` and the `documents` that hold them."""
        names = (self.gold, self.documents, self.gold_documents)
        rows = [
            (one.key, one.question, one.golds, [one.documents[i] for i in one.right])
            for one in given(table, names, ctx.step)
        ]
        texts = pl.List(pl.String)
        text = pl.String()
        schema = {"prompt_id": text, "question": text, "golds": texts, "documents": texts}
        return pl.DataFrame(rows, schema=schema, orient="row")

    def _question(self, task: _Hops) -> str:
        first = task.first["question"] if task.first else ""
        second = task.second["question"]
        return self.render("compose", first=first, second=second, bridge=task.bridge,
                           mark=fence(first, second))  # fmt: skip


def _firsts(
    row: Mapping[str, Any],
    pool: Sequence[Mapping[str, Any]],
    named: Mapping[tuple[str, ...], Sequence[tuple[int, str]]],
) -> list[tuple[int, str]]:
    """Places in the pool of rows whose answer a question names, with that answer, by place."""
    words = words_of(row["question"])
    runs = {
        tuple(words[i : i + n])
        for n in range(1, _MOST_WORDS + 1)
        for i in range(len(words) - n + 1)
    }
    found = sorted({hit for run in runs for hit in named.get(run, ())})
    return [
        (place, gold)
        for place, gold in found
        if pool[place]["prompt_id"] != row["prompt_id"]
        and row["documents"]
        and pool[place]["documents"]
        and not any(has(d, g) for d in pool[place]["documents"] for g in row["golds"])
        and not any(has(pool[place]["question"], g) for g in row["golds"])
    ]


def _one_question(text: str) -> str:
    """Read a question.

    Raises:
        ValueError: a sentence for the model.
    """
    lines = [line.strip() for line in storable(after_thoughts(text)).splitlines() if line.strip()]
    if len(lines) != 1 or not lines[0].endswith(("?", "\uff1f", "\u061f")):
        raise ValueError("Reply with the new question only, on one line.")
    return lines[0]


def _take(task: _Hops, text: str) -> None:
    task.text = text
    if has(text, task.bridge):
        task.fail("names_bridge", f"{task.bridge!r} is in {text!r}")
    elif any(has(text, gold) for gold in task.second["golds"]):
        task.fail("names_answer", f"the answer is in {text!r}")
