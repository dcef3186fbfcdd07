"""What is asked of people, about which rows, in which order: the settings of a review."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from prefactory.recipe import NAME

Kind = Literal["pair", "rate", "rank", "rationale", "tags", "steps"]
Part = Literal["suspect", "retrieved", "disagree", "informative", "random", "all"]
PARTS: tuple[Part, ...] = (
    "random", "suspect", "retrieved", "disagree", "informative", "all",
)  # fmt: skip
"""Parts of a queue, in the order in which they take their rows: the random sample comes first, so
that what else is looked for does not bend it."""
REASONS = (
    "more correct", "more complete", "follows the instruction", "clearer", "shorter", "safer",
    "better style",
)  # fmt: skip


class Settings(BaseModel):
    """Settings of a review. All but those of `Changeable` are frozen when it is made.

    Attributes:
        task: `pair` (which of two answers is better), `rate` (one answer on the attributes), `rank`
            (all answers of a prompt), `rationale` (is a judge's reason right), `tags` (of a prompt)
            or `steps` (is each step of an answer right, for process rewards).
        queue: part -> share of the rows: `suspect` (least trusted labels first, column `trust`),
            `retrieved` (rows like those that people found wrong, column `retrieval`),
            `disagree` (judges against each other), `informative` (labels that tell the stack
            most, column `margin_<name>`), `random` (stratified by trust, the only part that an
            error rate may be estimated from), `all` (every row, in random order).
        where: a condition on the columns in SQL: only these rows.
        rows: how many rows, without gold rows; None: all that there are.
        gold: a condition on the columns in SQL: rows whose label is known to be right.
        gold_share: gold rows mixed in, as a share of the other rows.
        training: gold rows that everybody is asked first, with feedback.
        pass_mark: share of the training rows that must be right before the queue opens.
        people: how many people are asked about each row.
        sure: of pairs: nobody else is asked about a row whose votes, two or more, make a side so
            probable (`review.early`); None: everybody is.
        minutes: after so many a row that was taken is given to others.
        attributes: what each answer is rated on, 1 to `scale`: name -> what it means.
        scale: highest rating.
        reasons: that can be ticked.
        tags: of prompts.
        splitter: of `steps`: `paragraph` or `line`.
        judge: prefix of the judge's columns for `rationale`.
        reveal: people may look at what the machine said after their vote; a vote that is changed
            after it is marked as informed.
        seed: of all draws, and of the sides.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task: Kind = "pair"
    queue: dict[Part, float] = Field(default={"all": 1.0}, min_length=1)
    where: str | None = None
    rows: int | None = Field(default=None, ge=1)
    gold: str | None = None
    gold_share: float = Field(default=0.05, ge=0, le=1)
    training: int = Field(default=0, ge=0, le=100)
    pass_mark: float = Field(default=0.0, ge=0, le=1)
    people: int = Field(default=1, ge=1, le=100)
    sure: float | None = Field(default=None, gt=0.5, lt=1)
    minutes: float = Field(default=30.0, gt=0, le=60 * 24 * 30)
    attributes: dict[str, str] = Field(default_factory=dict, max_length=12)
    scale: int = Field(default=5, ge=2, le=9)
    reasons: tuple[str, ...] = Field(default=REASONS, max_length=20)
    tags: tuple[str, ...] = Field(default=(), max_length=60)
    splitter: Literal["paragraph", "line"] = "paragraph"
    judge: str = Field(default="judge", min_length=1)
    reveal: bool = True
    seed: int = Field(default=0, ge=0)

    @field_validator("queue", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:  # noqa: ANN401 - what a recipe or a command line says
        return {value: 1.0} if isinstance(value, str) else value

    @field_validator("attributes", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:  # noqa: ANN401
        return {str(v): "" for v in value} if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        shares = self.queue.values()
        if min(shares) <= 0 or not 0.99 < sum(shares) < 1.01:
            raise ValueError("queue: shares are above 0 and add up to 1")
        if (self.training or self.pass_mark) and self.gold is None:
            raise ValueError("training: it needs rows whose label is known; say which by `gold`")
        if self.task != "pair" and self.gold is not None:
            raise ValueError("gold: only pairs have a label that can be known to be right")
        if self.task == "rate" and not self.attributes:
            raise ValueError("attributes: say what answers are rated on")
        if self.task == "tags" and not self.tags:
            raise ValueError("tags: say which there are")
        if self.task in ("rank", "tags") and not self.queue.keys() <= {"random", "all"}:
            raise ValueError(f"queue: {self.task} knows only random and all")
        return self


CHANGEABLE = ("people", "minutes", "reasons", "reveal", "pass_mark")
"""Settings that a review may change while it runs."""


def safe_name(text: str) -> str:
    """A name of a review from that of a dataset: what folders and schemas may be called."""
    text = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in text.lower())
    text = text.strip("-._").replace("..", ".")[:64]
    return text if NAME.fullmatch(text) else "review"


def name_of(dataset: str) -> str:
    """Name of a review by what is reviewed: of a file its stem, of a version its name."""
    path = Path(dataset).expanduser()
    return safe_name(path.name.partition(".")[0] if path.exists() else dataset)
