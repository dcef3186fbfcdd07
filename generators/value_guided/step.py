"""Answers of a transformers model whose every token is chosen with an eye on a reward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from generators.answers.calls import PROMPT_TOKENS, Call, outcomes, results
from generators.answers.rows import ADDS, generated, prompt_rows
from generators.answers.step import Origin
from prefactory.asking import Sampled
from prefactory.asking.gate import Gated
from prefactory.beside import ImportPath, import_function
from prefactory.context import Context
from prefactory.engines.base import Engine, EngineConfig, Request, SamplingParams
from prefactory.engines.encoder import Encoder
from prefactory.engines.transformers import Transformers
from prefactory.step import Asks, Generated, Generator, Scope
from prefactory.tables import Shape, shape_of


class Reward(BaseModel):
    """What an answer so far is worth; give a model or a function.

    Attributes:
        model: folder of a sequence-classification reward model with safetensors weights.
        head: which of its outputs counts.
        function: import path of `(conversation, texts) -> rewards`: the messages before the answer
            and K answers, a finite number for each. Bump `version` when it acts differently.
        version: of the function; identity.
        device: torch device of the model; None takes CUDA if there is one. Not identity.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = None
    head: int = Field(default=0, ge=0)
    function: ImportPath | None = None
    version: int = 1
    device: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.model is None) == (self.function is None):
            raise ValueError("give either a reward `model` or a `function`")
        return self

    def identity(self) -> dict[str, Any]:
        """What decides a reward, as plain JSON data; a folder's digest included."""
        fields = self.model_dump(mode="json", exclude={"device"})
        if self.model is not None:
            fields["revision"] = Encoder(model=self.model, precision="fp32").resolved().revision
        return fields

    def open(self) -> Callable[[list[dict[str, str]], list[str]], Any]:
        """Import the function, or load the model.

        Raises:
            ConfigError: there is no such function or model.
        """
        if self.function is not None:
            return import_function(self.function, "reward")
        from generators.value_guided.model import RewardNet

        return RewardNet(self.model or "", self.head, self.device).score


class Guided(EngineConfig):
    """A transformers model that decodes by reward, as an engine: see `ValueGuided`."""

    base: Transformers
    reward: Reward
    weight: float
    candidates: int
    rollout: int
    standardise: bool
    baseline_reward: Reward | None = None
    tilt: float = 0.5

    def identity(self) -> dict[str, Any]:
        """What decides an answer beside the request."""
        identity = {**super().identity(), "base": self.base.identity()}
        identity["reward"] = self.reward.identity()
        if self.baseline_reward is None:  # as before there was one: journals stay good
            return {k: v for k, v in identity.items() if k not in ("baseline_reward", "tilt")}
        return {**identity, "baseline_reward": self.baseline_reward.identity()}

    def open(self) -> Engine:
        """Load model and reward.

        Raises:
            ConfigError: one of them can't be loaded.
        """
        from generators.value_guided.model import Guidance, GuidedModel

        guidance = Guidance(self.weight, self.standardise, self.candidates, self.rollout, self.tilt)
        own = None if self.baseline_reward is None else self.baseline_reward.open()
        return GuidedModel(self.base.resolved(), guidance, self.reward.open(), own)


