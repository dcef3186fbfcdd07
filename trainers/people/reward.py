"""Train a reward model with a person in it: PAL (arXiv 2406.08469) on frozen embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prefactory.errors import ConfigError, DataError
from prefactory.folders import new_folder
from prefactory.identity import identity_of
from prefactory.measures.calibration import Floats
from prefactory.preferences.bradley_terry import log_loss
from prefactory.preferences.ideal_points import (
    PALModel,
    components,
    fit_pal,
    fit_pal_b,
    permuted,
)
from prefactory.tables import SIDES
from trainers.base import DatasetRef, hashed
from trainers.embedding_model import Embed, Texts, read_texts
from trainers.embedding_reward import read_split
from trainers.metrics import CONTEXT, PairMetrics, pair_metrics, warnings
from trainers.people.model import PALReward
from trainers.report import TrainingReport, card, write_reports
from trainers.settings import PAL

METHOD = "pal"
PACKAGES = ["numpy", "polars", "safetensors", "scipy", "torch"]
NOBODY = "no annotator"
_HOW = {
    "a": "; an answer's reward is minus its distance to it",
    "b": " that move with the prompt; an answer's reward is its cosine with it, times a scale",
}
_HALF = 2


@dataclass(frozen=True)
class Labels:
    """n labels, one row for each person who gave it.

    Attributes:
        rows: the pairs, with `user`.
        chosen, rejected: vectors of the answers, Float32[n, d].
        prompts: of the last user messages, Float32[n, d]; None where they have no part (PAL-A).
    """

    rows: pl.DataFrame
    chosen: NDArray[np.float32]
    rejected: NDArray[np.float32]
    prompts: NDArray[np.float32] | None = None

    @property
    def users(self) -> list[str]:
        """Who gave each label."""
        return self.rows["user"].to_list()

    def at(self, kept: NDArray[np.bool_]) -> Labels:
        """Some of them."""
        return self.take(np.flatnonzero(kept).tolist())

    def take(self, places: Sequence[int]) -> Labels:
        """Some of them, by their places."""
        at = list(places)
        prompts = None if self.prompts is None else self.prompts[at]
        return Labels(self.rows[at], self.chosen[at], self.rejected[at], prompts)

    def reduced(self, model: PALReward) -> tuple[Floats, Floats, Floats | None]:
        """Vectors of chosen, of rejected and of prompts, as a model's fit reads them."""
        chosen, rejected = (model.reduced(side) for side in (self.chosen, self.rejected))
        return chosen, rejected, model.reduced_prompts(self.prompts)

    def counts(self) -> dict[str, int]:
        """Labels of each person."""
        return dict(self.rows.group_by("user").len().sort("user").iter_rows())


