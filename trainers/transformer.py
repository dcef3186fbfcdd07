"""What DPO and reward training share: loading, layout, TRL's arguments, files.

`trainers.dpo` and `trainers.reward` are the two users; TRL itself is imported there.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import torch
from huggingface_hub import constants
from torch.utils.data import DataLoader
from transformers import (
    AutoTokenizer,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    set_seed,
)

from prefactory.chat_template import ChatTemplate, IgnoredSystem, effect
from prefactory.engines.chat_form import chat_form
from prefactory.engines.converted import converted, is_gguf
from prefactory.errors import ConfigError, DataError, MissingPackageError
from prefactory.measures.calibration import Floats
from prefactory.tables import OF_PROMPT, TEXTS, Shape, message_keys
from trainers.base import DatasetRef, margins_of, table
from trainers.metrics import CONTEXT, PairMetrics, pair_metrics
from trainers.settings import Lora, TransformerSettings

_LOG = logging.getLogger(__name__)
PACKAGES = ["accelerate", "peft", "torch", "transformers", "trl"]
SAME, LONG = "both answers are the same", "longer than max_length"


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


def check_machine(settings: TransformerSettings) -> None:
    """Refuse what this machine can't do, before anything is loaded.

    Raises:
        ConfigError: for bfloat16 without a GPU that has it, or several GPUs in one process.
        MissingPackageError: if `lora` is set and peft is not installed.
    """
    if settings.lora is not None:
        lora_config(settings.lora, "CAUSAL_LM", [])
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if settings.precision == "bfloat16" and not (gpus and torch.cuda.is_bf16_supported()):
        raise ConfigError("precision bfloat16 needs a GPU that has it; use precision: float32")
    if gpus > 1 and "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            f"{gpus} GPUs are visible to one process; choose one with CUDA_VISIBLE_DEVICES=0"
        )


def lora_config(lora: Lora, task: str, trained_whole: list[str]) -> Any:  # noqa: ANN401
    """Make peft's configuration.

    Args:
        lora: the settings.
        task: peft's name of the task.
        trained_whole: modules that are trained in full (a new head).
    """
    try:
        peft = importlib.import_module("peft")
    except ModuleNotFoundError as error:
        raise MissingPackageError("lora needs the package peft: pip install peft") from error
    return peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
        modules_to_save=trained_whole or None,
        task_type=task,
    )


def load_tokenizer(settings: TransformerSettings) -> Any:  # noqa: ANN401
    """Load the tokenizer of the model, with a chat template and a padding token.

    Raises:
        ConfigError: if it can't be loaded, or has no chat template or nothing to pad with.
    """
    tokenizer: Any = _load(AutoTokenizer, settings)
    if settings.chat_template is not None:
        try:
            tokenizer.chat_template = settings.chat_template.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"can't read chat_template: {error}") from error
    if not tokenizer.chat_template:
        raise ConfigError(
            f"the tokenizer of {settings.model} has no chat template, so conversations can't be"
            " written as text: start from an instruction-tuned model, or name a Jinja file in"
            " chat_template"
        )
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ConfigError(f"the tokenizer of {settings.model} has no pad_token or eos_token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(auto: Any, settings: TransformerSettings, **options: Any) -> Any:  # noqa: ANN401
    """Load the float32 weights of a model from safetensors; a new head depends on the seed only.

    Args:
        auto: transformers' auto class.
        settings: model, revision, seed.
        options: passed on to `from_pretrained`.
    """
    set_seed(settings.seed)
    return _load(auto, settings, use_safetensors=True, dtype=torch.float32, **options)


def _load(auto: Any, settings: TransformerSettings, **options: Any) -> Any:  # noqa: ANN401
    model = str(converted(settings.model)) if is_gguf(settings.model) else settings.model
    try:
        return auto.from_pretrained(
            model,
            revision=settings.revision or "main",
            trust_remote_code=settings.trust_remote_code,
            **options,
        )
    except (OSError, ValueError, ImportError) as error:
        reason = _why_not(settings.model) or error
        raise ConfigError(f"can't load {settings.model} as {auto.__name__}: {reason}") from error


def _why_not(model: str) -> str | None:
    """What a user should know first, where the library's own words are about something else."""
    path = Path(model)
    if path.is_dir():
        known = any((path / f).is_file() for f in ("config.json", "adapter_config.json"))
        return None if known else "the folder has no config.json, so it holds no model"
    if path.is_absolute() or model.startswith((".", "~")) or len(path.parts) > 2:
        return "there is no such folder"
    return None


