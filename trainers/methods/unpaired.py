"""Methods on single answers: BCO on good and bad ones, PoFT on those that aligned models weigh."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch

from prefactory.extras import package
from trainers import losses
from trainers.base import DatasetRef
from trainers.columns import Collator
from trainers.methods.plan import Plan, implicit_reward, mean_log_probability
from trainers.methods.trl import REFERENCE, single_answers
from trainers.settings import BCO, PoFT

trl = package("trl")
SHIFT = "shift.json"
RATIO = "density_ratio"


def half_sum(
    means: dict[str, float], rewards: torch.Tensor, good: torch.Tensor, keep: float
) -> float:
    """Bring the running means of both classes up to a batch; return half their sum.

    A class begins with the mean of its first batch, and keeps its last where a batch has none of
    it. Until the other class was seen, its mean counts as that of the first.

    Args:
        means: `good` and `bad`, changed.
        rewards: of a batch, shape (B,).
        good: Bool, shape (B,).
        keep: share of a mean that a batch does not change.
    """
    for name, rows in (("good", rewards[good]), ("bad", rewards[~good])):
        if len(rows):
            now = float(rows.mean())
            means[name] = keep * means[name] + (1 - keep) * now if name in means else now
    return sum(means.values()) / max(len(means), 1)


class BCOTrainer(trl.KTOTrainer):  # type: ignore[misc, name-defined]  # trl has no types
    """TRL's KTO with the loss of BCO. The running means are part of every checkpoint.

    Args:
        momentum: of the running means.
        columns: `density_ratio`, by which the loss of bad answers is multiplied, or none.
        options: those of TRL's trainer, with precomputed reference log-probabilities.
    """

    def __init__(self, *, momentum: float, columns: tuple[str, ...], **options: Any) -> None:  # noqa: ANN401
        self.momentum, self.columns = momentum, columns
        self.means: dict[str, float] = {}
        super().__init__(**options)
        inner: Any = self.data_collator
        self.data_collator: Any = Collator(inner, columns)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns: list[str] = [*self._signature_columns, *self.columns]

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:  # noqa: ANN401
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        found = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            labels=labels,
            use_cache=False,
            fused_lm_head=True,
        ).log_probs
        good = torch.as_tensor(inputs["label"], dtype=torch.bool, device=found.device)
        rewards = self.args.beta * (found.sum(dim=1) - inputs["ref_logps"])
        if self.model.training:
            all_rewards, all_good = self.accelerator.gather((rewards.detach(), good))
            shift = half_sum(self.means, all_rewards, all_good, self.momentum)
        else:
            shift = sum(self.means.values()) / max(len(self.means), 1)
        each = losses.bco(rewards, good, shift)
        for column in self.columns:
            each = torch.where(good, each, inputs[column] * each)
        loss = each.mean()
        self._metrics["train" if self.model.training else "eval"]["shift"].append(shift)
        return (loss, {}) if return_outputs else loss

    def _save_checkpoint(self, model: Any, trial: Any) -> None:  # noqa: ANN401
        super()._save_checkpoint(model, trial)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            (folder / SHIFT).write_text(json.dumps(self.means))

    def _load_from_checkpoint(self, checkpoint: str, model: Any = None) -> None:  # noqa: ANN401
        super()._load_from_checkpoint(checkpoint, model)
        self.means = json.loads((Path(checkpoint) / SHIFT).read_text())


def plan_bco(config: BCO, data: DatasetRef) -> Plan:
    """BCO on both answers of each pair, one good and one bad; or on single answers."""
    single = single_answers(config, data)
    ratio = tuple(c for c in (RATIO,) if single and c in data.pairs("train").column_names)
    weighs = f"bad answers count by their own {RATIO} (arXiv 2404.04656)"
    return Plan(
        method="bco",
        trainer=partial(BCOTrainer, momentum=config.momentum, columns=ratio),
        about=f"trained by BCO (arXiv 2404.04656) on single answers, good or bad. {REFERENCE}",
        score=implicit_reward(config.beta),
        compared=True,
        options={
            "beta": config.beta,
            "loss_type": "apo_zero_unpaired",  # builds no mismatched answers
            "precompute_ref_log_probs": True,
        },
        single=bool(single),
        columns=(*single.get("columns", ()), *ratio),
        prepare=single.get("prepare"),
        form="sides",
        notes=(*single.get("notes", ()), *([weighs] if ratio else [])),
    )


class PoFTTrainer(trl.SFTTrainer):  # type: ignore[misc, name-defined]  # trl has no types
    """TRL's SFT with the loss of PoFT; `column` holds what aligned models say of each answer."""

    def __init__(self, *, column: str, beta: float, gamma: float, **options: Any) -> None:  # noqa: ANN401
        self.column, self.beta, self.gamma = column, beta, gamma
        super().__init__(**options)
        inner: Any = self.data_collator
        self.data_collator: Any = Collator(inner, [column])
        self.model_accepts_loss_kwargs = False  # the loss is a mean of the batch

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns: list[str] = [*self._signature_columns, self.column]

    def compute_loss(
        self,
        model: Any,  # noqa: ANN401
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Mean PoFT loss of a batch."""
        others = inputs.pop(self.column)
        found = model(**inputs, use_cache=False, fused_lm_head=True).log_probs
        tokens = (inputs["labels"][:, 1:] != -100).sum(dim=1).clamp(min=1)
        own = found.sum(dim=1) / tokens
        loss = losses.poft(own, others, self.beta, self.gamma).mean()
        return (loss, {}) if return_outputs else loss


def plan_poft(config: PoFT, _: DatasetRef) -> Plan:
    """PoFT on the chosen answers."""
    column = f"chosen_score_{config.score}"
    return Plan(
        method="poft",
        trainer=partial(PoFTTrainer, column=column, beta=config.beta, gamma=config.gamma),
        about="fine-tuned by PoFT (arXiv 2412.12865): the more, the likelier aligned models find"
        " the chosen answer. The score of an answer is its mean log-probability a token.",
        score=mean_log_probability(),
        columns=(column,),
        form="chosen",
    )
