"""Supervised fine-tuning on windows that hold rows of several domains in balance (MoI)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import torch

from prefactory.chat_template import ChatTemplate
from prefactory.extras import package
from trainers.packing import PAD, Mode, Packed, attention_mask, pack_balanced
from trainers.scoring import common, ids_of
from trainers.settings import Mixture

trl = package("trl")
IGNORED = -100


class WindowsSFT(trl.SFTTrainer):  # type: ignore[misc, name-defined]  # trl has no types
    """TRL's SFT on windows: a row attends to itself, or to its chunk, and to nothing else.

    Args:
        mixture: how rows are packed.
        options: those of TRL's trainer; the rows have `prompt`, `completion` and the domain.
    """

    def __init__(self, *, mixture: Mixture, **options: Any) -> None:  # noqa: ANN401
        args, tokenizer = options["args"], options["processing_class"]
        args.dataset_kwargs = {"skip_prepare_dataset": True}
        args.remove_unused_columns = False
        for name in ("train_dataset", "eval_dataset"):
            if options.get(name) is not None:
                options[name] = windows(options[name], tokenizer, mixture, args)
        options["data_collator"] = Collator(mixture.mode)
        super().__init__(**options)


def windows(rows: Any, tokenizer: Any, mixture: Mixture, args: Any) -> Any:  # noqa: ANN401
    """Pack rows into windows.

    Returns:
        A dataset of `input_ids`, `labels` (of answers only), `position_ids`, `row_ids` and
        `chunk_ids`, each Int32[max_length].
    """
    template = ChatTemplate(tokenizer, "the model")
    ids, answers, domains = [], [], []
    for row in rows:
        talk, tools = row["prompt"], row.get("tools")
        start = ids_of(template, talk, tools, True)
        full = ids_of(template, talk + row["completion"], tools, False)
        begins = common(start, full)
        ids.append(full)
        answers.append([IGNORED] * begins + full[begins:])
        domains.append(str(row[mixture.domain]))
    packed = pack_balanced(
        ids, domains, args.max_length, mixture.chunk, mixture.default, mixture.repeats,
        args.seed, tokenizer.pad_token_id,
    )  # fmt: skip
    return datasets.Dataset.from_dict(
        {
            "input_ids": packed.input_ids,
            "labels": labels_of(packed, answers),
            "position_ids": packed.position_ids,
            "row_ids": packed.row_ids,
            "chunk_ids": packed.chunk_ids,
        }
    )


def labels_of(packed: Packed, answers: Sequence[Sequence[int]]) -> np.ndarray[Any, Any]:
    """Labels at each place: the row's own; none at the start of a row, which follows another."""
    size = packed.row_ids.shape[1]
    out = np.full(packed.row_ids.shape, IGNORED, np.int64)
    for b, n in zip(*np.nonzero(packed.row_ids != PAD), strict=True):
        row, place = packed.row_ids[b, n], packed.position_ids[b, n]
        kept = answers[row][-size:]
        out[b, n] = kept[place] if place else IGNORED
    return out


class Collator:
    """Windows as a batch, with the mask of who attends to whom: Bool[B, 1, L, L]."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate windows."""
        arrays: dict[str, Any] = {
            name: np.asarray([e[name] for e in examples], dtype=np.int64)
            for name in ("input_ids", "labels", "position_ids", "row_ids", "chunk_ids")
        }
        packed = Packed(
            arrays["input_ids"], arrays["position_ids"], arrays["row_ids"], arrays["chunk_ids"],
            (), np.zeros(0, np.int32),
        )  # fmt: skip
        mask = attention_mask(packed, self.mode)
        return {
            **{k: torch.from_numpy(arrays[k]) for k in ("input_ids", "labels", "position_ids")},
            "attention_mask": torch.from_numpy(mask)[:, None],
        }
