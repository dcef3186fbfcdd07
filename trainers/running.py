"""Running one of TRL's trainers: its arguments, its callbacks, and manners towards the machine."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import torch
from huggingface_hub import constants
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, TrainerCallback

from prefactory.errors import ConfigError, DataError, MissingPackageError
from trainers.checkpoints import Marks
from trainers.settings import TransformerSettings

_LOG = logging.getLogger(__name__)
REPORTERS = {
    name: (name,) for name in ("trackio", "wandb", "mlflow", "swanlab")
} | {"tensorboard": ("tensorboard", "tensorboardX")}  # fmt: skip
"""Value of `report_to` -> packages of which one must be there."""


class SilentProgress(ProgressCallback):  # type: ignore[misc]  # transformers has no types here
    """Progress bar on standard error, without the lines on standard output."""

    def on_log(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - the callback protocol
        """Write nothing: the log is in the trainer's state and in the report."""


class Lines(TrainerCallback):  # type: ignore[misc]  # transformers has no types here
    """A line of the log every ten seconds: steps, pace, time left, loss."""

    every_s = 10.0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Take the time."""
        self._began = self._last = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Say how far it is, if the last line is old."""
        now = time.monotonic()
        if now - self._last < self.every_s and state.global_step > 1:
            return
        self._last = now
        pace = state.global_step / max(now - self._began, 1e-9)
        left = (state.max_steps - state.global_step) / pace
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        loss = f", loss {losses[-1]:.4f}" if losses else ""
        _LOG.info(
            "step %d of %d, %.2f a second, about %.0f s left%s",
            state.global_step, state.max_steps, pace, left, loss,
        )  # fmt: skip


@contextmanager
def considerate() -> Iterator[None]:
    """Send no telemetry, write no cache into the (immutable) version, no bars but on a terminal."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    constants.HF_HUB_DISABLE_TELEMETRY = True
    cached, silent = datasets.is_caching_enabled(), datasets.are_progress_bars_disabled()
    bars = os.environ.get("TQDM_DISABLE")
    datasets.disable_caching()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
        os.environ["TQDM_DISABLE"] = "1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of the libraries, to each other
            yield
    finally:
        if bars is None:
            os.environ.pop("TQDM_DISABLE", None)
        else:
            os.environ["TQDM_DISABLE"] = bars
        if cached:
            datasets.enable_caching()
        if not silent:
            datasets.enable_progress_bars()


def check_machine(settings: TransformerSettings) -> None:
    """Refuse what this machine can't do, before anything is loaded.

    Raises:
        ConfigError: for bfloat16 on a GPU that has none, or several GPUs in one process.
        MissingPackageError: who gets the log is not installed.
    """
    for name in (
        (settings.report_to,) if isinstance(settings.report_to, str) else settings.report_to
    ):
        packages = REPORTERS.get(name, ())
        if packages and not any(map(find_spec, packages)):
            raise MissingPackageError(
                f"report_to: {name} needs the package {name}: pip install {name}"
            )
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if settings.bf16 is True and gpus and not torch.cuda.is_bf16_supported():
        raise ConfigError("this GPU has no bfloat16; use bf16: false")
    if gpus > 1 and "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            f"{gpus} GPUs are visible to one process; choose one with CUDA_VISIBLE_DEVICES=0, or "
            "use all: prefactory train --launch ddp prints how"
        )


def arguments(settings: TransformerSettings, folder: Path, holds_out: bool) -> dict[str, Any]:
    """Arguments that all of TRL's configurations take.

    Args:
        settings: of the method.
        folder: where checkpoints go.
        holds_out: whether there are held-out rows.

    Raises:
        ConfigError: evaluation while training is asked for, and there is nothing to evaluate on.
    """
    cuda = torch.cuda.is_available()
    auto = cuda and torch.cuda.is_bf16_supported()
    more = settings.options()
    if settings.early_stopping is not None:
        every = {"eval_strategy": settings.save_strategy, "eval_steps": settings.save_steps}
        best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss"}
        more = {**every, **best, **more}
    if more.get("eval_strategy", "no") != "no" and not holds_out:
        raise ConfigError(
            "evaluation while training needs held-out pairs, and there are none: publish the data "
            "with a test split (publish: {split: ...})"
        )
    reports = settings.report_to
    return {
        "output_dir": str(folder),
        "learning_rate": settings.learning_rate,
        "num_train_epochs": settings.num_train_epochs,
        "max_steps": settings.max_steps or -1,
        "per_device_train_batch_size": settings.per_device_train_batch_size,
        "per_device_eval_batch_size": settings.per_device_eval_batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation_steps,
        "max_length": settings.max_length,
        "warmup_steps": settings.warmup_steps,
        "lr_scheduler_type": settings.lr_scheduler_type,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "bf16": bool(auto if settings.bf16 == "auto" else settings.bf16),
        "fp16": False,
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
        "seed": settings.seed,
        "data_seed": settings.seed,
        "logging_steps": 1,
        "report_to": list(reports) if isinstance(reports, tuple) else reports,
        "save_strategy": settings.save_strategy,
        "save_steps": settings.save_steps,
        "save_total_limit": None if settings.keep_checkpoints else settings.save_total_limit,
        "eval_strategy": "no",
        "disable_tqdm": not sys.stderr.isatty(),
        "trust_remote_code": settings.trust_remote_code,
        **more,
    }


def fit(trainer: Any, settings: TransformerSettings, start: Path | None) -> dict[str, float]:  # noqa: ANN401
    """Train without a word on standard output.

    Args:
        trainer: one of TRL's trainers.
        settings: of the method.
        start: checkpoint to go on from.

    Returns:
        Facts of the run.

    Raises:
        DataError: if TRL dropped every row.
    """
    if not len(trainer.train_dataset):
        raise DataError("every training pair is longer than max_length")
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    terminal = sys.stderr.isatty() and not trainer.args.disable_tqdm
    trainer.add_callback(SilentProgress if terminal else Lines)
    trainer.add_callback(Marks(settings.keep_checkpoints))
    if (stop := settings.early_stopping) is not None:
        trainer.add_callback(EarlyStoppingCallback(stop.patience, stop.threshold))
    if start is not None:
        _LOG.info("goes on from step %s", start.name.rpartition("-")[2])
    trainer.train(resume_from_checkpoint=str(start) if start else None)
    facts = {"steps": float(trainer.state.global_step)}
    for name in ("loss", "kl"):
        history = [entry[name] for entry in trainer.state.log_history if name in entry]
        if history:
            facts |= {f"first_{name}": float(history[0]), f"last_{name}": float(history[-1])}
    return facts
