"""Scores by a preference stack that was trained elsewhere."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
from pydantic import Field

from prefactory.context import Context
from prefactory.errors import ConfigError
from prefactory.preferences.scorer import FACTS, WEIGHTS, Scorer
from prefactory.step import Labeler
from prefactory.tables import SCORE, Shape


class PreferenceScore(Labeler):
    """Add `score_<name>`, an answer's score by a saved preference stack.

    The difference of the scores of two answers to a prompt is the log odds that the first is
    preferred, as the labels have it that the stack was trained on (`prefactory train reward NAME
    --backend stack`). Scores of different prompts are not comparable. On other data it is an
    outside opinion: `labelers.LabelTrust: {anchor: "score:<name>"}`.

    Attributes:
        model: folder of the stack.
        name: of the score.

    Example:
        - labelers.PreferenceScore: {model: PATH_OF_A_STACK}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    score_range: ClassVar[tuple[float | None, float | None]] = (None, None)
    direction: ClassVar[str] = "higher"

    model: Path
    name: str = Field(default="preference", pattern=r"^[a-z0-9_]+$")

    def identity(self) -> dict[str, Any]:
        """The fields, with the digest of the model's files in place of its folder."""
        found = super().identity()
        return found | {"fields": {**found["fields"], "model": self._digest()}}

    def _digest(self) -> str:
        total = hashlib.blake2b(digest_size=16)
        for name in (WEIGHTS, FACTS):
            try:
                total.update((self.model / name).read_bytes())
            except OSError as error:
                raise ConfigError(f"{self.model} holds no preference stack: {error}") from error
        return total.hexdigest()

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The outside scores that the stack was trained with."""
        return {f"{SCORE}{o}": pl.Float64() for o in Scorer.load(self.model).outside}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`score_<name>`, Float64."""
        return {f"{SCORE}{self.name}": pl.Float64()}

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Score every answer."""
        scores = Scorer.load(self.model).score(table, ctx.embed)
        return pl.DataFrame({f"{SCORE}{self.name}": scores}, schema=self.adds(Shape.RESPONSES))
