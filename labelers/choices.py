"""What models choose in dilemmas, kept by the value that an option serves and not by its letter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import polars as pl
from pydantic import Field, model_validator

from prefactory.asking import GREEDY, QUESTION_TOKENS, Asking, Task, fence, request_text
from prefactory.asking.forms import Form
from prefactory.context import Context
from prefactory.engines.base import SamplingParams
from prefactory.engines.configs import AnyEngine
from prefactory.prompts import Prompted, Text
from prefactory.step import Asks, Labeler
from prefactory.tables import Shape

LETTERS = ("A", "B", "C")
OPTIONS: pl.DataType = pl.Struct(dict.fromkeys(LETTERS, pl.String))
CHOICE = Form({"choice": LETTERS})
CHOICES: pl.DataType = pl.List(
    pl.Struct(
        {
            "model": pl.String(),
            "order": pl.Int64(),
            "place": pl.Int64(),
            "letter": pl.String(),
            "value": pl.String(),
            "fault": pl.String(),
        }
    )
)
ANSWER_TOKENS = 20
"""What `plan` takes a choice to have."""


@dataclass
class Choice(Task):
    """One model's choice in one dilemma, its options in one order.

    Attributes:
        model: its name.
        order: how far the options are turned: 1 shows B, C, A.
        question: scene and question.
        options: text of each letter, as the dilemma has them.
        place: of what it chose, from 0, as it was shown.
    """

    model: str = ""
    order: int = 0
    question: str = ""
    options: tuple[str, ...] = ()
    place: int | None = None

    @property
    def shown(self) -> list[str]:
        """The options in the order in which the model sees them."""
        return [*self.options[self.order :], *self.options[: self.order]]

    def kept(self, values: dict[str, str | None]) -> dict[str, Any]:
        """A row of the column, by what each letter of the dilemma keeps."""
        letter = None if self.place is None else LETTERS[(self.place + self.order) % len(LETTERS)]
        return {
            "model": self.model,
            "order": self.order,
            "place": self.place,
            "letter": letter,
            "value": None if letter is None else values[letter],
            "fault": self.reason,
        }


class Choices(Prompted, Asking, Labeler):
    """Ask models what they would do in the dilemmas of `generators.Dilemmas`.

    After CVC's evaluation: a model names the letter of one option, and what counts is the value
    that the option keeps. Each model sees the options of a dilemma in `orders` orders, each turned
    by one place, so that with three a model that looks at places alone takes every option equally
    often. The pairs and their labels stay as they are.

    New columns: `<name>` (list of model, order, place, letter, value, fault) and `reason_<name>`
    (why a model of the list has no valid choice at all). `prefactory wins` and the report make of
    them, for each model, how often one value wins over another with Wilson intervals, circles among
    the values, and how far models agree (`prefactory.measures.choice_report`).

    Attributes:
        models: that are asked; a list, or one.
        orders: of the options.
        name: of the column.

    Example:
        - labelers.Choices:
            models:
              - {engine: server, base_url: 'http://localhost:8000/v1', model: one}
              - {engine: server, base_url: 'http://localhost:8000/v1', model: another}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PAIRS,)
    templates: ClassVar[dict[str, Text]] = {
        "choice": Text("labelers/choices.j2", ("question", "options", "letters", "mark"))
    }

    models: tuple[AnyEngine, ...] = Field(min_length=1)
    orders: int = Field(default=3, ge=1, le=3)
    name: str = Field(default="choices", pattern=r"^[a-z0-9_]+$")
    sampling: SamplingParams = GREEDY

    @model_validator(mode="before")
    @classmethod
    def _one_or_many(cls, data: Any) -> Any:  # noqa: ANN401 - whatever a recipe has
        one = isinstance(data, dict) and isinstance(data.get("models"), dict)
        return {**data, "models": [data["models"]]} if one else data

    @model_validator(mode="after")
    def _check_models(self) -> Self:
        names = [m.model for m in self.models]
        again = sorted({n for n in names if names.count(n) > 1})
        if again:
            raise ValueError(f"models: {again[0]!r} is there twice; choices are told apart by name")
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The options, and what each keeps."""
        return {"options": OPTIONS, "option_map": OPTIONS}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """The choices, and why there is none."""
        return {self.name: CHOICES, f"reason_{self.name}": pl.String()}

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """Each dilemma in each order."""
        calls = rows * self.orders
        return [Asks(m, calls, QUESTION_TOKENS, ANSWER_TOKENS) for m in self.models]

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Ask about every dilemma.

        Args:
            table: PAIRS of `generators.Dilemmas`; a row without options is left alone.
            ctx: opens the models.

        Returns:
            The columns of `adds`.
        """
        tasks = self._tasks(table)
        for model in self.models:

            def question(task: Choice) -> str:
                return self.render(
                    "choice",
                    question=task.question,
                    options=task.shown,
                    letters=LETTERS,
                    mark=fence(task.question, *task.options),
                )

            def take(task: Choice, answer: dict[str, Any]) -> None:
                task.place = LETTERS.index(answer["choice"])

            own = [t for t in tasks if t.model == model.model]
            self.asker(ctx, model, self.sampling).forms(own, "choice", CHOICE, question, take)
        return self._columns(table, tasks)

    def _tasks(self, table: pl.DataFrame) -> list[Choice]:
        rows = zip(
            table["pair_id"], table["prompt"].to_list(), table["options"].to_list(), strict=True
        )
        return [
            Choice(row, f"{key}/{model.model}/{order}", model=model.model, order=order,
                   question=request_text(prompt), options=tuple(options[x] for x in LETTERS))
            for row, (key, prompt, options) in enumerate(rows)
            if options is not None and None not in options.values()
            for model in self.models
            for order in range(self.orders)
        ]  # fmt: skip

    def _columns(self, table: pl.DataFrame, tasks: list[Choice]) -> pl.DataFrame:
        values = table["option_map"].to_list()
        kept: list[list[dict[str, Any]]] = [[] for _ in values]
        for task in tasks:
            none: dict[str, str | None] = dict.fromkeys(LETTERS)
            kept[task.row].append(task.kept(values[task.row] or none))
        reasons = [_silent(row) if row else "no_options" for row in kept]
        return pl.DataFrame(
            {self.name: kept, f"reason_{self.name}": reasons}, schema=self.adds(Shape.PAIRS)
        )


def _silent(choices: list[dict[str, Any]]) -> str | None:
    """Why the first model without any valid choice has none."""
    heard = {c["model"] for c in choices if c["letter"] is not None}
    return next((c["fault"] for c in choices if c["model"] not in heard), None)