class ValueGuided(Gated, Sampled, Generator):
    """Answer prompts with a model in this process, choosing each token by logit and reward.

    Transfer Q* (arXiv:2405.20495): for each of the `candidates` likeliest next tokens the model
    itself goes on for `rollout` tokens, a reward scores what came out, and the token with the
    greatest logit + `weight` * reward is taken. The rollouts estimate what an aligned model's
    value of a token is. Weight 0 is greedy decoding. A token costs `candidates` rollouts and
    rewards, so best-of-n (`generators.Responses` with `n`, then a scorer) is the cheaper way to
    good answers; this is for few, strong chosen ones.

    Our choices: rollouts are greedy, with the model itself as the paper's code has it (the theory
    asks for another), and rewards are standardised over the candidates, because rewards and logits
    have no common scale; `standardise: false` is as published.

    If the model was itself aligned to a reward (by DPO or RLHF), name that as `baseline_reward`:
    in the paper's indirect form a candidate counts exp(tilt (reward - baseline)) * reward, so that
    what the model already leans to is weighed out. The published code takes 5 tokens of `rollout`
    there and one reward for both; equal rewards give the direct form. Under `standardise` both
    rewards are measured over the candidates before they meet in the exponent (ours).

    Columns beside those of responses: `sample` and those of `generators.answers.rows.ADDS`.

    Reasons, for prompts without an answer: `template`, `too_long`, `empty_answer`.

    Attributes:
        model: a causal language model; its batch size does not count, rows are decoded alone.
        reward: of conversation and answer so far, higher is better.
        weight: of the reward; 0 asks for none.
        baseline_reward: what the model was aligned to; null is the direct form.
        tilt: of the difference of both rewards in the exponent, as published .5.
        candidates: tokens that are looked at.
        rollout: tokens that are written after each.
        standardise: measure rewards by their mean and sd over the candidates.
        n: answers of each prompt; more than one needs a temperature.
        sampling: temperature 0 takes the best token; else it is drawn by
            softmax(value / temperature). None of what cuts tokens off, and no `stop`, can be given.
        name: of the model in the table; null is the model's name with "+guided".
        origin: of the answers.

    Example:
        - generators.ValueGuided:
            model: {engine: transformers, model: PATH_OR_HUB_ID}
            reward: {model: REWARD_FOLDER}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS, Shape.RESPONSES)
    scope: ClassVar[Scope] = "prompt"
    parents: ClassVar[tuple[str, ...]] = ("parent_id",)

    model: Transformers
    reward: Reward
    weight: float = Field(default=1.0, ge=0)
    candidates: int = Field(default=10, ge=1)
    rollout: int = Field(default=20, ge=0)
    standardise: bool = True
    baseline_reward: Reward | None = None
    tilt: float = Field(default=0.5, ge=0)
    n: int = Field(default=1, ge=1)
    sampling: SamplingParams = SamplingParams(temperature=0.0, max_tokens=256)
    name: str | None = Field(default=None, min_length=1)
    origin: Origin = "open_model"

    @model_validator(mode="after")
    def _validate_n(self) -> Self:
        if self.n > 1 and self.sampling.temperature == 0:
            raise ValueError("n: at temperature 0 all answers would be the same")
        if self.sampling.cuts or self.sampling.stop:
            raise ValueError(
                "sampling: top_k, top_p, min_p, repetition_penalty and stop can't be kept here; "
                "leave them out"
            )
        return self

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`sample` (Int64) and what all sampled answers have."""
        return {"sample": pl.Int64(), **ADDS}

    def out_shape(self, shape: Shape) -> Shape:
        """RESPONSES."""
        return Shape.RESPONSES

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """`n` answers per prompt, each with all its rollouts."""
        tokens = self.sampling.max_tokens * (1 + self.candidates * self.rollout * bool(self.weight))
        return [Asks(self.model, self.n * prompts, PROMPT_TOKENS, tokens)]

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Answer the prompts of a table.

        Args:
            table: PROMPTS, or RESPONSES with all answers of each prompt.
            ctx: opens the model.

        Returns:
            RESPONSES in canonical order, and the prompts without any answer.
        """
        shape = shape_of(table)
        base = prompt_rows(table, shape)
        name = self.name or f"{self.model.model}+guided"
        numbers = {"weight", "candidates", "rollout", "standardise", "tilt"}
        engine = Guided(
            model=name,
            base=self.model,
            reward=self.reward,
            baseline_reward=self.baseline_reward,
            **self.model_dump(include=numbers),
        )
        sampling = self.sampling.drawn(ctx.seed)
        calls = [
            Call(row, 0, Request(prompt, sampling, sample, f"{prompt_id}/{ctx.step}"))
            for row, (prompt_id, prompt) in enumerate(
                zip(base["prompt_id"], base["prompt"].to_list(), strict=True)
            )
            for sample in range(self.n)
        ]
        texts = outcomes(
            calls, results(ctx, [engine], calls), [name], self.gate, [ctx.open(engine)]
        )
        answers = texts.with_columns(
            row=pl.Series([c.row for c in calls], dtype=pl.Int64),
            sample=pl.Series([c.request.sample for c in calls], dtype=pl.Int64),
            model=pl.lit(name),
            origin=pl.lit(self.origin),
        )
        return generated(table, shape, answers)
