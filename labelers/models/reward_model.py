"""Sequence-classification reward models: one score or many for every answer."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field, field_validator

from labelers.models import chat_rows
from labelers.models.chat_rows import Messages, Row, Template
from labelers.models.language_models import Loaded, Model, opened
from prefactory.context import Context
from prefactory.errors import ConfigError
from prefactory.step import Labeler
from prefactory.tables import SCORE, Shape

Activation = Literal["none", "sigmoid", "softmax"]
TooLong = Literal["null", "truncate"]


class RewardModel(Labeler):
    """Add `score_<objective>` for every head of a reward model, and `reason_<name>`.

    Objectives: as named, one for each head, in the model's order (a model with many attributes,
    such as ArmoRM or a HelpSteer2 regression model, keeps its whole vector: `labelers.Combine`
    weighs it later). Range: all real numbers; (0, 1) with an activation. Direction: higher is
    better, unless the head measures something bad (toxicity, verbosity): then weigh it negatively.

    A decoder's score is read at the conversation's last token, whatever the padding token; models
    with another head, or with code of their own, pool as they do. It depends on the conversation
    and the model only, not on the batch. `reason_<name>` (String) says why scores
    are null: `too_long`, or `template` (the chat template refuses or changes the conversation);
    null where there are scores.

    Attributes:
        model: the reward model.
        objectives: names of all heads.
        name: of the reason's column.
        template: see `labelers.models.chat_rows.rows`.
        activation: applied to the heads: none, sigmoid each, or softmax over all (a process reward
            model with two classes: `softmax`, and its second objective is P(good)).
        output: attribute of the model's output with the scores [B, K]: `logits`, or what a model
            with code of its own calls it (ArmoRM: `rewards`).
        too_long: a conversation over the model's limit: `null`, or `truncate` the start of its
            prompt (an answer that is too long by itself stays null).

    Example:
        - labelers.RewardModel: {model: {model: PATH_OR_HUB_ID}}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    score_range: ClassVar[tuple[float | None, float | None]] = (None, None)
    direction: ClassVar[str] = "higher"

    model: Model
    objectives: tuple[str, ...] = Field(default=("reward",), min_length=1)
    name: str = Field(default="reward_model", min_length=1)
    template: Template = "auto"
    activation: Activation = "none"
    output: str = Field(default="logits", pattern=r"^[a-z][a-z0-9_]*$")
    too_long: TooLong = "null"

    @field_validator("objectives")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value) or not all(value):
            raise ValueError("name every head, each by a name of its own")
        return value

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`score_<objective>` (Float64) for each head and `reason_<name>` (String)."""
        scores: dict[str, pl.DataType] = {f"{SCORE}{o}": pl.Float64() for o in self.objectives}
        return {**scores, f"reason_{self.name}": pl.String()}

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Score every answer.

        Returns:
            The columns of `adds`, same height and order.

        Raises:
            ConfigError: the model can't be loaded, or has another number of heads.
        """
        heads = len(self.objectives)
        with opened(self.model, "classifier") as loaded:
            truncate = self.too_long == "truncate"
            rows = chat_rows.rows(
                loaded.tokenizer, loaded.limit, *conversations(table), self.template, truncate
            )
            scores = classified(loaded, rows, heads, self.activation, self.output)
        return scored(self.objectives, scores, rows, f"reason_{self.name}")


def scored(
    objectives: tuple[str, ...], scores: np.ndarray, rows: list[Row], reason: str
) -> pl.DataFrame:
    """Columns `score_<objective>` of float64 [n, K] (NaN becomes null) and the rows' reasons."""
    columns = [
        pl.Series(f"{SCORE}{o}", scores[:, i], dtype=pl.Float64) for i, o in enumerate(objectives)
    ]
    reasons = pl.Series(reason, [r.reason for r in rows], dtype=pl.String)
    return pl.DataFrame([*columns, reasons]).fill_nan(None)


def classified(
    loaded: Loaded, rows: list[Row], heads: int, activation: Activation, output: str = "logits"
) -> np.ndarray:
    """Outputs of a sequence classifier.

    Args:
        loaded: the classifier.
        rows: n rows; those with a reason are left out.
        heads: K, how many outputs it must have.
        activation: applied to each row of outputs.
        output: attribute of the model's output.

    Returns:
        float64 [n, K]; NaN for rows with a reason.

    Raises:
        ConfigError: the model has another number of outputs.
    """
    labels = int(loaded.net.config.num_labels)
    if output == "logits" and labels != heads:
        raise ConfigError(
            f"the model has {labels} heads and {heads} are named; name them all, in its order"
        )

    def forward(tensors: dict[str, Any], batch: list[Row]) -> np.ndarray:
        values = _outputs(loaded.net, tensors, [len(r.ids) for r in batch], output)
        if values.shape[1] != heads:
            raise ConfigError(f"{output} has {values.shape[1]} columns and {heads} are named")
        return values

    out = np.full((len(rows), heads), np.nan)
    good = [i for i, r in enumerate(rows) if r.reason is None]
    if good:
        out[good] = activated(loaded.run([rows[i] for i in good], forward, heads), activation)
    return out


def _outputs(net: Any, tensors: dict[str, Any], counts: list[int], output: str) -> np.ndarray:  # noqa: ANN401
    """Outputs float64 [b, K]; a decoder's head is read at the last token by its place."""
    import torch

    ours = type(net).__module__.startswith("transformers.") and not net.config.is_encoder_decoder
    if ours and output == "logits" and isinstance(getattr(net, "score", None), torch.nn.Linear):
        tensors.pop("token_type_ids", None)  # a decoder's tokenizer may make some all the same
        hidden = net.base_model(**tensors).last_hidden_state
        ends = torch.tensor(counts, device=hidden.device) - 1
        last = hidden[torch.arange(len(counts), device=hidden.device), ends]
        padded = torch.zeros_like(hidden[:, 0])  # the head's shape does not depend on b either
        padded[: len(counts)] = last
        bias = None if net.score.bias is None else net.score.bias.float()
        values = torch.nn.functional.linear(padded.float(), net.score.weight.float(), bias)
    else:
        values = getattr(net(**tensors), output)
    result: np.ndarray = values[: len(counts)].double().cpu().numpy()
    return result


def activated(values: np.ndarray, activation: Activation) -> np.ndarray:
    """Apply `sigmoid` to each, or `softmax` to each row, of float64 [n, K]."""
    from scipy.special import expit, softmax

    if activation == "none":
        return values
    result: np.ndarray = expit(values) if activation == "sigmoid" else softmax(values, axis=1)
    return result


def conversations(table: pl.DataFrame) -> tuple[list[Messages], list[Messages]]:
    """Prompts and responses of a table as lists of messages."""
    return table["prompt"].to_list(), table["response"].to_list()
