"""Train a reward model on frozen sentence embeddings: minutes on a CPU, for any dataset version.

A Bradley-Terry head is a logistic regression without intercept on the difference of both answers'
features, so swapping the answers of a pair changes nothing. What it learns is a floor: a dataset
on which it beats the length baseline carries a preference that even a frozen encoder sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from prefactory.errors import ConfigError, DataError
from prefactory.folders import new_folder
from prefactory.identity import identity_of
from prefactory.measures.calibration import Floats
from prefactory.preferences.stack import COLUMNS
from prefactory.tables import SIDES
from trainers import losses
from trainers.base import DatasetRef, hashed, margins_of, table
from trainers.embedding_model import Embed, EmbeddingRewardModel, Texts, features, read_texts
from trainers.metrics import CONTEXT, PairMetrics, pair_metrics, warnings
from trainers.report import TrainingReport, card, write_reports
from trainers.settings import EmbeddingReward

METHOD = "embedding-reward"
PACKAGES = ["numpy", "safetensors", "scipy", "torch", "transformers"]


def train_embedding_reward(
    config: EmbeddingReward, data: DatasetRef, output: str | Path, embed: Embed
) -> TrainingReport:
    """Train, measure and save an embedding reward model.

    Writes `model.safetensors`, `config.json`, `training.json` and `README.md`. The same version,
    settings and packages give the same bytes, in whatever order the rows are.

    Args:
        config: the settings.
        data: the dataset version.
        output: folder of the model; must not exist, or be empty.
        embed: `(encoder, texts) -> Float32[N, d]`; sees each distinct text once.

    Raises:
        DataError: if there are no training pairs, or a margin is asked for and missing.
    """
    encoder = config.encoder.resolved()
    dropped: dict[str, int] = {}
    named = config.categories.in_pairs() if config.categories else ()
    train, test = (read_split(data, split, dropped, named) for split in ("train", "test"))
    if not train.height:
        raise DataError(f"{data} has no training pairs")
    weights = _weights(config, data, train)
    texts = Texts.of(_all_texts(train, test), encoder, embed)
    gaps = {name: _gaps(t, texts, config) for name, t in (("train", train), ("test", test))}
    size = np.sqrt((gaps["train"] ** 2).mean(axis=0))
    scale = np.where(size > 0, size, 1.0)
    gaps = {name: gap / scale for name, gap in gaps.items()}
    l2, notes = choose_l2(config, gaps["train"], weights, train["prompt_id"])
    head = fit_head(gaps["train"], weights, penalties(config, l2, *gaps["train"].shape))
    length, names = config.length_feature, config.categories
    model = EmbeddingRewardModel(encoder, head, scale, length, embed, names)
    measured = measure(gaps["test"] @ head, test)
    report = TrainingReport(
        method=METHOD,
        folder=Path(output),
        dataset=data,
        config=identity_of(config.model_copy(update={"encoder": encoder}).model_dump(mode="json")),
        train=measure(gaps["train"] @ head, train),
        test=measured,
        dropped=dropped,
        facts={"l2": l2, "distinct_texts": len(texts.row), "features": len(head)},
        notes=(*notes, *warnings(measured)),
    )
    with new_folder(report.folder, ConfigError) as folder:
        model.save(folder)
        write_reports(folder, report, _card(report), PACKAGES)
    return report


LOW_GOAL = "relabelled for a low reward goal, which the encoder does not read"


def read_split(
    data: DatasetRef, split: str, dropped: dict[str, int], extra: Sequence[str] = ()
) -> pl.DataFrame:
    """Pairs of a split in the order of their ids; what is left out is counted by reason.

    Args:
        data: the version.
        split: `train` or `test`.
        dropped: reason -> pairs, added to.
        extra: further columns.
    """
    pairs = data.pairs(split)
    goals = ["goal_kind"] if "goal_kind" in pairs.column_names else []
    rows = table(pairs, [*CONTEXT, "prompt", "margin", *extra, *goals]).sort("pair_id")
    rules = {"both answers are the same": pl.col("chosen_id") == pl.col("rejected_id")}
    if goals:  # chosen there is the answer that misses the goal less, not the better one
        rules[LOW_GOAL] = pl.col("goal_kind") == "low"
    for reason, rule in rules.items():
        kept = rows.filter(~rule.fill_null(value=False))
        dropped[reason] = dropped.get(reason, 0) + rows.height - kept.height
        rows = kept
    return rows


def _weights(config: EmbeddingReward, data: DatasetRef, pairs: pl.DataFrame) -> Floats:
    if not config.margin_weight:
        return np.ones(pairs.height)
    margin: Floats = margins_of(pairs, data, "margin_weight").to_numpy()
    if not margin.any():
        raise DataError(f"margin_weight needs margins above zero; all of {data} are zero")
    weights: Floats = margin / margin.mean()
    return weights


def _sides(pairs: pl.DataFrame) -> Iterator[tuple[pl.Series, pl.Series]]:
    for side in SIDES:
        yield read_texts(pairs, "prompt", side)


def _all_texts(*tables: pl.DataFrame) -> pl.Series:
    columns = [text.alias("text") for t in tables for texts in _sides(t) for text in texts]
    return pl.concat(columns)


def _gaps(pairs: pl.DataFrame, texts: Texts, config: EmbeddingReward) -> Floats:
    (x, chosen), (_, rejected) = _sides(pairs)
    length, names = config.length_feature, config.categories
    gaps = features(x, chosen, texts, length) - features(x, rejected, texts, length)
    if names is None:
        return gaps
    lit = (names.features(names.of_side(pairs, side)) for side in SIDES)
    return np.concatenate([gaps, next(lit) - next(lit)], axis=1)


def measure(margins: Floats, pairs: pl.DataFrame) -> PairMetrics | None:
    """Metrics of margins."""
    return pair_metrics(margins, _losses(margins), pairs)


def _losses(margins: Floats) -> Floats:
    gap = torch.from_numpy(np.ascontiguousarray(margins))
    values: Floats = losses.bradley_terry(gap, torch.zeros_like(gap)).numpy()
    return values


def penalties(config: EmbeddingReward, l2: float, rows: int, features: int) -> Floats:
    """The penalty of each feature: `l2`, but for the length at most 40 / rows.

    Under the penalty of a thousand columns of vectors one column of length can't get any weight.
    """
    penalty = np.full(features, l2)
    if config.length_feature:
        last = features - (config.categories.slots if config.categories else 0)
        penalty[last - 1] = min(l2, COLUMNS / rows)
    return penalty


def fit_head(
    gaps: Floats,
    weights: Floats,
    l2: float | Floats,
    start: Floats | None = None,
    tolerance: float = 1e-9,
) -> Floats:
    """Minimise `sum_i weight_i * BT(w . gap_i) / sum_i weight_i + 1/2 sum_j l2_j w_j^2`.

    Args:
        gaps: features of chosen minus features of rejected, Float64[n, D].
        weights: weight of each pair, Float64[n], not all zero; a pair of weight zero is left out.
        l2: the penalty, > 0, one for all or Float64[D].
        start: where to start (zeros).
        tolerance: largest component of the gradient at which to stop.

    Returns:
        Float64[D].
    """
    z = torch.from_numpy(np.ascontiguousarray(gaps))
    share = torch.from_numpy(weights / weights.sum())
    penalty = torch.as_tensor(l2, dtype=torch.float64)

    def objective(w: Floats) -> tuple[float, Floats]:
        point = torch.from_numpy(w).requires_grad_()
        margin = z @ point
        pairs = (share * losses.bradley_terry(margin, torch.zeros_like(margin))).sum()
        value = pairs + 0.5 * (penalty * point * point).sum()
        (gradient,) = torch.autograd.grad(value, point)
        return float(value.detach()), gradient.numpy()

    first = np.zeros(gaps.shape[1]) if start is None else start
    options = {"maxiter": 2000, "maxfun": 4000, "gtol": tolerance, "ftol": 0.0}
    minimum: Any = minimize(objective, first, jac=True, method="L-BFGS-B", options=options)
    head: Floats = minimum.x
    return head


def choose_l2(
    config: EmbeddingReward, gaps: Floats, weights: Floats, prompts: pl.Series
) -> tuple[float, list[str]]:
    """Choose the penalty of least held-out loss by cross-validation grouped by prompt.

    Args:
        config: the grid, the folds and the seed.
        gaps: scaled feature differences, Float64[n, D].
        weights: weight of each pair, Float64[n].
        prompts: prompt id of each pair, length n.

    Returns:
        The penalty, and notes for the report.
    """
    grid = sorted(set(config.l2), reverse=True)
    if len(grid) == 1:
        return grid[0], []
    fold = _folds(prompts, config.folds, config.seed)
    used = [k for k in range(config.folds) if _splits(weights, fold == k)]
    if not used:
        return grid[0], ["too few prompts for cross-validation: the strongest penalty was taken"]
    loss = np.zeros(len(grid))
    for k in used:
        held = fold == k
        head: Floats | None = None
        for i, l2 in enumerate(grid):
            penalty = penalties(config, l2, int((~held).sum()), gaps.shape[1])
            head = fit_head(gaps, np.where(held, 0.0, weights), penalty, head, tolerance=1e-6)
            loss[i] += (weights * _losses(gaps @ head))[held].sum()
    best = int(np.argmin(loss))
    edge = best in (0, len(grid) - 1)
    notes = [f"the best penalty, {grid[best]:g}, is at the edge of the grid"] if edge else []
    return grid[best], notes


def _splits(weights: Floats, held: NDArray[np.bool_]) -> bool:
    return bool(weights[held].sum() > 0 and weights[~held].sum() > 0)


def _folds(prompts: pl.Series, folds: int, seed: int) -> NDArray[np.int64]:
    order = sorted(prompts.unique(), key=lambda p: hashed(p, f"fold {seed}"))
    fold_of = {prompt: i % folds for i, prompt in enumerate(order)}
    return np.array([fold_of[p] for p in prompts], dtype=np.int64)


_NAMES = (
    ", and hashed features of names, which `score` is given as `about`: that a model wrote an"
    " answer is no reason for it to be good"
)


def _card(report: TrainingReport) -> str:
    what = (
        "A Bradley-Terry reward model: a linear head on frozen sentence embeddings of the last user"
        " message x and the answer y, with the features `[e(y), e(x)*e(y), |e(x)-e(y)|]`"
        + (" and the log length of y" if report.config["length_feature"] else "")
        + (_NAMES if report.config["categories"] else "")
        + f". Encoder: `{report.config['encoder']}`."
    )
    use = (
        "```python\nfrom trainers import EmbeddingRewardModel\n\n"
        'model = EmbeddingRewardModel.load("path/of/this/folder", embed)\n'
        "scores = model.score(prompts, responses)  # Float64[N]\n```\n\n"
        "`embed(encoder, texts)` gives Float32[N, d]; `prompts` and `responses` are polars series"
        " of lists of `{role, content}`. The gap of two scores for one prompt is the log odds that"
        " the first answer is preferred; scores of different prompts are not comparable."
    )
    return card(report, what, use, "prefactory", ["reward-model", "preference"])
