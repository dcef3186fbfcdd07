"""A reward model with one output an attribute, by regression on what is known (HelpSteer2)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from transformers import Trainer

from prefactory.chat_template import ChatTemplate
from prefactory.errors import ConfigError
from prefactory.tables import SIDES
from trainers.base import DatasetRef
from trainers.losses import masked_regression
from trainers.methods.plan import Plan
from trainers.settings import Regression


class RegressionTrainer(Trainer):  # type: ignore[misc]  # transformers has no types here
    """Mean squared error of the attributes that an answer has; an answer with none has no loss.

    Args:
        attributes: objectives; an answer's own are in `chosen_score_<objective>` or
            `rejected_score_<objective>`, as its `label` says.
        options: those of TRL's trainers.
    """

    def __init__(self, *, attributes: tuple[str, ...], **options: Any) -> None:  # noqa: ANN401
        args, tokenizer = options["args"], options["processing_class"]
        if (adapters := options.pop("peft_config", None)) is not None:
            import peft

            options["model"] = peft.get_peft_model(options["model"], adapters)
        args.remove_unused_columns = False
        for name in ("train_dataset", "eval_dataset"):
            if options.get(name) is not None:
                options[name] = _tokenised(options[name], tokenizer, attributes, args.max_length)
        self.pad = tokenizer.pad_token_id
        super().__init__(data_collator=self._collate, **options)
        self.model_accepts_loss_kwargs = False  # the loss is a mean of the batch

    def _collate(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        width = max(len(e["input_ids"]) for e in examples)
        ids = torch.full((len(examples), width), self.pad)
        mask = torch.zeros_like(ids)
        for row, example in enumerate(examples):
            n = len(example["input_ids"])
            ids[row, :n] = torch.tensor(example["input_ids"])
            mask[row, :n] = 1
        targets = torch.tensor([e["targets"] for e in examples], dtype=torch.float32)
        return {"input_ids": ids, "attention_mask": mask, "targets": targets}

    def compute_loss(
        self,
        model: Any,  # noqa: ANN401
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Mean squared error of a batch."""
        outputs = model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
        )
        loss = masked_regression(outputs.logits.float(), inputs["targets"])
        return (loss, outputs) if return_outputs else loss


def _tokenised(rows: Any, tokenizer: Any, attributes: tuple[str, ...], most: int) -> Any:  # noqa: ANN401
    template = ChatTemplate(tokenizer, "the model")

    def made(row: dict[str, Any]) -> dict[str, Any]:
        text = template.text(row["prompt"] + row["completion"], row.get("tools"))
        side = SIDES[not row["label"]]
        own = [row[f"{side}_score_{a}"] for a in attributes]
        return {
            "input_ids": tokenizer(text, add_special_tokens=False)["input_ids"],
            "targets": [float("nan") if v is None else float(v) for v in own],
        }

    found = rows.map(made, remove_columns=rows.column_names)
    return found.filter(lambda row: len(row["input_ids"]) <= most)


def plan_regression(config: Regression, _: DatasetRef) -> Plan:
    """A head with one output an attribute.

    Raises:
        ConfigError: a weight is of no attribute.
    """
    names = config.attributes
    if unknown := sorted(config.weights.keys() - set(names)):
        raise ConfigError(f"a weight of {unknown[0]!r}, which is none of: {', '.join(names)}")
    columns = tuple(f"{side}_score_{name}" for name in names for side in SIDES)
    score = " + ".join(f"{w:g} {n}" for n, w in zip(names, config.score_weights, strict=True))
    return Plan(
        method="regression",
        trainer=partial(RegressionTrainer, attributes=names),
        about=f"with one output an attribute ({', '.join(names)}), trained by regression on those"
        f" that are known (HelpSteer2, arXiv 2406.08673). The score of an answer is {score}.",
        score=None,
        columns=columns,
        optional=columns,
        form="sides",
        task="SequenceClassification",
        outputs=len(names),
        weights=config.score_weights,
    )
