"""Train a reward model with a person in it: PAL (arXiv 2406.08469) on frozen embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from prefactory.errors import ConfigError, DataError
from prefactory.folders import new_folder
from prefactory.identity import identity_of
from prefactory.measures.calibration import Floats
from prefactory.preferences.bradley_terry import log_loss
from prefactory.preferences.ideal_points import PALModel, components, fit_pal, permuted
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
_HALF = 2


@dataclass(frozen=True)
class Labels:
    """n labels, one row for each person who gave it.

    Attributes:
        rows: the pairs, with `user`.
        chosen, rejected: vectors of the answers, Float32[n, d].
    """

    rows: pl.DataFrame
    chosen: NDArray[np.float32]
    rejected: NDArray[np.float32]

    @property
    def users(self) -> list[str]:
        """Who gave each label."""
        return self.rows["user"].to_list()

    def at(self, kept: NDArray[np.bool_]) -> Labels:
        """Some of them."""
        return Labels(self.rows.filter(pl.Series(kept)), self.chosen[kept], self.rejected[kept])

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
    texts = [[read_texts(t, "prompt", s)[1] for s in ("chosen", "rejected")] for t in tables]
    found = Texts.of(pl.concat([s.alias("y") for pair in texts for s in pair]), encoder, embed)
    train, test = (
        Labels(t, *(found(side) for side in sides)) for t, sides in zip(tables, texts, strict=True)
    )
    facts: dict[str, float] = {}
    if base is not None:
        reduced = (base.reduced(side) for side in (train.chosen, train.rejected))
        model = base.with_people(train.users, *reduced)
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
        config=identity_of(config.model_copy(update={"encoder": encoder}).model_dump(mode="json")),
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


def fitted(config: PAL, labels: Labels, embed: Embed) -> PALReward:
    """PAL-A on all labels, its prototypes by falling mass."""
    axes = components([labels.chosen, labels.rejected], config.dim)
    model = PALReward(config.encoder.resolved(), axes, _NONE, {}, config.enough, embed)
    chosen, rejected = (model.reduced(side) for side in (labels.chosen, labels.rejected))
    fit = fit_pal(
        labels.users, rejected, chosen, np.ones(len(chosen), np.int64), config.prototypes,
        config.linear, config.steps, config.starts, config.seed,
    )  # fmt: skip
    order = np.argsort(-fit.user_weights.mean(axis=0), kind="stable")
    ordered = permuted(fit, order)
    if not isinstance(ordered, PALModel):
        raise TypeError("the fit is one of PAL-A")
    return PALReward(model.encoder, axes, ordered, labels.counts(), config.enough, embed)


_NONE = PALModel((), np.zeros((0, 0)), np.zeros((0, 0)), np.zeros((0, 0)), 0.0)


def margins(model: PALReward, labels: Labels, nobody: bool) -> Floats:
    """Reward of chosen less that of rejected, for who gave the label or for the mean person."""
    users = [None] * len(labels.users) if nobody else labels.users
    weights = model.weights(users)
    chosen, rejected = (
        model.fit.rewards(model.reduced(side), weights) for side in (labels.chosen, labels.rejected)
    )
    gap: Floats = chosen - rejected
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
        reduced = (model.reduced(side[learn]) for side in (labels.chosen, labels.rejected))
        placed = model.with_people(who[learn].tolist(), *reduced)
        held = Labels(labels.rows[test], labels.chosen[test], labels.rejected[test])
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
        " mixture of prototypes; an answer's reward is minus its distance to it, in a space of"
        f" frozen sentence embeddings. Encoder: `{report.config['encoder']}`. `users.parquet` has"
        " the weights of each person, under the ids of the data."
    )
    use = (
        "```python\nfrom trainers import PALReward\n\n"
        'model = PALReward.load("path/of/this/folder", embed)\n'
        "scores = model.score(prompts, responses, users)  # Float64[N]; None: the mean person\n"
        "```\n\nNew people are placed among the prototypes by a few labels of theirs:\n\n"
        "```bash\nprefactory train pal LABELS base=path/of/this/folder\n```"
    )
    return card(report, what, use, "prefactory", ["reward-model", "preference", "pluralistic"])
