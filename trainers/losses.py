"""Losses of preference training, as pure functions of tensors; one value per pair, not reduced."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus


def bradley_terry(chosen: Tensor, rejected: Tensor, margin: Tensor | None = None) -> Tensor:
    """Negative log-likelihood that chosen beats rejected: `-log sigmoid(chosen - rejected)`.

    Args:
        chosen: scores of the chosen answers, shape (B,).
        rejected: scores of the rejected answers, shape (B,).
        margin: how far apart the scores shall be at least (Llama 2, arXiv 2307.09288), shape (B,).

    Returns:
        Loss per pair, shape (B,). `log 2` for equal scores.
    """
    gap = chosen - rejected if margin is None else chosen - rejected - margin
    return softplus(-gap)


def dpo_margin(
    policy_chosen: Tensor, policy_rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor
) -> Tensor:
    """How much more the policy moved towards chosen than towards rejected (`Delta` of DPO).

    Args:
        policy_chosen: log-probability of the chosen answer under the policy, shape (B,).
        policy_rejected: the same of the rejected answer.
        ref_chosen: log-probability of the chosen answer under the reference, shape (B,).
        ref_rejected: the same of the rejected answer.

    Returns:
        Delta per pair, in nats, shape (B,); zero where policy and reference agree.
    """
    return (policy_chosen - ref_chosen) - (policy_rejected - ref_rejected)


def dpo(delta: Tensor, beta: float) -> Tensor:
    """Sigmoid loss of DPO (arXiv 2305.18290): `-log sigmoid(beta * Delta)`, shape (B,)."""
    return bradley_terry(beta * delta, torch.zeros_like(delta))
