"""Accuracy, calibration and paired tests of models on the same pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import polars as pl

from prefactory.measures.calibration import Floats, calibration_errors, pairwise_accuracy
from trainers.evaluate.models import Scored
from trainers.metrics import lengths

GROUPS = ("objective", "dimension", "source", "subset", "dataset", "domain")
"""Columns by which accuracy is shown, where the pairs have them."""
BUCKETS = (128, 512, 2048, 8192)
"""Characters of the longer answer at which a bucket of length begins (ours)."""
DRAWS = 10_000


@dataclass(frozen=True)
class Row:
    """Accuracy of one model on some of the pairs.

    Attributes:
        group: which column the pairs were chosen by; empty for all.
        value: its value.
        pairs: how many.
        accuracy: share with the higher score on chosen; a tie counts one half.
        se: its standard error, clustered by prompt; the interval of 95 % is 1.96 times it.
    """

    group: str
    value: str
    pairs: int
    accuracy: float
    se: float

    @property
    def interval(self) -> tuple[float, float]:
        """The interval of 95 %, within 0 and 1."""
        return max(0.0, self.accuracy - 1.96 * self.se), min(1.0, self.accuracy + 1.96 * self.se)


def accuracies(model: Scored, pairs: pl.DataFrame) -> list[Row]:
    """Accuracy on all pairs, then by objective, source, subset and length of the answers."""
    rows = []
    for group, value, keep in _parts(pairs):
        margins = model.margins[keep]
        there = ~np.isnan(margins)
        if there.any():
            prompts = pairs["prompt_id"].filter(pl.Series(keep)).filter(pl.Series(there))
            accuracy, se = pairwise_accuracy(margins[there], prompts)
            rows.append(Row(group, value, int(there.sum()), accuracy, se))
    return rows


def _parts(pairs: pl.DataFrame) -> Iterator[tuple[str, str, np.ndarray]]:
    yield "", "all", np.ones(pairs.height, dtype=bool)
    for column in (c for c in GROUPS if c in pairs.columns):
        texts = pairs[column].cast(pl.String)
        values = texts.drop_nulls().unique().sort().to_list()
        if 1 < len(values) <= 60:
            for value in values:
                yield column, value, (texts == value).fill_null(value=False).to_numpy()
    chosen, rejected = (lengths(pairs, side) for side in ("chosen", "rejected"))
    longer = chosen - rejected
    cuts = {"shorter": longer < 0, "as long": longer == 0, "longer": longer > 0}
    for value, keep in cuts.items():
        yield "chosen is", value, keep
    bucket = np.digitize(np.maximum(chosen, rejected), BUCKETS)
    edges = [f"{n:,}" for n in BUCKETS]
    names = [f"below {edges[0]}", *map("{} to {}".format, edges, edges[1:]), f"from {edges[-1]}"]
    for place, value in enumerate(names):
        yield "characters", value, bucket == place


@dataclass(frozen=True)
class Paired:
    """Two models on the pairs that both read.

    Attributes:
        one, other: their names.
        pairs: how many pairs.
        difference: accuracy of `one` minus that of `other`.
        se: its standard error, clustered by prompt.
        p: two-sided, of the same difference by turning the signs of whole prompts at random.
    """

    one: str
    other: str
    pairs: int
    difference: float
    se: float
    p: float


def paired(models: Sequence[Scored], pairs: pl.DataFrame, seed: int = 0) -> list[Paired]:
    """Test every two models on the same pairs."""
    return [_test(a, b, pairs, seed) for a, b in combinations(models, 2)]


def _test(one: Scored, other: Scored, pairs: pl.DataFrame, seed: int) -> Paired:
    both = ~(np.isnan(one.margins) | np.isnan(other.margins))
    n = int(both.sum())
    if not n:
        return Paired(one.name, other.name, 0, 0.0, 0.0, 1.0)
    gap = (np.sign(one.margins[both]) - np.sign(other.margins[both])) / 2
    group = pairs["prompt_id"].filter(pl.Series(both)).rank("dense").to_numpy() - 1
    by_prompt = np.bincount(group, weights=gap)
    off = np.bincount(group, weights=gap - gap.mean())
    signs = np.random.default_rng(seed).integers(0, 2, (DRAWS, len(by_prompt)), dtype=np.int8)
    drawn = np.abs((signs * 2.0 - 1.0) @ by_prompt)
    p = (1 + int((drawn >= abs(by_prompt.sum()) - 1e-9).sum())) / (1 + DRAWS)
    return Paired(one.name, other.name, n, float(gap.mean()), float(np.sqrt((off**2).sum()) / n), p)


def calibration(model: Scored) -> dict[str, float]:
    """ECE, ACE and MCE over both orders of every pair, for scores that are log odds."""
    margins: Floats = model.margins[~np.isnan(model.margins)]
    if not len(margins):
        return {}
    errors = calibration_errors(margins)
    return {"ece": errors.ece, "ace": errors.ace, "mce": errors.mce}
