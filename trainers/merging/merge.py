"""Several trained models become one: an adapter, or a plain model that any server runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from pydantic import BaseModel, Field
from torch import Tensor

from prefactory.errors import ConfigError
from prefactory.folders import new_folder
from prefactory.measures.calibration import Floats
from trainers.base import DatasetRef, table, write_json
from trainers.evaluate.models import Reader, is_reward, loader, training_of
from trainers.merging import path as between
from trainers.merging.adapters import (
    CONFIG,
    WEIGHTS,
    Adapter,
    check_alike,
    copy_tokenizer,
    is_adapter,
    summed,
    truncated,
    write_adapter,
)
from trainers.merging.matching import aligned
from trainers.merging.weights import averaged, check_shapes, on_the_sphere, ties
from trainers.metrics import CONTEXT, pair_metrics, warnings
from trainers.report import TrainingReport, card, loading, write_reports
from trainers.settings import TransformerSettings
from trainers.settings.base import FROZEN
from trainers.transformer import PACKAGES, load_model

HELD_OUT = "held_out.parquet"
PATH = "path.json"
_SCORES = ("model", "beta", "attributes", "weights")
"""Options of a training that decide how its model scores."""


class Merge(BaseModel):
    """How models are merged.

    Attributes:
        how: `average` of the weights; of adapters it is the weighted sum of what they change,
            exactly. `slerp`: the mean on the sphere, tensor by tensor. `ties`: what the models
            changed of their base, trimmed, and added where the signs agree.
        align: bring the neurons of the models into the order of the first one before.
        plain: write a plain model where an adapter would do.
        rank: of a merged adapter at most; None: the sum of their ranks, which is exact.
        density: share of the changes that `ties` keeps, the largest of each tensor.
        base: folder or hub id of the model that `ties` measures changes from; None: the one that
            all were trained from.
        points: places on the way between two models that are measured, both ends among them.
        batch: conversations per forward pass.
        max_length: tokens of a conversation.
    """

    model_config = FROZEN

    how: Literal["average", "slerp", "ties"] = "average"
    align: bool = False
    plain: bool = False
    rank: int | None = Field(None, ge=1)
    density: float = Field(0.2, gt=0, le=1)
    base: str | None = None
    points: int = Field(0, ge=0, le=101)
    batch: int = Field(8, ge=1)
    max_length: int = Field(1024, ge=2)


@dataclass
class Models:
    """The models to merge, and what is known of them.

    Attributes:
        config: how they are merged.
        names: what they are called.
        folders: folders or hub ids.
        shares: one each, that sum to 1.
        reader: of the held-out pairs.
        training: `method` and `config` that decide how they score.
        states: their weights, once they are loaded.
        net: a network that takes weights of theirs.
    """

    config: Merge
    names: Sequence[str]
    folders: Sequence[str]
    shares: Sequence[float]
    reader: Reader
    training: Mapping[str, Any]
    states: list[dict[str, Tensor]] = field(default_factory=list)
    net: Any = None

    def load(self) -> None:
        """Read the weights of all, adapters merged into their base, in the order of the first."""
        for name, folder in zip(self.names, self.folders, strict=True):
            net = replace(self.reader, model=folder).net()
            net = net.merge_and_unload() if hasattr(net, "merge_and_unload") else net
            state = {n: t.clone() for n, t in net.state_dict().items()}
            if self.states:
                check_shapes([self.states[0], state], [self.names[0], name])
                if self.config.align:
                    state = aligned(self.states[0], state, net.config)
            else:
                self.net = net
            self.states.append(state)

    def mixed(self, shares: Sequence[float]) -> dict[str, Tensor]:
        """The weights for given shares of the models."""
        used = [(s, w) for s, w in zip(self.states, shares, strict=True) if w]
        states, weights = [s for s, _ in used], [w for _, w in used]
        if self.config.how == "average":
            return averaged(states, weights)
        if self.config.how == "slerp":
            return on_the_sphere(states, weights)
        return ties(states, self._base, weights, self.config.density)

    @cached_property
    def _base(self) -> dict[str, Tensor]:
        return self.state_of(self.config.base or self._common())

    def state_of(self, base: str) -> dict[str, Tensor]:
        """The weights of another model of their architecture, by folder or hub id."""
        task = "CausalLM" if self.reader.weights is None else "SequenceClassification"
        one = {} if self.reader.weights is None else {"num_labels": len(self.reader.weights)}
        settings = TransformerSettings(model=base, learning_rate=1.0)
        state: dict[str, Tensor] = load_model(loader(base, task), settings, **one).state_dict()
        check_shapes([self.states[0], state], [self.names[0], base])
        return state

    def _common(self) -> str:
        bases = {_base_of(folder) for folder in self.folders}
        if len(bases) > 1 or None in bases:
            raise ConfigError(
                "ties measures what the models changed of the one that all were trained from, and "
                "that is not known: name it by --base"
            )
        return str(bases.pop())

    def margins(self, state: Mapping[str, Tensor]) -> Floats:
        """Margins of the held-out pairs by a model of these weights."""
        self.net.load_state_dict(state)
        return self.reader.margins(self.net)


def _base_of(folder: str) -> str | None:
    if is_adapter(Path(folder)):
        return Adapter.read(Path(folder)).base
    model = training_of(Path(folder)).get("config", {}).get("model")
    return None if model is None else str(model)


def scored_as(folders: Sequence[str]) -> dict[str, Any]:
    """How a model of several scores: as they do, if they agree; empty if not."""
    found = []
    for folder in folders:
        training = training_of(Path(folder))
        config = training.get("config", {})
        own = {k: config[k] for k in _SCORES if k in config}
        found.append({"method": training["method"], "config": own} if training else {})
    return found[0] if all(f == found[0] for f in found) else {}


def merge_models(
    config: Merge,
    names: Sequence[str],
    folders: Sequence[str],
    weights: Sequence[float],
    data: DatasetRef,
    output: Path,
) -> TrainingReport:
    """Merge models, measure them and what lies between, and save.

    Adapters of one base become one adapter, unless a plain model is asked for. Writes the model,
    `training.json`, `README.md`, `report.html`, `held_out.parquet`, `path.json`.

    Args:
        config: how.
        names: of the models, as they are to be called; two or more.
        folders: their folders or hub ids.
        weights: one each, 0 or more; they are divided by their sum.
        data: on whose held-out pairs all is measured.
        output: new folder.

    Raises:
        ConfigError: models that can't be merged so, or options that don't go together.
    """
    if len(folders) < 2 or min(weights) < 0 or not sum(weights) > 0:
        raise ConfigError("a merge takes two models or more, and weights of 0 or more, one above 0")
    shares = [w / sum(weights) for w in weights]
    as_adapter = _as_adapter(config, folders)
    if len({is_reward(f) for f in folders}) > 1:
        raise ConfigError("reward models and policies can't be merged with each other")
    training = scored_as(folders)
    pairs = table(data.pairs("test"), [*CONTEXT, "prompt", "tools"])
    reader = Reader.of(folders[0], pairs, config.batch, config.max_length, training)
    models = Models(config, names, folders, shares, reader, training)
    if not as_adapter or pairs.height:
        models.load()
    with new_folder(output, ConfigError) as folder:
        facts: dict[str, float] = {}
        if as_adapter:
            facts = _write_adapter(folder, folders, shares, config.rank)
            margins = replace(reader, model=str(folder)) if pairs.height else None
            measured = margins.margins(margins.net()) if margins else np.zeros(0)
        else:
            models.net.load_state_dict(models.mixed(shares))
            models.net.save_pretrained(folder)
            copy_tokenizer(Path(folders[0]), folder)
            _save_tokenizer(reader, folder)
            measured = reader.margins(models.net) if pairs.height else np.zeros(0)
        way = between.Path(tuple(_places(models, pairs, measured)))
        return _report(models, data, pairs, measured, way, facts, output, folder)


def _save_tokenizer(reader: Reader, folder: Path) -> None:
    if not (folder / "tokenizer.json").is_file():  # of a hub id, whose files lie elsewhere
        reader.template.tokenizer.save_pretrained(folder)


def _as_adapter(config: Merge, folders: Sequence[str]) -> bool:
    adapters = all(is_adapter(Path(f)) for f in folders)
    as_adapter = adapters and not config.plain and config.how == "average" and not config.align
    if as_adapter:
        check_alike([Adapter.read(Path(f)) for f in folders])
    elif config.rank is not None:
        raise ConfigError("--rank is of a merged adapter: average adapters, without --plain")
    return as_adapter


def _write_adapter(
    folder: Path, folders: Sequence[str], shares: Sequence[float], rank: int | None
) -> dict[str, float]:
    """Write the sum of adapters; return its facts. One that has all the weight is copied."""
    adapters = [Adapter.read(Path(f)) for f in folders]
    if max(shares) == 1 and rank is None:
        one = adapters[shares.index(1)]
        for name in (CONFIG, WEIGHTS):
            shutil.copyfile(one.folder / name, folder / name)
        copy_tokenizer(one.folder, folder)
        return {"rank": float(one.config["r"])}
    factors, lost = summed(adapters, shares), 0.0
    if rank is not None:
        factors, lost = truncated(factors, rank)
    write_adapter(folder, adapters[0], factors)
    return {"rank": float(max(len(a) for a, _ in factors.values())), "lost by the rank": lost}


def _places(models: Models, pairs: pl.DataFrame, merged: Floats) -> Iterator[between.Place]:
    """What is measured: the ensemble first."""
    if not pairs.height:
        return
    each = [models.margins(state) for state in models.states]
    there = ~np.isnan(each[0])
    prompts = pairs["prompt_id"].filter(pl.Series(there))
    mean = sum((s * m for s, m in zip(models.shares, each, strict=True)), np.zeros(len(there)))
    yield between.Place.of("ensemble of their scores", None, mean[there], prompts)
    two, points = len(models.names) == 2, models.config.points
    for i, (name, margins) in enumerate(zip(models.names, each, strict=True)):
        at = float(i) if two else None
        yield between.Place.of(name, at, margins[there], prompts)
    for t in np.linspace(0, 1, points)[1:-1] if two else ():
        margins = models.margins(models.mixed([1 - float(t), float(t)]))
        yield between.Place.of(f"{t:.2g} of the way", float(t), margins[there], prompts)
    yield between.Place.of("merged", None, merged[there], prompts)


def _report(
    models: Models,
    data: DatasetRef,
    pairs: pl.DataFrame,
    margins: Floats,
    way: between.Path,
    facts: Mapping[str, float],
    output: Path,
    folder: Path,
) -> TrainingReport:
    there = ~np.isnan(margins)
    kept, own = pairs.filter(pl.Series("", there, dtype=pl.Boolean)), margins[there]
    test = pair_metrics(own, np.logaddexp(0, -own), kept)
    more = {} if way.barrier is None else {"barrier": way.barrier}
    adapter = is_adapter(folder)
    config = {
        **models.config.model_dump(mode="json"),
        "models": dict(zip(models.names, models.shares, strict=True)),
        "scored_as": dict(models.training),
        "lora": adapter,
    }
    base = _base_of(models.folders[0]) if adapter else None
    config |= {"model": base} if base else {}
    report = TrainingReport(
        method="merge", folder=output, dataset=data, config=config, train=None, test=test,
        dropped={"too long to be scored": int((~there).sum())}, facts={**facts, **more},
        notes=(*way.lines(), *warnings(test)),
    )  # fmt: skip
    kept.select("pair_id").with_columns(margin=own).write_parquet(folder / HELD_OUT)
    write_json(folder / PATH, way.as_dict())
    task = "CausalLM" if models.reader.weights is None else "SequenceClassification"
    package, code = loading(config, task)
    parts = ", ".join(f"`{n}` ({s:.3g})" for n, s in config["models"].items())
    what = (
        f"Merged of {parts} by `{models.config.how}`"
        + (", their neurons brought into one order before" if models.config.align else "")
        + (". One adapter, of the weighted sum of what they change." if adapter else ".")
    )
    write_reports(
        folder, report, card(report, what, f"```python\n{code}```", package, ["merge"]), PACKAGES
    )
    return report
