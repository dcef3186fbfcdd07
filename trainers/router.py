"""Train a router: which model answers a prompt best, or which judge judges it right, and its price.

A pair whose answers are of two models is a game between them, and so are two judges of one pair of
which one agrees with the label. A Bradley-Terry head learns from the games what each is worth for
which prompts, from hashed names (Unified Embedding, arXiv 2305.12102) and the prompt's vector.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from prefactory.errors import ConfigError, DataError
from prefactory.folders import new_folder
from prefactory.identity import identity_of
from prefactory.measures.calibration import Floats
from prefactory.preferences.clustered import clustered_mean, hits
from prefactory.preferences.router import CANDIDATE, Router, price_of
from prefactory.spaces.hashed import Categories
from prefactory.tables import last_user_text
from trainers.base import DatasetRef, table
from trainers.embedding_model import Embed
from trainers.embedding_reward import choose_l2, fit_head
from trainers.report import TrainingReport, card, write_reports
from trainers.settings.frozen import EmbeddingReward
from trainers.settings.frozen import Router as Settings

METHOD = "router"
PACKAGES = ["numpy", "safetensors", "scipy", "torch"]
_GAME = ("prompt_id", "text", "better", "worse")


def train_router(
    config: Settings, data: DatasetRef, output: str | Path, embed: Embed
) -> TrainingReport:
    """Train, measure and save a router.

    Writes `model.safetensors`, `router.json`, `training.json`, `README.md` and `report.html`; the
    same version, settings and packages give the same bytes.

    Args:
        config: the settings.
        data: the dataset version.
        output: folder of the model; must not exist, or be empty.
        embed: `(encoder, texts) -> Float32[N, d]`.

    Raises:
        ConfigError: costs and budget don't go with the candidates.
        DataError: there are no games, or a column is missing.
    """
    train, test = (games(config, data, split) for split in ("train", "test"))
    if not train.height:
        raise DataError(
            f"{data} has no games between two {config.candidates}: pairs whose answers are of two "
            "models, or votes of two judges (labelers.JudgePairs) of which one agrees with a label "
            "that no judge gave"
        )
    names = tuple(sorted({*train["better"], *train["worse"]}))
    costs = _costs(config, names)
    own = config.model_copy(update={"encoder": config.encoder.resolved()})
    router, l2, notes = _fitted(own, train, names, costs, embed)
    plain = _fitted(
        own.model_copy(update={"prompt": (), "vectors": False}), train, names, costs, embed
    )
    if config.budget is not None:
        price = price_of(_utilities(router, train, embed), costs, config.budget)
        router = replace(router, price=price)
    facts, told = _measured(router, plain[0], test, embed)
    facts |= {"games": float(train.height), "l2": l2, "price": router.price}
    report = TrainingReport(
        method=METHOD, folder=Path(output), dataset=data, train=None, test=None, facts=facts,
        config=identity_of(own.model_dump(mode="json")), notes=(*notes, *told),
    )  # fmt: skip
    router = replace(router, info={"data": str(data), "digest": data.digest, **facts})
    with new_folder(report.folder, ConfigError) as folder:
        router.save(folder)
        write_reports(folder, report, _card(report, router), PACKAGES)
    return report


def games(config: Settings, data: DatasetRef, split: str) -> pl.DataFrame:
    """Games of a split: `prompt_id`, `text`, `better`, `worse` and the prompt's columns, sorted.

    Raises:
        DataError: a column is missing.
    """
    votes = f"{config.judge}_votes"
    columns = ["pair_id", "prompt_id", "prompt", "chosen_id", "rejected_id", "label_source"]
    of = ["chosen_model", "rejected_model"] if config.candidates == "models" else [votes]
    rows = table(data.pairs(split), [*columns, *of, *config.prompt])
    if missing := [c for c in (*of, *config.prompt) if c not in rows.columns]:
        raise DataError(f"{data} has no column {missing[0]!r}")
    rows = rows.with_columns(text=last_user_text(pl.col("prompt")).fill_null(""))
    if config.candidates == "models":
        found = rows.rename({"chosen_model": "better", "rejected_model": "worse"})
    else:
        found = _of_judges(rows.filter(pl.col("label_source") != "judge"), votes, config.judges)
    found = found.filter(pl.col("better") != pl.col("worse"))
    return found.sort("pair_id", "better", "worse").select(*_GAME, *config.prompt)


def _of_judges(rows: pl.DataFrame, votes: str, names: tuple[str, ...]) -> pl.DataFrame:
    """Two judges of a pair of which one has the greater share of right votes."""
    better = (pl.col("chosen_id") > pl.col("rejected_id")).cast(pl.Int32)
    flat = rows.select("pair_id", truth=better, vote=votes).explode("vote").drop_nulls("vote")
    right = (
        pl.when(pl.col("answer") == pl.col("truth"))
        .then(1.0)
        .when(pl.col("answer") == -1)
        .then(0.5)
        .otherwise(0.0)
    )
    called = pl.col("judge").cast(pl.String)
    if names:
        called = pl.col("judge").replace_strict(dict(enumerate(names)), default=None)
    share = (
        flat.unnest("vote")
        .group_by("pair_id", name=called.cast(pl.String))
        .agg(right=right.mean())
        .drop_nulls("name")
    )
    both = share.join(share, on="pair_id", suffix="_other").filter(
        pl.col("right") > pl.col("right_other")
    )
    return both.select("pair_id", better="name", worse="name_other").join(rows, on="pair_id")


def _costs(config: Settings, names: tuple[str, ...]) -> Floats:
    if unknown := sorted(config.costs.keys() - set(names)):
        raise ConfigError(
            f"costs name {unknown[0]}, which plays no game; there are: {', '.join(names)}"
        )
    lacking = [n for n in names if n not in config.costs]
    if config.budget is not None and lacking:
        raise ConfigError(f"a budget needs the cost of every candidate; {lacking[0]} has none")
    return np.array([float(config.costs.get(n, 0.0)) for n in names])


def _fitted(
    config: Settings, train: pl.DataFrame, names: tuple[str, ...], costs: Floats, embed: Embed
) -> tuple[Router, float, list[str]]:
    """A router with price 0, its penalty, and notes."""
    categories = Categories(
        answer=(CANDIDATE,), prompt=config.prompt, slots=config.slots, probes=config.probes
    )
    lit = [
        categories.features(train.with_columns(pl.col(side).alias(CANDIDATE)))
        for side in ("better", "worse")
    ]
    gaps, mean = lit[0] - lit[1], np.zeros(0)
    if config.vectors:
        vectors = np.asarray(embed(config.encoder, train["text"]), np.float64)
        mean = vectors.mean(axis=0)
        place = {n: k for k, n in enumerate(names)}
        sign = np.zeros((train.height, len(names)))
        rows = np.arange(train.height)
        sign[rows, [place[n] for n in train["better"]]] = 1.0
        sign[rows, [place[n] for n in train["worse"]]] = -1.0
        wide = np.einsum("nk,nd->nkd", sign, vectors - mean).reshape(train.height, -1)
        gaps = np.concatenate([gaps, wide], axis=1)
    size = np.sqrt((gaps**2).mean(axis=0))
    scale = np.where(size > 0, size, 1.0)
    ones = np.ones(train.height)
    grid = EmbeddingReward(l2=config.l2, folds=config.folds, seed=config.seed)
    l2, notes = choose_l2(grid, gaps / scale, ones, train["prompt_id"])
    head = fit_head(gaps / scale, ones, l2) / scale
    named, read = head[: config.slots], head[config.slots :].reshape(len(names), -1)
    encoder = config.encoder if config.vectors else None
    return Router(names, costs, 0.0, categories, named, read, mean, encoder), l2, notes


def _utilities(router: Router, rows: pl.DataFrame, embed: Embed) -> Floats:
    return router.utilities(rows, rows["text"], embed)


def _measured(
    router: Router, plain: Router, test: pl.DataFrame, embed: Embed
) -> tuple[dict[str, float], list[str]]:
    """How often the better of two is told on held-out games, beside one order for all prompts."""
    known = pl.col("better").is_in(router.candidates) & pl.col("worse").is_in(router.candidates)
    rows = test.filter(known)
    if not rows.height:
        return {}, ["there are no held-out games, so it is not known what was learnt"]
    place = {n: k for k, n in enumerate(router.candidates)}
    at = np.arange(rows.height)
    better, worse = ([place[n] for n in rows[c]] for c in ("better", "worse"))
    own, other = _utilities(router, rows, embed), _utilities(plain, rows, embed)
    right, simple = (hits(u[at, better] - u[at, worse]) for u in (own, other))
    one, two = (clustered_mean(v, rows["prompt_id"]) for v in (right, simple))
    gain = clustered_mean(right - simple, rows["prompt_id"])
    taken = router.choose(own)
    facts = {
        "held-out games": float(rows.height), "accuracy": one.value,
        "accuracy of one order for all prompts": two.value, "gain": gain.value,
        "mean cost": float(router.costs[taken].mean()),
    }  # fmt: skip
    facts |= {"gain_se": gain.se} if np.isfinite(gain.se) else {}
    shares = np.bincount(taken, minlength=len(router.candidates)) / len(taken)
    facts |= {f"share {n}": float(s) for n, s in zip(router.candidates, shares, strict=True)}
    told = (
        [] if gain.low > 0 else ["it is no better than one order of the candidates for all prompts"]
    )
    return facts, told


def _card(report: TrainingReport, router: Router) -> str:
    what = (
        f"A router among {', '.join(f'`{n}`' for n in router.candidates)}: a Bradley-Terry head on "
        "hashed names (arXiv 2305.12102)"
        + (" and the vector of the last user message." if router.encoder else ".")
    )
    use = "```yaml\nsteps:\n  - labelers.Route: {model: path/of/this/folder}\n```"
    return card(report, what, use, "prefactory", ["router"])
