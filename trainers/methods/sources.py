"""MORE: a reward model of several sources, whose losses are weighted by their gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from prefactory.errors import ConfigError
from prefactory.extras import package
from prefactory.measures.calibration import Floats
from trainers.base import DatasetRef, table
from trainers.columns import Collator
from trainers.losses import bradley_terry
from trainers.methods.plan import Plan
from trainers.objectives.conflicts import least_norm
from trainers.objectives.heads import balanced
from trainers.settings import MORE

trl = package("trl")
SOURCE = "source_number"
KEPT = "gradients.safetensors"


def source_weights(gradients: Floats, losses: Floats, normalise: str) -> Floats:
    """Weight of each source's loss: of the shortest mixture of their gradients.

    Args:
        gradients: of the sources' losses in the head, Float64[K, d].
        losses: Float64[K].
        normalise: `l2`, `loss`, `loss+` or `none` (see `settings.MORE`).

    Returns:
        Float64[K], sum 1.
    """
    scaled = gradients
    if normalise in ("l2", "loss+"):
        norms = np.linalg.norm(gradients, axis=1, keepdims=True)
        scaled = gradients / np.where(norms > 0, norms, 1.0)
    if normalise in ("loss", "loss+"):
        scaled = scaled / ((losses + 1) / (losses + 1).sum())[:, None]
    return least_norm(scaled)


class SourcesTrainer(trl.RewardTrainer):  # type: ignore[misc, name-defined]  # trl has no types
    """TRL's reward trainer with a loss for each source; the gradients are part of checkpoints.

    Args:
        settings: how gradients are mixed, and sources balanced.
        sources: names; the rows have `source_number`, a place in them.
        options: those of TRL's trainer.
    """

    def __init__(self, *, settings: MORE, sources: Sequence[str], **options: Any) -> None:  # noqa: ANN401
        self.settings, self.sources = settings, tuple(sources)
        self.kept: dict[str, Tensor] = {}
        super().__init__(**options)
        inner: Any = self.data_collator
        self.data_collator: Any = Collator(inner, [SOURCE])

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns: list[str] = [*self._signature_columns, SOURCE]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:  # noqa: ANN401
        rows = self.train_dataset if train_dataset is None else train_dataset
        again = self.settings.balance == "resample"
        return _InOrder(balanced(rows[SOURCE][:], self.args.seed, again))

    def compute_loss(
        self,
        model: Any,  # noqa: ANN401
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Sum over the sources of a batch of weight times mean loss."""
        outputs = model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
        )
        chosen, rejected = outputs.logits.squeeze(-1).chunk(2)
        each, number = bradley_terry(chosen, rejected), inputs[SOURCE].long()
        names = [self.sources[k] for k in number.unique().tolist()]
        means = torch.stack([each[number == k].mean() for k in number.unique()])
        weights = means.new_tensor(self._weights(model, means, names))
        loss = (weights * means).sum()
        return (loss, outputs) if return_outputs else loss

    def _weights(self, model: Any, means: Tensor, names: list[str]) -> Floats:  # noqa: ANN401
        if not self.model.training:
            return np.full(len(names), 1 / len(names))
        head = head_of(model)
        for name, loss in zip(names, means, strict=True):
            (found,) = torch.autograd.grad(loss, head, retain_graph=True)
            now = self.accelerator.reduce(found.detach().flatten().double(), reduction="mean")
            keep = self.settings.momentum
            before = self.kept.get(name)
            self.kept[name] = now if before is None else keep * before.to(now) + (1 - keep) * now
        gradients = np.stack([self.kept[name].cpu().numpy() for name in names])
        losses = means.detach().double().cpu().numpy()
        weights = source_weights(gradients, losses, self.settings.normalise)
        for name, weight in zip(names, weights.tolist(), strict=True):
            self._metrics["train"][f"weight/{name}"].append(weight)
        return weights

    def _save_checkpoint(self, model: Any, trial: Any) -> None:  # noqa: ANN401
        super()._save_checkpoint(model, trial)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            save_file({n: g.cpu().contiguous() for n, g in self.kept.items()}, folder / KEPT)

    def _load_from_checkpoint(self, checkpoint: str, model: Any = None) -> None:  # noqa: ANN401
        super()._load_from_checkpoint(checkpoint, model)
        self.kept = load_file(Path(checkpoint) / KEPT)


class _InOrder(torch.utils.data.Sampler[int]):
    """Rows in a given order."""

    def __init__(self, order: Sequence[int]) -> None:
        self.order = order

    def __iter__(self) -> Iterator[int]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)


def head_of(model: Any) -> Tensor:  # noqa: ANN401
    """The weight of a reward model's head, also under adapters that train a copy of it."""
    heads = [
        p for name, p in model.named_parameters()
        if p.requires_grad and name.split(".")[-1] == "weight"
        and {"score", "classifier"} & set(name.split("."))
    ]  # fmt: skip
    found: Tensor = heads[-1]
    return found


def plan_more(config: MORE, data: DatasetRef) -> Plan:
    """A reward model of several sources.

    Raises:
        ConfigError: a batch is no multiple of the sources.
    """
    counts = _counts(data, config.by)
    names = list(counts)
    if names and config.per_device_train_batch_size % len(names):
        raise ConfigError(
            f"per_device_train_batch_size must be a multiple of the {len(names)} values of "
            f"{config.by}: {', '.join(names)}"
        )
    size = (min if config.balance == "truncate" else max)(counts.values(), default=0)

    def prepare(rows: Any) -> Any:  # noqa: ANN401 - a dataset
        return rows.add_column(SOURCE, [names.index(str(v)) for v in rows[config.by]])

    said = ", ".join(f"{name} {n}" for name, n in counts.items())
    return Plan(
        method="more",
        trainer=partial(SourcesTrainer, settings=config, sources=names),
        about="with one output, trained with the Bradley-Terry loss on several sources, whose"
        " losses are weighted so that they conflict least (MORE, arXiv 2312.07401): a scalar reward"
        " model.",
        score=None,
        columns=(config.by,),
        task="SequenceClassification",
        prepare=prepare,
        notes=(f"pairs by {config.by}: {said}; at most {size} of each in a pass",),
    )


def _counts(data: DatasetRef, by: str) -> dict[str, int]:
    rows = data.pairs("train")
    if by not in rows.column_names:
        return {}  # said before anything is loaded
    values = table(rows, [by])[by].drop_nulls().cast(str).value_counts().sort(by)
    return dict(values.iter_rows())
