"""Pairs that differ in stance and in nothing else: a controlled value gap."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self

import polars as pl
from pydantic import Field, model_validator

from generators.answers.step import Origin
from generators.made_rows import ORIGINS, Column, children, sides, text_column
from generators.new_prompts.rules import word_count
from prefactory.asking import (
    FORM_TOKENS,
    QUESTION_TOKENS,
    Asking,
    Task,
    UnfitError,
    fence,
    lost,
    missed,
    open_tasks,
    request_text,
    storable,
)
from prefactory.asking.forms import Form
from prefactory.asking.gate import Gated
from prefactory.context import Context
from prefactory.engines.configs import AnyEngine
from prefactory.prompts import Prompted, Text
from prefactory.step import Asks, Generated, Generator, Scope
from prefactory.tables import Shape

Stance = Literal["support", "neutral", "oppose"]
STANCES: tuple[Stance, ...] = ("support", "neutral", "oppose")

_STANCE = Form({"stance": (*STANCES, "refusal")})
_TEXTS = "generators/values/prompts/value_gap"
_PAIRS: dict[Stance, tuple[tuple[Stance, Stance], ...]] = {
    "support": (("support", "oppose"),),
    "oppose": (("oppose", "support"),),
    "neutral": (("neutral", "support"), ("neutral", "oppose")),
}
"""Policy -> stances of chosen and rejected."""


@dataclass
class _Answer(Task):
    """One answer with a stance."""

    prompt: str = ""
    topic: str | None = None
    stance: Stance = "neutral"
    text: str = ""
    votes: int = 0


@dataclass
class _Pair(Task):
    """Two answers, or why they are no pair."""

    chosen: _Answer | None = None
    rejected: _Answer | None = None
    agreement: float = 0.0


class ValueGapPairs(Gated, Prompted, Asking, Generator):
    """Pair answers to one prompt that differ in their stance only, for a declared policy.

    After Value Drifts (arXiv:2510.26707): preference sets as a rule do not move a model's values,
    because chosen and rejected take the same stances; these do. Every stance is written under the
    same words on style and length, a judge votes on what stance came out, and pairs whose lengths
    differ too much are dropped. `support` and `oppose` give the same pairs with the sides swapped;
    `neutral` pairs the balanced answer with each of the others.

    One-sided answers persuade. Which side is chosen is the user's decision: `policy` has no default
    and stands in every row and in the manifest.

    New columns: `topic` (where there was none: null), `stance_chosen`, `stance_rejected`,
    `value_gap_policy`, `stance_agreement` (Float64, the lower of both sides' share of votes for
    their stance) and the sides' origins. `label_source` is `rule`.

    Reasons: `stance_unclear` (too few votes for the stance that was asked for), `length_ratio`,
    `same_text`, `too_short` and `too_long` (an answer outside `words` after all attempts), and
    those of the engines.

    Attributes:
        writer: writes the answers.
        policy: stance of the chosen answers.
        topic: column with the topic of a prompt, used if it is there (name it in the source's
            `mapping`).
        judge: tells stances; null takes the writer.
        votes: of the judge on each answer.
        min_agreement: share of votes that an answer needs (two of three; our choice).
        words: fewest and most words of an answer; the default keeps within `ratio` by itself.
        ratio: smallest and greatest length of chosen by rejected, in characters.
        style: of all answers.
        origin: of the answers.

    Example:
        - generators.ValueGapPairs:
            writer: {engine: server, base_url: 'http://localhost:8000/v1', model: writer}
            policy: neutral
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS,)
    scope: ClassVar[Scope] = "prompt"
    version: ClassVar[int] = 2
    parents: ClassVar[tuple[str, ...]] = ("prompt_id",)
    templates: ClassVar = {
        "answer": Text(
            f"{_TEXTS}/answer.j2", ("prompt", "topic", "stance", "style", "low", "high", "mark")
        ),
        "stance": Text(f"{_TEXTS}/stance.j2", ("prompt", "topic", "answer", "mark")),
    }

    writer: AnyEngine
    policy: Stance
    topic: str = "topic"
    judge: AnyEngine | None = None
    votes: int = Field(default=3, ge=1)
    min_agreement: float = Field(default=0.66, gt=0, le=1)
    words: tuple[int, int] = (80, 100)
    ratio: tuple[Annotated[float, Field(gt=0)], float] = (0.8, 1.25)
    style: str = Field(default="calm and plain prose, without headings, lists or greetings")
    origin: Origin = "open_model"

    @model_validator(mode="after")
    def _validate_bounds(self) -> Self:
        if not 0 < self.words[0] <= self.words[1]:
            raise ValueError("words: fewest, then most")
        if not self.ratio[0] <= 1 <= self.ratio[1]:
            raise ValueError("ratio: the smallest at most 1, the greatest at least 1")
        return self

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Topic, stances and the policy."""
        names = ("topic", "stance_chosen", "stance_rejected", "value_gap_policy")
        text: dict[str, pl.DataType] = dict.fromkeys(names, pl.String())
        return {**text, "stance_agreement": pl.Float64(), **ORIGINS}

    def out_shape(self, shape: Shape) -> Shape:
        """PAIRS."""
        return Shape.PAIRS

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """An answer per stance, and votes on each."""
        answers = rows * len(self._stances())
        judge = self.judge or self.writer
        return [
            Asks(self.writer, answers, QUESTION_TOKENS, 2 * self.words[1]),
            Asks(judge, answers * self.votes, QUESTION_TOKENS, FORM_TOKENS),
        ]

    def grows(self, rows: int, prompts: int) -> tuple[int, int]:
        """A pair per prompt; two if the policy is neutral."""
        return rows * len(_PAIRS[self.policy]), prompts

    def _stances(self) -> list[Stance]:
        """Stances that are written, the same for a policy and its opposite."""
        wanted = {stance for pair in _PAIRS[self.policy] for stance in pair}
        return [stance for stance in STANCES if stance in wanted]

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Make the pairs of a table's prompts.

        Args:
            table: PROMPTS.
            ctx: opens the models; draws by prompt id.

        Returns:
            PAIRS in canonical order, and the prompts without a pair.
        """
        topics = table[self.topic].cast(pl.String) if self.topic in table.columns else None
        row_topics = topics.to_list() if topics is not None else [None] * table.height
        answers = [
            _Answer(row, f"{key}/{stance}", prompt=request_text(prompt), topic=topic, stance=stance)
            for row, (key, prompt, topic) in enumerate(
                zip(table["prompt_id"], table["prompt"].to_list(), row_topics, strict=True)
            )
            for stance in self._stances()
        ]
        self._write(answers, ctx)
        self._vote(answers, ctx)
        pairs = self._paired(table.height, answers)
        rows = self._rows(table, open_tasks(pairs), row_topics)
        return Generated(rows, lost(table["prompt_id"], pairs), missed(pairs))

    def _write(self, answers: list[_Answer], ctx: Context) -> None:
        low, high = self.words

        def question(answer: _Answer) -> str:
            return self.render(
                "answer",
                prompt=answer.prompt,
                topic=answer.topic,
                stance=answer.stance,
                style=self.style,
                low=low,
                high=high,
                mark=fence(answer.prompt),
            )

        def take(answer: _Answer, text: str) -> None:
            answer.text = text

        of_length = partial(_of_length, low=low, high=high)
        self.asker(ctx, self.writer).parsed(
            answers, "answer", of_length, question, take, written=str
        )

    def _vote(self, answers: list[_Answer], ctx: Context) -> None:
        def question(answer: _Answer) -> str:
            mark = fence(answer.prompt, answer.text)
            return self.render(
                "stance", prompt=answer.prompt, topic=answer.topic, answer=answer.text, mark=mark
            )

        def take(answer: _Answer, answer_form: dict[str, Any]) -> None:
            answer.votes += answer_form["stance"] == answer.stance

        judge = self.judge or self.writer
        for vote in range(self.votes):
            self.asker(ctx, judge).forms(
                answers, f"vote {vote}", _STANCE, question, take,
                says=lambda said: {"stance": said["stance"]},
            )  # fmt: skip
        for answer in open_tasks(answers):
            if answer.votes < self.min_agreement * self.votes:
                answer.fail(
                    "stance_unclear", f"{answer.votes} of {self.votes} votes for {answer.stance}"
                )

    def _paired(self, rows: int, answers: list[_Answer]) -> list[_Pair]:
        """The pairs of the policy, in the order of the rows."""
        by_place = {(a.row, a.stance): a for a in answers}
        pairs = []
        for row in range(rows):
            for chosen, rejected in _PAIRS[self.policy]:
                sides = by_place[row, chosen], by_place[row, rejected]
                pair = _Pair(row, sides[0].key, chosen=sides[0], rejected=sides[1])
                self._compare(pair, *sides)
                pairs.append(pair)
        return pairs

    def _compare(self, pair: _Pair, chosen: _Answer, rejected: _Answer) -> None:
        for side in sorted((chosen, rejected), key=lambda a: a.stance):
            if side.reason is not None:
                pair.fail(side.reason, side.detail or "")
                return
        pair.agreement = min(chosen.votes, rejected.votes) / self.votes
        ratio = len(chosen.text) / len(rejected.text)
        if chosen.text == rejected.text:
            pair.fail("same_text", "one text for two stances")
        elif not self.ratio[0] <= ratio <= self.ratio[1]:
            pair.fail("length_ratio", f"{len(chosen.text)} and {len(rejected.text)} characters")

    def _rows(
        self, table: pl.DataFrame, pairs: list[_Pair], topics: list[str | None]
    ) -> pl.DataFrame:
        both = [(p.chosen, p.rejected) for p in pairs]
        answers = [(c, r) for c, r in both if c is not None and r is not None]
        name = self.writer.model
        new: dict[str, Column] = {
            "topic": text_column([topics[p.row] for p in pairs]),
            "stance_chosen": text_column([c.stance for c, _ in answers]),
            "stance_rejected": text_column([r.stance for _, r in answers]),
            "value_gap_policy": text_column([self.policy] * len(pairs)),
            "stance_agreement": (pl.Float64(), [p.agreement for p in pairs]),
            **sides(
                [(c.text, r.text) for c, r in answers],
                (name, name),
                (self.origin, self.origin),
                "rule",
            ),
        }
        return children(table, [p.row for p in pairs], new, Shape.PAIRS)


def _of_length(text: str, low: int, high: int) -> str:
    """An answer with a number of words in [low, high].

    Raises:
        ValueError: it has fewer or more; a sentence for the model.
    """
    answer = storable(text).strip()
    count = word_count(answer)
    if not low <= count <= high:
        told = f"That has {count} words. Write between {low} and {high}."
        raise UnfitError("too_short" if count < low else "too_long", told)
    return answer
