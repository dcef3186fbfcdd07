"""rDPO: a chosen answer is also preferred after its own prompt to the same after a near one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import softplus

from prefactory.chat_template import ChatTemplate
from prefactory.errors import DataError
from prefactory.extras import package
from trainers.base import DatasetRef
from trainers.columns import ColumnsDPO
from trainers.losses import LogRatios
from trainers.methods.plan import Plan, implicit_reward
from trainers.methods.trl import REFERENCE
from trainers.scoring import common, ids_of
from trainers.settings import RDPO

trl = package("trl")
NEAR_ID, NEAR = "rejected_prompt_id", "near_prompt"
_IDS = ("near_ids", "near_chosen_ids")
_INPUTS = ("near_input_ids", "near_attention_mask", "near_completion_mask", "ref_near_logps")


class NearDPO(ColumnsDPO):
    """DPO with a second term: the chosen answer after its prompt, and after a near one.

    Args:
        near_weight: of the second term.
        options: those of `ColumnsDPO`, without `columns`; the rows have `near_prompt`, a
            conversation, empty where there is none.
    """

    def __init__(self, *, near_weight: float, **options: Any) -> None:  # noqa: ANN401
        self.near_weight = near_weight
        super().__init__(columns=(), **options)
        self.columns = (*_IDS, "ref_near_logps")

    def _prepare_dataset(self, dataset: Any, tokenizer: Any, args: Any, name: str) -> Any:  # noqa: ANN401
        template = ChatTemplate(tokenizer, "the model")

        def near(row: dict[str, Any]) -> dict[str, list[int]]:
            if not row[NEAR]:
                return {key: [] for key in _IDS}
            prompt = ids_of(template, row[NEAR], row.get("tools"), True)
            full = ids_of(template, row[NEAR] + row["chosen"], row.get("tools"), False)
            start = common(prompt, full)
            fits = start < (args.max_length or len(full))
            return dict(zip(_IDS, (full[:start], full[start:]) if fits else ([], []), strict=True))

        return super()._prepare_dataset(dataset, tokenizer, args, name).map(near)

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:  # noqa: ANN401
        if not isinstance(self.data_collator, partial):  # within the constructor of TRL's trainer
            self.data_collator: Any = partial(_collate, self.data_collator)
        found = super()._precompute_ref_logps(dataset, name, batch_size)
        logs: list[float] = []
        for start in range(0, len(dataset), batch_size):
            rows = [dataset[i] for i in range(start, min(start + batch_size, len(dataset)))]
            batch = self._prepare_inputs(self.data_collator(rows))
            pairs = {k.removeprefix("near_"): batch[k] for k in _INPUTS[:3]}
            logs += torch.cat(super().compute_ref_log_probs(self.model, pairs)).tolist()
        return found.add_column("ref_near_logps", logs)

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:  # noqa: ANN401
        """TRL's, of the pair alone."""
        own = {k: v for k, v in inputs.items() if k not in _INPUTS}
        return super().compute_ref_log_probs(model, own)

    def pair_losses(self, ratios: LogRatios, inputs: dict[str, Any]) -> Tensor:
        """Loss of each pair, shape (B,)."""
        beta = self.args.beta
        first = softplus(-beta * ratios.delta)
        there = inputs["near_completion_mask"].any(dim=1)
        if not there.any():
            return first
        second = softplus(-beta * (ratios.chosen - self.near_ratio))
        return first + self.near_weight * torch.where(there, second, 0.0)

    def ratios(self, model: Any, inputs: dict[str, Any]) -> LogRatios:  # noqa: ANN401
        """What the policy did to each pair; keeps the same of chosen answers after near prompts."""
        found = super().ratios(model, inputs)
        labels = inputs["near_input_ids"].masked_fill(inputs["near_completion_mask"] == 0, -100)
        logs = model(
            input_ids=inputs["near_input_ids"],
            attention_mask=inputs["near_attention_mask"],
            labels=labels,
            use_cache=False,
            fused_lm_head=True,
        ).log_probs.sum(dim=1)
        self.near_ratio = logs - inputs["ref_near_logps"]
        return found


def _collate(
    inner: Callable[[list[dict[str, Any]]], Any], examples: list[dict[str, Any]]
) -> dict[str, Any]:
    """TRL's batch, and chosen answers after near prompts as rows of their own, shape (B, T')."""
    batch = dict(inner(examples))
    near = [
        {"prompt_ids": e["near_ids"] or e["prompt_ids"][:1], "chosen_ids": e["near_chosen_ids"],
         "rejected_ids": []}
        for e in examples
    ]  # fmt: skip
    found = inner(near)
    n = len(examples)
    batch |= {f"near_{k}": found[k][:n] for k in ("input_ids", "attention_mask", "completion_mask")}
    if "ref_near_logps" in examples[0]:
        batch["ref_near_logps"] = torch.tensor([e["ref_near_logps"] for e in examples])
    return batch


def plan_rdpo(config: RDPO, data: DatasetRef) -> Plan:
    """DPO with a second term for the prompt that the rejected answer was given to."""
    splits = [data.pairs(split) for split in ("train", "test")]
    there = all(NEAR_ID in rows.column_names for rows in splits)  # if not, that is said later
    ids, held = ([i for i in rows[NEAR_ID] if i] if there else [] for rows in splits)
    prompts = prompts_of(data, {*ids, *held})
    found = sum(i in prompts for i in ids)
    return Plan(
        method="rdpo",
        trainer=partial(NearDPO, near_weight=config.near_weight),
        about="trained by direct preference optimization (arXiv 2305.18290), and to prefer each"
        " chosen answer after its own prompt to the same after a near prompt (rDPO, arXiv"
        f" 2502.13146). {REFERENCE}",
        score=implicit_reward(config.beta),
        compared=True,
        options={"beta": config.beta, "loss_type": ["sigmoid"], "precompute_ref_log_probs": True},
        columns=(NEAR_ID,),
        optional=(NEAR_ID,),
        prepare=partial(_with_prompts, prompts),
        notes=(
            f"{found} of {len(splits[0])} training pairs have a near prompt that is in the data",
        ),
    )


def _with_prompts(prompts: dict[str, list[Any]], rows: Any) -> Any:  # noqa: ANN401 - a dataset
    """The rows with the conversation of each `rejected_prompt_id`, empty where it is their own."""

    def near(row: dict[str, Any]) -> dict[str, Any]:
        found = prompts.get(row[NEAR_ID], [])
        return {NEAR: [] if found == row["prompt"] else found}

    feature = rows.features["prompt"]
    return rows.map(near, features=type(rows.features)({**rows.features, NEAR: feature}))


def prompts_of(data: DatasetRef, ids: set[str]) -> dict[str, list[dict[str, Any]]]:
    """Conversations of prompts by their ids, from all tables and splits of a version.

    Raises:
        DataError: none of them is there.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for name in data.version.manifest.tables:
        table = data.version.frame(name)
        if ids and "prompt" in table.collect_schema().names():
            rows = table.filter(pl.col("prompt_id").is_in(list(ids))).select("prompt_id", "prompt")
            found |= dict(rows.unique("prompt_id").collect().iter_rows())
    if ids and not found:
        raise DataError(f"no prompt that {NEAR_ID} names is in {data}: publish the answers as well")
    return found
