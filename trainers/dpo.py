"""Direct preference optimization on a dataset version, by TRL's `DPOTrainer` and heirs of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from prefactory.chat_template import ChatTemplate
from prefactory.errors import ConfigError, DataError
from prefactory.extras import package
from prefactory.folders import new_folder
from trainers import losses
from trainers.answers import compare
from trainers.base import DatasetRef
from trainers.columns import SIGN, ColumnsDPO, checked, columns_for_training, unread
from trainers.conflicts import LIMIT
from trainers.metrics import warnings
from trainers.raco import ConflictingDPO
from trainers.report import TrainingReport, card, loading, write_reports
from trainers.settings import DPO, RACO
from trainers.transformer import (
    LONG,
    PACKAGES,
    arguments,
    check_machine,
    considerate,
    fit,
    layout,
    load_model,
    load_tokenizer,
    lora_config,
    measure,
    save,
    together,
    tokens,
    usable,
)

_LOG = logging.getLogger(__name__)
trl = package("trl")  # where it is missing, the error is the command that installs it


def train_dpo(config: DPO | RACO, data: DatasetRef, output: str | Path) -> TrainingReport:
    """Train, measure and save a causal language model.

    The reference is the model itself before training: its log-probabilities are computed once, so
    no second model is kept in memory. Writes the model and tokenizer, `training.json` and
    `README.md`.

    Args:
        config: the settings; their class says which method.
        data: the dataset version.
        output: folder of the model; must not exist, or be empty.

    Raises:
        ConfigError: for a model or tokenizer that can't be used, or an impossible setting.
        DataError: if no training pair can be used, or a column that the method reads is missing or
            has a value that can't be used.
    """
    check_machine(config)
    plan = _plan(config, data)
    checked(data, plan.columns, plan.method)
    notes = [*plan.notes, *unread(data, plan.columns, plan.method)]
    with new_folder(Path(output), ConfigError) as folder, considerate():
        tokenizer = load_tokenizer(config)
        template = ChatTemplate(tokenizer, config.model)

        def fits(row: dict[str, Any]) -> bool:
            return tokens(tokenizer, row["prompt"], answer_follows=True) < config.max_length

        train, test = (
            layout(data, split, template, config.ignored_system, columns=plan.columns)
            for split in ("train", "test")
        )
        if usable(train.rows, fits) is None:
            raise DataError(
                f"every training pair of {data} is a tie, or its prompt fills max_length"
            )
        rows, long = seen(train.rows, config, fits)
        if len(rows) + long < len(train.rows):
            sees = f"{config.max_steps} steps see {len(rows)} of {len(train.rows)} training pairs"
            notes.append(f"{sees}, drawn by the seed")
        _LOG.info("the reference is asked about %d pairs", len(rows) + len(test.rows))
        trainer = plan.trainer(
            model=load_model(AutoModelForCausalLM, config),
            args=_arguments(config, folder, plan.loss),
            train_dataset=rows,
            eval_dataset=usable(test.rows, fits),
            processing_class=tokenizer,
            peft_config=lora_config(config.lora, "CAUSAL_LM", []) if config.lora else None,
        )
        comparison = compare(template, test.rows if len(test.rows) else train.rows, config)
        _LOG.info("the model answers %d prompts, as after training", len(comparison.asked))
        comparison.answer(trainer.model)
        facts, dropped = fit(trainer, len(rows))
        dropped += long
        comparison.answer(trainer.model)
        metrics = measure(trainer, data, lambda batch: _evaluate(trainer, batch, config.beta))
        dropped += len(test.rows) - (metrics.pairs if metrics else 0)
        facts["truncated"] = float(_truncated(trainer.train_dataset, config.max_length))
        report = TrainingReport(
            method=plan.method,
            folder=Path(output),
            dataset=data,
            config=config.model_dump(mode="json"),
            train=None,
            test=metrics,
            dropped=together(train.dropped, test.dropped, {f"prompt {LONG}": dropped}),
            facts=facts,
            notes=(*train.notes, *notes, *_cut_note(facts["truncated"]), *warnings(metrics)),
            answers=comparison.compared(),
        )
        save(trainer, folder)
        write_reports(folder, report, _card(report), PACKAGES)
    return report


@dataclass(frozen=True)
class _Plan:
    """How a method trains.

    Attributes:
        method: its name.
        trainer: makes the trainer, given what all of them take.
        columns: of the pairs, which it reads.
        loss: TRL's options of the loss.
        notes: what a reader of the report must know of the columns.
    """

    method: str
    trainer: Callable[..., Any]
    columns: tuple[str, ...]
    loss: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def _plan(config: DPO | RACO, data: DatasetRef) -> _Plan:
    if isinstance(config, RACO):
        weights = _weights(config, data)
        trainer = partial(ConflictingDPO, weights=weights, radius=config.radius, clip=config.clip)
        said = ", ".join(f"{name} {weight:.3g}" for name, weight in weights.items())
        columns = tuple(SIGN + name for name in weights)
        return _Plan("raco", trainer, columns, {}, (f"objectives and weights: {said}",))
    columns = _columns(config, data)
    loss = {"loss_type": [config.loss_type], "label_smoothing": config.label_smoothing}
    notes = tuple(f"each pair's own {c} is read (column {c})" for c in columns)
    return _Plan("dpo", partial(ColumnsDPO, columns=columns), columns, loss, notes)


def _columns(config: DPO, data: DatasetRef) -> tuple[str, ...]:
    if config.columns != "auto":
        found = config.columns
    else:
        found = tuple(c for c in ("beta", "weight") if c in columns_for_training(data))
    if "beta" in found and "beta" in config.model_fields_set:
        raise ConfigError(
            f"beta={config.beta} for all pairs, or each pair's own? {data} has a column beta: "
            "leave beta out to read it, or set columns=[] to do without it"
        )
    return found


def _weights(config: RACO, data: DatasetRef) -> dict[str, float]:
    there = [c.removeprefix(SIGN) for c in columns_for_training(data) if c.startswith(SIGN)]
    weights = config.objectives or dict.fromkeys(there, 1.0)
    if not weights:
        raise DataError(
            f"raco reads columns sign_<objective>, and {data} has none: labelers.Signs makes them"
        )
    if len(weights) > LIMIT:
        raise ConfigError(f"raco takes up to {LIMIT} objectives, not {len(weights)}: name some")
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def seen(
    rows: Any,  # noqa: ANN401
    config: DPO | RACO,
    fits: Callable[[dict[str, Any]], bool],
) -> tuple[Any, int]:
    """The pairs that `max_steps` come to, drawn by the seed, where that is not all of them.

    The reference is asked about every pair that the trainer is given, which takes as long as a
    third of a step for each.

    Args:
        rows: a dataset of n pairs.
        config: says how many pairs a step takes.
        fits: whether a pair's prompt leaves room for an answer.

    Returns:
        A dataset of at most n pairs, in their order, and how many were left out as too long.
    """
    wanted = (config.max_steps or len(rows)) * config.batch_size * config.accumulation
    if wanted >= len(rows):
        return rows, 0
    able = [i for i, row in enumerate(rows) if fits(row)]
    drawn = np.random.default_rng(config.seed).permutation(len(able))[:wanted]
    return rows.select([able[i] for i in sorted(drawn)]), len(rows) - len(able)


def _arguments(config: DPO | RACO, folder: Path, loss: Mapping[str, Any]) -> Any:  # noqa: ANN401
    return trl.DPOConfig(
        **arguments(config, folder), beta=config.beta, **loss, precompute_ref_log_probs=True
    )


def _evaluate(
    trainer: Any,  # noqa: ANN401
    batch: dict[str, torch.Tensor],
    beta: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Margin of the implicit rewards and sigmoid loss of a batch, as the trainer computes them."""
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    log_probs = trainer.model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        labels=labels,
        use_cache=False,
        fused_lm_head=True,  # TRL's patch: log-probabilities without the logits of the vocabulary
    ).log_probs
    chosen, rejected = log_probs.sum(dim=1).chunk(2)
    delta = losses.dpo_margin(
        chosen, rejected, batch["ref_chosen_logps"], batch["ref_rejected_logps"]
    )
    return beta * delta, losses.dpo(delta, beta)


def _truncated(rows: Any, max_length: int) -> int:  # noqa: ANN401
    columns = ("prompt_ids", "chosen_ids", "rejected_ids")
    sizes = zip(*(map(len, rows[c]) for c in columns), strict=True)
    return sum(p + max(c, r) > max_length for p, c, r in sizes)


def _cut_note(pairs: float) -> list[str]:
    return [f"{pairs:.0f} training pairs were cut at max_length"] if pairs else []


_HOW = {"dpo": "", "raco": " of conflicting objectives (RACO, arXiv 2602.02495)"}


def _card(report: TrainingReport) -> str:
    start = report.config["model"]
    how = _HOW[report.method]
    what = (
        f"`{start}`, trained by direct preference optimization (arXiv 2305.18290){how}. The score"
        " of an answer is the implicit reward `beta * (log p(y|x) - log p_ref(y|x))`, the reference"
        " being the model before training."
    )
    package, code = loading(report.config, "CausalLM")
    return card(report, what, f"```python\n{code}```", package, ["trl", "dpo"])
