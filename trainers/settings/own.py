"""Settings of the methods of papers that TRL does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from trainers.settings.base import PolicySettings, TransformerSettings


class RACO(PolicySettings):
    """DPO for objectives that disagree on the same pair (RACO, arXiv 2602.02495).

    Reads `sign_<objective>` (`labelers.Signs`): whether each objective agrees with the label. The
    gradients of the objectives are joined by clipped CAGrad, one backward pass an objective and
    forward pass; with `lora` the copies of the gradient are small.

    Attributes:
        learning_rate: peak learning rate.
        objectives: weight by objective, above 0; they are divided by their sum. Empty: every
            objective that the data have a sign of, all alike.
        beta: how strongly the policy is held to the reference.
        radius: how far the update may leave the weighted gradient, as a share of its length (c of
            the paper, which takes .25 to .4). 0 is weighted DPO.
        clip: give no objective more than its weight, as the paper does.
        frontier: steps along an edge of the simplex of weights, of which each gets a training of
            its own by RACO and by weighted DPO; the report shows what they reach on the held-out
            pairs, and the hypervolume. 4 of two objectives are 5 weights. 0: none.
    """

    trl_options: ClassVar[str] = "DPOConfig"
    learning_rate: float = Field(1e-6, gt=0)
    objectives: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    beta: float = Field(0.2, gt=0)
    radius: float = Field(0.4, ge=0, lt=1)
    clip: bool = True
    frontier: int = Field(0, ge=0)


class BCO(PolicySettings):
    """Binary classifier optimization: single answers, good or bad (arXiv 2404.04656).

    The implicit reward is shifted by half the sum of both classes' means, each a running one, so
    that the shift does not follow the larger class. Of single answers (`--table responses`) the bad
    ones count by `density_ratio`, where they have it (`labelers.DensityRatio`).

    Attributes:
        learning_rate: peak learning rate.
        beta: how strongly the policy is held to the reference.
        momentum: share of the running means that a batch does not change.
        label: of single answers (a table of responses), the column by which they are good, from
            `threshold` on; answers without a value are left out.
        threshold: see `label`.
    """

    trl_options: ClassVar[str] = "KTOConfig"
    shapes: ClassVar[tuple[str, ...]] = ("pairs", "responses")
    learning_rate: float = Field(5e-7, gt=0)
    beta: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    label: str = "score_label"
    threshold: float = 0.5


class PoFT(PolicySettings):
    """Fine-tuning that prefers what aligned models find likely (arXiv 2412.12865).

    Attributes:
        learning_rate: peak learning rate.
        score: objective whose `chosen_score_<objective>` is the mean log-probability of a token
            under aligned models (`labelers.Likelihood`).
        beta: scale of the policy's own mean log-probability.
        gamma: by how much the policy shall be more sure than those models.
    """

    trl_options: ClassVar[str] = "SFTConfig"
    learning_rate: float = Field(1e-6, gt=0)
    score: str = "log_probability"
    beta: float = Field(1.0, gt=0)
    gamma: float = 0.0


class MAH(PolicySettings):
    """DPO with one head an objective on one backbone (MAH-DPO, arXiv 2510.01167).

    Reads `dimension` (`labelers.Pairs: {order: each}`). The saved model is a plain one, with the
    head that `weights` make; `prefactory heads MODEL OUT a=0.7 b=0.3` makes it for other weights.

    Attributes:
        learning_rate: peak learning rate.
        beta: how strongly the policy is held to the reference.
        noise: standard deviation of what is added to each head at the start.
        balance: `truncate` every objective to the smallest, or `resample` small ones.
        weights: of the objectives in the saved model; all alike if empty.
    """

    trl_options: ClassVar[str] = "DPOConfig"
    learning_rate: float = Field(5e-7, gt=0)
    beta: float = Field(0.1, gt=0)
    noise: float = Field(0.001, ge=0)
    balance: Literal["truncate", "resample"] = "truncate"
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)


class Regression(TransformerSettings):
    """A reward model with one output an attribute (HelpSteer2, arXiv 2406.08673).

    Reads `chosen_score_<attribute>` and `rejected_score_<attribute>`; an attribute that an answer
    does not have counts for nothing.

    Attributes:
        learning_rate: peak learning rate; 1e-5.
        attributes: objectives, in the order of the outputs.
        weights: of the attributes in the score that ranks answers, negative ones too; the first
            attribute alone if empty.
    """

    trl_options: ClassVar[str] = "RewardConfig"
    learning_rate: float = Field(1e-5, gt=0)
    attributes: tuple[str, ...] = Field(min_length=1)
    weights: dict[str, float] = Field(default_factory=dict)

    @property
    def score_weights(self) -> tuple[float, ...]:
        """Weight of each output in the score."""
        if not self.weights:
            return (1.0, *[0.0] * (len(self.attributes) - 1))
        return tuple(self.weights.get(name, 0.0) for name in self.attributes)


class YaPO(PolicySettings):
    """A vector that steers the answers of a model which stays as it is (YaPO, arXiv 2601.08441).

    The vector is added to the output of one layer; of each batch it is added or subtracted by
    chance, and then the chosen answers shall win, or the rejected ones. With `sae` it lives in the
    codes of a sparse autoencoder of that layer; without, it is dense (BiPO, arXiv 2406.00045). The
    folder holds the vector alone: `{engine: steered, model: ..., vector: FOLDER}` answers with it.

    Attributes:
        learning_rate: peak learning rate; 5e-4.
        layer: whose output is moved, from 0; None: the one after three fifths of the layers (the
            paper takes 15 of Gemma 2's 26).
        sae: a sparse autoencoder of that layer: a .safetensors file, or Gemma Scope's params.npz.
        beta: how strongly the steered model is held to the plain one.
        both: add and subtract by chance; false: add only.
        weight_decay: of the vector.
    """

    trl_options: ClassVar[str] = "DPOConfig"
    learning_rate: float = Field(5e-4, gt=0)
    layer: int | None = Field(None, ge=0)
    sae: Path | None = None
    beta: float = Field(0.1, gt=0)
    both: bool = True
    weight_decay: float = Field(0.05, ge=0)

    @model_validator(mode="after")
    def _nothing_else_is_trained(self) -> YaPO:
        if self.lora is not None:
            raise ValueError("yapo trains a vector and nothing else: leave lora out")
        return self
