"""An encoder whose vectors are those of several encoders, fused (`prefactory encoders compare`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import polars as pl

from prefactory.engines.base import Closing
from prefactory.spaces.fusion import Fusion


class Opened(Protocol):
    """An encoder that is loaded."""

    dim: int

    def embed(self, texts: Sequence[str] | pl.Series) -> np.ndarray:
        """Float32 [N, d] of N texts."""

    def close(self) -> None:
        """Free what it holds."""


class FusedEncoder(Closing):
    """Several loaded encoders and the maps into their common space.

    Attributes:
        dim: length of a fused vector.
    """

    def __init__(self, parts: Sequence[Opened], fusion: Fusion) -> None:
        """Join loaded encoders, in the order in which they were fused."""
        self._parts, self._fusion = parts, fusion
        self.dim = fusion.dim

    def embed(self, texts: Sequence[str] | pl.Series) -> np.ndarray:
        """Turn texts into fused vectors: float32 [N, d], of unit length."""
        if not len(texts):
            return np.zeros((0, self.dim), np.float32)
        return self._fusion([part.embed(texts) for part in self._parts])[0]

    def close(self) -> None:
        """Close all parts."""
        for part in self._parts:
            part.close()
