"""DPO for objectives that disagree on the same pair: clipped CAGrad on their gradients (RACO)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from trainers.columns import SIGN, ColumnsDPO
from trainers.objectives.conflicts import step_of


class ConflictingDPO(ColumnsDPO):
    """TRL's DPO with one loss an objective, whose gradients are joined step by step.

    `L_i = mean(-log sigmoid(beta s_i Delta))` with the pair's sign s_i; a tie adds log 2 and no
    gradient. The loss that is logged is the weighted sum. The gradients are joined in each forward
    pass (micro-batch), and over the processes of a distributed run.

    Args:
        weights: of the objectives, by name; they sum to 1. Column `sign_<name>` of each is read.
        radius: how far the update may leave the weighted gradient (c), below 1; 0 never.
        clip: whether an objective may get no more than its weight.
        options: those of `ColumnsDPO`, without `columns`.
    """

    def __init__(
        self,
        *,
        weights: Mapping[str, float],
        radius: float,
        clip: bool,
        **options: Any,  # noqa: ANN401
    ) -> None:
        self.objectives, self.radius, self.clip = tuple(weights), radius, clip
        self.of_objectives = np.asarray(list(weights.values()), np.float64)
        super().__init__(columns=[SIGN + name for name in weights], **options)

    def losses_of(self, delta: Tensor, inputs: dict[str, Any]) -> list[Tensor]:
        """One loss an objective, each a scalar."""
        signs = (inputs[SIGN + name] for name in self.objectives)
        return [softplus(-self.args.beta * sign * delta).mean() for sign in signs]

    def pair_losses(self, ratios: Any, inputs: dict[str, Any]) -> Tensor:  # noqa: ANN401
        """The weighted sum of the objectives' losses, of shape (1,): what evaluation reports."""
        each = torch.stack(self.losses_of(ratios.delta, inputs))
        return (each * each.new_tensor(self.of_objectives)).sum().reshape(1)

    def training_step(
        self,
        model: Any,  # noqa: ANN401
        inputs: dict[str, Any],
        num_items_in_batch: Any = None,  # noqa: ANN401
    ) -> Tensor:
        """Write the joined gradient, and return the weighted loss over the accumulation."""
        model.train()
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            ratios = self.ratios(model, inputs)
            each = self.losses_of(ratios.delta, inputs)
        trained = [p for p in model.parameters() if p.requires_grad]
        gradients = [self._gradient(loss, trained) for loss in each]
        share = step_of(_gram(gradients), self.of_objectives, self.radius, self.clip)
        accumulated = self.current_gradient_accumulation_steps
        for place, p in enumerate(trained):
            joined = sum(w * g[place] for w, g in zip(share.tolist(), gradients, strict=True))
            joined = joined / accumulated
            p.grad = joined if p.grad is None else p.grad + joined
        self.note(ratios, inputs)
        weights = self.of_objectives.tolist()
        total = sum(w * loss.detach() for w, loss in zip(weights, each, strict=True))
        return torch.as_tensor(total / accumulated)

    def _gradient(self, loss: Tensor, trained: list[Tensor]) -> list[Tensor]:
        """Gradient by parameter, the mean over all processes (their hooks don't see this one)."""
        found = torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True)
        both = zip(found, trained, strict=True)
        full = [torch.zeros_like(p) if g is None else g for g, p in both]
        if self.accelerator.num_processes > 1:
            full = [self.accelerator.reduce(g, reduction="mean") for g in full]
        return full


def _gram(gradients: list[list[Tensor]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Products of gradients, summed in float64: Float64[K, K]."""
    k = len(gradients)
    gram = np.zeros((k, k))
    for i in range(k):
        for j in range(i, k):
            pairs = zip(gradients[i], gradients[j], strict=True)
            gram[i, j] = gram[j, i] = sum(float((a.double() * b.double()).sum()) for a, b in pairs)
    return gram
