"""Implicit rewards: how much more a policy likes an answer than the model it started from."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field

from labelers.models import chat_rows
from labelers.models.causal import answer_log_probabilities
from labelers.models.chat_rows import Row
from labelers.models.language_models import Loaded, Model, opened
from labelers.models.likelihood import EMPTY
from prefactory.context import Context
from prefactory.errors import ConfigError
from prefactory.step import Labeler, Passes
from prefactory.tables import SCORE, Shape


class ImplicitReward(Labeler):
    """Add `score_<name>`, a tuned model's implicit reward `beta log(pi(y | x) / pi_ref(y | x))`.

    Up to a constant of the prompt it is the reward that DPO fitted (arXiv:2305.18290), so it
    compares answers to one prompt. Reward-augmented relabelling uses it where there are no scores
    (IRA, arXiv:2410.08067); as it is on no 1-to-10 scale, rescale it by quantiles:

        - labelers.ImplicitReward: {policy: {model: my-dpo-model}, reference: {model: my-sft-model}}
        - labelers.RewardAugmented: {objective: implicit, rescale: quantile}

    Range: all numbers. Direction: higher is better. The sum runs over the answer's own tokens, not
    the template's end of turn. The policy's tokenizer and template make the tokens for both models,
    which must have one vocabulary. `reason_<name>` (String): `too_long`, `template` or `empty`.

    Attributes:
        policy: the tuned causal language model.
        reference: the model it started from.
        beta: of its DPO training; scales the scores and no more.
        normalise: `sum` over tokens, or their `mean`, so that long answers weigh no more.
        name: of the new objective.
        template: see `labelers.Likelihood`.
        too_long: a conversation over a model's limit: `null`, or `truncate` its prompt's start (to
            the policy's limit).

    Example:
        - labelers.ImplicitReward:
            policy: {model: PATH_OR_HUB_ID}
            reference: {model: PATH_OR_HUB_ID}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    score_range: ClassVar[tuple[float | None, float | None]] = (None, None)
    direction: ClassVar[str] = "higher"

    policy: Model
    reference: Model
    beta: float = Field(default=0.1, gt=0)
    normalise: Literal["sum", "mean"] = "sum"
    name: str = Field(default="implicit", min_length=1)
    template: Literal["auto", "chat", "plain"] = "auto"
    too_long: Literal["null", "truncate"] = "null"

    def engines(self) -> list[dict[str, Any]]:
        """Identities of the models, resolved on this machine."""
        return [self.policy.identity(), self.reference.identity()]

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`score_<name>` (Float64) and `reason_<name>` (String)."""
        return {f"{SCORE}{self.name}": pl.Float64(), f"reason_{self.name}": pl.String()}

    def passes(self, rows: int) -> list[Passes]:
        """A pass of each model an answer."""
        return [Passes(model.model, rows, 0) for model in (self.policy, self.reference)]

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Score every answer.

        Returns:
            The columns of `adds`, same height and order.

        Raises:
            ConfigError: a model can't be loaded, or their vocabularies differ.
        """
        prompts, responses = table["prompt"].to_list(), table["response"].to_list()
        with opened(self.policy, "causal") as policy:
            cut = self.too_long == "truncate"
            rows = chat_rows.rows(
                policy.tokenizer, policy.limit, prompts, responses, self.template, cut
            )
            words = policy.tokenizer.get_vocab()
            liked = _log_probabilities(policy, rows)
        with opened(self.reference, "causal") as reference:
            if reference.tokenizer.get_vocab() != words:
                raise ConfigError(
                    f"{self.policy.model!r} and {self.reference.model!r} have different "
                    "vocabularies, so their likelihoods of tokens do not compare"
                )
            rows = chat_rows.fitting(rows, reference.limit)
            liked_before = _log_probabilities(reference, rows)
        reward = self.beta * (liked - liked_before)
        if self.normalise == "sum":
            reward *= [_tokens(row) for row in rows]
        reasons = [row.reason or (EMPTY if not _tokens(row) else None) for row in rows]
        columns = {f"{SCORE}{self.name}": reward, f"reason_{self.name}": reasons}
        return pl.DataFrame(columns, schema=self.adds(Shape.RESPONSES)).fill_nan(None)


def _tokens(row: Row) -> int:
    """Tokens of an answer that have one before them to depend on."""
    return max(0, row.span[1] - max(row.span[0], 1))


def _log_probabilities(loaded: Loaded, rows: list[Row]) -> np.ndarray:
    """Mean log-probability of answers, float64 [n], NaN for rows with a reason or no token."""
    out = np.full(len(rows), np.nan)
    good = [i for i, row in enumerate(rows) if row.reason is None and _tokens(row)]
    out[good] = answer_log_probabilities(loaded, [rows[i] for i in good], alone=False).conditional
    return out
