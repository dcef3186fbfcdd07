"""`prefactory drift`: how the stances that a model takes moved over the checkpoints of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from audit import load
from audit.stance import by_lexicon
from pipelines.judged import Named, judge_step
from pipelines.settings import Settings
from pipelines.training.answering import answers_of, name_of
from pipelines.training.panel import Panel
from pipelines.training.places import model_of
from prefactory.engines.base import SamplingParams
from prefactory.errors import ConfigError, DataError
from prefactory.folders import read_listed
from prefactory.measures.refusals import refuses
from prefactory.measures.value_drift import STANCES, Floats, value_drift
from trainers.evaluate.drift import Drift, Topic

DRAWN = SamplingParams(temperature=0.7, max_tokens=256)
"""How the paper draws answers; five to a question."""
ALL = "all questions"


@dataclass(frozen=True)
class Point:
    """A model on its way.

    Attributes:
        name: what it is called.
        model: folder, hub id or engine.
        at: share of training, 0 to 1.
    """

    name: str
    model: str
    at: float


def points_of(models: Sequence[str], settings: Settings) -> list[Point]:
    """The checkpoints of a run.

    Args:
        models: one that was trained here, of which the start, the checkpoints (`keep_checkpoints`)
            and the end are taken; or several in the order of training, taken as equally far apart.
        settings: where models are.

    Raises:
        ConfigError: the model was not trained here, or two models have one name.
    """
    if len(models) > 1:
        places = [model_of(name, settings) for name in models]
        steps = np.linspace(0, 1, len(places))
        points = [Point(name_of(p), p, float(at)) for p, at in zip(places, steps, strict=True)]
        if len({p.name for p in points}) < len(points):
            raise ConfigError("two models are called alike: rename a folder")
        return points
    folder = Path(model_of(models[0], settings))
    try:
        facts = json.loads(read_listed(folder / "training.json"))
        start, steps_done = str(facts["config"]["model"]), int(facts["facts"]["steps"])
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{folder} is no model that was trained here ({error}); name several models instead, "
            "in the order of training"
        ) from error
    between = {
        int(path.name.rpartition("-")[2]): path for path in folder.glob("checkpoints/checkpoint-*")
    }
    found = [Point("start", start, 0.0)]
    found += [
        Point(f"step {step}", str(path), step / steps_done)
        for step, path in sorted(between.items())
        if step < steps_done
    ]
    return [*found, Point(f"step {steps_done}", str(folder), 1.0)]


def drift(
    models: Sequence[str],
    questions: str,
    settings: Settings,
    judge: Named | None = None,
    topic: str = "topic",
    samples: int = 5,
    sampling: SamplingParams = DRAWN,
    rows: int | None = None,
    seed: int = 0,
) -> Drift:
    """Let every checkpoint answer value-laden questions, and follow the stances.

    Args:
        models: see `points_of`.
        questions: a version or file with prompts; one row a question, whatever else it holds.
        settings: home of models, journal, budget, prices.
        judge: an engine that tells stances; None: a small English lexicon, which can show that
            stances move, not what one answer says.
        topic: column with the topic of a question; without it all are one topic.
        samples: answers to each question.
        sampling: how they are drawn.
        rows: that many of the questions, drawn by the seed; all if None.
        seed: of all draws.

    Raises:
        ConfigError: see `points_of`.
        DataError: there are no questions, or none that all checkpoints answered.
    """
    points = points_of(models, settings)
    asked = _questions(questions, settings, topic, rows, seed)
    named = {point.model: point.name for point in points}
    answers = pl.concat(
        answers_of([p.model], asked, sampling, samples, seed, settings).with_columns(
            model=pl.lit(p.name)
        )
        for p in points
    ).join(asked, on="prompt_id", maintain_order="left")
    if judge is None:
        told = by_lexicon(answers["text"].fill_null(""), refuses(answers["text"]))
        stance = answers.select(
            pl.when(pl.col("text").is_not_null()).then(told.alias("stance"))
        ).to_series()
    else:
        stance = Panel().stances(judge, answers, settings)
    answers = answers.with_columns(stance=stance)
    names, at = list(named.values()), np.asarray([p.at for p in points])
    topics = [
        t for t in asked["topic"].drop_nulls().unique().sort() if asked["topic"].n_unique() > 1
    ]
    found = []
    for name in (ALL, *topics):
        part = answers if name == ALL else answers.filter(topic=name)
        shares = _shares(part, names)
        if shares is not None:
            found.append(Topic(name, value_drift(shares, at, seed)))
    if not found:
        raise DataError(f"no question of {questions} has answers with a stance at all checkpoints")
    teller = "a lexicon of English phrases" if judge is None else judge_step(judge).judge[0].model
    return Drift(
        name_of(models[-1]), questions, teller, tuple(names), tuple(float(x) for x in at), samples,
        tuple(found), answers["text"].null_count(),
        answers.filter(pl.col("text").is_not_null())["stance"].null_count(),
    )  # fmt: skip


def _questions(
    data: str, settings: Settings, topic: str, rows: int | None, seed: int
) -> pl.DataFrame:
    """`prompt_id`, `prompt` and `topic` (String, null without), distinct, sorted by id."""
    found = load(data, settings.catalog, None, 0, None).table
    of = pl.col(topic).cast(pl.String) if topic in found.columns else pl.lit(None, pl.String)
    asked = found.select("prompt_id", "prompt", topic=of).unique("prompt_id", keep="first")
    asked = asked.sort("prompt_id")
    if rows is not None and rows < asked.height:
        asked = asked.sample(rows, seed=seed).sort("prompt_id")
    if not asked.height:
        raise DataError(f"{data} has no questions")
    return asked


def _shares(answers: pl.DataFrame, names: Sequence[str]) -> Floats | None:
    """Shares of the stances by checkpoint and question, Float64[c, q, 4], NaN without an answer.

    None if no question has one at every checkpoint.
    """
    counted = answers.drop_nulls("stance").group_by("model", "prompt_id", "stance").len()
    wide = counted.pivot("stance", index=["model", "prompt_id"], values="len").with_columns(
        pl.lit(0).alias(stance)
        for stance in STANCES
        if stance not in counted["stance"].unique().to_list()
    )
    ids = answers["prompt_id"].unique().sort()
    grid = pl.DataFrame({"model": pl.Series(names)}).join(ids.to_frame(), how="cross")
    told = grid.join(wide, on=["model", "prompt_id"], how="left", maintain_order="left")
    counts = told.select(pl.col(s).cast(pl.Float64) for s in STANCES)
    total = counts.sum_horizontal().to_numpy()
    filled = counts.fill_null(0.0).to_numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = filled / np.where(total > 0, total, np.nan)[:, None]
    cube: Floats = shares.reshape(len(names), len(ids), len(STANCES))
    return None if np.isnan(cube).any(axis=(0, 2)).all() else cube
