"""Loading what a training starts from: tokenizer, model, adapters."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, set_seed

from prefactory.engines.converted import converted, is_gguf
from prefactory.errors import ConfigError, MissingPackageError
from prefactory.safety.chat_templates import bound_templates
from prefactory.safety.model_files import check_model
from trainers.settings import Lora, TransformerSettings

PACKAGES = ["accelerate", "peft", "torch", "transformers", "trl"]


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
    check_model(model, trusted=settings.trust_remote_code)
    bound_templates()
    try:
        return auto.from_pretrained(
            model,
            revision=settings.revision or "main",
            trust_remote_code=settings.trust_remote_code,
            **options,
        )
    except (OSError, ValueError, ImportError) as error:
        reason = why_not(settings.model) or error
        raise ConfigError(f"can't load {settings.model} as {auto.__name__}: {reason}") from error


def why_not(model: str) -> str | None:
    """What a user should know first, where the library's own words are about something else."""
    path = Path(model)
    if path.is_dir():
        known = any((path / f).is_file() for f in ("config.json", "adapter_config.json"))
        return None if known else "the folder has no config.json, so it holds no model"
    if path.is_absolute() or model.startswith((".", "~")) or len(path.parts) > 2:
        return "there is no such folder"
    return None


def save(trainer: Any, folder: Path) -> None:  # noqa: ANN401
    """Save the model and its tokenizer as safetensors and JSON, without TRL's pickle and card."""
    trainer.save_model(str(folder))
    for name in ("training_args.bin", "README.md"):
        (folder / name).unlink(missing_ok=True)
    _ordered(folder / "adapter_config.json")


def _ordered(adapter: Path) -> None:
    """Sort what peft keeps as a set and writes in the order of this process's hashes."""
    if adapter.is_file():
        facts = json.loads(adapter.read_text("utf-8"))
        for name in ("target_modules", "exclude_modules"):
            if isinstance(facts.get(name), list):
                facts[name] = sorted(facts[name])
        adapter.write_text(json.dumps(facts, indent=2, sort_keys=True), "utf-8")
