"""Train and save a preference stack: a scorer of statistics, vectors and outside scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from catalog.splits import prompt_clusters
from prefactory.errors import ConfigError, DataError
from prefactory.folders import new_folder
from prefactory.identity import identity_of
from prefactory.measures.calibration import Floats
from prefactory.preferences.bradley_terry import log_loss
from prefactory.preferences.features import Embed, describe_pairs, names
from prefactory.preferences.scorer import Scorer
from prefactory.preferences.stack import Differences, Rows, cross_fit, fit, skill
from prefactory.tables import SCORE, SIDES
from trainers.base import DatasetRef
from trainers.embedding_reward import read_split
from trainers.metrics import pair_metrics, warnings
from trainers.report import TrainingReport, card, write_reports
from trainers.settings import PreferenceStack

METHOD = "preference-stack"
PACKAGES = ["numpy", "polars", "safetensors", "scipy"]


def train_preference_stack(
    config: PreferenceStack, data: DatasetRef, output: str | Path, embed: Embed
) -> TrainingReport:
    """Train, measure and save a preference stack.

    Writes `model.safetensors`, `scorer.json`, `training.json` and `README.md`: a folder that
    `labelers.PreferenceScore` reads. Where the training labels teach nothing (out of fold), no
    model is saved that would only seem to score.

    Args:
        config: the settings.
        data: the dataset version.
        output: folder of the model; must not exist, or be empty.
        embed: `(encoder, texts) -> Float32[N, d]`.

    Raises:
        ConfigError: a pair-only feature is asked for.
        DataError: there are no training pairs, a score is missing, or the labels teach nothing.
    """
    if config.oriented:
        raise ConfigError(
            f"oriented: {', '.join(config.oriented)} is about a pair, and a saved scorer scores "
            "single answers; use labelers.PreferenceStack for margins, or leave it out"
        )
    dropped: dict[str, int] = {}
    train, test = (_read(data, split, config, dropped) for split in ("train", "test"))
    if not train.height:
        raise DataError(f"{data} has no training pairs")
    reader = embed if config.vectors else None
    rows = Rows.of(_differences(train, config, reader), prompt_clusters(train))
    held = cross_fit(rows, config.form, config.seed)
    skills = skill(held.margins, rows.clusters)
    if skills.teaches_nothing:
        raise DataError(
            f"the labels of {data} teach nothing that this scorer can see: held-out accuracy "
            f"{skills.accuracy.value:.3f} ± {skills.accuracy.se:.3f}, slope {skills.slope:.2f}"
        )
    model = fit(rows, config.form, config.seed).times(skills.slope)
    encoder = config.encoder.resolved() if config.vectors else None
    trained = {"dataset": str(data), "digest": data.digest, "pairs": len(rows)}
    info = {"trained_on": [trained], "out_of_fold": skills.as_dict()}
    scorer = Scorer(model, names(config.vectors), config.outside, encoder, skills.slope, info)
    margins = model.scores(_differences(test, config, reader))
    measured = pair_metrics(margins, log_loss(margins), test)
    report = TrainingReport(
        method=METHOD,
        folder=Path(output),
        dataset=data,
        config=identity_of(config.model_dump(mode="json")),
        train=pair_metrics(held.margins, log_loss(held.margins), train),
        test=measured,
        dropped=dropped,
        facts={"slope": skills.slope, "ece_out_of_fold": skills.ece},
        notes=(f"form: {model.form}; train is out of fold", *warnings(measured)),
    )
    with new_folder(report.folder, ConfigError) as folder:
        scorer.save(folder)
        write_reports(folder, report, _card(report), PACKAGES)
    return report


def _read(
    data: DatasetRef, split: str, config: PreferenceStack, dropped: dict[str, int]
) -> pl.DataFrame:
    scores = [f"{side}_{SCORE}{o}" for side in SIDES for o in config.outside]
    rows = read_split(data, split, dropped, scores)
    missing = [name for name in scores if name not in rows.columns]
    if missing:
        raise DataError(f"outside: {data} has no column {missing[0]!r}")
    return rows


def _differences(pairs: pl.DataFrame, config: PreferenceStack, embed: Embed | None) -> Differences:
    chosen, rejected = describe_pairs(pairs, config.encoder, embed)
    columns = chosen.statistics.to_numpy() - rejected.statistics.to_numpy()
    gaps: list[Floats] = [
        pairs.select(
            (pl.col(f"chosen_{SCORE}{o}") - pl.col(f"rejected_{SCORE}{o}"))
            .cast(pl.Float64)
            .fill_nan(None)
            .fill_null(0.0)
        ).to_numpy()
        for o in config.outside
    ]
    return Differences(
        chosen.vectors() - rejected.vectors(), np.concatenate([columns, *gaps], axis=1)
    )


def _card(report: TrainingReport) -> str:
    what = (
        "A Bradley-Terry scorer of single answers on text statistics"
        + (" and sentence vectors" if report.config["vectors"] else "")
        + ", with a penalty for each group of features and margins scaled to log odds on held-out"
        " prompts."
    )
    use = (
        "```yaml\n- labelers.PreferenceScore: {model: path/of/this/folder}\n```\n\n"
        "The gap of two scores for one prompt is the log odds that the first answer is preferred;"
        " scores of different prompts are not comparable."
    )
    return card(report, what, use, "prefactory", ["reward-model", "preference"])
