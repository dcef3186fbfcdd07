"""Evol-Instruct: prompts made harder, or turned to something else, round by round."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import polars as pl
from pydantic import Field, model_validator

from generators.made_rows import (
    PARENT,
    children,
    prompt_ids,
    talks,
    text_column,
    user_turn,
    with_user_turn,
)
from generators.new_prompts.rules import copied, nearest_rouge_l, says_nothing
from prefactory.asking import (
    FORM_TOKENS,
    QUESTION_TOKENS,
    Asking,
    Task,
    fence,
    lost,
    missed,
    open_tasks,
    unrated,
)
from prefactory.asking.forms import Form
from prefactory.asking.gate import Gated
from prefactory.context import Context
from prefactory.engines.base import Message, SamplingParams
from prefactory.engines.configs import AnyEngine
from prefactory.prompts import Prompted, Text
from prefactory.step import Asks, Generated, Generator, Scope
from prefactory.tables import Shape

_TEXTS = "generators/new_prompts/prompts/evol"
OPERATORS = ("constraints", "deepen", "concretise", "reasoning", "input", "breadth")
"""Ways to change a prompt: five in depth, one in breadth."""

_WRITTEN = Form({"prompt": "text"})
_GAIN = Form({"reason": "maybe", "same": "flag"})
Weight = Annotated[float, Field(ge=0)]


class _Kept(NamedTuple):
    """A prompt that survived its round."""

    text: str
    before: str
    round: int
    operator: str


@dataclass
class _Chain(Task):
    """One prompt on its way through the rounds."""

    prompt: list[Message] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    kept: list[_Kept] = field(default_factory=list)
    ended: Task | None = None


@dataclass
class _Turn(Task):
    """One round of one chain."""

    chain: _Chain = field(default_factory=lambda: _Chain(0, ""))
    operator: str = ""
    question: str = ""
    text: str = ""

    @property
    def before(self) -> str:
        return self.chain.seen[-1]


class Evol(Gated, Prompted, Asking, Generator):
    """Rewrite prompts in rounds: in depth (harder) or in breadth (rarer), and keep what is sound.

    Evol-Instruct (WizardLM, arXiv:2304.12244). In each round an operator is drawn for each prompt,
    by (recipe seed, step, prompt, round), and a model rewrites what survived the round before. A
    rewriting that is eliminated leaves the prompt as it was, and the next round tries again. The
    texts of the operators and all numbers but that of rounds are ours.

    Eliminated is what is `too_long`; `refuses` (it begins as a refusal); `copied` (it has phrases
    of the orders); `too_similar` to any earlier form of the prompt; `no_gain` (with `judge`: it
    asks for the same thing); `no_answer_to_it` (with `answerer`: the answer is a short refusal or
    has no words).

    New columns: `source_prompt_id`, `evolved_from` (id of the prompt one round before), `round`
    (Int64, from 1) and `operator`.

    Reasons, for prompts of which nothing came: that of their first round, those of the engine, and
    `not_single_turn` (only a single message of a user, perhaps after a system message, evolves).

    Attributes:
        writer: what rewrites.
        rounds: how many.
        operators: name -> weight in the draw; `constraints`, `deepen`, `concretise`, `reasoning`,
            `input` (material to work on) and `breadth`.
        keep: `all` forms that survived, or the `last` of each prompt.
        keep_source: keep the prompts as they were, too (round 0).
        added_words: that a rewriting is told it may add.
        max_words: of a prompt.
        max_similarity: greatest ROUGE-L F1 with an earlier form.
        judge: decides whether something was gained; null: nobody asks.
        answerer: answers each rewriting, to see whether it can be answered; null: nobody asks.
        answer_sampling: how these answers are drawn; their end is not needed.

    Example:
        - generators.Evol:
            writer: {engine: server, base_url: 'http://localhost:8000/v1', model: writer}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS,)
    scope: ClassVar[Scope] = "prompt"
    parents: ClassVar[tuple[str, ...]] = (PARENT,)
    new_prompts: ClassVar[bool] = True
    templates: ClassVar = {
        **{name: Text(f"{_TEXTS}/{name}.j2", ("prompt", "words", "mark")) for name in OPERATORS},
        "gain": Text(f"{_TEXTS}/gain.j2", ("before", "after", "mark")),
    }

    writer: AnyEngine
    rounds: int = Field(default=4, ge=1)
    operators: dict[str, Weight] = Field(default_factory=lambda: dict.fromkeys(OPERATORS, 1.0))
    keep: Literal["all", "last"] = "all"
    keep_source: bool = False
    added_words: int = Field(default=30, ge=1)
    max_words: int = Field(default=400, ge=1)
    max_similarity: float = Field(default=0.95, gt=0, le=1)
    judge: AnyEngine | None = None
    answerer: AnyEngine | None = None
    answer_sampling: SamplingParams = SamplingParams(max_tokens=256)
    sampling: SamplingParams = SamplingParams(max_tokens=1024)

    @model_validator(mode="after")
    def _validate_operators(self) -> Self:
        unknown = sorted(set(self.operators) - set(OPERATORS))
        if unknown:
            raise ValueError(f"operators: {unknown[0]!r} is none of {', '.join(OPERATORS)}")
        if not sum(self.operators.values()) > 0:
            raise ValueError("operators: one of them must have a weight above 0")
        return self

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Where a prompt comes from."""
        text: pl.DataType = pl.String()
        return {PARENT: text, "evolved_from": text, "round": pl.Int64(), "operator": text}

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """A question a round, and one for each of `judge` and `answerer`."""
        calls = rows * self.rounds
        asks = [Asks(self.writer, calls, QUESTION_TOKENS, FORM_TOKENS)]
        if self.judge is not None:
            asks.append(Asks(self.judge, calls, QUESTION_TOKENS, FORM_TOKENS))
        if self.answerer is not None:
            asks.append(
                Asks(self.answerer, calls, QUESTION_TOKENS, self.answer_sampling.max_tokens)
            )
        return asks

    def grows(self, rows: int, prompts: int) -> tuple[int, int]:
        """A prompt a round, or one in all."""
        prompts_out = rows * ((self.rounds if self.keep == "all" else 1) + self.keep_source)
        return prompts_out, prompts_out

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Evolve the prompts of a table.

        Args:
            table: PROMPTS.
            ctx: opens the models; draws by prompt id.

        Returns:
            PROMPTS in canonical order, and the prompts of which nothing came.
        """
        chains = [
            _Chain(row, key, prompt=prompt)
            for row, (key, prompt) in enumerate(
                zip(table["prompt_id"], table["prompt"].to_list(), strict=True)
            )
        ]
        for chain in chains:
            text = user_turn(chain.prompt)
            if text is None:
                chain.fail("not_single_turn", "more than a single message of a user")
            chain.seen.append(text or "")
        for number in range(1, self.rounds + 1):
            self._round(open_tasks(chains), number, ctx)
        for chain in chains:
            if chain.reason is None and not chain.kept and not self.keep_source:
                chain.reason = chain.ended.reason if chain.ended else "no_answer"
                chain.detail = chain.ended.detail if chain.ended else None
        return Generated(
            self._rows(table, open_tasks(chains)), lost(table["prompt_id"], chains), missed(chains)
        )

    def _round(self, chains: list[_Chain], number: int, ctx: Context) -> None:
        """Rewrite each chain's newest prompt; what survives is its newest then."""
        turns = [_Turn(c.row, f"{c.key}/{number}", chain=c) for c in chains]
        for turn, lot in zip(turns, self._lots([t.key for t in turns], ctx), strict=True):
            turn.operator = lot
            turn.question = self.render(
                lot, prompt=turn.before, words=self.added_words, mark=fence(turn.before)
            )

        def take(turn: _Turn, answer: dict[str, Any]) -> None:
            turn.text = answer["prompt"]
            self._eliminate(turn)

        self.asker(ctx, self.writer).forms(
            turns, "evolve", _WRITTEN, lambda t: t.question, take, lambda form: str(form["prompt"])
        )
        self._gained(turns, ctx)
        self._answered(turns, ctx)
        for turn in turns:
            if turn.reason is None:
                kept = _Kept(turn.text, turn.before, number, turn.operator)
                turn.chain.kept.append(kept)
                turn.chain.seen.append(turn.text)
            elif turn.chain.ended is None:
                turn.chain.ended = turn

    def _lots(self, keys: list[str], ctx: Context) -> list[str]:
        """An operator per key, by weight."""
        names = list(self.operators)
        weights = pl.Series([self.operators[n] for n in names], dtype=pl.Float64)
        edges = (weights / weights.sum()).cum_sum()
        lots = ctx.uniform(pl.Series(keys, dtype=pl.String), "operator")
        last = int((weights > 0).arg_true()[-1])
        picks = edges.search_sorted(lots, side="right").clip(0, last)
        return [names[i] for i in picks]

    def _eliminate(self, turn: _Turn) -> None:
        """The rules that need no model."""
        text, length = turn.text, len(turn.text.split())
        if length > self.max_words:
            turn.fail("too_long", f"{length} words; at most {self.max_words}")
        elif (words := copied(text, turn.question, turn.before)) is not None:
            turn.fail("copied", f"it says {words!r}")
        elif (likeness := nearest_rouge_l(text, turn.chain.seen)) > self.max_similarity:
            turn.fail("too_similar", f"ROUGE-L {likeness:.3f} with an earlier form")

    def _gained(self, turns: list[_Turn], ctx: Context) -> None:
        if self.judge is None:
            return

        def question(turn: _Turn) -> str:
            mark = fence(turn.before, turn.text)
            return self.render("gain", before=turn.before, after=turn.text, mark=mark)

        def take(turn: _Turn, answer: dict[str, Any]) -> None:
            if answer["same"]:
                turn.fail("no_gain", answer["reason"])

        self.asker(ctx, self.judge, greedy=True).forms(
            turns, "gain", _GAIN, question, take, says=unrated
        )

    def _answered(self, turns: list[_Turn], ctx: Context) -> None:
        if self.answerer is None:
            return

        def take(turn: _Turn, answer: str) -> None:
            if says_nothing(answer):
                turn.fail("no_answer_to_it", answer[:100])

        asker = replace(self.asker(ctx, self.answerer, self.answer_sampling), gate=None)
        asker.texts(turns, "answer", lambda t: with_user_turn(t.chain.prompt, t.text), take)

    def _rows(self, table: pl.DataFrame, chains: list[_Chain]) -> pl.DataFrame:
        forms: list[tuple[_Chain, _Kept]] = []
        for chain in chains:
            if self.keep_source:
                forms.append((chain, _Kept(chain.seen[0], "", 0, "")))
            forms += [(chain, k) for k in (chain.kept if self.keep == "all" else chain.kept[-1:])]
        before = prompt_ids([with_user_turn(c.prompt, k.before) for c, k in forms])
        new = {
            "prompt": talks([with_user_turn(c.prompt, k.text) for c, k in forms]),
            "evolved_from": text_column(
                [b if k.round else None for b, (_, k) in zip(before, forms, strict=True)]
            ),
            "round": (pl.Int64(), [k.round for _, k in forms]),
            "operator": text_column([k.operator or None for _, k in forms]),
        }
        return children(table, [c.row for c, _ in forms], new, Shape.PROMPTS, PARENT)
