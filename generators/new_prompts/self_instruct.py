"""Self-Instruct: new prompts from a few examples of those that are there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from generators.made_rows import PARENT, children, turns, user_turn
from generators.new_prompts.rules import copied, nearest_rouge_l, unwanted
from prefactory.asking import (
    FORM_TOKENS,
    QUESTION_TOKENS,
    Asking,
    Task,
    conversation,
    fence,
    lost,
    missed,
    open_tasks,
)
from prefactory.asking.forms import Form
from prefactory.asking.gate import Gated, Said
from prefactory.context import Context
from prefactory.engines.base import SamplingParams
from prefactory.engines.configs import AnyEngine
from prefactory.prompts import Prompted, Text
from prefactory.step import Asks, Generated, Generator, Scope, State
from prefactory.tables import Shape

NOT_BY_TEXT = (
    "image", "images", "picture", "pictures", "photo", "graph", "graphs", "diagram", "flowchart",
    "map", "draw", "plot", "video", "audio", "file", "files",
)  # fmt: skip
"""Words of requests that text alone can't answer (after Self-Instruct; the list is ours)."""

_WRITTEN = Form({"requests": "texts"})


class _New(NamedTuple):
    """A prompt that was written and kept."""

    text: str
    round: int
    examples: list[str]


@dataclass
class _Seed(Task):
    """One row, what it showed as examples, and what was written of it."""

    text: str = ""
    kept: list[_New] = field(default_factory=list)
    refused: tuple[str, str] | None = None
    shown: list[tuple[str, str]] = field(default_factory=list)
    question: str = ""


