"""Where a model is that a user names: a folder, a model of the home, or a hub id."""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.settings import Settings
from prefactory.engines.converted import is_gguf
from prefactory.errors import ConfigError
from prefactory.folders import undamaged

_HOLDS_MODEL = ("config.json", "adapter_config.json")


def model_of(name: str, settings: Settings) -> str:
    """Folder of a model by its name in the home; a folder or hub id stays as it is.

    Raises:
        ConfigError: files of the folder are damaged.
    """
    here = settings.home / "models" / name
    place = str(here) if here.is_dir() and not Path(name).is_dir() else name
    undamaged(Path(place))
    return place


def transformer_of(name: str, settings: Settings) -> str:
    """The same of a model that transformers can load; what can't be one is refused at once.

    Raises:
        ConfigError: there is no such folder, or it holds another kind of model, or none.
    """
    place = model_of(name, settings)
    folder = Path(place)
    if is_gguf(place) or _is_loaded(folder):
        return place
    if folder.is_dir():
        raise ConfigError(f"{place} {_other(folder)}")
    if folder.is_absolute() or place.startswith((".", "~")) or len(folder.parts) > 2:
        named = sorted(p.name for p in (settings.home / "models").glob("*/") if _is_loaded(p))
        there = f"; models of this home: {', '.join(named[:8])}" if named else ""
        raise ConfigError(f"there is no model {place}: there is no such folder{there}")
    return place


def _is_loaded(folder: Path) -> bool:
    return any((folder / file).is_file() for file in _HOLDS_MODEL)


def _other(folder: Path) -> str:
    """What a folder is that holds no model of transformers."""
    try:
        method = json.loads((folder / "training.json").read_text("utf-8"))["method"]
    except (OSError, ValueError, KeyError, TypeError):
        return "has no config.json, so it holds no model"
    return f"was made by `train {method}`: it is no model that transformers loads"
