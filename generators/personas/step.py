"""System messages of people: psychometric profiles become personas (PAPI)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from catalog.values import coverage, facts, load, names
from generators.personas.profile import (
    BANDS,
    Floats,
    ItemBank,
    bands,
    diverse,
    draw_people,
    held_items,
    load_bank,
    trait_scores,
)
from generators.personas.text import Portrait, parse_portrait
from generators.system_messages.place import (
    ADDS,
    Existing,
    answer_text,
    judged,
    leaked,
    placed,
)
from generators.system_messages.sets import Grid, balanced_sets
from prefactory.asking import Asking, ask, conversation
from prefactory.asking.gate import Gated
from prefactory.context import Context
from prefactory.engines.base import Failure, SamplingParams
from prefactory.engines.configs import AnyEngine
from prefactory.measures import diversity
from prefactory.prompts import Prompted, Text
from prefactory.step import Asks, Generated, Generator, Scope, State
from prefactory.tables import Shape, text_of

PORTRAIT_TOKENS = 500
HELD: pl.DataType = pl.List(
    pl.Struct({"item": pl.String, "trait": pl.String, "key": pl.Int8, "answer": pl.Int8})
)
"""Items that describe nobody, with a person's answers (1 to 5) to them."""


class Personas(Gated, Prompted, Asking, Generator):
    """Put system messages of made-up people before each prompt.

    A profile sampler after Personality Alignment (PAPI, arXiv:2408.11779): people are drawn as
    answers to keyed personality items; their traits' scores (means, 1 to 5) fall into bands by
    percentile among the drawn (below 33, above 67); a persona's text is a clause per trait and
    items that agree with the bands, clear answers before faint ones, and none of either end for a
    trait in the middle. Who stands before which prompt is balanced, in the
    order of a hash of the prompt ids.

    `form: prose` and `list` need no model; with `engine` a model makes a portrait of each person
    (`people` calls in all, whatever the number of prompts).

    The items are our own, in English, and were never validated on people: a persona is a style,
    not a measurement. No real person's answers are used.

    New columns: those of `generators.system_messages.place.ADDS` (`value_ids` are the bands, such
    as `big5:openness.high`), `persona` (Int64, number of the person) and `traits` (List(Float64),
    scores in the order of the bank); with `held_out` also `held_items`, the items that no text
    tells, with the person's answers: `labelers.PersonaItems` asks a model for them.

    Reasons: `has_system`, `has_role`, `no_user_message`, `leaks_answer`, and those of the engine.

    Attributes:
        people: how many personas there are.
        candidates: so many times as many are drawn, and those kept that differ most (k-means, as
            the source picks 300 of its subjects); 1 keeps all.
        messages: personas per prompt.
        statements: items in a text, at most.
        form: `prose`, or `list`: items with how true they are.
        held_out: share of each trait's items that describe nobody: neither texts nor traits are
            made of them (0.6 in the source: 180 of 300).
        bank: of items, `personality_items`, or a YAML file of your own.
        sensitive: use a bank that is marked as sensitive (dark traits).
        spread, noise: standard deviations of traits and of answers (our choice).
        correlation: of the traits, in the order of the bank; null: independent.
        engine: writes portraits.
        sampling: of `engine` (temperature 0.6 as in the source).
        existing, refuse_roles, answers, leak_words: as for `generators.SystemMessages`.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS,)
    scope: ClassVar[Scope] = "dataset"
    version: ClassVar[int] = 2
    parents: ClassVar[tuple[str, ...]] = ("source_prompt_id",)
    new_prompts: ClassVar[bool] = True
    templates: ClassVar = {
        "portrait": Text("generators/personas/prompts/portrait.j2", ("items", "clauses"))
    }

    people: int = Field(default=300, ge=1, le=5000)
    candidates: int = Field(default=5, ge=1, le=100)
    messages: int = Field(default=1, ge=1)
    statements: int = Field(default=8, ge=0)
    held_out: float = Field(default=0.0, ge=0, lt=1)
    form: Literal["prose", "list"] = "prose"
    bank: str = Field(default="personality_items", min_length=1)
    sensitive: bool = False
    spread: float = Field(default=0.7, gt=0)
    noise: float = Field(default=0.7, ge=0)
    correlation: tuple[tuple[float, ...], ...] | None = None
    engine: AnyEngine | None = None
    sampling: SamplingParams = SamplingParams(temperature=0.6, max_tokens=400)
    existing: Existing = "drop"
    refuse_roles: bool = True
    answers: tuple[Annotated[str, Field(min_length=1)], ...] = ("reference", "response", "answer")
    leak_words: int = Field(default=6, ge=2)

    @model_validator(mode="after")
    def _validate_fields(self) -> Self:
        bank = load_bank(self.bank)
        if bank.sensitive and not self.sensitive:
            raise ValueError(f"bank: {self.bank} is marked as sensitive; allow it")
        if self.messages > self.people:
            raise ValueError(f"messages: there are only {self.people} people")
        try:
            draw_people(1, bank, np.random.default_rng(0), self.spread, self.noise, self._matrix())
        except ValueError as error:
            raise ValueError(str(error)) from error
        return self

    def _matrix(self) -> Floats | None:
        if self.correlation is None:
            return None
        if len({len(row) for row in self.correlation}) != 1:
            raise ValueError("correlation: its rows differ in length")
        return np.array(self.correlation, dtype=np.float64)

    def identity(self) -> dict[str, Any]:
        """Fields, and what stands in the item bank."""
        bank = load_bank(self.bank)
        used = {
            "system": bank.system,
            "items": [list(i) for i in zip(bank.items, bank.trait.tolist(), bank.key.tolist(),
                                           strict=True)],
            "clauses": list(bank.clauses),
        }  # fmt: skip
        return {**super().identity(), "bank": used}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Where the message comes from, who it is, and their traits."""
        held: dict[str, pl.DataType] = {"held_items": HELD} if self.held_out else {}
        return {**ADDS, "persona": pl.Int64(), "traits": pl.List(pl.Float64), **held}

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """One call a person, with `engine`."""
        if self.engine is None:
            return []
        return [Asks(self.engine, self.people, PORTRAIT_TOKENS, self.sampling.max_tokens)]

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to the ids of prompts that can take a message."""
        fine = judged(table, self.existing, self.refuse_roles)["reason"].is_null()
        return table.select("prompt_id").filter(fine)

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Draw the people, write their texts, and share them out.

        Args:
            parts: the rows of `fit_shard`, sorted by id.
            ctx: its seed and step name are the randomness; opens the engine.

        Returns:
            State with the tables `people` (`persona`, `system`, `value_ids`, `traits`, `reason`,
            `detail`) and `picks` (`prompt_id`, `personas` List(Int64)); `info` with `coverage` by
            band and `diversity` of the texts.
        """
        people = self._people(load_bank(self.bank), ctx)
        order = ctx.uniform(parts["prompt_id"], "order").arg_sort()
        ids = parts["prompt_id"].gather(order)
        everyone = np.arange(self.people, dtype=np.int64)
        grid = Grid(
            tuple(map(str, everyone)), (everyone,), np.zeros((1, 1), np.int64),
            np.zeros((self.people, self.people), dtype=bool), 0,
        )  # fmt: skip
        drawn = balanced_sets(ids.len(), self.messages, grid, ctx.rng("picks")).values
        picks = pl.DataFrame(
            {"prompt_id": ids, "personas": pl.Series(list(drawn[:, :, 0]), dtype=pl.List(pl.Int64))}
        )
        texts = people["system"].drop_nulls().to_list()
        info: dict[str, Any] = {"people": self.people, "prompts": ids.len()}
        used = people["value_ids"].gather(drawn.ravel())
        system = load_bank(self.bank).system
        if system in names():
            info["coverage"] = facts(coverage(used, load(system)))
        info["diversity"] = diversity.of_texts(texts, seed=ctx.seed)
        return State({"people": people, "picks": picks.sort("prompt_id")}, info)

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Put the personas before the prompts of a table.

        Args:
            table: PROMPTS.
            ctx: holds the state.

        Returns:
            PROMPTS, `messages` rows per prompt, in canonical order; and the prompts left out.
        """
        fate = table.select(row_id="prompt_id").hstack(
            judged(table, self.existing, self.refuse_roles)
        )
        picks = ctx.fitted.tables["picks"].explode("personas").rename({"personas": "persona"})
        rows = table.join(picks, on="prompt_id", how="inner", maintain_order="left")
        people = ctx.fitted.tables["people"]
        rows = rows.join(people, on="persona", how="left", maintain_order="left")
        given = leaked(
            rows["system"].fill_null(""),
            answer_text(rows, self.answers),
            rows.select(text_of(pl.col("prompt"), "user").fill_null("")).to_series(),
            self.leak_words,
        )
        rows = rows.with_columns(
            reason=pl.when(pl.col("reason").is_null() & given.is_not_null())
            .then(pl.lit("leaks_answer"))
            .otherwise("reason"),
            detail=pl.coalesce("detail", pl.format("the answer's words: {}", given)),
        )
        failed = rows.filter(pl.col("reason").is_not_null()).select(
            pl.col("prompt_id").alias("row_id"), "reason", "detail"
        )
        failed = failed.unique("row_id", keep="first", maintain_order=True)
        rows = rows.join(failed, left_on="prompt_id", right_on="row_id", how="anti")
        dropped = pl.concat([fate.filter(pl.col("reason").is_not_null()), failed])
        rows = rows.drop("reason", "detail").with_columns(
            system_source=pl.lit("persona"), value_system=pl.lit(load_bank(self.bank).system)
        )
        return placed(rows, dropped)

    def _people(self, bank: ItemBank, ctx: Context) -> pl.DataFrame:
        """Draw the people and write their texts."""
        amount = self.people * self.candidates
        answers = draw_people(
            amount, bank, ctx.rng("people"), self.spread, self.noise, self._matrix()
        )
        held = held_items(bank, self.held_out, ctx.rng("held"))
        told = np.where(held, 0, answers).astype(np.int8)
        population = trait_scores(told, bank)
        kept = diverse(told, self.people, ctx.seed)
        answers, told, scores = answers[kept], told[kept], population[kept]
        band = bands(scores, population)
        rng = ctx.rng("texts")
        portraits = [
            Portrait.draw(person, its, bank, rng, self.statements)
            for person, its in zip(told, band, strict=True)
        ]
        messages = self._texts(portraits, ctx)
        failures = [m if isinstance(m, Failure) else None for m in messages]
        ids = [
            [f"{bank.system}:{t}.{BANDS[b]}" for t, b in zip(bank.traits, its, strict=True)]
            for its in band
        ]
        kept_back = [
            [
                {"item": bank.items[i], "trait": bank.traits[bank.trait[i]], "key": bank.key[i],
                 "answer": person[i]}
                for i in np.flatnonzero(held)
            ]
            for person in answers
        ]  # fmt: skip
        own = {"held_items": pl.Series(kept_back, dtype=HELD)} if self.held_out else {}
        return pl.DataFrame(
            {
                **own,
                "persona": pl.int_range(self.people, eager=True),
                "system": pl.Series(
                    [None if isinstance(m, Failure) else m for m in messages], dtype=pl.String
                ),
                "value_ids": pl.Series(ids, dtype=pl.List(pl.String)),
                "traits": pl.Series(scores.round(6).tolist(), dtype=pl.List(pl.Float64)),
                "reason": pl.Series([f and f.reason for f in failures], dtype=pl.String),
                "detail": pl.Series([f and f.detail for f in failures], dtype=pl.String),
            }
        )

    def _texts(self, portraits: list[Portrait], ctx: Context) -> list[str | Failure]:
        """The text of each person."""
        if self.engine is None:
            return [p.prose() if self.form == "prose" else p.listed() for p in portraits]
        questions = [self.render("portrait", **p.shown()) for p in portraits]
        replies = ask(
            ctx.open(self.engine),
            [conversation(question) for question in questions],
            self.sampling.drawn(ctx.seed),
            parse_portrait,
            [f"persona/{i}" for i in range(len(portraits))],
            self.attempts,
        )
        problems = self.asker(ctx, self.engine).problems([reply for (reply,) in replies])
        return [
            reply if isinstance(reply, Failure) else Failure(*problem) if problem else reply.value
            for (reply,), problem in zip(replies, problems, strict=True)
        ]
