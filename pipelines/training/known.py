"""The models of a home: what each was trained on and came to, and what was made of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog.history.lineage import Lineage, Node
from pipelines.settings import Settings
from pipelines.training.promotion import promoted
from prefactory.errors import CatalogError, ConfigError
from prefactory.folders import read_listed


@dataclass(frozen=True)
class Known:
    """A model that was trained here.

    Attributes:
        folder: where it is.
        method: how it was trained.
        dataset: the version that it was trained on, `name@version`.
        digest: content digest of that version.
        base: the model that it began with; empty for one on frozen vectors.
        parts: the models that it was merged of; empty for a trained one.
        accuracy, se: on the held-out pairs; None without any.
        promoted: datasets of which it is the promoted model.
    """

    folder: Path
    method: str
    dataset: str
    digest: str
    base: str
    parts: tuple[str, ...]
    accuracy: float | None
    se: float | None
    promoted: tuple[str, ...]

    @property
    def told(self) -> str:
        """Method and accuracy."""
        if self.accuracy is None:
            return f"{self.method}, nothing held out"
        error = "" if self.se is None else f" ± {self.se:.3f}"  # of one prompt there is none
        return f"{self.method}, held-out accuracy {self.accuracy:.3f}{error}"


def known(settings: Settings) -> list[Known]:
    """All models in `models/` of the home, by name.

    Raises:
        ConfigError: a model's `training.json` can't be read.
    """
    folders = sorted(p.parent for p in (settings.home / "models").glob("*/training.json"))
    return [_read(folder, settings) for folder in folders]


def model_at(name: str, settings: Settings) -> Known | None:
    """A model by its folder or its name in the home; None if there is none.

    Raises:
        ConfigError: its `training.json` can't be read.
    """
    for folder in (Path(name), settings.home / "models" / name):
        if (folder / "training.json").is_file():
            return _read(folder, settings)
    return None


def _read(folder: Path, settings: Settings) -> Known:
    now = promoted(settings)
    try:
        facts: dict[str, Any] = json.loads(read_listed(folder / "training.json"))
        data = facts["dataset"]
        test = (facts.get("metrics") or {}).get("test") or {}
        mine = [n for n, p in now.items() if _same(str(p["model"]), folder, settings)]
        return Known(
            folder, str(facts["method"]), f"{data['name']}@{data['version']}",
            str(data["content_digest"]), str(facts["config"].get("model") or ""),
            tuple(facts["config"].get("models", ())) if facts["method"] == "merge" else (),
            test.get("accuracy"), test.get("accuracy_se"), tuple(mine),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder}/training.json can't be read ({error}): remove the model to train it again, "
            "or put a copy in its place"
        ) from error


def _same(name: str, folder: Path, settings: Settings) -> bool:
    places = (Path(name), settings.home / "models" / name)
    return any(place.resolve() == folder.resolve() for place in places if place.is_dir())


def _from(model: Known) -> tuple[str, ...]:
    """The models that a model was made of."""
    return model.parts or ((model.base,) if model.base else ())


def lineage(model: Known, settings: Settings) -> Lineage:
    """Where a model comes from, sources and all, and what was made of it.

    Args:
        model: which.
        settings: where versions and other models are.
    """
    graph = Lineage()
    before = []
    for base in _from(model):
        here = model_at(base, settings)
        about = "not trained here" if here is None else f"{here.told}, on {here.dataset}"
        before.append(graph.add(Node("model", base, about)))
    try:
        version = settings.catalog.get(model.dataset)
    except CatalogError:
        before.append(graph.add(Node("version", model.dataset, "not in this catalog")))
    else:
        sources = [
            graph.add(Node("source", str(s["name"]), f"licence {s.get('license') or 'not stated'}"))
            for s in version.manifest.sources
        ]
        kept = version.manifest.content_digest == model.digest
        about = f"digest {model.digest[:12]}" if kept else "ANOTHER content than it was trained on"
        before.append(graph.add(Node("version", model.dataset, about), *sources))
    own = graph.add(Node("model", model.folder.name, model.told), *before)
    for other in known(settings):
        if any(_same(base, model.folder, settings) for base in _from(other)):
            graph.add(Node("model", other.folder.name, f"{other.told}, on {other.dataset}"), own)
    for name in model.promoted:
        facts = promoted(settings)[name]
        over = facts["over"] or "chance"
        graph.add(Node("promoted", name, f"{facts['difference']:+.3f} over {over}"), own)
    return graph
