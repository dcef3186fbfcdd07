"""A GGUF file as transformers, TRL and peft read a model: a folder of safetensors, made once.

transformers reads the quantized weights of llama.cpp as float32, so the folder is several times as
large as the file (SmolLM2-135M-Instruct: 538 MB from 98 MB). It is kept under the digest of the
file's bytes and the version of the conversion.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from prefactory.engines.llama import gguf
from prefactory.errors import ConfigError
from prefactory.extras import package
from prefactory.folders import CHECKSUMS, damaged, new_folder

VERSION = 1
"""Of the conversion: bumped when the same file gives another folder."""


def is_gguf(model: str) -> bool:
    """Whether a model's name means a GGUF file: that of a package, a file, a folder with one."""
    path = Path(model).expanduser()
    folder = path.is_dir() and not (path / "config.json").exists() and any(path.glob("*.gguf"))
    return model in gguf.PACKAGED or path.suffix == ".gguf" or folder


def cache_folder() -> Path:
    """Where converted models are kept: `prefactory/models` of the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "prefactory" / "models"


def converted(model: str) -> Path:
    """Folder of a GGUF model as float32 safetensors with tokenizer and chat template.

    Args:
        model: what `gguf.gguf_file` takes.

    Raises:
        MissingPackageError: transformers or gguf, or the package that has the model, is missing.
        ConfigError: there is no such file, or transformers can't read its architecture.
    """
    file = gguf.gguf_file(model)
    folder = cache_folder() / f"{file.stem}-{gguf.digest(file)[:12]}-{VERSION}"
    if damaged(folder / CHECKSUMS):
        shutil.rmtree(folder)
    if not (folder / "config.json").is_file():
        gguf.metadata(file)  # whether it is a GGUF file at all
        package("gguf")
        try:
            with new_folder(folder, ConfigError) as new:
                _convert(file, new)
        except ConfigError:
            if not (folder / "config.json").is_file():  # nobody else made it meanwhile
                raise
    return folder


def _convert(file: Path, folder: Path) -> None:
    transformers = package("transformers")
    torch = package("torch")
    bars = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    options: dict[str, Any] = {"gguf_file": file.name, "trust_remote_code": False}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, **options)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            file.parent, dtype=torch.float32, **options
        )
        if hasattr(model.config, "quantization_config"):  # it is not quantized any more
            del model.config.quantization_config
        model.hf_quantizer = None
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError) as error:
        raise ConfigError(
            f"the GGUF file {str(file)!r} can't be read by transformers: "
            f"{' '.join(str(error).split())[:300]}; take the model's own folder of safetensors"
        ) from error
    finally:
        if shown:
            bars.enable_progress_bar()


if __name__ == "__main__":  # `make quickstart` converts while it sets up
    sys.stdout.write(f"{converted(sys.argv[1])}\n")
