"""Does our DPO cost more a step than plain TRL, and how soon does it take its first? On a CPU.

    python -m benchmarks.train_step [--steps 60] [--rows 160000]

Both trainers have the same small random Llama, the same pairs and the same options; their steps
are taken by turns in one process, so that what else the machine does meets both. Printed are the
ratio of the times of each pair of steps, its median with an interval by resampling, and, with
`--rows`, the seconds from settings to the first step on that many pairs, first and second time.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import polars as pl
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.dpo_worth import version_of
from prefactory.tables import MESSAGES, Shape, with_ids
from trainers import Reward, train_transformer
from trainers.columns import ColumnsDPO, trl
from trainers.running import Lines, considerate
from trainers.tiny import tiny_model

WORDS = ("certainly", "please", "take", "turn", "whatever", "away", "part", "thing")


def pairs(n: int, seed: int) -> pl.DataFrame:
    """Pairs of made sentences, 10 to 40 words."""
    rng = np.random.default_rng(seed)
    columns: dict[str, list[list[dict[str, str]]]] = {"prompt": [], "chosen": [], "rejected": []}
    for i in range(n):
        for name, rows in columns.items():
            words = " ".join(rng.choice(WORDS, rng.integers(10, 40)))
            role = "user" if name == "prompt" else "assistant"
            rows.append([{"role": role, "content": f"{words} {i}"}])
    table = pl.DataFrame(columns, schema=dict.fromkeys(columns, MESSAGES))
    return with_ids(table, Shape.PAIRS).with_columns(
        source=pl.lit("made"), source_id=pl.lit("0"), label_source=pl.lit("rule")
    )


def trainers(model: Path, rows: Any, folder: Path) -> dict[str, Any]:  # noqa: ANN401
    """Plain TRL and ours, on the same rows."""
    options = {
        "per_device_train_batch_size": 8, "max_length": 128, "report_to": "none", "bf16": False,
        "use_cpu": True, "gradient_checkpointing": False, "precompute_ref_log_probs": True,
        "disable_tqdm": True, "save_strategy": "no", "dataloader_pin_memory": False,
    }  # fmt: skip
    made = {}
    for name, cls in (("trl", trl.DPOTrainer), ("ours", ColumnsDPO)):
        made[name] = cls(
            model=AutoModelForCausalLM.from_pretrained(model),
            args=trl.DPOConfig(output_dir=str(folder / name), **options),
            train_dataset=rows,
            processing_class=AutoTokenizer.from_pretrained(model),
        )
    return made


def ratios(made: dict[str, Any], steps: int) -> np.ndarray[Any, Any]:
    """Time of our step over that of TRL's, step by step, in an order that turns."""
    batches = {name: list(t.get_train_dataloader())[:steps] for name, t in made.items()}
    for t in made.values():
        t.create_optimizer_and_scheduler(steps)
        t.model.train()
        t.current_gradient_accumulation_steps = 1
    out = []
    for i in range(steps):
        spent = {}
        for name in ("trl", "ours") if i % 2 else ("ours", "trl"):
            t, batch = made[name], batches[name][i % len(batches[name])]
            began = time.perf_counter()
            t.training_step(t.model, batch)
            t.optimizer.step()
            t.optimizer.zero_grad()
            spent[name] = time.perf_counter() - began
        out.append(spent["ours"] / spent["trl"])
    return np.asarray(out[2:])  # the first steps warm caches


class FirstStepError(Exception):
    """The first step is done."""


def _stop(*_: object, **__: object) -> None:
    raise FirstStepError


def first_step(model: Path, rows: int, folder: Path) -> list[float]:
    """Seconds from the settings to the end of the first step of an epoch over many pairs.

    Of a reward model, which asks no reference; without tokens kept from before, then with them.
    """
    data = version_of(pairs(rows, 1), pairs(8, 2), folder / "many")
    config = Reward(
        model=str(model), per_device_train_batch_size=8, max_length=256,
        gradient_accumulation_steps=1, gradient_checkpointing=False, save_strategy="no",
    )  # fmt: skip
    seconds = []
    with mock.patch.object(Lines, "on_step_end", _stop):
        for name in ("first", "second"):
            began = time.monotonic()
            with contextlib.suppress(FirstStepError):
                train_transformer(config, data, folder / name, folder / "tokens")
            seconds.append(time.monotonic() - began)
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rows", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, considerate():
        folder = Path(scratch)
        model = tiny_model(folder / "tiny", WORDS)
        data = version_of(pairs(args.steps * 8, 0), pairs(8, 3), folder / "few")
        rows = data.pairs("train").select_columns(["prompt", "chosen", "rejected"])
        torch.manual_seed(0)
        found = ratios(trainers(model, rows, folder), args.steps)
        rng = np.random.default_rng(0)
        drawn = np.median(rng.choice(found, (2000, len(found))), axis=1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        print(f"step of ours over TRL's: {np.median(found):.3f} [{low:.3f}, {high:.3f}]")
        if args.rows:
            first, second = first_step(model, args.rows, folder)
            print(f"first step on {args.rows} pairs: {first:.1f} s, then {second:.1f} s")


if __name__ == "__main__":
    main()
