"""What a step is given beside its table: seeded randomness, fitted state, opened models."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from prefactory.engines.base import Calls, Engine, Purpose
from prefactory.engines.pictured import PicturedEngine
from prefactory.errors import ConfigError, DataError
from prefactory.images.marks import Pictures

if TYPE_CHECKING:
    from prefactory.engines.encoder import Encoder


@dataclass(frozen=True, slots=True)
class State:
    """What a dataset step learned: Arrow tables by name, and JSON-able facts for the report."""

    tables: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """Read-only surroundings of one call of one step.

    Attributes:
        seed: the recipe's seed.
        step: label of the step in the recipe; part of every random draw.
        state: what `fit` returned (dataset steps only); a step reads it as `fitted`.
        embed: `(encoder, texts) -> Float32[N, d]`, each distinct text computed once per store.
        engine: `(engine config) -> Engine`, opened once per process, behind its journal.
        options: run settings that are not identity (`workers`, `device`, ...).
        images: the pictures of the run's prompts, if these may have any.
        recipe: name of the recipe, for the accounts.
        roles: the engine configurations of the step, each with the name of its field.
        calls: told of every answer.
    """

    seed: int = 0
    step: str = "step"
    state: State | None = None
    embed: Callable[[Encoder, pl.Series], np.ndarray] | None = None
    engine: Callable[[Any], Engine] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    images: Pictures | None = None
    recipe: str = ""
    roles: Sequence[tuple[Any, str]] = ()
    calls: Calls | None = None

    @property
    def fitted(self) -> State:
        """What `fit` returned.

        Raises:
            DataError: the step runs before its `fit`, or its scope is not `dataset`.
        """
        if self.state is None:
            raise DataError(f"{self.step} needs what its `fit` returns, and has not been fitted")
        return self.state

    def open(self, config: Any) -> Engine:  # noqa: ANN401 - an engine's configuration
        """The engine of a configuration.

        Raises:
            ConfigError: the run has no engines.
        """
        if self.engine is None:
            raise ConfigError(f"{self.step} asks a model, and this run opens none")
        roles = dict.fromkeys(role for known, role in self.roles if known == config)
        purpose = Purpose(self.recipe, self.step, ", ".join(roles))
        opened = self.engine(config).asked_for(purpose, self.calls)
        return opened if self.images is None else PicturedEngine(opened, self.images, self.step)

    def uniform(self, ids: pl.Series, salt: str = "") -> pl.Series:
        """One uniform number in [0, 1) per id, from (seed, step, salt, id) and nothing else."""
        prefix = f"{self.seed}\n{self.step}\n{salt}\n".encode()
        start = hashlib.blake2b(prefix, digest_size=8).copy
        drawn: list[bytes] = []
        for text in ids.cast(pl.Binary).to_list():
            digest = start()
            digest.update(text)
            drawn.append(digest.digest())
        bits = np.frombuffer(b"".join(drawn), dtype=">u8") >> np.uint64(11)
        return pl.Series("uniform", bits.astype(np.float64) / 2.0**53)

    def rng(self, salt: str = "") -> np.random.Generator:
        """A generator seeded by (seed, step, salt), for draws over a whole, sorted dataset."""
        digest = hashlib.blake2b(f"{self.seed}\n{self.step}\n{salt}".encode(), digest_size=16)
        return np.random.default_rng(int.from_bytes(digest.digest()))
