"""A reward model with one output an attribute, by regression on what is known (HelpSteer2)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import Trainer

from prefactory.chat_template import ChatTemplate
from prefactory.errors import ConfigError
from prefactory.tables import SIDES
from trainers.base import DatasetRef
from trainers.losses import masked_regression
from trainers.methods.plan import Plan
from trainers.settings import Regression


class TargetsTrainer(Trainer):  # type: ignore[misc]  # transformers has no types here
    """A model with a head, on numbers that it shall give.

    Args:
        tokenised: makes rows of `input_ids` and `targets` of rows, given the tokenizer and the most
            tokens; longer conversations are left out. Targets are numbers of a conversation or of
            each of its tokens; NaN: nothing is said.
        loss: of outputs, given the targets, both float32.
        options: those of TRL's trainers.
    """

    def __init__(
        self,
        *,
        tokenised: Callable[[Any, Any, int], Any],
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        **options: Any,  # noqa: ANN401
    ) -> None:
        self.loss = loss
        args, tokenizer = options["args"], options["processing_class"]
        if (adapters := options.pop("peft_config", None)) is not None:
            import peft

            options["model"] = peft.get_peft_model(options["model"], adapters)
        args.remove_unused_columns = False
        for name in ("train_dataset", "eval_dataset"):
            if options.get(name) is not None:
                options[name] = tokenised(options[name], tokenizer, args.max_length)
        self.pad = tokenizer.pad_token_id
        super().__init__(data_collator=self.collate, **options)
        self.model_accepts_loss_kwargs = False  # the loss is a mean of the batch

    def collate(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Conversations and targets, padded at the end; targets with NaN."""
        width = max(len(e["input_ids"]) for e in examples)
        ids = torch.full((len(examples), width), self.pad)
        mask = torch.zeros_like(ids)
        for row, example in enumerate(examples):
            n = len(example["input_ids"])
            ids[row, :n] = torch.tensor(example["input_ids"])
            mask[row, :n] = 1
        targets = pad_sequence(
            [torch.tensor(e["targets"], dtype=torch.float32) for e in examples], True, float("nan")
        )
        return {"input_ids": ids, "attention_mask": mask, "targets": targets}

    def compute_loss(
        self,
        model: Any,  # noqa: ANN401
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Loss of a batch."""
        outputs = model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
        )
        loss = self.loss(outputs.logits.float(), inputs["targets"])
        return (loss, outputs) if return_outputs else loss


def _tokenised(rows: Any, tokenizer: Any, most: int, attributes: tuple[str, ...]) -> Any:  # noqa: ANN401
    """Conversations with the attributes of their answer, in the order of `attributes`."""
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
        trainer=partial(
            TargetsTrainer,
            tokenised=partial(_tokenised, attributes=names),
            loss=masked_regression,
        ),
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
