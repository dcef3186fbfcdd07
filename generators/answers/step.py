"""Answers sampled from one or several models: PROMPTS become RESPONSES."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import polars as pl
from pydantic import Field, field_validator, model_validator

from generators.answers.calls import PROMPT_TOKENS, Call, outcomes, results
from generators.answers.rows import ADDS, generated, prompt_rows
from prefactory.asking import Sampled
from prefactory.asking.gate import Gated
from prefactory.context import Context
from prefactory.engines.base import Message, Request, Sampling, SamplingParams
from prefactory.engines.configs import AnyEngine
from prefactory.identity import canonical_json
from prefactory.step import Asks, Generated, Generator, Scope
from prefactory.tables import Shape, shape_of

Origin = Literal["human", "closed_model", "open_model", "rule", "self"]
Heat = Annotated[float, Field(ge=0)]


class SpreadSampling(SamplingParams):
    """As `SamplingParams`, with a temperature for each sample.

    Attributes:
        temperature: of all samples, or [low, high]: drawn uniformly for each sample, to 0.001.
    """

    temperature: Heat | tuple[Heat, Heat] = 1.0  # type: ignore[assignment]

    @field_validator("temperature")
    @classmethod
    def _in_order(cls, value: float | tuple[float, float]) -> float | tuple[float, float]:
        if isinstance(value, tuple) and value[0] > value[1]:
            raise ValueError("the low end is above the high end")
        return value

    def at(self, temperature: float, seed: int) -> Sampling:
        """One sample's, at a temperature that was drawn."""
        own = self.model_dump(exclude={"temperature"})
        return SamplingParams(temperature=temperature, **own).drawn(seed)


