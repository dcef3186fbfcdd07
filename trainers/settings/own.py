"""Settings of the methods of papers that TRL does not have."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from trainers.settings.base import PolicySettings


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
    """

    trl_options: ClassVar[str] = "DPOConfig"
    learning_rate: float = Field(1e-6, gt=0)
    objectives: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    beta: float = Field(0.2, gt=0)
    radius: float = Field(0.4, ge=0, lt=1)
    clip: bool = True
