"""Prompts with a complement behind them, criticised before it is used; and pairs by contrast."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, Self

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from generators import pools
from generators.answers.step import Origin
from generators.contests import BETTER, Contest, confirm
from generators.made_rows import (
    ORIGINS,
    PARENT,
    Column,
    children,
    sides,
    talks,
    text_column,
    user_turn,
    with_user_turn,
)
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
    storable,
)
from prefactory.asking.forms import Form
from prefactory.asking.gate import Gated
from prefactory.context import Context
from prefactory.engines.base import Message, SamplingParams
from prefactory.engines.configs import AnyEngine
from prefactory.errors import ConfigError
from prefactory.prompts import Prompted, Text
from prefactory.step import Asks, Generated, Generator, Scope
from prefactory.tables import Shape

PROBLEMS = ("conflict", "superfluous", "answers", "too_much", "language")
"""Why a critic refuses a complement."""

CRITIQUE: pl.DataType = pl.Struct(
    {"ok": pl.Boolean, "problem": pl.String, "reason": pl.String, "repaired": pl.Boolean}
)
_CRITIQUE = Form({"problem": ("none", *PROBLEMS), "reason": "maybe", "repaired": "maybe"})
_CRITERION = (
    "it serves the person who sent this request, and does what the request says: not a narrower or "
    "wider task than theirs"
)


class Example(BaseModel):
    """A request and what would complement it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    request: str = Field(min_length=1)
    complement: str = Field(min_length=1)


Pool = dict[str, tuple[Example, ...]]
"""Kind of request -> examples."""