class Responses(Gated, Sampled, Generator):
    """Answer every prompt n times with each of several models, or with some drawn per prompt.

    On RESPONSES the answers that are there stay and new ones come beside them (on-policy samples
    beside those of others, Tulu 3, arXiv:2411.15124); what is new has no scores yet. Each draw, of
    models, system messages, temperatures and tokens, comes from (recipe seed, step, prompt, model,
    sample): neither shards nor the answers of others change it.

    Columns beside those of responses: `sample` (Int64, index among the model's), `temperature`
    (Float64), `system_used` (String, null if none was drawn), and `parent_id`, `finish_reason`,
    `same_samples`, `failed_samples` and `failures`, see `generators.answers.rows.ADDS`. Answers
    lose outer white space; of answers of one text to one prompt the first stays, by model and
    sample. Columns of PROMPTS pass through.

    Reasons, for prompts of which no call was answered: those of the engine, `empty_answer`,
    `truncated`. Where some calls failed, `failed_samples` counts them on every row of the prompt.

    UltraFeedback (arXiv:2310.01377) is `per_prompt: 4` of 17 models with a principle each in
    `systems`; a preference set as in Baichuan's report (arXiv:2410.14940) is `n: 5`,
    `sampling: {temperature: 1, top_k: 50, top_p: 0.99}`.

    Attributes:
        models: what answers.
        per_prompt: models drawn for each prompt, without replacement; null takes all.
        n: samples of each of them.
        sampling: how answers are drawn, see `SpreadSampling`; its temperature may be a range.
        systems: system messages, one drawn uniformly for each sample; "" is none. A system message
            that the prompt has comes first, a blank line between.
        system_in_prompt: keep the drawn message in the answer's `prompt`, which then is another
            prompt; else the prompt stays as it was, and only `system_used` tells.
        origin: of the answers, one for all or by name of the model.

    Example:
        - generators.Responses:
            models: [{engine: server, base_url: 'http://localhost:8000/v1', model: writer}]
            n: 4
            sampling: {temperature: 1.0}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS, Shape.RESPONSES)
    scope: ClassVar[Scope] = "prompt"
    parents: ClassVar[tuple[str, ...]] = ("parent_id",)

    models: tuple[AnyEngine, ...] = Field(min_length=1)
    per_prompt: int | None = Field(default=None, ge=1)
    n: int = Field(default=1, ge=1)
    sampling: SpreadSampling = SpreadSampling(max_tokens=1024)
    systems: tuple[str, ...] = ()
    system_in_prompt: bool = False
    origin: Origin | dict[str, Origin] = "open_model"

    @field_validator("models")
    @classmethod
    def _each_once(cls, value: tuple[AnyEngine, ...]) -> tuple[AnyEngine, ...]:
        texts = [canonical_json(m.model_dump(mode="json")) for m in value]
        if len(set(texts)) < len(texts):
            raise ValueError("the same model stands there twice; `n` sets the number of samples")
        return value

    @model_validator(mode="after")
    def _validate_fields(self) -> Self:
        if self.per_prompt is not None and self.per_prompt > len(self.models):
            raise ValueError(f"per_prompt={self.per_prompt}: there are {len(self.models)} models")
        if self.system_in_prompt and not self.systems:
            raise ValueError("system_in_prompt: there are no `systems`")
        if isinstance(self.origin, dict):
            missing = {m.model for m in self.models} - set(self.origin)
            if missing:
                raise ValueError(f"origin: say that of {', '.join(sorted(missing))} too")
        return self

    @property
    def new_prompts(self) -> bool:  # type: ignore[override]
        """Whether drawn system messages become part of the prompts."""
        return self.system_in_prompt

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`sample`, `temperature`, `system_used`, and what all sampled answers have."""
        own: dict[str, pl.DataType] = {
            "sample": pl.Int64(),
            "temperature": pl.Float64(),
            "system_used": pl.String(),
        }
        return {**own, **ADDS}

    def out_shape(self, shape: Shape) -> Shape:
        """RESPONSES."""
        return Shape.RESPONSES

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """`n` calls per prompt and drawn model; prompts are taken to have 300 tokens."""
        drawn = self.per_prompt or len(self.models)
        calls = -(-prompts * self.n * drawn // len(self.models))
        return [Asks(m, calls, PROMPT_TOKENS, self.sampling.max_tokens) for m in self.models]

    def grows(self, rows: int, prompts: int) -> tuple[int, int]:
        """Every call an answer, beside those that are there."""
        answers = prompts * self.n * (self.per_prompt or len(self.models))
        return answers + (rows if rows > prompts else 0), answers if self.new_prompts else prompts

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Answer the prompts of a table.

        Args:
            table: PROMPTS, or RESPONSES with all answers of each prompt.
            ctx: opens the models; draws by prompt id.

        Returns:
            RESPONSES in canonical order, and the prompts without any answer.
        """
        shape = shape_of(table)
        base = prompt_rows(table, shape)
        drawn = self._draws(base, ctx)
        calls = list(self._calls(base, drawn, ctx))
        replies = results(ctx, self.models, calls)
        names = [m.model for m in self.models]
        texts = outcomes(calls, replies, names, self.gate, [ctx.open(m) for m in self.models])
        answers = drawn.hstack(texts.get_columns()).with_columns(
            model=pl.Series([names[c.model] for c in calls], dtype=pl.String),
            origin=pl.Series([self._origin(names[c.model]) for c in calls], dtype=pl.String),
        )
        if self.system_in_prompt:
            asked = [list(c.request.conversation) for c in calls]
            answers = answers.with_columns(pl.Series("prompt", asked, dtype=base.schema["prompt"]))
        return generated(table, shape, answers.drop("place"))

    def _origin(self, model: str) -> str:
        return self.origin[model] if isinstance(self.origin, dict) else self.origin

    def _draws(self, base: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """A row per call, by prompt, model and sample, `place` being that of the model."""
        ids = base["prompt_id"]
        labels = _distinct([m.model for m in self.models])
        chosen = np.ones((ids.len(), len(labels)), dtype=bool)
        if self.per_prompt is not None:
            lots = [ctx.uniform(ids, f"model {label}").to_numpy() for label in labels]
            rank = np.argsort(np.argsort(np.stack(lots, axis=1), axis=1, kind="stable"), axis=1)
            chosen = rank < self.per_prompt
        row, place = np.nonzero(chosen)
        calls = pl.DataFrame({"row": np.repeat(row, self.n), "place": np.repeat(place, self.n)})
        calls = calls.select(pl.all().cast(pl.Int64)).with_columns(
            sample=pl.int_range(pl.len()) % self.n
        )
        of_model = pl.Series(labels, dtype=pl.String).gather(calls["place"])
        keys = pl.DataFrame({"id": ids.gather(calls["row"]), "m": of_model, "s": calls["sample"]})
        keyed = keys.select(pl.concat_str("id", "m", "s", separator="/")).to_series()
        return calls.with_columns(self._heats(keyed, ctx), self._drawn_systems(keyed, ctx))

    def _heats(self, keys: pl.Series, ctx: Context) -> pl.Series:
        if isinstance(self.sampling.temperature, tuple):
            low, high = self.sampling.temperature
            heats = low + (high - low) * ctx.uniform(keys, "temperature")
            return heats.round(3).alias("temperature")
        return pl.repeat(self.sampling.temperature, keys.len(), eager=True, dtype=pl.Float64).alias(
            "temperature"
        )

    def _drawn_systems(self, keys: pl.Series, ctx: Context) -> pl.Series:
        drawn = pl.Series([None] * keys.len(), dtype=pl.String)
        if self.systems:
            place = (ctx.uniform(keys, "system") * len(self.systems)).cast(pl.Int64)
            drawn = pl.Series([s or None for s in self.systems], dtype=pl.String).gather(place)
        return drawn.alias("system_used")

    def _calls(self, base: pl.DataFrame, drawn: pl.DataFrame, ctx: Context) -> Iterator[Call]:
        prompts: list[list[Message]] = base["prompt"].to_list()
        ids = base["prompt_id"].to_list()
        heats = {h: self.sampling.at(h, ctx.seed) for h in drawn["temperature"].unique()}
        alike = not self.systems and not isinstance(self.sampling.temperature, tuple)
        columns = ("row", "place", "sample", "temperature", "system_used")
        for row, place, sample, heat, system in drawn.select(columns).iter_rows():
            row_id = f"{ids[row]}/{ctx.step}/{self.models[place].model}"
            row_id += "" if alike else f"/{sample}"  # samples that differ are no one request
            conversation = prompts[row] if system is None else with_system(prompts[row], system)
            yield Call(row, place, Request(conversation, heats[heat], sample, row_id))


def with_system(conversation: list[Message], text: str) -> list[Message]:
    """A conversation that begins with a system message, after the one it has, if any."""
    if conversation and conversation[0]["role"] == "system":
        before = conversation[0]["content"]
        return [{"role": "system", "content": f"{before}\n\n{text}"}, *conversation[1:]]
    return [{"role": "system", "content": text}, *conversation]


def _distinct(names: list[str]) -> list[str]:
    """Names with a number behind those that were there before: `m`, `m#2`."""
    return [
        name if name not in names[:i] else f"{name}#{names[:i].count(name) + 1}"
        for i, name in enumerate(names)
    ]
