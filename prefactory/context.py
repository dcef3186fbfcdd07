"""What a step is given beside its table: seeded randomness, fitted state, opened models."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from prefactory.engines.encoder import Encoder
    from prefactory.step import State


@dataclass(frozen=True)
class Context:
    """Read-only surroundings of one call of one step.

    Attributes:
        seed: the recipe's seed.
        step: label of the step in the recipe; part of every random draw.
        state: what `fit` returned (dataset steps only).
        embed: `(encoder, texts) -> Float32[N, d]`, each distinct text computed once per store.
        engine: `(engine config) -> Engine`, opened once per process, behind its journal.
        options: run settings that are not identity (`workers`, `device`, ...).
    """

    seed: int = 0
    step: str = "step"
    state: State | None = None
    embed: Callable[[Encoder, pl.Series], np.ndarray] | None = None
    engine: Callable[[Any], Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def uniform(self, ids: pl.Series, salt: str = "") -> pl.Series:
        """One uniform number in [0, 1) per id, from (seed, step, salt, id) and nothing else."""
        prefix = f"{self.seed}\n{self.step}\n{salt}\n".encode()
        blake = hashlib.blake2b
        bits = [
            int.from_bytes(blake(prefix + i.encode(), digest_size=8).digest()) >> 11 for i in ids
        ]
        return pl.Series("uniform", np.asarray(bits, dtype=np.float64) / 2.0**53)

    def rng(self, salt: str = "") -> np.random.Generator:
        """A generator seeded by (seed, step, salt), for draws over a whole, sorted dataset."""
        digest = hashlib.blake2b(f"{self.seed}\n{self.step}\n{salt}".encode(), digest_size=16)
        return np.random.default_rng(int.from_bytes(digest.digest()))
