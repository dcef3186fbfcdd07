"""What a trained preference model achieves on pairs, next to rules that read nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.stats import rankdata

from prefactory.measures.calibration import Floats, calibration_errors, pairwise_accuracy
from prefactory.tables import text_of

CONTEXT = ["pair_id", "prompt_id", "chosen_id", "rejected_id", "chosen", "rejected"]
"""Columns of pairs that the metrics read."""


@dataclass(frozen=True)
class PairMetrics:
    """Metrics on one set of pairs. Accuracies count a tie as one half; errors are by prompt.

    Attributes:
        pairs: number of pairs.
        prompts: number of distinct prompts among them.
        accuracy: share of pairs in which chosen gets the higher score.
        accuracy_se: standard error of it, clustered by prompt.
        loss: mean training loss, in nats.
        margin: mean score of chosen minus score of rejected.
        ece: expected calibration error over both orders of a pair, 10 bins.
        ace: mean calibration error of the bins.
        mce: largest calibration error of a bin.
        longer_wins: accuracy of the rule that the longer answer wins.
        longer_wins_se: standard error of it.
        always_first: accuracy of taking the first of both answers in the order of their ids, which
            is an order without meaning: it shows what chance looks like on these pairs.
        always_first_se: standard error of it.
    """

    pairs: int
    prompts: int
    accuracy: float
    accuracy_se: float
    loss: float
    margin: float
    ece: float
    ace: float
    mce: float
    longer_wins: float
    longer_wins_se: float
    always_first: float
    always_first_se: float


def pair_metrics(margins: Floats, losses: Floats, pairs: pl.DataFrame) -> PairMetrics | None:
    """Measure a model and the baselines on the same pairs; None if there are no pairs.

    Args:
        margins: score of chosen minus score of rejected, one per pair, same order.
        losses: training loss per pair.
        pairs: has the columns of `CONTEXT`.
    """
    if not pairs.height:
        return None
    prompts = pairs["prompt_id"]
    errors = calibration_errors(margins)
    accuracy, accuracy_se = pairwise_accuracy(margins, prompts)
    longer, longer_se = pairwise_accuracy(
        lengths(pairs, "chosen") - lengths(pairs, "rejected"), prompts
    )
    first = np.where((pairs["chosen_id"] < pairs["rejected_id"]).to_numpy(), 1.0, -1.0)
    always, always_se = pairwise_accuracy(first, prompts)
    return PairMetrics(
        pairs=pairs.height,
        prompts=prompts.n_unique(),
        accuracy=accuracy,
        accuracy_se=accuracy_se,
        loss=float(losses.mean()),
        margin=float(margins.mean()),
        ece=errors.ece,
        ace=errors.ace,
        mce=errors.mce,
        longer_wins=longer,
        longer_wins_se=longer_se,
        always_first=always,
        always_first_se=always_se,
    )


def told_apart(scores: Floats, good: Sequence[bool]) -> dict[str, float]:
    """How well scores tell good answers from bad ones.

    Returns:
        `answers`, `good` (share), and `auc`: how often a good answer has the higher score; a tie
        counts one half, and it is left out where there is one class only.
    """
    labels = np.asarray(good, dtype=bool)
    facts = {"answers": float(len(labels)), "good": float(labels.mean())}
    n, m = int(labels.sum()), int((~labels).sum())
    if n and m:
        ranks = rankdata(scores)
        facts["auc"] = float((ranks[labels].sum() - n * (n + 1) / 2) / (n * m))
    return facts


def accuracy_by(margins: Floats, values: Sequence[object]) -> dict[str, float]:
    """Accuracy of the margins of each value of a column; a tie counts one half."""
    rows = pl.DataFrame({"value": [str(v) for v in values], "right": (np.sign(margins) + 1) / 2})
    found = rows.group_by("value").agg(pl.col("right").mean()).sort("value")
    return {f"accuracy_{value}": right for value, right in found.iter_rows()}


def warnings(test: PairMetrics | None) -> list[str]:
    """What a reader of the held-out metrics must be told, one sentence each."""
    if test is None:
        return ["there are no held-out pairs, so it is not known what was learnt"]
    if test.accuracy <= test.longer_wins:
        return [
            "on the held-out pairs the model does not beat the rule that the longer answer wins"
        ]
    return []


def lengths(pairs: pl.DataFrame, column: str) -> Floats:
    """Characters of the assistant's text in a column of messages, one per row."""
    text = text_of(pl.col(column), "assistant").fill_null("")
    return pairs.select(text.str.len_chars().cast(pl.Float64)).to_series().to_numpy()
