"""Process reward models: right or wrong at the last token of each step, in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from prefactory.chat_template import ChatTemplate
from prefactory.errors import DataError
from prefactory.process.labels import STEPS, chances, first_error, found_errors, signed_sources
from prefactory.process.tokens import step_tokens
from trainers.base import DatasetRef
from trainers.losses import step_entropy
from trainers.methods.plan import Plan
from trainers.methods.regression import TargetsTrainer
from trainers.settings import Stepwise

_NONE = float("nan")


def plan_stepwise(config: Stepwise, data: DatasetRef) -> Plan:
    """Token classification with two outputs, wrong and right.

    Raises:
        DataError: labels are no probabilities and not 1, 0 or -1, or there are more than steps.
    """
    signed = _signed(config, data)
    tokenised = partial(_tokenised, config=config, signed=signed)

    def done(trainer: Any, _: Path) -> None:  # noqa: ANN401
        trainer.model.config.step_separator = config.separator

    named = ", ".join(str(s) for s in signed)
    said = [f"a label of 0 is neutral in {named}, and counts as {config.neutral}"] if signed else []
    return Plan(
        method="stepwise",
        trainer=partial(TargetsTrainer, tokenised=tokenised, loss=step_entropy),
        about="with two outputs at every token, wrong and right, trained at the last token of each"
        " step of an answer: a process reward model (arXiv 2211.14275).",
        score=None,
        columns=(STEPS, config.labels, "source"),
        optional=(STEPS, config.labels, "source"),
        form="answers",
        single=True,
        task="TokenClassification",
        outputs=2,
        measure=partial(_measure, tokenised=tokenised),
        finish=done,
        notes=tuple(said),
    )


def _signed(config: Stepwise, data: DatasetRef) -> list[str | None]:
    """Sources whose labels are 1, 0 and -1; labels that are neither these nor chances are refused.

    That a column is missing is said before anything is loaded, with what makes it.
    """
    columns = [STEPS, config.labels, "source"]
    if not set(columns) <= set(data.pairs("train").column_names):
        return []
    labels = pl.col(config.labels)
    wrong = (
        (labels.list.len() > pl.col(STEPS).list.len())
        | (labels.list.min() < -1)
        | (labels.list.max() > 1)
        | labels.list.eval(pl.element().is_nan()).list.any()
    )
    found: list[pl.DataFrame] = []
    for split in ("train", "test"):
        for batch in data.batches(split, ["response_id", *columns]):
            if (bad := batch.filter(wrong)).height:
                raise DataError(
                    f"column {config.labels} must have a label for each of the {STEPS} or for the"
                    f" first ones, from 0 to 1 or 1, 0 and -1; not so in {split} of {data} at"
                    f" answer {bad['response_id'][0]}: {bad[config.labels][0].to_list()}"
                )
            found.append(batch.select("source", config.labels))
    return signed_sources(found, config.labels)


def _tokenised(
    rows: Any,  # noqa: ANN401 - a dataset
    tokenizer: Any,  # noqa: ANN401
    most: int,
    config: Stepwise,
    signed: Sequence[str | None],
) -> Any:  # noqa: ANN401
    """Conversations with the chance of being right at the end of each labelled step."""
    template = ChatTemplate(tokenizer, "the model")

    def made(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        labels = pl.DataFrame(
            {"source": batch["source"], config.labels: batch[config.labels]},
            schema={"source": pl.String, config.labels: pl.List(pl.Float64)},
        )
        right = labels.select(chances(signed, config.neutral, config.labels)).to_series().to_list()
        tools = batch.get("tools") or [None] * len(right)
        out: dict[str, list[Any]] = {"input_ids": [], "targets": [], "ends": []}
        together = zip(batch["prompt"], batch[STEPS], tools, right, strict=True)
        for prompt, steps, called, chance in together:
            said = steps[: len(chance)]
            ids, ends = step_tokens(template, prompt, said, config.separator, called)
            targets = np.full(len(ids), _NONE)
            targets[ends] = [_NONE if c is None else c for c in chance]
            if config.last_step_only:
                known = np.flatnonzero(~np.isnan(targets))
                targets[known[:-1]] = _NONE
            out["input_ids"].append(ids)
            out["targets"].append(targets.tolist())
            out["ends"].append(ends)
        return out

    found = rows.map(made, batched=True, remove_columns=rows.column_names)
    return found.filter(lambda row: len(row["input_ids"]) <= most)


def _measure(trainer: Any, rows: Any, tokenised: Any) -> Mapping[str, float]:  # noqa: ANN401
    """How often steps are told right, beside calling all of them right, and first errors found."""
    made = tokenised(rows, trainer.processing_class, trainer.args.max_length)
    size, said, truth = trainer.args.per_device_eval_batch_size, [], []
    model, training = trainer.model, trainer.model.training
    model.eval()
    with torch.no_grad(), trainer.accelerator.autocast():
        for at in range(0, len(made), size):
            examples = [made[i] for i in range(at, min(at + size, len(made)))]
            batch = {k: v.to(model.device) for k, v in trainer.collate(examples).items()}
            logits = model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).logits
            right = logits.float().softmax(-1)[..., 1].cpu().numpy()
            said += [right[i, e["ends"]].tolist() for i, e in enumerate(examples)]
            truth += [[_known(e["targets"][end]) for end in e["ends"]] for e in examples]
    model.train(training)
    return _facts(said, truth)


def _known(target: float | None) -> float | None:
    return None if target is None or np.isnan(target) else target


def _facts(
    said: Sequence[Sequence[float]], truth: Sequence[Sequence[float | None]]
) -> Mapping[str, float]:
    pairs = [
        (s, t)
        for row, labels in zip(said, truth, strict=True)
        for s, t in zip(row, labels, strict=True)
        if t is not None
    ]
    if not pairs:
        return {"answers": float(len(said)), "labelled_steps": 0.0}
    p, y = (np.asarray(values) for values in zip(*pairs, strict=True))
    right = y >= 0.5
    errors = found_errors([first_error(t) for t in truth], [first_error(s) for s in said])
    return {
        "answers": float(len(said)),
        "labelled_steps": float(len(p)),
        "step_accuracy": float(((p >= 0.5) == right).mean()),
        "all_right": float(right.mean()),
        **{name: value for name, value in errors.items() if not np.isnan(value)},
    }
