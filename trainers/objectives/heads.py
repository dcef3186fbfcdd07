"""One head an objective on one backbone (MAH-DPO, arXiv 2510.01167), and one plain model of them.

Logits are linear in the head, so a mixture of heads with a user's weights is one head: the weighted
sum of their matrices. That makes a model like any other, which any server runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import softplus

from prefactory.engines.steering.heads import HEADS, merged, mixture, set_head
from prefactory.errors import ConfigError
from prefactory.folders import new_folder
from prefactory.safety.model_files import check_model, open_tokenizer
from trainers.columns import ColumnsDPO
from trainers.losses import LogRatios

HEAD = "head"


def add_heads(model: Any, n: int, noise: float) -> None:  # noqa: ANN401
    """Give a causal model n copies of its head, each with noise of its own (seeds 42, 142, ...)."""
    start = model.get_output_embeddings().weight.detach()
    copies = []
    for h in range(n):
        drawn = torch.randn(start.shape, generator=torch.Generator().manual_seed(42 + 100 * h))
        copies.append(nn.Parameter(start + noise * drawn.to(start)))
    model.objective_heads = nn.ParameterList(copies)


class HeadsDPO(ColumnsDPO):
    """DPO in which each pair trains the head of its objective, and every pair the backbone.

    The loss is the mean over the objectives of a batch of their mean losses. The reference is the
    model with its one head, before training.

    Args:
        heads: how many; column `head` of the rows says which, 0 to heads - 1.
        noise: standard deviation of what is added to each head.
        options: those of `ColumnsDPO`, without `columns`.
    """

    def __init__(self, *, heads: int, noise: float, **options: Any) -> None:  # noqa: ANN401
        add_heads(options["model"], heads, noise)
        super().__init__(columns=[HEAD], **options)

    def ratios(self, model: Any, inputs: dict[str, Any]) -> LogRatios:  # noqa: ANN401
        """What the policy did to each pair, by the head of its objective."""
        bare = self.accelerator.unwrap_model(model)
        ids, mask = inputs["input_ids"], inputs["completion_mask"]
        hidden = bare.get_decoder()(
            input_ids=ids, attention_mask=inputs["attention_mask"], use_cache=False
        ).last_hidden_state
        head = inputs[HEAD].long().repeat(2)
        logs = hidden.new_zeros(len(ids))
        for h in head.unique().tolist():
            rows = (head == h).nonzero()[:, 0]
            logits = (hidden[rows, :-1] @ bare.objective_heads[h].T).float()
            each = logits.log_softmax(-1).gather(2, ids[rows, 1:, None])[..., 0]
            logs = logs.index_add(0, rows, (each * mask[rows, 1:]).sum(dim=1))
        chosen, rejected = logs.chunk(2)
        tokens = mask.sum(dim=1).clamp(min=1).chunk(2)
        return LogRatios(
            chosen - inputs["ref_chosen_logps"], rejected - inputs["ref_rejected_logps"], *tokens
        )

    def pair_losses(self, ratios: LogRatios, inputs: dict[str, Any]) -> Tensor:
        """Mean loss of each objective in the batch, one value an objective."""
        each, head = softplus(-self.args.beta * ratios.delta), inputs[HEAD]
        return torch.stack([each[head == h].mean() for h in head.unique()])


def balanced(head: Sequence[int], seed: int, most: bool) -> list[int]:
    """Places of rows so that every run of H of them has one of each of the H heads.

    Args:
        head: of each row.
        seed: of the order.
        most: draw rows of small objectives again, up to the largest; else cut all to the smallest.
    """
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero(np.asarray(head) == h) for h in sorted(set(head))]
    size = (max if most else min)(len(g) for g in groups)
    columns = []
    for group in groups:
        rounds = [rng.permutation(group) for _ in range(-(-size // len(group)))]
        columns.append(np.concatenate(rounds)[:size])
    return [int(i) for i in np.stack(columns, axis=1).ravel()]


def finish(model: Any, names: Sequence[str], weights: Sequence[float], folder: Path) -> None:  # noqa: ANN401
    """Write the heads beside the model, and leave it with the one that the weights make of them."""
    heads = [h.detach().cpu().contiguous() for h in model.objective_heads]
    save_file(dict(zip(names, heads, strict=True)), folder / HEADS)
    set_head(model, merged(list(model.objective_heads), weights))
    del model.objective_heads


def plain_model(folder: Path, weights: Mapping[str, float], out: Path) -> None:
    """Write a plain model for given weights of the objectives, which any server can run.

    Args:
        folder: of a model that was trained with one head an objective.
        weights: objective -> weight, 0 or more; those that are left out have none.
        out: new folder.

    Raises:
        ConfigError: the model has no heads, or not these; or no weight is above 0.
    """
    from transformers import AutoModelForCausalLM

    head = mixture(folder, weights)
    with new_folder(out, ConfigError) as new:
        check_model(folder)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
        set_head(model, head)
        model.save_pretrained(new)
        open_tokenizer(folder).save_pretrained(new)
