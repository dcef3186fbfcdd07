"""Data that generators compose texts from, and their safe reading."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from prefactory.errors import ConfigError
from prefactory.yamllines import load

T = TypeVar("T", bound=BaseModel)


def read(name_or_path: str) -> Any:  # noqa: ANN401 - a YAML document
    """Read a pool by its name, or a file of the user's (its path ends in .yaml, .yml or .json).

    Raises:
        ConfigError: there is no such pool or file, or it is no YAML.
    """
    if name_or_path.lower().endswith((".yaml", ".yml", ".json")):
        try:
            text = Path(name_or_path).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{name_or_path} can't be read: {error}") from error
        return load(text, Path(name_or_path).name)[0]
    file = resources.files("generators.pools").joinpath(f"{name_or_path}.yaml")
    if not file.is_file():
        raise ConfigError(
            f"there is no pool {name_or_path!r}; a file of your own is named with its ending, such "
            "as ./mine.yaml"
        )
    return load(file.read_text("utf-8"), f"{name_or_path}.yaml")[0]


def read_as(form: type[T], name_or_path: str) -> T:
    """Read a pool or a file of the user's that has a form.

    Raises:
        ConfigError: it can't be read, or has another form; with all mistakes.
    """
    try:
        return form.model_validate(read(name_or_path))
    except ValidationError as error:
        problems: list[Any] = list(error.errors(include_url=False))
        raise ConfigError(
            [f"{name_or_path}: {'.'.join(map(str, i['loc']))}: {i['msg']}" for i in problems]
        ) from error


def changed_at(name_or_path: str) -> int:
    """When a file of the user's was changed, in nanoseconds, for a cache; 0 for a pool's name."""
    file = Path(name_or_path)
    return file.stat().st_mtime_ns if "." in name_or_path and file.is_file() else 0
