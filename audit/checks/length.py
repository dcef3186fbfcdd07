"""Win rates of models with the part of length taken out."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from audit.check import Check, Need
from audit.finding import Chart, Metric, Report
from audit.stats import share
from audit.subject import Subject
from prefactory.measures.win_rate import length_controlled_win_rate

LEAST = 50
"""Pairs against another model that a model needs to be listed."""
MOST = 12
"""Models that are listed, those with most pairs."""
Floats = NDArray[np.float64]


def run(subject: Subject) -> Report:
    """Compare each model's raw win rate with its length-controlled one."""
    gap = subject.gap("chars")
    slope = _slope(subject, gap)
    metrics = {
        "slope": Metric(slope, n=gap.size),
        "correlation": Metric(_correlation(gap), n=gap.size),
    }
    rows = []
    for model, at, won in _duels(subject):
        mine = np.where(won, gap[at], -gap[at])
        prompts = pl.Series(subject.prompts[at])
        rate = length_controlled_win_rate(won.astype(np.float64), mine, groups=prompts)
        ends = (rate.low, rate.high)
        metrics[f"raw:{model}"] = share(won, subject.prompts[at])
        metrics[f"controlled:{model}"] = Metric(rate.controlled, *ends, at.size, "share")
        off = (rate.controlled - rate.raw, rate.low - rate.raw, rate.high - rate.raw)
        metrics[f"shift:{model}"] = Metric(*off, at.size, "share")
        rows.append((model, (rate.raw, rate.controlled)))
    told = f"one standard deviation more length is worth {slope * np.tanh(1.0):+.2f} log odds"
    unmeasured = {}
    if rows:
        shifts = {m: v for m, v in metrics.items() if m.startswith("shift:")}
        worst = max(shifts, key=lambda m: abs(shifts[m].value or 0.0))
        points = 100 * (shifts[worst].value or 0.0)
        told += f"; {worst[6:]} moves most without it, by {points:+.1f} points"
    else:
        why = f"no model has {LEAST} pairs against another model"
        unmeasured = dict.fromkeys(("raw", "controlled", "shift"), why)
    chart = Chart("sides", "Win rate: raw, and length-controlled", tuple(rows), reference=0.5)
    return Report(
        headline=told,
        metrics=metrics,
        charts=(chart,) if rows else (),
        notes=(
            "logit P(win) = b0 + b1 tanh(length difference / its sd), after AlpacaEval's length "
            "control (arXiv 2404.04475), without its difficulty term; controlled is sigmoid(b0).",
        ),
        unmeasured=unmeasured,
    )


def _slope(subject: Subject, gap: Floats) -> float:
    """Log odds that a much longer answer gains, both orders of every pair counted."""
    wins = np.repeat([1.0, 0.0], gap.size)
    return length_controlled_win_rate(wins, np.concatenate([gap, -gap])).effects[0]


def _correlation(gap: Floats) -> float:
    """Correlation of label and length difference, over both orders of every pair."""
    spread = float((gap**2).mean())
    return float(gap.mean() / np.sqrt(spread)) if spread else 0.0


def _duels(subject: Subject) -> list[tuple[str, NDArray[np.int64], NDArray[np.bool_]]]:
    """(model, rows, won) of the models with most pairs against another model."""
    names = subject.table.select("chosen_model", "rejected_model", row=pl.int_range(pl.len()))
    names = names.filter(pl.col("chosen_model") != pl.col("rejected_model"))
    both = pl.concat(
        [
            names.select(model="chosen_model", row="row", won=pl.lit(value=True)),
            names.select(model="rejected_model", row="row", won=pl.lit(value=False)),
        ]
    )
    sizes = both.group_by("model").len().filter(pl.col("len") >= LEAST)
    order = sizes.sort("len", "model", descending=[True, False]).head(MOST)["model"]
    found = []
    for model in order:
        rows = both.filter(model=model).sort("row")
        found.append((str(model), rows["row"].to_numpy(), rows["won"].to_numpy()))
    return found


CHECK = Check(
    name="length",
    title="Length-controlled win rates",
    why="Judges and people like longer answers. What remains of a model's lead when its answers "
    "are no longer than the other's is what the pairs can teach besides length.",
    metrics={
        "slope": "log odds of being chosen for an answer that is much longer",
        "correlation": "correlation of the label with the difference in length",
        "raw": "share of its pairs that a model won (raw:<model>)",
        "controlled": "the same with length taken out (controlled:<model>)",
        "shift": "controlled minus raw (shift:<model>)",
    },
    run=run,
    need=Need.PAIRS,
    mends=(
        "# the length of answers decides for a model; leave pairs out until it no longer does:",
        "- filters.Balance: {more: longer}",
    ),
)
