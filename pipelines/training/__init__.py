"""Training from recipes and from the command line: one table of methods."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from pydantic import BaseModel, ValidationError

from catalog.versions import Version
from pipelines.needs import tell
from pipelines.progress import Progress
from pipelines.serve.running import announced
from pipelines.settings import Settings
from pipelines.training.places import transformer_of
from pipelines.vectors import embedder
from prefactory.errors import ConfigError, library_errors
from prefactory.folders import CHECKSUMS, FRONTIER, UNFINISHED, damaged
from prefactory.identity import fingerprint, identity_fields
from prefactory.recipe import sentence
from trainers.settings import (
    ADPA,
    BCO,
    CPO,
    DCKD,
    DPO,
    KTO,
    MAH,
    MORE,
    ORPO,
    PAL,
    RACO,
    RDPO,
    SFT,
    EmbeddingReward,
    GoalDPO,
    Listwise,
    PoFT,
    PreferenceStack,
    Regression,
    Reward,
    Router,
    SimPO,
    SteerLM,
    Stepwise,
    TransformerSettings,
    YaPO,
)  # fmt: skip

if TYPE_CHECKING:
    from trainers.base import DatasetRef

Embed = Callable[[Any, pl.Series], np.ndarray]

METHODS: dict[str, type[BaseModel]] = {
    "embedding-reward": EmbeddingReward,
    "preference-stack": PreferenceStack,
    "pal": PAL,
    "router": Router,
    "reward": Reward,
    "regression": Regression,
    "sft": SFT,
    "dpo": DPO,
    "goal-dpo": GoalDPO,
    "kto": KTO,
    "cpo": CPO,
    "simpo": SimPO,
    "orpo": ORPO,
    "mah": MAH,
    "bco": BCO,
    "poft": PoFT,
    "raco": RACO,
    "rdpo": RDPO,
    "more": MORE,
    "steerlm": SteerLM,
    "listwise": Listwise,
    "stepwise": Stepwise,
    "dckd": DCKD,
    "adpa": ADPA,
    "yapo": YaPO,
}
"""Training method -> its options."""


GOALS = "goal_pairs"
BY_LABELS = ("filters.AgreementDraw", "filters.SuspectLabels", "filters.EnsembleUncertainty")
"""Steps after which the pairs that are left are easier than those that left."""


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        method: how it was trained.
        path: its folder.
        summary: a few lines about it for a terminal.
        facts: the same as plain data.
    """

    method: str
    path: Path
    summary: str
    facts: dict[str, Any]


def table_of(cls: type[BaseModel], version: Version | None = None) -> str:
    """The table that a method reads, unless another is named.

    A method that reads pairs and single answers reads the answers of a version without pairs.
    """
    table = str(getattr(cls, "table", "pairs"))
    there = version.manifest.tables if version is not None else {table: None}
    single = "responses" in getattr(cls, "shapes", ()) and "responses" in there
    return "responses" if table not in there and single else table


def _check_table(cls: type[BaseModel], version: Version, table: str) -> None:
    """Make sure that a version has a table which a method can read.

    Raises:
        ConfigError: it has not; with those that it has.
    """
    tables, shapes = version.manifest.tables, getattr(cls, "shapes", ("pairs",))
    usable = [name for name, record in tables.items() if record.shape in shapes]
    if table in usable:
        return
    if not usable:
        what = " or ".join(shapes)
        raise ConfigError(f"{version.ref} holds no {what}, only {', '.join(tables)}")
    by = "; labelers.RewardAugmented makes it" if table == GOALS else ""
    have = ", ".join(usable)
    raise ConfigError(
        f"{version.ref} has no table of {' or '.join(shapes)} {table!r}{by}; it has: {have}"
    )


def checked_options(cls: type[BaseModel], fields: dict[str, Any]) -> BaseModel:
    """Options of a method.

    Raises:
        ConfigError: with all mistakes.
    """
    try:
        return cls.model_validate(fields)
    except ValidationError as error:
        items = error.errors(include_url=False)
        problems = [sentence(cls, dict(item)) for item in items]
        if any("unknown" in p and "did you mean" not in p for p in problems):
            problems.append("options are: " + ", ".join(cls.model_fields))
        raise ConfigError(problems) from error