@dataclass(frozen=True)
class Laid:
    """Pairs in TRL's explicit conversational layout.

    Attributes:
        rows: a dataset of `pair_id` (by which dropped rows are found again), `prompt`, `chosen`,
            `rejected` and, if asked for, `margin`.
        dropped: reason -> number of pairs left out.
        notes: what the chat template does that a reader must know.
    """

    rows: Any
    dropped: Mapping[str, int]
    notes: tuple[str, ...]


def layout(
    data: DatasetRef,
    split: str,
    template: ChatTemplate,
    ignored: IgnoredSystem,
    margin: bool = False,
    columns: Sequence[str] = (),
) -> Laid:
    """Lay out a split, without pairs that the model can't tell apart or its template refuses.

    Args:
        data: the dataset version.
        split: `train` or `test`.
        template: the chat template that the rows will be written with.
        ignored: what to do with system messages that it leaves out.
        margin: keep the margin, which must be on every pair.
        columns: more columns to keep, which were checked (`trainers.columns`).

    Raises:
        DataError: the data must not be trained on with this template.
    """
    rows = data.pairs(split)
    ids = table(rows, ["pair_id", "chosen_id", "rejected_id", "margin"])
    if margin:
        margins_of(ids, data, "use_margin")
    same = ids["chosen_id"] == ids["rejected_id"]
    shown = effect(template, data.version.batches(data.table, split), ignored).checked()
    lost = ids["pair_id"].is_in(shown.lost["pair_id"].implode()) & ~same
    keep = (~(same | lost)).arg_true().to_list()
    kept = ["pair_id", *TEXTS[Shape.PAIRS], *(["margin"] if margin else []), *columns]
    kept += [c for c in OF_PROMPT if c in rows.column_names]
    dropped = {SAME: int(same.sum()), **_reasons(shown.lost, ids.filter(lost)["pair_id"])}
    return Laid(in_chat_form(rows.select_columns(kept).select(keep)), dropped, shown.notes)


def in_chat_form(rows: Any) -> Any:  # noqa: ANN401 - a dataset
    """Rows whose messages are as chat templates take them: no absent keys, calls in OpenAI's form.

    Texts only stay as they are. Other messages become JSON, which `datasets` reads as objects, so
    that a template finds arguments as objects and no key that a message does not have.
    """
    talks = [c for c in TEXTS[Shape.PAIRS] if c in rows.column_names]
    frame = table(rows.select(range(0)), talks)
    if not any(message_keys(frame.schema[c]) for c in talks):
        return rows
    features = rows.features.copy()
    features |= {c: datasets.List(datasets.Json()) for c in talks}

    def written(row: dict[str, Any]) -> dict[str, list[Any]]:
        return {c: chat_form(row[c] or [], objects=True) for c in talks}

    return rows.map(written, features=datasets.Features(features))


def _reasons(lost: pl.DataFrame, ids: pl.Series) -> dict[str, int]:
    counted = lost.filter(pl.col("pair_id").is_in(ids.implode())).group_by("reason", "detail").len()
    return {f"{reason}: {detail}": n for reason, detail, n in counted.sort("detail").iter_rows()}


def together(*counts: Mapping[str, int]) -> dict[str, int]:
    """Add up counts by reason."""
    return dict(sum((Counter(c) for c in counts), Counter()))


def usable(rows: Any, fits: Callable[[dict[str, Any]], bool]) -> Any | None:  # noqa: ANN401
    """Return the rows if one of them fits; None if TRL, which fails on nothing, would drop all."""
    return rows if any(fits(row) for row in rows) else None


