"""Scores by a preference stack that was trained elsewhere."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
from pydantic import Field

from catalog.versions import Catalog, Version, default_home
from prefactory.context import Context
from prefactory.errors import CatalogError, ConfigError
from prefactory.folders import undamaged
from prefactory.preferences.scorer import FACTS, WEIGHTS, Scorer
from prefactory.step import Labeler
from prefactory.tables import SCORE, Shape

TRAINING = "training.json"


class PreferenceScore(Labeler):
    """Add `score_<name>`, an answer's score by a saved preference stack.

    The difference of the scores of two answers to a prompt is the log odds that the first is
    preferred, as the labels have it that the stack was trained on (`prefactory train reward NAME
    --backend stack`). Scores of different prompts are not comparable. On other data it is an
    outside opinion: `labelers.LabelTrust: {outside: [<name>]}` adds it to the signals, `{anchor:
    "score:<name>"}` has it judge the labels in place of the anchor that ships.

    Attributes:
        model: the dataset that the stack was trained on, `NAME` (its newest version) or
            `NAME@VERSION` of the catalog, of which the newest stack in `models/` of
            PREFACTORY_HOME is taken; or the folder of a stack (with a `/`, or one that is there).
        name: of the score.

    Raises:
        ConfigError: there is no such stack; with the command that trains one.

    Example:
        - labelers.PreferenceScore: {model: hh-clean}
        - labelers.LabelTrust: {outside: [preference]}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    score_range: ClassVar[tuple[float | None, float | None]] = (None, None)
    direction: ClassVar[str] = "higher"

    model: str | Path
    name: str = Field(default="preference", pattern=r"^[a-z0-9_]+$")

    def identity(self) -> dict[str, Any]:
        """The fields, with the digest of the model's files in place of its folder."""
        found = super().identity()
        return found | {"fields": {**found["fields"], "model": self._digest()}}

    def _digest(self) -> str:
        total, folder = hashlib.blake2b(digest_size=16), undamaged(stack_folder(self.model))
        for name in (WEIGHTS, FACTS):
            try:
                total.update((folder / name).read_bytes())
            except OSError as error:
                raise ConfigError(f"{folder} holds no preference stack: {error}") from error
        return total.hexdigest()

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The outside scores that the stack was trained with."""
        return {f"{SCORE}{o}": pl.Float64() for o in Scorer.load(stack_folder(self.model)).outside}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`score_<name>`, Float64."""
        return {f"{SCORE}{self.name}": pl.Float64()}

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Score every answer."""
        scores = Scorer.load(stack_folder(self.model)).score(table, ctx.embed)
        return pl.DataFrame({f"{SCORE}{self.name}": scores}, schema=self.adds(Shape.RESPONSES))


def stack_folder(model: str | Path) -> Path:
    """Folder of a stack: a folder, or the newest of those trained on a version of the catalog.

    Raises:
        ConfigError: there is no such version, or no stack was trained on it.
    """
    folder, model = Path(model).expanduser(), str(model)
    if folder.is_dir() or "/" in model or model.startswith("."):
        return folder
    try:
        version = Catalog().get(model)
    except CatalogError as error:
        raise ConfigError(f"model: {model} is no folder of a stack, and {error}") from error
    models = default_home() / "models"
    stacks = [
        path.parent for path in models.glob(f"*/{FACTS}") if _trained_on(path.parent, version)
    ]
    if not stacks:
        raise ConfigError(
            f"model: no preference stack in {models} was trained on {version.ref}; train one: "
            f"prefactory train reward {version.ref} --backend stack"
        )
    return max(stacks, key=lambda found: ((found / TRAINING).stat().st_mtime_ns, found.name))


def _trained_on(folder: Path, version: Version) -> bool:
    manifest = version.manifest
    try:
        data = json.loads((folder / TRAINING).read_text("utf-8"))["dataset"]
        found = data["name"], data["version"], data["content_digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return False  # a folder that is no model says nothing of those that are
    return bool(found == (manifest.name, manifest.version, manifest.content_digest))
