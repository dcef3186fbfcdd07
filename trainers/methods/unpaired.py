"""Methods on single answers: KTO and BCO on good and bad ones, PoFT on those that others weigh."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch

from prefactory.extras import package
from prefactory.tables import Shape
from trainers import losses
from trainers.base import DatasetRef
from trainers.columns import Collator
from trainers.methods.plan import Plan, implicit_reward, mean_log_probability
from trainers.methods.trl import REFERENCE
from trainers.settings import BCO, KTO, PoFT

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


class WeighedKTO(trl.KTOTrainer):  # type: ignore[misc, name-defined]  # trl has no types
    """TRL's KTO; with a column, the loss of each bad answer is multiplied by its own.

    Args:
        columns: `density_ratio`, or none: then it is TRL's own, untouched.
        options: those of TRL's trainer.
    """

    def __init__(self, *, columns: tuple[str, ...], **options: Any) -> None:  # noqa: ANN401
        self.columns = columns
        super().__init__(**options)
        if columns:
            inner: Any = self.data_collator
            self.data_collator: Any = Collator(inner, columns)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns: list[str] = [*self._signature_columns, *self.columns]

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:  # noqa: ANN401
        same: Any = self.undesirable_weight
        for column in self.columns:
            ratio = inputs.pop(column)
            bad = ~torch.as_tensor(inputs["label"], dtype=torch.bool, device=ratio.device)
            # TRL weighs the bad ones in their order
            self.undesirable_weight: Any = same * ratio[bad]
        try:
            return super()._compute_loss(model, inputs, return_outputs)
        finally:
            self.undesirable_weight = same


class BCOTrainer(WeighedKTO):
    """TRL's KTO with the loss of BCO. The running means are part of every checkpoint.

    Args:
        momentum: of the running means.
        options: those of `WeighedKTO`, with precomputed reference log-probabilities.
    """

    def __init__(self, *, momentum: float, **options: Any) -> None:  # noqa: ANN401
        self.momentum = momentum
        self.means: dict[str, float] = {}
        super().__init__(**options)

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


def single_answers(config: BCO | KTO, data: DatasetRef) -> dict[str, Any]:
    """What a plan needs beside to read single answers by a label; nothing for pairs."""
    if data.shape is Shape.PAIRS:
        return {}

    def labelled(rows: Any) -> Any:  # noqa: ANN401 - a dataset
        good = [value >= config.threshold for value in rows[config.label]]
        return rows.remove_columns(config.label).add_column("label", good)

    ratio = tuple(c for c in (RATIO,) if c in data.pairs("train").column_names)
    notes = [f"an answer is good from {config.label} {config.threshold:g} on"]
    if ratio:
        notes.append(f"bad answers count by their own {RATIO} (arXiv 2404.04656)")
    return {
        "columns": (config.label,), "ratio": ratio, "prepare": labelled, "notes": tuple(notes)
    }  # fmt: skip


def plan_kto(config: KTO, data: DatasetRef) -> Plan:
    """KTO on both answers of each pair, one good and one bad; or on single answers."""
    single = single_answers(config, data)
    options: dict[str, Any] = {
        "beta": config.beta,
        "loss_type": config.loss_type,
        "desirable_weight": config.desirable_weight,
        "undesirable_weight": config.undesirable_weight,
        "precompute_ref_log_probs": not config.options().get("sync_ref_model", False),
    }
    if config.loss_type == "kto":
        options["train_sampling_strategy"] = "sequential"  # its rows are shuffled before
    return Plan(
        method="kto",
        trainer=partial(WeighedKTO, columns=single.get("ratio", ())),
        about=f"trained by KTO (arXiv 2402.01306) on single answers, good or bad. {REFERENCE}",
        score=implicit_reward(config.beta),
        compared=True,
        options=options,
        single=bool(single),
        columns=(*single.get("columns", ()), *single.get("ratio", ())),
        prepare=single.get("prepare"),
        form="sides",
        notes=single.get("notes", ()),
    )


def plan_bco(config: BCO, data: DatasetRef) -> Plan:
    """BCO on both answers of each pair, one good and one bad; or on single answers."""
    single = single_answers(config, data)
    ratio = single.get("ratio", ())
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
        notes=single.get("notes", ()),
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
