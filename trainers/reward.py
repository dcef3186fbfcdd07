"""A scalar reward model on a dataset version, by TRL's `RewardTrainer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from prefactory.chat_template import ChatTemplate
from prefactory.errors import ConfigError, DataError
from prefactory.extras import package
from prefactory.folders import new_folder
from trainers import losses
from trainers.base import DatasetRef
from trainers.columns import unread
from trainers.metrics import warnings
from trainers.report import TrainingReport, card, loading, write_reports
from trainers.settings import Reward
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

trl = package("trl")  # where it is missing, the error is the command that installs it


def train_reward(config: Reward, data: DatasetRef, output: str | Path) -> TrainingReport:
    """Train, measure and save a sequence classifier with one output.

    Writes the model and tokenizer, `training.json` and `README.md`. TRL leaves out pairs longer
    than `max_length`; the report counts them.

    Args:
        config: the settings.
        data: the dataset version.
        output: folder of the model; must not exist, or be empty.

    Raises:
        ConfigError: for a model or tokenizer that can't be used, or an impossible setting.
        DataError: if no training pair can be used, or `use_margin` finds pairs without a margin.
    """
    check_machine(config)
    left = unread(data, (), "reward")
    with new_folder(Path(output), ConfigError) as folder, considerate():
        tokenizer = load_tokenizer(config)
        template = ChatTemplate(tokenizer, config.model)

        def fits(row: dict[str, Any]) -> bool:
            sizes = (
                tokens(tokenizer, row["prompt"] + row[s], False) for s in ("chosen", "rejected")
            )
            return max(sizes) <= config.max_length

        train, test = (
            layout(data, split, template, config.ignored_system, config.use_margin)
            for split in ("train", "test")
        )
        if usable(train.rows, fits) is None:
            raise DataError(f"every training pair of {data} is a tie, or longer than max_length")
        model = load_model(AutoModelForSequenceClassification, config, num_labels=1)
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
        trainer = trl.RewardTrainer(
            model=model,
            args=_arguments(config, folder),
            train_dataset=train.rows,
            eval_dataset=usable(test.rows, fits),
            processing_class=tokenizer,
            peft_config=lora_config(config.lora, "SEQ_CLS", _heads(model)) if config.lora else None,
        )
        facts, dropped = fit(trainer, len(train.rows))
        metrics = measure(trainer, data, lambda batch: _evaluate(trainer, batch))
        dropped += len(test.rows) - (metrics.pairs if metrics else 0)
        report = TrainingReport(
            method="reward",
            folder=Path(output),
            dataset=data,
            config=config.model_dump(mode="json"),
            train=None,
            test=metrics,
            dropped=together(train.dropped, test.dropped, {LONG: dropped}),
            facts=facts,
            notes=(*train.notes, *left, *warnings(metrics)),
        )
        save(trainer, folder)
        write_reports(folder, report, _card(report), PACKAGES)
    return report


def _arguments(config: Reward, folder: Path) -> Any:  # noqa: ANN401
    return trl.RewardConfig(
        **arguments(config, folder), center_rewards_coefficient=config.center or None
    )


def _heads(model: Any) -> list[str]:  # noqa: ANN401
    return [name for name in ("score", "classifier") if hasattr(model, name)]


def _evaluate(
    trainer: Any,  # noqa: ANN401
    batch: dict[str, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Score gap and Bradley-Terry loss (with the margin, if it was trained with one) of a batch."""
    scores = trainer.model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    ).logits
    chosen, rejected = scores.squeeze(-1).float().chunk(2)
    return chosen - rejected, losses.bradley_terry(chosen, rejected, batch.get("margin"))


def _card(report: TrainingReport) -> str:
    what = (
        f"A scalar reward model: `{report.config['model']}` with one output, trained with the"
        " Bradley-Terry loss. The gap of two scores for one prompt is the log odds that the first"
        " answer is preferred."
    )
    package, code = loading(report.config, "SequenceClassification", ", num_labels=1")
    use = (
        f"```python\n{code}"
        "inputs = tokenizer.apply_chat_template(\n"
        '    prompt + answer, return_tensors="pt", return_dict=True\n)\n'
        "score = model(**inputs).logits[0, 0]\n```"
    )
    return card(report, what, use, package, ["trl", "reward-model"])
