"""`prefactory merge`: models of the home, folders or hub ids become one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from catalog.versions import Version
from pipelines.needs import tell
from pipelines.settings import Settings
from pipelines.training import Trained, earlier, weights_of
from pipelines.training.data_of import version_of
from pipelines.training.known import model_at
from pipelines.training.places import transformer_of
from prefactory.errors import ConfigError
from prefactory.identity import fingerprint


def weighted(words: Sequence[str]) -> tuple[list[str], list[float]]:
    """Models and weights of `MODEL=WEIGHT` words; a model without one has weight 1.

    Raises:
        ConfigError: fewer than two models, the same twice, or weights that are none.
    """
    names, weights = [], []
    for word in words:
        name, equals, text = word.rpartition("=")
        try:
            weight = float(text) if equals else 1.0
        except ValueError:
            raise ConfigError(f"{word!r}: write MODEL=WEIGHT, such as helpful=0.7") from None
        if not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(f"{word!r}: a weight is 0 or more")
        names.append(name if equals else word)
        weights.append(weight)
    if len(set(names)) < len(names) or len(names) < 2 or not sum(weights):
        raise ConfigError("name two models or more, each once, and give one of them a weight")
    return names, weights


def measured_on(models: Sequence[str], on: str | None, settings: Settings) -> Version:
    """The version whose held-out pairs models are measured on: the one that is named, else theirs.

    Raises:
        ConfigError: none of the models was trained here, and none is named.
    """
    if on is not None:
        return version_of(on, settings)
    for name in models:
        if (model := model_at(name, settings)) is not None:
            return settings.catalog.get(model.dataset)
    raise ConfigError(
        "none of the models was trained here, so it is not known on which pairs they are measured: "
        "--on NAME@VERSION, or a file"
    )


def merge(
    words: Sequence[str],
    options: dict[str, object],
    on: str | None,
    out: Path | None,
    settings: Settings,
) -> Trained:
    """Merge models into one that the catalog knows.

    Args:
        words: `MODEL` or `MODEL=WEIGHT`, of folders, names in `models/` of the home, or hub ids.
        options: of `trainers.merging.merge.Merge`.
        on: version or file whose held-out pairs measure; None: that of the first model trained
            here.
        out: new folder; None: in `models/` of the home, where the same merge is found again.
        settings: where versions and models are.

    Raises:
        ConfigError: for models that can't be merged, or options that make no sense.
    """
    from trainers.base import DatasetRef
    from trainers.merging.merge import Merge, merge_models

    names, weights = weighted(words)
    config = Merge.model_validate(options)
    data = DatasetRef(measured_on(names, on, settings))
    folders = [transformer_of(name, settings) for name in names]
    made_from = [
        "merge", config.model_dump(mode="json"), [weights_of(f) or f for f in folders],
        [w / sum(weights) for w in weights], data.digest,
    ]  # fmt: skip
    name = f"{data.version.ref.replace('@', '-')}-merge-{fingerprint(made_from)[:8]}"
    folder = out or settings.home / "models" / name
    if out is None and folder.exists():
        return earlier("merge", folder)
    tell(settings, data.version.ref, f"model {folder.name}")
    with settings.store.in_use():
        report = merge_models(config, names, folders, weights, data, folder)
    return Trained("merge", folder, report.text(), report.as_dict())
