"""`prefactory frontier`: what merges of adapters reach for a user's weights."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from catalog.versions import Version
from pipelines.settings import Settings
from pipelines.training import weights_of
from pipelines.training.answering import answers_of, message
from pipelines.training.merging import measured_on
from pipelines.training.places import model_of, transformer_of
from pipelines.vectors import embedder
from prefactory.engines.base import SamplingParams
from prefactory.errors import ConfigError, DataError
from prefactory.identity import fingerprint
from prefactory.measures.calibration import Floats

if TYPE_CHECKING:
    from trainers.merging.adapters import Adapter
    from trainers.merging.simplex import Simplex, Utility
    from trainers.merging.users import UserMap

MOST = 70
"""Merges that are measured, at most: 66 are three objectives in tenths."""


@dataclass(frozen=True)
class Explore:
    """What is asked.

    Attributes:
        adapters: objective -> folder or name of its adapter.
        user: weights of the objectives; None: none is chosen.
        rewards: objective -> model that scores answers for it; empty: held-out pairs by `sign_`.
        on: version or file; None: that of the first adapter.
        steps: of the lattice, `1 / steps` apart.
        utility: `linear` or `chebyshev`.
        rows: of the held-out prompts, or pairs, that many, drawn by the seed; None: all.
        max_tokens: of an answer.
        batch: conversations per forward pass.
        max_length: tokens of a conversation.
        seed: of draws and halves.
    """

    adapters: Mapping[str, str]
    user: Mapping[str, float] | None = None
    rewards: Mapping[str, str] | None = None
    on: str | None = None
    steps: int = 5
    utility: Utility = "linear"
    rows: int | None = None
    max_tokens: int = 256
    batch: int = 8
    max_length: int = 1024
    seed: int = 0

    def shares(self) -> tuple[float, ...] | None:
        """The user's weights in the order of the objectives, summing to 1.

        Raises:
            ConfigError: they name no objective, or are no weights.
        """
        if not self.user:
            return None
        if unknown := sorted(self.user.keys() - self.adapters.keys()):
            raise ConfigError(f"--user names {unknown[0]}, which has no adapter")
        values = [float(self.user.get(name, 0.0)) for name in self.adapters]
        if min(values) < 0 or not sum(values) > 0:
            raise ConfigError("--user: weights are 0 or more, and one of them above 0")
        return tuple(v / sum(values) for v in values)


def explore(asked: Explore, settings: Settings) -> tuple[Simplex, UserMap | None]:
    """Measure merges over the simplex, choose one for the user, and fit a map for all users.

    Raises:
        ConfigError: adapters that can't be added, too many merges, or options that make no sense.
        DataError: there is nothing held out, or an adapter does not raise its objective.
    """
    from trainers.merging.adapters import Adapter, check_alike
    from trainers.merging.simplex import Rewards, Simplex, choose, lattice
    from trainers.merging.users import fit_map

    names, user = list(asked.adapters), asked.shares()
    folders = [transformer_of(m, settings) for m in asked.adapters.values()]
    if len(names) < 2:
        raise ConfigError("name two objectives or more: OBJECTIVE=ADAPTER")
    adapters = [Adapter.read(Path(f)) for f in folders]
    check_alike(adapters)
    grid = lattice(len(names), asked.steps)
    if user is not None and np.abs(np.array(grid) - user).max(axis=1).min() > 1e-9:
        grid.append(user)
    if len(grid) > MOST:
        raise ConfigError(f"{len(grid)} merges: at most {MOST} are measured; take fewer --steps")
    version = measured_on(list(asked.adapters.values()), asked.on, settings)
    if asked.rewards:
        values, base, prompts = _by_models(asked, adapters, grid, version, settings)
        how = "rewards of answers"
    else:
        values, base, prompts = _by_pairs(asked, folders, adapters[0].base, grid, version)
        how = "share of pairs on which it prefers what the objective does"
    rewards = Rewards(tuple(names), np.array(grid), values, base, prompts)
    chosen = None if user is None else choose(rewards, user, asked.utility, asked.seed)
    return Simplex(rewards, chosen, how, asked.seed), fit_map(rewards, asked.seed)


def _held_out(asked: Explore, version: Version, columns: Sequence[str]) -> pl.DataFrame:
    rows = version.frame("pairs", "test").collect()
    if missing := [c for c in columns if c not in rows.columns]:
        raise DataError(
            f"{version.ref} has no column {missing[0]} (labelers.Signs makes it); or name a model "
            "that scores answers: --reward OBJECTIVE=MODEL"
        )
    if asked.rows is not None and asked.rows < rows.height:
        rows = rows.sample(asked.rows, seed=asked.seed).sort("pair_id")
    if not rows.height:
        raise DataError(f"{version.ref} holds nothing out, and rewards are of held-out prompts")
    return rows


def _by_pairs(
    asked: Explore,
    folders: Sequence[str],
    base: str,
    grid: Sequence[tuple[float, ...]],
    version: Version,
) -> tuple[Floats, Floats, tuple[str, ...]]:
    """How often each merge prefers what an objective does, by its column of signs."""
    from trainers.evaluate.models import Reader
    from trainers.merging.merge import Merge, Models, scored_as
    from trainers.merging.simplex import by_sign

    pairs = _held_out(asked, version, [f"sign_{name}" for name in asked.adapters])
    training = scored_as(folders)
    reader = Reader.of(folders[0], pairs, asked.batch, asked.max_length, training)
    config = Merge(batch=asked.batch, max_length=asked.max_length)
    models = Models(config, list(asked.adapters), folders, [1.0] * len(folders), reader, training)
    models.load()
    found: dict[tuple[float, ...] | None, Floats] = {
        weights: models.margins(models.mixed(weights)) for weights in grid
    }
    found[None] = models.margins(models.state_of(base))
    return by_sign(found, pairs, list(asked.adapters))


def _by_models(
    asked: Explore,
    adapters: Sequence[Adapter],
    grid: Sequence[tuple[float, ...]],
    version: Version,
    settings: Settings,
) -> tuple[Floats, Floats, tuple[str, ...]]:
    """What reward models give the likeliest answers of each merge, against the chosen ones."""
    from trainers.merging.adapters import summed, write_adapter

    scorers = asked.rewards or {}
    if set(scorers) != set(asked.adapters):
        raise ConfigError("--reward OBJECTIVE=MODEL for each objective, or for none")
    pairs = (
        _held_out(asked, version, ["chosen"]).unique("prompt_id", keep="first").sort("prompt_id")
    )
    key = fingerprint([weights_of(str(a.folder)) for a in adapters])[:16]
    beside = settings.home / "cache" / "merges" / key
    parts = []
    try:
        for weights in grid:
            folder = beside / "-".join(f"{w:.6g}" for w in weights)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_adapter(folder, adapters[0], summed(adapters, weights))
            parts.append(_scores(str(folder), pairs, asked, settings))
            shutil.rmtree(folder)
        base = _scores(adapters[0].base, pairs, asked, settings)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return np.stack(parts), base, tuple(pairs["prompt_id"])


def _scores(model: str, pairs: pl.DataFrame, asked: Explore, settings: Settings) -> Floats:
    """Rewards of a model's answers over those of the data's chosen ones, Float64[prompts, K]."""
    from trainers.evaluate.models import scored

    sampling = SamplingParams(temperature=0.0, max_tokens=asked.max_tokens)
    said = answers_of(
        [model], pairs.select("prompt_id", "prompt"), sampling, 1, asked.seed, settings
    )
    both = pairs.select("prompt_id", "prompt", rejected="chosen").join(
        said.select("prompt_id", chosen=message(pl.col("text"))),
        on="prompt_id",
        maintain_order="left",
    )
    there = both["chosen"].is_not_null().to_numpy()
    out = np.full((pairs.height, len(asked.adapters)), np.nan)
    for k, name in enumerate(asked.adapters):
        scorer = model_of((asked.rewards or {})[name], settings)
        some = both.filter(pl.Series(there))
        if some.height:
            own = scored(scorer, some, embedder(settings), asked.batch, asked.max_length)
            out[there, k] = own.margins
    return out
