"""Training from recipes and from the command line: one table of methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from catalog.versions import Version
from pipelines.settings import Settings
from pipelines.vectors import embedder
from prefactory.errors import ConfigError
from trainers.settings import DPO, EmbeddingReward, Reward

METHODS: dict[str, type[BaseModel]] = {
    "embedding-reward": EmbeddingReward,
    "reward": Reward,
    "dpo": DPO,
}
"""Training method -> its options."""


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        method: how it was trained.
        path: its folder.
        summary: a few lines about it for a terminal.
        facts: the same as plain data.
    """

    method: str
    path: Path
    summary: str
    facts: dict[str, Any]


def train(
    method: str,
    config: BaseModel,
    version: Version,
    settings: Settings,
    out: Path | None = None,
    table: str = "pairs",
) -> Trained:
    """Train on a version.

    Args:
        method: a name of `METHODS`.
        config: its options.
        version: the dataset.
        settings: where models go if `out` is None (`models/<name>-<version>-<method>`).
        out: folder of the model, new or empty.
        table: which table of the version holds the pairs.

    Raises:
        ConfigError: for an unknown method.
    """
    manifest = version.manifest
    from trainers.base import DatasetRef  # datasets, torch: only when something is trained

    data = DatasetRef(manifest.name, manifest.version, version.path, manifest.content_digest, table)
    folder = out or _default_folder(settings, version, method)
    trainer = _trainer(method, settings)
    report = trainer(config, data, folder)
    return Trained(method, Path(report.folder), report.text(), report.as_dict())


def _default_folder(settings: Settings, version: Version, method: str) -> Path:
    """A folder that no earlier training used: `-2`, `-3`, ... are added."""
    manifest = version.manifest
    base = f"{manifest.name}-{manifest.version}-{method}"
    models = settings.home / "models"
    names = [base, *(f"{base}-{i}" for i in range(2, 10_000))]
    return next(models / n for n in names if not (models / n).exists())


def _trainer(method: str, settings: Settings) -> Callable[[Any, Any, Path], Any]:
    if method == "embedding-reward":
        from trainers import train_embedding_reward

        return lambda config, data, out: train_embedding_reward(
            config, data, out, embedder(settings)
        )
    if method == "reward":
        from trainers import train_reward

        return train_reward
    if method == "dpo":
        from trainers import train_dpo

        return train_dpo
    raise ConfigError(f"no training method {method!r}; there are: {', '.join(METHODS)}")
