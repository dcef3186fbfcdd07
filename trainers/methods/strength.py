"""Reward models that read how strong a preference is, or how good each answer is by itself."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from prefactory.extras import package
from trainers import losses
from trainers.base import DatasetRef
from trainers.columns import Collator
from trainers.methods.plan import Plan
from trainers.settings import Reward

trl = package("trl")


class StrengthTrainer(trl.RewardTrainer):  # type: ignore[misc, name-defined]  # trl has no types
    """TRL's reward trainer with another loss.

    Args:
        settings: which.
        columns: that it reads.
        options: those of TRL's trainer.
    """

    def __init__(self, *, settings: Reward, columns: tuple[str, ...], **options: Any) -> None:  # noqa: ANN401
        self.settings, self.columns = settings, columns
        super().__init__(**options)
        inner: Any = self.data_collator
        self.data_collator: Any = Collator(inner, columns)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns: list[str] = [*self._signature_columns, *self.columns]

    def compute_loss(
        self,
        model: Any,  # noqa: ANN401
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Mean loss of a batch."""
        numbers = [inputs[c] for c in self.columns]
        outputs = model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
        )
        chosen, rejected = outputs.logits.squeeze(-1).chunk(2)
        loss = self.losses_of(chosen, rejected, numbers).mean()
        return (loss, outputs) if return_outputs else loss

    def losses_of(
        self, chosen: torch.Tensor, rejected: torch.Tensor, numbers: list[torch.Tensor]
    ) -> torch.Tensor:
        """Loss of each pair, shape (B,)."""
        if self.settings.loss == "scaled_bt":
            return losses.scaled_bradley_terry(chosen, rejected, numbers[0])
        near = losses.pointwise(chosen, numbers[0]) + losses.pointwise(rejected, numbers[1])
        return losses.bradley_terry(chosen, rejected) + self.settings.alpha * near


def plan_reward(config: Reward, _: DatasetRef) -> Plan:
    """A Bradley-Terry reward model, or one with a loss of `StrengthTrainer`."""
    columns: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    trainer: Any = trl.RewardTrainer
    if config.loss == "pointwise":
        columns = optional = (f"chosen_score_{config.score}", f"rejected_score_{config.score}")
    elif config.loss == "scaled_bt":
        columns = (config.strength,)
    elif config.use_margin:
        columns = ("margin",)
    if config.loss != "bt":
        trainer = partial(StrengthTrainer, settings=config, columns=columns)
    loss = {"bt": "", "scaled_bt": f" times {config.strength}"}.get(
        config.loss, f" and the squared distance from {' and '.join(columns)}"
    )
    return Plan(
        method="reward",
        trainer=trainer,
        about=f"with one output, trained with the Bradley-Terry loss{loss}: a scalar reward model."
        " The gap of two scores for one prompt is the log odds that the first answer is preferred.",
        score=None,
        options={"center_rewards_coefficient": config.center_rewards_coefficient or None},
        columns=columns,
        optional=optional,
        apart=config.use_margin,
        task="SequenceClassification",
    )
