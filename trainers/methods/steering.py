"""YaPO: a vector on a layer's output, fitted to pairs; the model stays as it is."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from prefactory.engines.steering.vector import (
    Steering,
    attach,
    layers_of,
    load,
    read_codes,
    save,
)
from trainers.base import DatasetRef
from trainers.columns import ColumnsDPO
from trainers.methods.plan import Plan, implicit_reward
from trainers.methods.trl import REFERENCE
from trainers.settings import YaPO

ADDED, SUBTRACTED = 1.0, -1.0


class SteeringDPO(ColumnsDPO):
    """DPO of a vector: `-log sigmoid(m beta Delta)`, the vector added `m` times, m 1 or -1.

    m is drawn for each forward pass by the seed, the step and the pass's number in it, so that a
    training that goes on from a checkpoint draws the same; evaluation adds the vector. Checkpoints
    and the saved model are the vector alone.

    Args:
        settings: of the vector.
        options: those of TRL's trainer; the reference is computed beforehand.
    """

    def __init__(self, *, settings: YaPO, **options: Any) -> None:  # noqa: ANN401
        self.settings = settings
        model = options["model"]
        model.requires_grad_(requires_grad=False)
        self.steering = new_vector(settings, model)
        attach(model, self.steering)
        model.add_module("steering", self.steering)  # so that the optimizer finds it
        self.place = (-1, 0)
        super().__init__(columns=(), **options)

    def _precompute_ref_logps(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Of the plain model, whatever the vector is by now."""
        self.steering.strength = 0.0
        found = super()._precompute_ref_logps(*args, **kwargs)
        self.steering.strength = ADDED
        return found

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:  # noqa: ANN401
        side = self._side() if model.training else ADDED
        self.steering.strength = side
        ratios = self.ratios(model, inputs)
        loss = softplus(-side * self.args.beta * ratios.delta).mean()
        self.note(ratios, {**inputs, "beta": self.args.beta * side})
        if not model.training:
            self.steering.strength = ADDED
        return (loss, {}) if return_outputs else loss

    def _side(self) -> float:
        """Whether the vector is added or subtracted in this forward pass."""
        step, number = self.place
        number = number + 1 if step == self.state.global_step else 0
        self.place = (self.state.global_step, number)
        rng = np.random.default_rng([self.args.seed, *self.place])
        return SUBTRACTED if self.settings.both and rng.random() < 0.5 else ADDED

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        """A step; whoever uses the model after it finds the vector added."""
        loss: Tensor = super().training_step(*args, **kwargs)
        self.steering.strength = ADDED
        return loss

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the vector, and nothing of the model."""
        if self.args.should_save:
            save(self.steering, Path(output_dir or self.args.output_dir), self.settings.model)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:  # noqa: ANN401
        """Take a checkpoint's vector."""
        self.steering.take(load(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        """Take the best checkpoint's vector."""
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))


def new_vector(settings: YaPO, model: Any) -> Steering:  # noqa: ANN401 - a transformers model
    """A vector of zeros for a model's layer."""
    count = len(layers_of(model))
    layer = settings.layer if settings.layer is not None else round(0.6 * (count - 1))
    codes = None if settings.sae is None else read_codes(settings.sae)
    size = model.config.get_text_config().hidden_size if codes is None else codes.encoder.shape[1]
    return Steering(torch.zeros(size), layer, codes)


def plan_yapo(config: YaPO, _: DatasetRef) -> Plan:
    """DPO of a steering vector."""
    kind = "a dense vector (BiPO, arXiv 2406.00045)" if config.sae is None else "a sparse vector"
    return Plan(
        method="yapo",
        trainer=partial(SteeringDPO, settings=config),
        about=f"which stays as it is: {kind} that steers it was fitted to pairs (YaPO, arXiv"
        f" 2601.08441). {REFERENCE}",
        score=implicit_reward(config.beta),
        compared=True,
        options={
            "beta": config.beta, "loss_type": ["sigmoid"], "precompute_ref_log_probs": True,
            "weight_decay": config.weight_decay,
        },
    )  # fmt: skip