def train_pal(config: PAL, data: DatasetRef, output: str | Path, embed: Embed) -> TrainingReport:
    """Train, measure and save a PAL reward model, or place new people in one that is there.

    Writes `model.safetensors`, `config.json`, `users.parquet`, `training.json`, `README.md` and
    `report.html`. The same version, settings and packages give the same bytes.

    Args:
        config: the settings.
        data: the dataset version; its pairs have the column `annotator`.
        output: folder of the model; must not exist, or be empty.
        embed: `(encoder, texts) -> Float32[N, d]`; sees each distinct text once.

    Raises:
        ConfigError: `base` holds no model, or one of another encoder.
        DataError: the pairs have no annotators.
    """
    dropped: dict[str, int] = {}
    base = None if config.base is None else PALReward.load(config.base, embed)
    encoder = base.encoder if base is not None else config.encoder.resolved()
    tables = [_read(data, split, config, dropped) for split in ("train", "test")]
    if not tables[0].height:
        raise DataError(f"no training pair of {data} has an annotator")
    method = config.method if base is None else base.method
    texts = [_texts(t, method == "b") for t in tables]
    found = Texts.of(pl.concat([s.alias("y") for part in texts for s in part]), encoder, embed)
    train, test = (
        Labels(t, *(found(part) for part in parts)) for t, parts in zip(tables, texts, strict=True)
    )
    facts: dict[str, float] = {}
    if base is not None:
        model = base.with_people(train.users, *train.reduced(base))
        facts["new_users"] = float(len(set(train.users) - set(base.fit.users)))
    else:
        facts |= _of_newcomers(config, train, embed)
        model = fitted(config, train, embed)
    facts |= _facts(model, train)
    measured, mean = (_measure(model, test, nobody) for nobody in (False, True))
    if mean is not None:
        facts["accuracy_mean_person"] = mean.accuracy
    report = TrainingReport(
        method=METHOD,
        folder=Path(output),
        dataset=data,
        config=identity_of(
            config.model_copy(update={"encoder": encoder, "method": method}).model_dump(mode="json")
        ),
        train=_measure(model, train, False),
        test=measured,
        dropped=dropped,
        facts=facts,
        notes=(*_notes(model, measured, mean), *warnings(measured)),
    )
    with new_folder(report.folder, ConfigError) as folder:
        model.save(folder)
        write_reports(folder, report, _card(report), PACKAGES)
    return report


def _read(data: DatasetRef, split: str, config: PAL, dropped: dict[str, int]) -> pl.DataFrame:
    """The pairs of a split, one row for each person who labelled them."""
    if config.annotator not in data.pairs(split).column_names:
        raise DataError(
            f"pal reads the column {config.annotator}, which {data} lacks: name who gave each "
            f"label in the source's mapping, such as mapping: {{{config.annotator}: worker_id}}"
        )
    rows = read_split(data, split, dropped, [config.annotator])
    who = pl.col(config.annotator)
    listed = isinstance(rows.schema[config.annotator], pl.List)
    rows = rows.with_columns(user=who if listed else pl.concat_list(who))
    rows = rows.explode("user").with_columns(pl.col("user").cast(pl.String))
    kept = rows.filter(pl.col("user").is_not_null()).sort("pair_id", "user")
    dropped[NOBODY] = dropped.get(NOBODY, 0) + rows.height - kept.height
    return kept


def _texts(table: pl.DataFrame, moving: bool) -> list[pl.Series]:
    """Texts of chosen and rejected answers and, where they have a part, of the prompts."""
    (asked, chosen), (_, rejected) = (read_texts(table, "prompt", s) for s in SIDES)
    return [chosen, rejected, *([asked] if moving else [])]


def fitted(config: PAL, labels: Labels, embed: Embed) -> PALReward:
    """PAL-A or PAL-B on all labels, its prototypes by falling mass."""
    axes = components([labels.chosen, labels.rejected], config.dim)
    of_prompts = None if labels.prompts is None else components([labels.prompts], config.dim)
    encoder = config.encoder.resolved()
    model = PALReward(encoder, axes, _NONE, {}, config.enough, embed, of_prompts)
    chosen, rejected, prompts = labels.reduced(model)
    users, y = labels.users, np.ones(len(chosen), np.int64)
    k, steps, starts, seed = config.prototypes, config.steps, config.starts, config.seed
    fit = (
        fit_pal(users, rejected, chosen, y, k, config.linear, steps, starts, seed)
        if prompts is None
        else fit_pal_b(users, prompts, rejected, chosen, y, k, config.rank, steps, starts, seed)
    )
    ordered = permuted(fit, np.argsort(-fit.user_weights.mean(axis=0), kind="stable"))
    return replace(model, fit=ordered, labels=labels.counts())


_NONE = PALModel((), np.zeros((0, 0)), np.zeros((0, 0)), np.zeros((0, 0)), 0.0)


