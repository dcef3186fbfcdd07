"""Tokenizers and folders of models that somebody sent: none of their code runs unasked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefactory.errors import ConfigError
from prefactory.extras import package
from prefactory.safety.chat_templates import bound_templates

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz")
_OURS = "sentence_transformers."
_KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation")


def open_tokenizer(model: str | Path, *, trusted: bool = False, **options: Any) -> Any:  # noqa: ANN401
    """Open the tokenizer of a model, whose chat template is bounded from now on.

    Args:
        model: a folder or a hub id.
        trusted: run code that the model brings (`trust_remote_code`); nobody is asked.
        options: of `AutoTokenizer.from_pretrained`.

    Raises:
        ConfigError: the folder would run code.
    """
    check_model(model, trusted=trusted)
    bound_templates()
    auto = package("transformers").AutoTokenizer
    return auto.from_pretrained(str(model), trust_remote_code=trusted, **options)


def check_model(model: str | Path, *, trusted: bool = False) -> None:
    """Refuse a folder that would run code when it is loaded, whatever a library would do with it.

    Those are modules of an encoder that are no part of Sentence Transformers, kernels that the
    configuration would have fetched, and weights that are to be had as pickles only.

    Args:
        model: a folder; anything else is not looked at.
        trusted: code is wanted; pickles are refused nevertheless.

    Raises:
        ConfigError: it would.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return
    parts = [folder, *(folder / path for path, _ in _modules(folder))]
    for part in parts:
        names = [file.name for file in part.glob("*") if file.suffix.lower() in _PICKLES]
        names = [name for name in names if name != "training_args.bin"]  # read by nobody
        if names and not any(part.glob("*.safetensors")):
            raise ConfigError(
                f"{part} has weights in {sorted(names)[0]} only, and no safetensors; such a file "
                "may hold pickles, which run code when they are read, so it is not opened: convert "
                "it with save_pretrained first"
            )
    if trusted:
        return
    for _, kind in _modules(folder):
        if not kind.startswith(_OURS):
            raise ConfigError(
                f"the encoder {folder} wants the Python class {kind!r}, which is no part of "
                "Sentence Transformers; if you have read it, say trust_remote_code: true"
            )
    for part in parts:
        about = _json(part / "config.json")
        for name in _KERNELS:
            if isinstance(about, dict) and "/" in json.dumps(about.get(name)):
                raise ConfigError(
                    f"{part}/config.json wants a kernel from the hub ({name}: {about[name]}), "
                    "which is code; if you trust it, say trust_remote_code: true"
                )


def _modules(folder: Path) -> list[tuple[str, str]]:
    """Subfolder and class of each module of a Sentence Transformers model."""
    found = _json(folder / "modules.json")
    listed = found if isinstance(found, list) else []
    return [(str(m.get("path", "")), str(m.get("type"))) for m in listed if isinstance(m, dict)]


def _json(file: Path) -> Any:  # noqa: ANN401 - whatever it holds
    try:
        return json.loads(file.read_text("utf-8")) if file.is_file() else None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is no JSON: {error}") from error