class SelfInstruct(Gated, Prompted, Asking, Generator):
    """Write new prompts after examples: the row's own, some of a pool, some just written.

    Self-Instruct (arXiv:2212.10560), made independent of shards: in each round each row of the
    table asks once, showing itself, `shots` others drawn from a pool by (recipe seed, step, row,
    round), and up to `own_shots` of what was written for it before. The pool is a seeded sample of
    the table's prompts. The source grows one common pool instead, so that its result depends on the
    order of its calls.

    A new prompt is left out if it is `too_similar` to an example, to the row or to what was
    written for the row (compare with all others by `filters.NearDuplicates` afterwards),
    `too_short`, `too_long`, `not_by_text` (it has a word of `refuse_words`), `copied` (from the
    orders), or `refuses`. What came of a row is at most `n` prompts a round.

    New columns: `source_prompt_id`, `round` (Int64, from 1) and `example_ids` (List[String], the
    prompts of the table that were shown, the row first). New prompts are single messages of a user.

    Reasons, for rows of which nothing came: those above (of the first prompt), those of the engine,
    `nothing_written`, and `not_single_turn`.

    Attributes:
        writer: what writes.
        n: prompts that are asked for at a time.
        rounds: how often each row asks.
        shots: examples out of the pool (the source shows 8, of which 6 by people).
        own_shots: examples out of what was written for the row, newest first (2 in the source).
        pool: prompts in the pool, at most; their texts are held by every worker.
        max_similarity: greatest ROUGE-L F1 (0.7 in the source).
        words: fewest and most words of a prompt (3 and 150, as in the source's code).
        refuse_words: see `not_by_text`.

    Example:
        - generators.SelfInstruct:
            writer: {engine: server, base_url: 'http://localhost:8000/v1', model: writer}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS,)
    scope: ClassVar[Scope] = "dataset"
    parents: ClassVar[tuple[str, ...]] = (PARENT,)
    new_prompts: ClassVar[bool] = True
    templates: ClassVar = {
        "instructions": Text(
            "generators/new_prompts/prompts/self_instruct/instructions.j2",
            ("examples", "n", "mark"),
        )
    }

    writer: AnyEngine
    n: int = Field(default=4, ge=1, le=50)
    rounds: int = Field(default=1, ge=1)
    shots: int = Field(default=6, ge=0, le=50)
    own_shots: int = Field(default=2, ge=0, le=50)
    pool: int = Field(default=1000, ge=0, le=100_000)
    max_similarity: float = Field(default=0.7, gt=0, le=1)
    words: tuple[int, int] = (3, 150)
    refuse_words: tuple[str, ...] = NOT_BY_TEXT
    sampling: SamplingParams = SamplingParams(max_tokens=1024)

    @model_validator(mode="after")
    def _validate_words(self) -> Self:
        if not 0 <= self.words[0] <= self.words[1]:
            raise ValueError("words: fewest, then most")
        return self

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Where a prompt comes from."""
        return {PARENT: pl.String(), "round": pl.Int64(), "example_ids": pl.List(pl.String)}

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """A question per row and round."""
        return [Asks(self.writer, rows * self.rounds, QUESTION_TOKENS, FORM_TOKENS)]

    def grows(self, rows: int, prompts: int) -> tuple[int, int]:
        """`n` prompts per row and round."""
        new_prompts = rows * self.rounds * self.n
        return new_prompts, new_prompts

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to ids and draws, with the texts that may be in the pool.

        Returns:
            `prompt_id`, `draw` (Float64), and `text` (String; null beyond the first `pool`).
        """
        texts = [user_turn(p) for p in table["prompt"].to_list()]
        drawn = pl.DataFrame(
            {
                "prompt_id": table["prompt_id"],
                "draw": ctx.uniform(table["prompt_id"], "pool"),
                "text": pl.Series(texts, dtype=pl.String),
            }
        )
        place = pl.when(pl.col("text").is_not_null()).then("draw").rank("ordinal")
        return drawn.with_columns(text=pl.when(place <= self.pool).then("text"))

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Draw the pool.

        Returns:
            State with the table `pool`: `prompt_id` and `text`.
        """
        fine = parts.filter(pl.col("text").is_not_null()).sort("draw", "prompt_id")
        drawn = fine.head(self.pool).select("prompt_id", "text")
        return State({"pool": drawn}, {"pool": drawn.height})

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Write new prompts for the rows of a table.

        Args:
            table: PROMPTS.
            ctx: holds the pool; opens the model; draws by prompt id.

        Returns:
            PROMPTS in canonical order, and the rows of which nothing came.
        """
        pool = list(ctx.fitted.tables["pool"].iter_rows())
        seeds = []
        for row, key in enumerate(table["prompt_id"]):
            seed = _Seed(row, key, text=user_turn(table["prompt"][row].to_list()) or "")
            if not seed.text:
                seed.fail("not_single_turn", "more than a single message of a user")
            seeds.append(seed)
        for number in range(1, self.rounds + 1):
            self._round(open_tasks(seeds), number, pool, ctx)
        for seed in open_tasks(seeds):
            if not seed.kept:
                seed.fail(*(seed.refused or ("nothing_written", "the list was empty")))
        written = [(seed.row, new) for seed in open_tasks(seeds) for new in seed.kept]
        new = {
            "prompt": turns([n.text for _, n in written], "user"),
            "round": (pl.Int64(), [n.round for _, n in written]),
            "example_ids": (pl.List(pl.String), [n.examples for _, n in written]),
        }
        rows = children(table, [row for row, _ in written], new, Shape.PROMPTS, PARENT)
        return Generated(rows, lost(table["prompt_id"], seeds), missed(seeds))

    def _round(
        self, seeds: list[_Seed], number: int, pool: list[tuple[str, str]], ctx: Context
    ) -> None:
        """One question per row; a failed question ends a row only if it has nothing yet."""
        turns = [_Seed(s.row, f"{s.key}/{number}", text=s.text, kept=s.kept) for s in seeds]
        ids = pl.Series([t.key for t in turns], dtype=pl.String)
        draws = (ctx.uniform(ids, "examples") * 2**53).cast(pl.UInt64).to_list()
        for turn, seed, draw in zip(turns, seeds, draws, strict=True):
            rng = np.random.Generator(np.random.Philox(key=draw))
            turn.shown = [(seed.key, seed.text), *self._drawn(pool, seed.key, rng)]
            own = [n.text for n in reversed(seed.kept)][: self.own_shots]
            texts = [text for _, text in turn.shown] + own
            turn.question = self.render(
                "instructions", examples=texts, n=self.n, mark=fence(*texts)
            )

        def take(turn: _Seed, answer: dict[str, Any]) -> None:
            for text in answer["requests"][: self.n]:
                refused = self._refused(text, turn)
                if refused is None:
                    shown = [key for key, _ in turn.shown]
                    turn.kept.append(_New(text, number, shown))
                elif turn.refused is None:
                    turn.refused = refused

        self.asker(ctx, self.writer).forms(turns, "write", _WRITTEN, lambda t: t.question, take)
        for turn, seed in zip(turns, seeds, strict=True):
            if turn.reason is not None and seed.refused is None:
                seed.refused = (turn.reason, turn.detail or "")
            seed.refused = seed.refused or turn.refused

    def _drawn(
        self, pool: list[tuple[str, str]], own: str, rng: np.random.Generator
    ) -> list[tuple[str, str]]:
        """Examples out of the pool, none of them the row itself."""
        size = min(self.shots + 1, len(pool))
        picks = rng.choice(len(pool), size=size, replace=False).tolist() if size else []
        return [pool[i] for i in picks if pool[i][0] != own][: self.shots]

    def _refused(self, text: str, turn: _Seed) -> tuple[str, str] | None:
        """Why a new prompt is left out: reason and detail."""
        length, (low, high) = len(text.split()), self.words
        if not low <= length <= high:
            return ("too_short" if length < low else "too_long"), f"{length} words"
        if (word := unwanted(text, self.refuse_words)) is not None:
            return "not_by_text", f"it says {word!r}"
        said = Said(text, None, conversation(turn.question))
        if (problem := self.gate.problems([said])[0]) is not None:
            return problem
        others = [t for _, t in turn.shown] + [n.text for n in turn.kept]
        if (phrase := copied(text, turn.question, "\n".join(others))) is not None:
            return "copied", f"it says {phrase!r}"
        likeness = nearest_rouge_l(text, others)
        if likeness > self.max_similarity:
            return "too_similar", f"ROUGE-L {likeness:.3f}"
        return None
