"""How likely an answer is under language models: PoFT's score, and IFD."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field, field_validator

from labelers.models import chat_rows
from labelers.models.causal import answer_log_probabilities
from labelers.models.chat_rows import Row
from labelers.models.language_models import Model, opened
from prefactory.context import Context
from prefactory.step import Labeler, Passes
from prefactory.tables import SCORE, Shape

Objective = Literal["log_probability", "log_probability_alone", "ifd"]
EMPTY = "empty"
"""Reason of an answer without tokens."""


class Likelihood(Labeler):
    """Add how likely every answer is under one or several causal language models.

    - `score_log_probability`: mean over the answer's tokens of log p(token | prompt, tokens
      before), in nats; with several models the mean of their means, each under its own template
      and tokenizer: PoFT's `mean_log_llm_probs` (arXiv:2412.12865). Range: (-inf, 0]. Direction:
      higher means more like what the models would say.
    - `score_log_probability_alone`: the same mean without the prompt: log p(token | the answer's
      tokens before). Range and direction: as above. The two together tell a stack of features
      what is likely as such and what the prompt makes likely (`labelers.PreferenceStack:
      {outside: [log_probability, log_probability_alone]}`).
    - `score_ifd`: instruction-following difficulty, ppl(answer | prompt) / ppl(answer), the mean
      over models (Cherry LLM, arXiv:2308.12032; a small model ranks alike: Superfiltering,
      arXiv:2402.00530). Range: above 0; at 1 or more the prompt does not help. Direction: higher
      is harder; papers keep the highest that are below 1.

    Only the answer's own tokens count, not the template's end of turn; very short answers have
    extreme means. With `precision: bf16` (what "auto" takes where the device has it) a mean is off
    by up to 1e-3 nats: fine for ranking, not for the difference of two scores, which wants
    `models: [{model: ..., precision: fp32}]`. A model that wrote the answers prefers them: its
    identity is in the manifest.
    `reason_<name>` (String) says why scores are null: `too_long`, `template` or `empty`.

    Attributes:
        models: the language models; an answer that one of them can't score is not scored.
        objectives: which scores to add.
        name: of the reason's column.
        prefix: put before the objectives' names, to score by several sets of models.
        template: `chat`, `plain` (contents joined by blank lines), or `auto`: chat if there is one.
        too_long: a conversation over a model's limit: `null`, or `truncate` its prompt's start.

    Example:
        - labelers.Likelihood: {models: [{model: PATH_OR_HUB_ID}]}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    score_range: ClassVar[tuple[float | None, float | None]] = (None, None)
    direction: ClassVar[str] = "higher"

    models: tuple[Model, ...] = Field(min_length=1)
    objectives: tuple[Objective, ...] = Field(default=("log_probability",), min_length=1)
    name: str = Field(default="likelihood", min_length=1)
    prefix: str = ""
    template: Literal["auto", "chat", "plain"] = "auto"
    too_long: Literal["null", "truncate"] = "null"

    @field_validator("objectives", "models")
    @classmethod
    def _each_once(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(value)) != len(value):
            raise ValueError("every value may be there once")
        return value

    def engines(self) -> list[dict[str, Any]]:
        """Identities of the models, resolved on this machine."""
        return [model.identity() for model in self.models]

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`score_<prefix><objective>` (Float64) and `reason_<name>` (String)."""
        scores: dict[str, pl.DataType] = {
            f"{SCORE}{self.prefix}{o}": pl.Float64() for o in self.objectives
        }
        return {**scores, f"reason_{self.name}": pl.String()}

    def passes(self, rows: int) -> list[Passes]:
        """A pass of each model an answer, and one more without the prompt where that is asked."""
        each = rows * (1 if set(self.objectives) == {"log_probability"} else 2)
        return [Passes(model.model, each, 0) for model in self.models]

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Score every answer.

        Returns:
            The columns of `adds`, same height and order.

        Raises:
            ConfigError: a model can't be loaded.
        """
        each = [self._under(model, table) for model in self.models]
        scores = {
            "log_probability": np.mean([conditional for conditional, _, _ in each], axis=0),
            "log_probability_alone": np.mean([alone for _, alone, _ in each], axis=0),
            "ifd": np.mean([ifd(conditional, alone) for conditional, alone, _ in each], axis=0),
        }
        columns = [
            pl.Series(f"{SCORE}{self.prefix}{o}", scores[o], dtype=pl.Float64)
            for o in self.objectives
        ]
        reasons = pl.DataFrame(
            [pl.Series(str(i), r, dtype=pl.String) for i, (_, _, r) in enumerate(each)]
        )
        reason = reasons.select(pl.coalesce(pl.all()).alias(f"reason_{self.name}"))
        return pl.DataFrame(columns).fill_nan(None).hstack(reason)

    def _under(
        self, model: Model, table: pl.DataFrame
    ) -> tuple[np.ndarray, np.ndarray, list[str | None]]:
        """Log-probabilities with and without the prompt, float64 [n], and reasons of one model."""
        prompts, responses = table["prompt"].to_list(), table["response"].to_list()
        conditional = np.full(table.height, np.nan)
        alone = np.full(table.height, np.nan)
        with opened(model, "causal") as loaded:
            cut = self.too_long == "truncate"
            rows = chat_rows.rows(
                loaded.tokenizer, loaded.limit, prompts, responses, self.template, cut
            )
            good = [i for i, r in enumerate(rows) if _reason(r) is None]
            scores = answer_log_probabilities(
                loaded, [rows[i] for i in good], alone=set(self.objectives) != {"log_probability"}
            )
        conditional[good], alone[good] = scores.conditional, scores.alone
        return conditional, alone, [_reason(r) for r in rows]


def _reason(row: Row) -> str | None:
    return row.reason or (EMPTY if row.span[1] <= row.span[0] else None)


def ifd(conditional: np.ndarray, alone: np.ndarray) -> np.ndarray:
    """Ratio of perplexities with and without the prompt, from mean log-probabilities.

    Known answers: equal means give 1; -1 with the prompt and -2 without give exp(-1).

    Args:
        conditional: mean log p(answer | prompt), nats per token, float64 [n].
        alone: mean log p(answer), float64 [n].

    Returns:
        float64 [n], above 0.
    """
    ratio: np.ndarray = np.exp(alone - conditional)
    return ratio
