"""What stands between a version and its promotion: the gates of its audit, and a better model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from catalog.history.tags import tag
from catalog.versions import Version
from pipelines.build import Outcome
from pipelines.settings import Settings
from pipelines.training import Trained
from prefactory.folders import read_listed

TAG = "promoted"


def gated(
    outcome: Outcome, settings: Settings, gates: Path | None, *, promote: bool = False
) -> list[str]:
    """Why a version is not promoted; [] if nothing speaks against it, and then it is, if wanted.

    Args:
        outcome: of the run.
        settings: of the run.
        gates: a YAML file of what the audit must hold.
        promote: whether the version gets the tag `promoted`.

    Raises:
        PrefactoryError: the gates can't be read.
    """
    version = outcome.published.version
    why = [] if gates is None else _failed_gates(version, settings, gates)
    if promote and not why:
        why = _not_better(outcome, settings)
        if not why:
            tag(settings.catalog, version.ref, TAG)
    return why


def _failed_gates(version: Version, settings: Settings, gates: Path) -> list[str]:
    from pipelines.api import audit

    found = audit(version, gates=gates, embeddings=False, home=settings.home)
    return [f"gate {failure.gate}: {failure.why}" for failure in found.failures]


def _not_better(outcome: Outcome, settings: Settings) -> list[str]:
    version = outcome.published.version
    before = settings.catalog.kept(version.manifest.name).tags.get(TAG)
    if before is None or before == version.manifest.version:
        return []
    if not outcome.published.new:
        return [f"nothing new to promote; {TAG} is {version.manifest.name}@{before}"]
    why = []
    for trained in outcome.trained:
        now = accuracy(trained.facts)
        was = _accuracy_of(settings.home, version.manifest.name, before, trained)
        if now is None or was is None or now <= was:
            told = "unknown" if now is None else f"{now:.3f}"
            why.append(
                f"{trained.method}: held-out accuracy {told}, not better than "
                f"{'unknown' if was is None else f'{was:.3f}'} of {version.manifest.name}@{before}"
            )
    return why


def accuracy(facts: dict[str, Any]) -> float | None:
    """Held-out accuracy of a training, from its `training.json`."""
    value = ((facts.get("metrics") or {}).get("test") or {}).get("accuracy")
    return None if value is None else float(value)


def _accuracy_of(home: Path, name: str, version: str, like: Trained) -> float | None:
    """Of the model that was trained in the same way on an earlier version; the best, if several."""
    found = []
    for path in (home / "models").glob(f"{name}-{version}-{like.method}-*/training.json"):
        try:
            facts = json.loads(read_listed(path))
        except (OSError, ValueError):
            continue
        if facts.get("config") == like.facts.get("config"):
            found.append(accuracy(facts))
    return max((f for f in found if f is not None), default=None)