def load_examples(name_or_path: str) -> Pool:
    """Read examples by kind: those that come with prefactory (`complements`), or a YAML file.

    Raises:
        ConfigError: there is no such file, it has another form, or no kind `general`.
    """
    try:
        pool = TypeAdapter(Pool).validate_python(pools.read(name_or_path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(
            f"examples {name_or_path}: {key}: {first['msg']}; a kind is a list of request and "
            "complement"
        ) from error
    if not pool.get("general"):
        raise ConfigError(
            f"examples {name_or_path} have no kind 'general', the one to fall back to"
        )
    return pool


@dataclass
class _Prompt(Task):
    """One prompt, its complement, and the two answers of a contrast."""

    prompt: list[Message] = field(default_factory=list)
    text: str = ""
    category: str = "general"
    complement: str = ""
    critique: dict[str, Any] = field(default_factory=dict)
    augmented: str = ""
    with_it: str = ""
    without: str = ""


class AugmentPrompts(Gated, Prompted, Asking, Generator):
    """Put a short complement behind each prompt, after a critic has seen it.

    The prompt augmentation of Baichuan's report (arXiv:2410.14940): a model writes what a good
    answer must mind, after examples of the prompt's kind; a critic refuses what conflicts with the
    intent, is superfluous, answers the prompt, asks too much or is in another language, and offers
    a repaired complement, which is taken then. A critique that can't be parsed drops the prompt
    (the source's code keeps the complement). The texts are ours.

    `make: prompts` gives prompts that end in their complement. `make: pairs` gives pairs for the
    prompt *without* it: what `answerer` says with the complement is chosen, what it says without it
    rejected; give a `judge`, for a complement may change the task.

    New columns: `category` (where there was none), `complement`, `augmented_prompt` (the user's
    words, `separator`, the complement), `critique` (struct of `ok`, `problem`, `reason`,
    `repaired`); of prompts `source_prompt_id`; of pairs the sides' origins.

    Reasons: `not_single_turn`, `too_long` (complement over `max_words`), `unparseable` (critique),
    `no_complement` (the critic says that the prompt is best as it is), `repair_too_long`, of pairs
    `same_text`, `not_confirmed`; those of the gate (`echo`: of an example, too) and the engines.

    Attributes:
        writer: writes complements; `sampling` is of its drawing.
        critic: judges them; null takes the writer.
        make: see above.
        category: column with the kind of a prompt, for the examples; prompts of an unknown kind
            are `general`.
        examples: by kind: `complements`, or a YAML file of your own (kind -> list of `request` and
            `complement`).
        max_words: of a complement (about 30 in the source); in scripts without spaces two letters
            count as a word.
        separator: between prompt and complement.
        answerer, answer_sampling: what gives the answers of pairs, and how they are drawn.
        judge: confirms each pair in both orders; null: nobody does.
        origin: of the answers.

    Example:
        - generators.AugmentPrompts:
            writer: {engine: server, base_url: 'http://localhost:8000/v1', model: writer}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS,)
    scope: ClassVar[Scope] = "prompt"
    version: ClassVar[int] = 3
    templates: ClassVar = {
        "complement": Text(
            "generators/new_prompts/prompts/augment/complement.j2",
            ("prompt", "category", "examples", "words", "mark"),
        ),
        "critique": Text(
            "generators/new_prompts/prompts/augment/critique.j2",
            ("prompt", "complement", "words", "mark"),
        ),
        "confirm": BETTER,
    }

    writer: AnyEngine
    critic: AnyEngine | None = None
    make: Literal["prompts", "pairs"] = "prompts"
    category: str = "category"
    examples: str = "complements"
    max_words: int = Field(default=30, ge=1)
    separator: str = "\n"
    answerer: AnyEngine | None = None
    answer_sampling: SamplingParams = SamplingParams(max_tokens=1024)
    judge: AnyEngine | None = None
    origin: Origin = "open_model"
    attempts: int = Field(default=5, ge=1)

    @model_validator(mode="after")
    def _validate_make(self) -> Self:
        if self.make == "pairs" and self.answerer is None:
            raise ValueError("answerer: pairs need a model that answers")
        if self.make == "prompts" and (self.answerer is not None or self.judge is not None):
            raise ValueError("answerer and judge go with `make: pairs`")
        load_examples(self.examples)
        return self

    def identity(self) -> dict[str, Any]:
        """Fields, and the examples."""
        pool = load_examples(self.examples)
        examples = {k: [e.model_dump() for e in v] for k, v in pool.items()}
        return {**super().identity(), "pool": examples}

    @property
    def new_prompts(self) -> bool:  # type: ignore[override]
        """Whether the rows are prompts with their complements."""
        return self.make == "prompts"

    @property
    def parents(self) -> tuple[str, ...]:  # type: ignore[override]
        """Of prompts a column of their own, of pairs their prompt."""
        return (PARENT,) if self.make == "prompts" else ("prompt_id",)

    def out_shape(self, shape: Shape) -> Shape:
        """PROMPTS or PAIRS."""
        return Shape.PROMPTS if self.make == "prompts" else Shape.PAIRS

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """The complement and what the critic said."""
        text: pl.DataType = pl.String()
        own = {"category": text, "complement": text, "augmented_prompt": text, "critique": CRITIQUE}
        return {**own, **({PARENT: text} if self.make == "prompts" else ORIGINS)}

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """A complement and a critique per prompt; for pairs two answers, and two verdicts."""
        asks = [
            Asks(self.writer, rows, QUESTION_TOKENS, 2 * self.max_words),
            Asks(self.critic or self.writer, rows, QUESTION_TOKENS, FORM_TOKENS),
        ]
        if self.answerer is not None:
            asks.append(
                Asks(self.answerer, 2 * rows, QUESTION_TOKENS, self.answer_sampling.max_tokens)
            )
        if self.judge is not None:
            asks.append(
                Asks(self.judge, 2 * rows, 2 * self.answer_sampling.max_tokens, FORM_TOKENS)
            )
        return asks

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Complement the prompts of a table.

        Args:
            table: PROMPTS.
            ctx: opens the models; draws by prompt id.

        Returns:
            PROMPTS or PAIRS in canonical order, and the prompts without a complement or a pair.
        """
        tasks = self._tasks(table)
        self._complement(tasks, ctx)
        self._criticise(tasks, ctx)
        if self.make == "pairs":
            self._contrast(tasks, ctx)
        fine = open_tasks(tasks)
        return Generated(self._rows(table, fine), lost(table["prompt_id"], tasks), missed(tasks))

    def _tasks(self, table: pl.DataFrame) -> list[_Prompt]:
        kinds = table[self.category] if self.category in table.columns else [None] * table.height
        tasks = []
        columns = zip(table["prompt_id"], table["prompt"].to_list(), kinds, strict=True)
        for row, (key, prompt, kind) in enumerate(columns):
            task = _Prompt(row, key, prompt=prompt, text=user_turn(prompt) or "")
            if kind is not None:
                task.category = str(kind)
            if not task.text.strip():
                task.fail("not_single_turn", "no single message of a user with text")
            tasks.append(task)
        return tasks

    def _complement(self, tasks: list[_Prompt], ctx: Context) -> None:
        pool = load_examples(self.examples)

        def known(task: _Prompt) -> tuple[Example, ...]:
            return pool.get(task.category) or pool["general"]

        def question(task: _Prompt) -> str:
            return self.render(
                "complement",
                prompt=task.text,
                category=task.category,
                examples=[e.model_dump() for e in known(task)],
                words=self.max_words,
                mark=fence(task.text),
            )

        def take(task: _Prompt, text: str) -> None:
            shown = {t.casefold() for e in known(task) for t in (e.request, e.complement)}
            if text.casefold() in shown:
                task.fail("echo", f"complement: it is that of an example: {text!r}")
            task.complement = text

        self.asker(ctx, self.writer).parsed(
            tasks, "complement", self._short, question, take, written=str
        )

    def _short(self, text: str) -> str:
        """A complement out of an answer.

        Raises:
            ValueError: it is empty or too long; a sentence for the model.
        """
        complement = storable(text).strip()
        if len(complement) > 1 and complement[0] in "\"'\u201c" and complement[-1] in "\"'\u201d":
            complement = complement[1:-1].strip()
        if not complement:
            raise ValueError("The complement is empty.")
        if (count := word_count(complement)) > self.max_words:
            raise UnfitError("too_long", f"That has {count} words. Use at most {self.max_words}.")
        return complement

    def _criticise(self, tasks: list[_Prompt], ctx: Context) -> None:
        def question(task: _Prompt) -> str:
            return self.render(
                "critique",
                prompt=task.text,
                complement=task.complement,
                words=self.max_words,
                mark=fence(task.text, task.complement),
            )

        def take(task: _Prompt, answer: dict[str, Any]) -> None:
            fine, repaired = answer["problem"] == "none", answer["repaired"]
            task.critique = {
                "ok": fine,
                "problem": None if fine else answer["problem"],
                "reason": answer["reason"],
                "repaired": not fine,
            }
            if not fine and not repaired:
                task.fail("no_complement", f"{answer['problem']}: {answer['reason']}")
            elif not fine and (count := word_count(repaired)) > self.max_words:
                task.fail("repair_too_long", f"{count} words; at most {self.max_words}")
            elif not fine:
                task.complement = repaired
            task.augmented = f"{task.text}{self.separator}{task.complement}"

        critic = self.critic or self.writer
        asker = self.asker(ctx, critic, greedy=True)
        asker.forms(tasks, "critique", _CRITIQUE, question, take, _repaired)

    def _contrast(self, tasks: list[_Prompt], ctx: Context) -> None:
        """Answers with and without the complement, both drawn alike."""
        assert self.answerer is not None  # noqa: S101 - validated
        answerer = self.asker(ctx, self.answerer, self.answer_sampling)

        def take_with(task: _Prompt, text: str) -> None:
            task.with_it = text

        def take_without(task: _Prompt, text: str) -> None:
            task.without = text
            if text == task.with_it:
                task.fail("same_text", "the complement changed nothing")

        answerer.texts(tasks, "with complement", _augmented, take_with)
        answerer.texts(tasks, "without", lambda t: t.prompt, take_without)
        if self.judge is not None:
            contest = lambda t: Contest(t.text, t.with_it, t.without, _CRITERION)  # noqa: E731
            judge = self.asker(ctx, self.judge, greedy=True)
            confirm(judge, tasks, contest, partial(self.render, "confirm"))

    def _rows(self, table: pl.DataFrame, fine: list[_Prompt]) -> pl.DataFrame:
        new: dict[str, Column] = {
            "category": text_column([t.category for t in fine]),
            "complement": text_column([t.complement for t in fine]),
            "augmented_prompt": text_column([t.augmented for t in fine]),
            "critique": (CRITIQUE, [t.critique for t in fine]),
        }
        rows = [t.row for t in fine]
        if self.make == "prompts":
            new["prompt"] = talks([_augmented(t) for t in fine])
            return children(table, rows, new, Shape.PROMPTS, PARENT)
        assert self.answerer is not None  # noqa: S101 - validated
        new |= sides(
            [(t.with_it, t.without) for t in fine],
            (self.answerer.model, self.answerer.model),
            (self.origin, self.origin),
            "rule" if self.judge is None else "judge",
        )
        return children(table, rows, new, Shape.PAIRS)


def _repaired(answer: dict[str, Any]) -> str:
    """What of a critique becomes a complement; its verdict where nothing does."""
    fixed = answer["repaired"] if answer["problem"] != "none" else ""
    return fixed.strip() or str(answer["problem"])


def _augmented(task: _Prompt) -> list[Message]:
    return with_user_turn(task.prompt, task.augmented)
