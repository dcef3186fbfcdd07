"""What gives an answer its number in a search: a judge with a rubric, or any labeler of answers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Self

import polars as pl
import pydantic
from pydantic import ConfigDict, Field, field_validator, model_validator

from generators.answers.rows import as_messages
from prefactory.apply import apply_labeler
from prefactory.asking import Answer, Asker, Asking, fence, transcript
from prefactory.asking.forms import all_of, fields
from prefactory.context import Context
from prefactory.engines.base import Conversation, Failure, Message, SamplingParams
from prefactory.engines.configs import AnyEngine
from prefactory.errors import ConfigError
from prefactory.recipe import find_step, sentence
from prefactory.step import Asks, Labeler
from prefactory.tables import COLUMNS, SCORE, Shape, canonical_order, with_ids

RUBRIC = (
    "does it do all that was asked, correctly and truthfully, in a way that is useful to the "
    "person and harms nobody?"
)
ANSWER_TOKENS = 500
"""What `plan` takes an answer that is rated to have, in tokens."""

Score = float | Failure


def _rating(score: float) -> dict[str, float]:
    return {"rating": score}


Render = Callable[..., str]


class Row(NamedTuple):
    """An answer to score.

    Attributes:
        row: of the table of prompts.
        conversation: what it is an answer to.
        response: the answer.
        model: that wrote it.
    """

    row: int
    conversation: Conversation
    response: str
    model: str


class Scorer(Asking):
    """What scores an answer; higher must be better. One of `judge` and `step`.

    Attributes:
        judge: a model that rates answers by `rubric`.
        rubric: what it looks at, the end of "Rate the answer ...:".
        scale: lowest and highest rating.
        sampling: of the judge's answer.
        step: a labeler as in a recipe's `steps`: `labelers.RewardModel: {...}`, or its name alone.
            It scores row by row, and sees the columns of the prompts too.
        objective: which of its scores counts; None if it adds but one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    judge: AnyEngine | None = None
    rubric: str = Field(default=RUBRIC, min_length=1)
    scale: tuple[float, float] = (1.0, 10.0)
    sampling: SamplingParams = SamplingParams(temperature=0.0, max_tokens=512)
    step: dict[str, dict[str, Any]] | None = None
    objective: str | None = None

    @field_validator("step", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        """A name alone, or with nothing after it, has no fields."""
        if isinstance(value, str):
            return {value: {}}
        if isinstance(value, Mapping):
            return {name: {} if fields is None else fields for name, fields in value.items()}
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.judge is None) == (self.step is None):
            raise ValueError("name one of judge and step")
        if self.scale[0] >= self.scale[1]:
            raise ValueError(f"scale: {self.scale[0]:g} is not below {self.scale[1]:g}")
        if self.step is None and self.objective is not None:
            raise ValueError("objective is for step; a judge has but one score")
        if self.step is not None:
            self._check_labeler(self.labeler)
        return self

    def _check_labeler(self, labeler: Labeler | None) -> None:
        name = next(iter(self.step or {}), "")
        if not isinstance(labeler, Labeler) or Shape.RESPONSES not in labeler.takes():
            raise ValueError(f"step: {name} is no labeler of answers")
        if labeler.scope != "row":
            raise ValueError(
                f"step: {name} has scope {labeler.scope!r} and needs more than the answer that is "
                "scored; take one that scores row by row"
            )
        scores = [c for c in labeler.adds(Shape.RESPONSES) if c.startswith(SCORE)]
        wanted = None if self.objective is None else SCORE + self.objective
        if wanted not in scores and not (wanted is None and len(scores) == 1):
            have = ", ".join(c.removeprefix(SCORE) for c in scores) or "none"
            raise ValueError(f"objective: name one of the scores of {name} ({have})")

    @cached_property
    def labeler(self) -> Labeler | None:
        """The step, made; None for a judge."""
        if self.step is None:
            return None
        if len(self.step) != 1:
            raise ValueError("step: name one labeler")
        ((name, fields),) = self.step.items()
        try:
            cls = find_step(name)
            labeler = cls.model_validate(fields)
        except ConfigError as error:
            raise ValueError(f"step: {error}") from error
        except pydantic.ValidationError as error:
            mistakes = [sentence(cls, dict(e)) for e in error.errors(include_url=False)]
            raise ValueError(f"step: {name}: {'; '.join(mistakes)}") from error
        if not isinstance(labeler, Labeler):
            raise ValueError(f"step: {name} is no labeler of answers")
        return labeler

    @property
    def column(self) -> str:
        """The labeler's score column that counts."""
        adds = {} if self.labeler is None else self.labeler.adds(Shape.RESPONSES)
        only = next(c for c in adds if c.startswith(SCORE))
        return only if self.objective is None else SCORE + self.objective

    def needs(self) -> dict[str, pl.DataType]:
        """Columns that the labeler reads and answers to a prompt do not have by themselves."""
        if self.labeler is None:
            return {}
        needed = self.labeler.needs(Shape.RESPONSES)
        return {c: d for c, d in needed.items() if c not in COLUMNS[Shape.RESPONSES]}

    def asks(self, answers: int, prompts: int) -> list[Asks]:
        """What scoring that many answers asks of text engines."""
        if self.judge is not None:
            return [Asks(self.judge, answers, ANSWER_TOKENS + 500, self.sampling.max_tokens)]
        return [] if self.labeler is None else self.labeler.asks(answers, prompts)

    def scores(
        self, rows: Sequence[Row], table: pl.DataFrame, render: Render, ctx: Context
    ) -> list[Score]:
        """Score answers; the score of an answer depends on its texts alone.

        Args:
            rows: n answers.
            table: the prompts that they belong to, for the columns that a labeler reads.
            render: fills the prompt texts `judge_system` and `judge`.
            ctx: opens models.

        Returns:
            n finite numbers, or why there is none.
        """
        if not rows:
            return []
        if self.judge is not None:
            return self._judged(self.asker(ctx, self.judge), rows, render)
        return self._labelled(rows, table, ctx)

    def _judged(self, judge: Asker, rows: Sequence[Row], render: Render) -> list[Score]:
        low, high = self.scale
        system: Message = {"role": "system", "content": render("judge_system")}
        questions: list[Conversation] = []
        for row in rows:
            shown = transcript(row.conversation)
            text = render(
                "judge", conversation=shown, response=row.response, rubric=self.rubric,
                low=f"{low:g}", high=f"{high:g}", mark=fence(shown, row.response),
            )  # fmt: skip
            questions.append([system, {"role": "user", "content": text}])
        schema = all_of({"score": {"type": "number", "minimum": low, "maximum": high}})
        prompts = [row.row for row in rows]
        heard = judge.heard(prompts, _rating)
        replies = [r for (r,) in judge.each(questions, self.parse, schema, heard=heard)]
        judge.count(prompts, replies, _rating)
        return [reply.value if isinstance(reply, Answer) else reply for reply in replies]

    def parse(self, text: str) -> float:
        """Read a judge's answer: the one JSON object in it.

        Raises:
            ValueError: a sentence for the model.
        """
        low, high = self.scale
        form = f'Reply with {{"score": <number from {low:g} to {high:g}>}} and nothing else.'
        try:
            score = fields(text, ["score"])["score"]
        except ValueError as error:
            raise ValueError(f"{error} {form}") from error
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise ValueError(f"The score is no number. {form}")
        if not low <= score <= high:
            raise ValueError(f"The score is off the scale. {form}")
        return float(score)

    def _labelled(self, rows: Sequence[Row], table: pl.DataFrame, ctx: Context) -> list[Score]:
        assert self.labeler is not None  # noqa: S101 - one of judge and step is there
        name, column = next(iter(self.step or {})), self.column
        adds = self.labeler.adds(Shape.RESPONSES)
        about = table.select(pl.all().gather([row.row for row in rows]))
        about = about.drop([c for c in about.columns if c in adds]).with_columns(
            pl.Series(
                "prompt", [list(row.conversation) for row in rows], dtype=table.schema["prompt"]
            ),
            as_messages(pl.lit(pl.Series([row.response for row in rows]))).alias("response"),
            pl.Series("model", [row.model for row in rows], dtype=pl.String),
            origin=pl.lit("open_model"),
        )
        answers = with_ids(about, Shape.RESPONSES)
        ids = answers["response_id"]
        once = answers.unique("response_id", keep="first", maintain_order=True)
        first = list(COLUMNS[Shape.RESPONSES])
        once = once.select(*first, *[c for c in once.columns if c not in first])
        within = dataclasses.replace(ctx, step=f"{ctx.step}/{name}")
        labelled = apply_labeler(
            self.labeler, name, canonical_order(once, Shape.RESPONSES), Shape.RESPONSES, within
        )
        reason = f"reason_{column.removeprefix(SCORE)}"
        why = pl.col(reason) if reason in labelled.columns else pl.lit(None, pl.String)
        scores = labelled.select("response_id", score=column, why=why)
        scores = ids.to_frame().join(scores, on="response_id", how="left", maintain_order="left")
        return [
            score
            if score is not None and math.isfinite(score)
            else Failure("no_score", f"{name}: {why or 'no score'}")
            for score, why in scores.select("score", "why").iter_rows()
        ]
