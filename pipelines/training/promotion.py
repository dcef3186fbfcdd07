"""Which model of a dataset is the one to use: promoted only if it is better by a stated margin."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipelines.settings import Settings
from pipelines.training.evaluation import evaluate
from prefactory.errors import ConfigError, DataError
from prefactory.folders import new_file
from prefactory.sharing.locks import locked
from prefactory.sharing.sealed import seal, unseal


@dataclass(frozen=True)
class Promotion:
    """What came of it.

    Attributes:
        promoted: whether the model now is the one.
        text: a sentence that says why.
    """

    promoted: bool
    text: str


def promoted(settings: Settings) -> dict[str, dict[str, object]]:
    """Name of data -> its promoted model and the evidence.

    Raises:
        ConfigError: the file that says so is damaged.
    """
    file = _file(settings)
    if not file.is_file():
        return {}
    try:
        found = unseal(file.read_bytes(), None)
        return {str(name): {**facts, "model": str(facts["model"])} for name, facts in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{file} is damaged ({error}): it says which models are promoted; remove it and "
            "promote them again"
        ) from error


def _file(settings: Settings) -> Path:
    return settings.home / "models" / "promoted.json"


def promote(
    model: str,
    data: str,
    margin: float,
    settings: Settings,
    batch: int = 8,
    max_length: int = 1024,
) -> Promotion:
    """Make a model the one to use for a dataset, if it is better on its held-out pairs.

    The first one is promoted if it beats chance by the margin.

    Args:
        model: folder, or name in `models/` of the home.
        data: a version; its held-out split is what both models are measured on.
        margin: by how much its accuracy must be higher, in [0, 1).
        settings: where versions and models are.
        batch: conversations per forward pass.
        max_length: tokens of a conversation.

    Raises:
        ConfigError: the margin makes no sense.
        DataError: there are no held-out pairs, or the model can read none of them.
    """
    if not 0 <= margin < 1:
        raise ConfigError(f"margin {margin}: a difference of accuracies, 0 to 1")
    name = settings.catalog.get(data).manifest.name
    with locked(settings.home / "models" / ".promoted.lock"):
        now = promoted(settings)
        before = str(now[name]["model"]) if name in now else None
        if before == model:
            return Promotion(False, f"{model} is the promoted model of {name} already")
        names = [model, *([before] if before else [])]
        found = evaluate(names, data, settings, batch=batch, max_length=max_length)
        if not found.models[0].rows:
            raise DataError(f"{model} could read none of the held-out pairs of {data}")
        mine = found.models[0].rows[0]
        gain = found.paired[0].difference if before else mine.accuracy - 0.5
        error = found.paired[0].se if before else mine.se
        against = before or "chance"
        said = f"{gain:+.3f} +- {error:.3f} against {against} on {mine.pairs} held-out pairs"
        if gain < margin:
            return Promotion(False, f"{model} is not promoted: {said}, margin {margin:g}")
        now[name] = {
            "model": model, "over": before, "data": data, "accuracy": mine.accuracy,
            "difference": gain, "se": error, "margin": margin, "pairs": mine.pairs,
        }  # fmt: skip
        with new_file(_file(settings)) as file:
            file.write(seal(now, indent=2))
    return Promotion(True, f"{model} is the model of {name} now: {said}")