def tokens(tokenizer: Any, messages: list[Any], answer_follows: bool) -> int:  # noqa: ANN401
    """Length of a conversation in tokens, with the start of an answer if one is to follow."""
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=answer_follows, return_dict=True
    )
    return len(ids["input_ids"])


def arguments(settings: TransformerSettings, folder: Path) -> dict[str, Any]:
    """Arguments that both of TRL's configurations take."""
    cuda = torch.cuda.is_available()
    bf16 = settings.precision != "float32" and cuda and torch.cuda.is_bf16_supported()
    return {
        "output_dir": str(folder),
        "learning_rate": settings.learning_rate,
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps or -1,
        "per_device_train_batch_size": settings.batch_size,
        "per_device_eval_batch_size": settings.eval_batch_size,
        "gradient_accumulation_steps": settings.accumulation,
        "max_length": settings.max_length,
        "warmup_steps": settings.warmup_steps,
        "lr_scheduler_type": settings.schedule,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "bf16": bool(bf16),
        "fp16": False,
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
        "seed": settings.seed,
        "data_seed": settings.seed,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "eval_strategy": "no",
        "disable_tqdm": not sys.stderr.isatty(),
        "trust_remote_code": settings.trust_remote_code,
    }


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


def fit(trainer: Any, given: int) -> tuple[dict[str, float], int]:  # noqa: ANN401
    """Train without a word on standard output.

    Args:
        trainer: one of TRL's trainers.
        given: number of pairs that it was given.

    Returns:
        Facts of the run, and how many pairs TRL had dropped.

    Raises:
        DataError: if TRL dropped every pair.
    """
    kept = len(trainer.train_dataset)
    if not kept:
        raise DataError("every training pair is longer than max_length")
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    if sys.stderr.isatty() and not trainer.args.disable_tqdm:
        trainer.add_callback(SilentProgress)
    else:
        trainer.add_callback(Lines)
    trainer.train()
    history = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    facts = {"steps": float(trainer.state.global_step)}
    if history:
        facts |= {"first_loss": float(history[0]), "last_loss": float(history[-1])}
    return facts, given - kept


def measure(
    trainer: Any,  # noqa: ANN401
    data: DatasetRef,
    evaluate: Callable[[dict[str, Any]], tuple[torch.Tensor, torch.Tensor]],
) -> PairMetrics | None:
    """Metrics of the trained model on the held-out pairs that TRL kept.

    Args:
        trainer: a trainer that has trained.
        data: the dataset version.
        evaluate: batch -> margin and loss per pair, each of shape (B,).
    """
    rows = trainer.eval_dataset
    if rows is None or not len(rows):
        return None
    batches = DataLoader(
        rows, batch_size=trainer.args.per_device_eval_batch_size, collate_fn=trainer.data_collator
    )
    device = trainer.accelerator.device
    trainer.model.eval()
    parts = []
    with torch.no_grad(), trainer.accelerator.autocast():
        for batch in batches:
            moved = {key: value.to(device) for key, value in batch.items()}
            parts.append(torch.stack(evaluate(moved)).double().cpu())
    margins, losses = torch.cat(parts, dim=1).numpy()
    return pair_metrics(*_aligned(rows, data, margins, losses))


def _aligned(
    rows: Any,  # noqa: ANN401
    data: DatasetRef,
    margins: Floats,
    losses: Floats,
) -> tuple[Floats, Floats, pl.DataFrame]:
    kept = pl.DataFrame({"pair_id": rows["pair_id"][:], "m": margins, "l": losses})
    joined = kept.join(table(data.pairs("test"), CONTEXT), on="pair_id", maintain_order="left")
    return joined["m"].to_numpy(), joined["l"].to_numpy(), joined


def save(trainer: Any, folder: Path) -> None:  # noqa: ANN401
    """Save the model and its tokenizer as safetensors and JSON, without TRL's pickle and card."""
    trainer.save_model(str(folder))
    for name in ("training_args.bin", "README.md"):
        (folder / name).unlink(missing_ok=True)