def margins(model: PALReward, labels: Labels, nobody: bool) -> Floats:
    """Reward of chosen less that of rejected, for who gave the label or for the mean person."""
    users = [None] * len(labels.users) if nobody else labels.users
    weights = model.weights(users)
    chosen, rejected, prompts = labels.reduced(model)
    gap: Floats = model.fit.rewards(chosen, weights, prompts) - model.fit.rewards(
        rejected, weights, prompts
    )
    return gap


def _measure(model: PALReward, labels: Labels, nobody: bool) -> PairMetrics | None:
    if not labels.rows.height:
        return None
    gap = margins(model, labels, nobody)
    return pair_metrics(gap, log_loss(gap), labels.rows.select(CONTEXT))


def _of_newcomers(config: PAL, labels: Labels, embed: Embed) -> dict[str, float]:
    """Accuracy for people whom the fit has not seen, by how many labels place them.

    A share of the people is kept from a fit of its own. Half of each one's labels place them, in an
    order drawn by the seed; accuracy is on the other half. `new_mean_<n>` is that of the mean
    person, on the labels of the same people: those who have n labels to be placed by.
    """
    people = sorted(set(labels.users), key=lambda user: hashed(user, f"new {config.seed}"))
    new = set(people[: round(config.new_users * len(people))])
    if not new or len(new) == len(people):
        return {}
    who = np.asarray(labels.users, dtype=object)
    is_new = np.asarray([user in new for user in who])
    model = fitted(config, labels.at(~is_new), embed)
    draw = [hashed(p, f"label {config.seed}") for p in labels.rows["pair_id"]]
    drawn = np.lexsort([np.asarray(draw), who.astype(np.str_)])
    place = {user: [i for i in drawn if who[i] == user] for user in sorted(new)}
    facts = {"held_back_users": float(len(new))}
    for n in config.new_labels:
        some = {u: at for u, at in place.items() if len(at) // _HALF >= n}
        learn = [i for at in some.values() for i in at[:n]]
        test = [i for at in some.values() for i in at[len(at) // _HALF :]]
        if not learn or not test:
            continue
        placed = model.with_people(who[learn].tolist(), *labels.take(learn).reduced(model))
        held = labels.take(test)
        for name, nobody in (("new", False), ("new_mean", True)):
            gap = margins(placed if not nobody else model, held, nobody)
            facts[f"{name}_{n}"] = float(((np.sign(gap) + 1) / _HALF).mean())
    return facts


def _facts(model: PALReward, labels: Labels) -> dict[str, float]:
    mass = model.fit.user_weights.mean(axis=0)
    return {
        "users": float(len(model.fit.users)),
        "labels": float(len(labels.users)),
        **{f"mass_{g}": float(m) for g, m in enumerate(mass)},
    }


def _notes(model: PALReward, own: PairMetrics | None, mean: PairMetrics | None) -> list[str]:
    notes = []
    if len(model.fit.users) == 1:
        notes.append("there is one annotator: all prototypes are of that one")
    if own is not None and mean is not None and own.accuracy <= mean.accuracy:
        notes.append("people's own points predict held-out labels no better than the mean person's")
    return notes


def _card(report: TrainingReport) -> str:
    what = (
        "PAL (arXiv 2406.08469): a reward that differs between people. The ideal point of each is a"
        f" mixture of prototypes{_HOW[str(report.config['method'])]}, in a space of frozen sentence"
        f" embeddings. Encoder: `{report.config['encoder']}`. `users.parquet` has the weights of"
        " each person, under the ids of the data."
    )
    use = (
        "```python\nfrom trainers import PALReward\n\n"
        'model = PALReward.load("path/of/this/folder", embed)\n'
        "scores = model.score(prompts, responses, users)  # Float64[N]; None: the mean person\n"
        "```\n\nNew people are placed among the prototypes by a few labels of theirs:\n\n"
        "```bash\nprefactory train pal LABELS base=path/of/this/folder\n```"
    )
    return card(report, what, use, "prefactory", ["reward-model", "preference", "pluralistic"])