def train(
    method: str,
    config: BaseModel,
    version: Version,
    settings: Settings,
    out: Path | None = None,
    table: str | None = None,
    embed: Embed | None = None,
) -> Trained:
    """Train on a version.

    Args:
        method: a name of `METHODS`.
        config: its options.
        version: the dataset.
        settings: where models go if `out` is None; a model that is there already is returned.
        out: folder of the model, new or empty.
        table: which table of the version it reads; None: the method's own.
        embed: makes vectors of texts; None: the encoder, by way of the store.

    Raises:
        ConfigError: for an unknown method, a model to start from that is none, or a table without
            pairs, or without responses.
    """
    if (start := getattr(config, "model", None)) is not None:
        config = config.model_copy(update={"model": transformer_of(start, settings)})
    table = table or table_of(type(config), version)
    _check_table(type(config), version, table)
    from trainers.base import DatasetRef  # datasets, torch: only when something is trained

    data = DatasetRef(version, table)
    folder = out or _default_folder(settings, data, method, config)
    if out is None and folder.exists():  # complete: trainers make a folder whole or not at all
        return earlier(method, folder)
    tell(settings, version.ref, f"model {folder.name}")
    progress = Progress(f"{method} on {version.ref}")
    progress.begin(f"train {method}", 0, "steps")
    shown = progress.shown(live=False)  # a terminal has the trainer's own bar
    told = announced(settings.home, progress, None)
    with library_errors(folder), shown, told, settings.store.in_use():
        report = _trainer(method, settings, embed or embedder(settings))(config, data, folder)
    note = easy_test(version)
    text = "\n".join([report.text(), *([f"  note     {note}"] if note else [])])
    return Trained(method, Path(report.folder), text, report.as_dict())


def easy_test(version: Version) -> str:
    """Why accuracy on a version's test split is too high, if its pairs were chosen by labels."""
    steps = [s.label for s in version.manifest.stages if s.rows_out < s.rows_in]
    found = [label for label in steps if label.split("#")[0] in BY_LABELS]
    if not found:
        return ""
    return (
        f"{', '.join(found)} kept pairs by their labels, in the test split too, so accuracy there "
        "is too high; what the selection gains is at the top of the version's report"
    )


def _default_folder(settings: Settings, data: DatasetRef, method: str, config: BaseModel) -> Path:
    """Folder of a model by what it is trained on and how, so that nothing is trained twice."""
    weights = weights_of(str(getattr(config, "model", None) or getattr(config, "base", None) or ""))
    made_from: list[Any] = [method, identity_fields(config), data.digest, data.table, weights]
    sae: Path | None = getattr(config, "sae", None)
    if sae is not None and sae.is_file():
        made_from.append([[sae.name, sae.stat().st_size, sae.stat().st_mtime_ns]])
    name = f"{data.version.ref.replace('@', '-')}-{method}-{fingerprint(made_from)[:8]}"
    return settings.home / "models" / name


def weights_of(model: str) -> list[list[Any]]:
    """What tells the model in a folder from another one there: names, sizes and times of files."""
    files = sorted(Path(model).glob("*")) if model and Path(model).is_dir() else []
    return [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files if f.is_file()]


def earlier(method: str, folder: Path) -> Trained:
    """A model that is there already.

    Raises:
        ConfigError: it is not whole, or damaged.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / "training.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} is not whole ({error}); remove it to train again") from error
    if wrong := damaged(folder / CHECKSUMS):
        raise ConfigError(f"{folder} is damaged ({', '.join(wrong[:3])}); remove it to train again")
    for end in (UNFINISHED, FRONTIER):  # of a training that was killed once its model was whole
        shutil.rmtree(folder.with_name(f"{folder.name}{end}"), ignore_errors=True)
    test = (facts.get("metrics") or {}).get("test") or {}
    score = f", held-out accuracy {test['accuracy']:.3f}" if "accuracy" in test else ""
    summary = (
        f"{method}: already trained on this version with these options{score}\n  model    {folder}"
    )
    return Trained(method, folder, summary, facts)


def _trainer(method: str, settings: Settings, embed: Embed) -> Callable[[Any, Any, Path], Any]:
    if method == "embedding-reward":
        from trainers import train_embedding_reward

        return lambda config, data, out: train_embedding_reward(config, data, out, embed)
    if method == "preference-stack":
        from trainers import train_preference_stack

        return lambda config, data, out: train_preference_stack(config, data, out, embed)
    if method == "router":
        from trainers import train_router

        return lambda config, data, out: train_router(config, data, out, embed)
    if method == "pal":
        from trainers import train_pal

        return lambda config, data, out: train_pal(config, data, out, embed)
    if issubclass(METHODS.get(method, BaseModel), TransformerSettings):
        from trainers import train_transformer

        cache = settings.home / "cache" / "tokens"
        return lambda config, data, out: train_transformer(config, data, out, cache)
    raise ConfigError(f"no training method {method!r}; there are: {', '.join(METHODS)}")
