"""MAH-DPO: one head an objective."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from prefactory.errors import ConfigError
from trainers.base import DatasetRef, table
from trainers.methods.plan import Plan, implicit_reward
from trainers.methods.trl import REFERENCE
from trainers.objectives.heads import HEAD, HeadsDPO, balanced, finish
from trainers.settings import MAH


def plan_mah(config: MAH, data: DatasetRef) -> Plan:
    """DPO with one head an objective, on batches that have as many pairs of each.

    Raises:
        ConfigError: adapters are asked for, weights name no objective, or a batch is no multiple of
            the objectives.
    """
    if config.lora is not None:
        raise ConfigError("mah trains whole heads: leave lora out")
    names = _names(data)
    weights = [config.weights.get(n, 0.0 if config.weights else 1.0) for n in names]
    if unknown := sorted(config.weights.keys() - set(names)):
        raise ConfigError(f"no objective {unknown[0]!r} in {data}; it has: {', '.join(names)}")
    if names and config.per_device_train_batch_size % len(names):
        raise ConfigError(
            f"per_device_train_batch_size must be a multiple of the {len(names)} objectives"
        )

    def prepare(rows: Any) -> Any:  # noqa: ANN401 - a dataset
        head = [names.index(str(d)) for d in rows["dimension"]]
        order = balanced(head, config.seed, config.balance == "resample")
        return rows.add_column(HEAD, head).select(order)

    def done(trainer: Any, folder: Path) -> None:  # noqa: ANN401
        finish(trainer.model, names, weights, folder)

    said = ", ".join(f"{n} {w:g}" for n, w in zip(names, weights, strict=True))
    return Plan(
        method="mah",
        trainer=partial(HeadsDPO, heads=len(names), noise=config.noise),
        about="trained by MAH-DPO (arXiv 2510.01167): one head an objective, in heads.safetensors;"
        f" this model has the head of the weights {said}. {REFERENCE}",
        score=implicit_reward(config.beta),
        compared=True,
        options={
            "beta": config.beta, "loss_type": ["sigmoid"], "precompute_ref_log_probs": True,
            "train_sampling_strategy": "sequential",  # the rows are in a balanced order
        },
        columns=("dimension",),
        counts=False,
        prepare=prepare,
        finish=done,
        notes=(f"one head an objective; weights of the saved model: {said}",),
    )  # fmt: skip


def _names(data: DatasetRef) -> list[str]:
    rows = data.pairs("train")
    if "dimension" not in rows.column_names:
        return []  # said before anything is loaded, with what makes the column
    return sorted({str(d) for d in table(rows, ["dimension"])["dimension"].drop_nulls()})
