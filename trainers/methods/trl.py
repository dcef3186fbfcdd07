"""TRL's own methods of policies on pairs: SFT, DPO, CPO and SimPO, ORPO."""

from __future__ import annotations

import importlib
import os
from functools import partial
from typing import Any

from prefactory.errors import ConfigError
from prefactory.extras import package
from trainers import losses
from trainers.base import DatasetRef
from trainers.columns import ColumnsDPO, columns_for_training
from trainers.methods.plan import (
    Plan,
    implicit_reward,
    log_odds,
    log_probability,
    mean_log_probability,
)
from trainers.settings import CPO, DPO, ORPO, SFT

trl = package("trl")  # where it is missing, the error is the command that installs it

REFERENCE = (
    "The score of an answer is the implicit reward `beta * (log p(y|x) - log p_ref(y|x))`, the"
    " reference being the model before training."
)


def experimental(name: str) -> Any:  # noqa: ANN401 - a module of TRL
    """A module of TRL's experimental part, without its warning: we pin what it does by tests."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    return importlib.import_module(f"trl.experimental.{name}")


def plan_dpo(config: DPO, data: DatasetRef) -> Plan:
    """DPO, with each pair's own beta and weight where the data have them."""
    columns = _columns(config, data)
    smoothing = config.label_smoothing
    if "exo_pair" in config.losses and not smoothing:
        smoothing = 1e-3  # TRL divides by its logarithm; so does its documentation
    options = {
        "beta": config.beta,
        "loss_type": list(config.losses),
        "loss_weights": list(config.loss_weights) if config.loss_weights else None,
        "label_smoothing": smoothing,
        "precompute_ref_log_probs": not config.options().get("sync_ref_model", False),
    }
    kind = "" if config.losses == ("sigmoid",) else f", loss {' + '.join(config.losses)}"
    return Plan(
        method="dpo",
        trainer=partial(ColumnsDPO, columns=columns, follow=config.batch_beta),
        about=f"trained by direct preference optimization (arXiv 2305.18290){kind}. {REFERENCE}",
        score=implicit_reward(config.beta),
        compared=True,
        options=options,
        columns=columns,
        notes=tuple(f"each pair's own {c} is read (column {c})" for c in columns),
    )


def _columns(config: DPO, data: DatasetRef) -> tuple[str, ...]:
    alone = [name for name in config.losses if name not in losses.OF_PAIR]
    found: tuple[str, ...] = ()
    if config.batch_beta is not None:
        _may_follow(config, alone)
    if config.columns != "auto":
        found = tuple(config.columns)
        if found and alone:
            raise ConfigError(
                f"loss {alone[0]} has no form with columns of pairs ({', '.join(found)}); those "
                f"that have are: {', '.join(losses.OF_PAIR)}"
            )
    elif not alone and not config.options().get("sync_ref_model"):
        wanted = ("beta", "weight") if config.batch_beta is None else ("weight",)
        found = tuple(c for c in wanted if c in columns_for_training(data))
    if "beta" in found and "beta" in config.model_fields_set:
        raise ConfigError(
            f"beta={config.beta} for all pairs, or each pair's own? {data} has a column beta: "
            "leave beta out to read it, or set columns=[] to do without it"
        )
    return found


def _may_follow(config: DPO, alone: list[str]) -> None:
    """Refuse a beta of the batch beside what it can't go with."""
    problem = ""
    if alone:
        problem = f"has no form for loss {alone[0]}; those are: {', '.join(losses.OF_PAIR)}"
    elif "beta" in config.columns:
        problem = "is one for all pairs of a batch: leave beta out of columns"
    elif config.options().get("sync_ref_model"):
        problem = "needs the reference's log-probabilities beforehand: leave sync_ref_model out"
    if problem:
        raise ConfigError(f"batch_beta={config.batch_beta} {problem}")


def plan_sft(config: SFT, _: DatasetRef) -> Plan:
    """Supervised fine-tuning on the chosen answers."""
    notes: tuple[str, ...] = ()
    trainer: Any = trl.SFTTrainer
    columns: tuple[str, ...] = ()
    loads = {}
    if config.mixture is not None:
        from trainers.windows import WindowsSFT

        trainer = partial(WindowsSFT, mixture=config.mixture)
        columns = (config.mixture.domain,)
        loads = {"attn_implementation": "sdpa"}  # takes the mask of windows as it is
        notes = (
            f"rows are packed in balance over {config.mixture.domain}, attention within a "
            f"{config.mixture.mode}",
        )
    return Plan(
        method="sft",
        trainer=trainer,
        about="fine-tuned on the chosen answers. The score of an answer is its mean"
        " log-probability a token.",
        score=mean_log_probability(),
        options={"loss_type": config.loss_type},
        columns=columns,
        form="chosen",
        loads=loads,
        counts=config.mixture is None and not config.options().get("packing"),
        notes=notes,
    )


def plan_cpo(config: CPO, _: DatasetRef) -> Plan:
    """CPO and its relatives without a reference."""
    options: dict[str, Any] = {
        "beta": config.beta,
        "loss_type": config.loss_type,
        "cpo_alpha": config.cpo_alpha,
        "simpo_gamma": config.simpo_gamma,
        "label_smoothing": config.label_smoothing,
    }
    by_token = config.loss_type in ("simpo", "alphapo", "ipo")
    what = "mean log-probability a token" if by_token else "log-probability"
    method = "simpo" if config.loss_type == "simpo" else "cpo"
    paper = "SimPO (arXiv 2405.14734)" if method == "simpo" else "CPO (arXiv 2401.08417)"
    return Plan(
        method=method,
        trainer=experimental("cpo").CPOTrainer,
        about=f"trained by {paper}, loss {config.loss_type}, without a reference. The score of an"
        f" answer is beta times its {what}.",
        score=(mean_log_probability if by_token else log_probability)(config.beta),
        options=options,
    )


def plan_orpo(config: ORPO, _: DatasetRef) -> Plan:
    """ORPO."""
    return Plan(
        method="orpo",
        trainer=experimental("orpo").ORPOTrainer,
        about="trained by ORPO (arXiv 2403.07691), without a reference. The score of an answer is"
        " the log odds of its mean probability a token.",
        score=log_odds,
        options={"beta": config.beta},
    )
