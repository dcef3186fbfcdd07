"""Rules that read nothing: how many labels they get right."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from audit.check import ONE_MODEL, Check, Need
from audit.finding import Chart, Metric, Report, Severity
from audit.limits import LIMITS
from audit.stats import share
from audit.subject import EXAMPLES, Subject
from catalog.report.stats import STEPS

FOLDS = 5
Floats = NDArray[np.float64]


def run(subject: Subject) -> Report:
    """Measure each rule's accuracy; a tie counts one half."""
    unmeasured: dict[str, str] = {}
    rules: dict[str, Floats] = {
        "longer": subject.gap("chars"),
        "markdown": _density(subject, "markdown"),
        "lists": subject.gap("lists"),
        "first": _position(subject),
    }
    notes = ["A tie counts one half. Intervals count prompts, not pairs."]
    if "chosen_position" not in subject.table.columns:
        notes.append(
            "The data does not say which answer was shown first (columns chosen_position and "
            "rejected_position), so `first` takes the lower id: a coin, and a control."
        )
    model = _model_identity(subject)
    if model is None:
        unmeasured["model"] = "no pair names two different models"
    else:
        rules["model"] = model
    metrics = {name: _accuracy(gap, subject) for name, gap in rules.items()}
    metrics |= {f"ties:{name}": share(gap == 0, subject.prompts) for name, gap in rules.items()}
    worst = max(rules, key=lambda name: abs((metrics[name].value or 0.5) - 0.5))
    value = metrics[worst]
    assert value.value is not None  # noqa: S101 - a table of pairs has rows
    order = np.argsort(-rules[worst] * np.sign((value.value) - 0.5), kind="stable")
    said = "'{}' gets it right" if value.value > 0.5 else "'{}' gets it wrong"
    return Report(
        headline=f"'{TOLD[worst]}' gets {100 * value.value:.1f}% of labels right "
        f"({100 * (value.low or 0):.1f} to {100 * (value.high or 0):.1f})",
        metrics=metrics,
        examples=subject.examples(order, [said.format(TOLD[worst])] * EXAMPLES),
        charts=_charts(rules, metrics, subject),
        notes=tuple(notes),
        unmeasured=unmeasured,
        recipe=ONE_MODEL if _off("model", metrics) else (),
        choices=_balanced(subject, metrics),
    )


def _off(rule: str, metrics: dict[str, Metric]) -> bool:
    return rule in metrics and LIMITS[f"baselines.{rule}"].severity(metrics[rule]) > Severity.OK


def _balanced(subject: Subject, metrics: dict[str, Metric]) -> tuple[str, ...]:
    """A line for each rule that gets too many right; a place that isn't known can't be balanced."""
    rules = ["longer", "markdown", "lists"]
    if "chosen_position" in subject.table.columns:
        rules.append("first")
    off = [rule for rule in rules if _off(rule, metrics)]
    return tuple(f"- filters.Balance: {{more: {rule}}}" for rule in off)


TOLD = {
    "longer": "the longer answer wins",
    "markdown": "more Markdown wins",
    "lists": "more list items win",
    "first": "the first answer wins",
    "model": "the stronger model wins",
}


def _accuracy(gap: Floats, subject: Subject) -> Metric:
    return share((np.sign(gap) + 1) / 2, subject.prompts)


def _density(subject: Subject, feature: str) -> Floats:
    """Marks per character: arena-hard's style control compares densities, not counts."""
    sides = [
        f.select(pl.col(feature) / pl.col("chars").clip(lower_bound=1)).to_series().to_numpy()
        for f in subject.features
    ]
    return np.asarray(sides[0] - sides[1], dtype=np.float64)


def _position(subject: Subject) -> Floats:
    table = subject.table
    if {"chosen_position", "rejected_position"} <= set(table.columns):
        gap = table.select(pl.col("rejected_position") - pl.col("chosen_position")).to_series()
        return np.asarray(gap.cast(pl.Float64).fill_null(0.0).to_numpy())
    return np.where((table["chosen_id"] < table["rejected_id"]).to_numpy(), 1.0, -1.0)


def _model_identity(subject: Subject) -> Floats | None:
    """Gap of the models' smoothed win rates, learned on the other folds of prompts; 0 is a tie."""
    names = subject.table.select(won="chosen_model", lost="rejected_model")
    differ = (names["won"] != names["lost"]).fill_null(value=False)
    if not differ.any():
        return None
    folds = subject.folds(FOLDS)
    gaps = np.zeros(subject.height)
    for fold in range(FOLDS):
        here = folds == fold
        seen = names.filter(differ & pl.Series(~here))
        won = seen["won"].value_counts().rename({"won": "model", "count": "wins"})
        lost = seen["lost"].value_counts().rename({"lost": "model", "count": "losses"})
        rates = won.join(lost, on="model", how="full", coalesce=True).select(
            "model",
            rate=(pl.col("wins").fill_null(0) + 1)
            / (pl.col("wins").fill_null(0) + pl.col("losses").fill_null(0) + 2),
        )
        both = names.filter(pl.Series(here))
        for column in ("won", "lost"):
            renamed = rates.rename({"model": column, "rate": f"{column}_rate"})
            both = both.join(renamed, on=column, how="left", maintain_order="left")
        gap = pl.col("won_rate").fill_null(0.5) - pl.col("lost_rate").fill_null(0.5)
        gaps[here] = both.select(gap).to_series().to_numpy()
    return np.where(differ.to_numpy(), gaps, 0.0)


def _charts(
    rules: dict[str, Floats], metrics: dict[str, Metric], subject: Subject
) -> tuple[Chart, ...]:
    rows = tuple((TOLD[name], _ends(metrics[name])) for name in rules)
    gap = np.abs(rules["longer"])
    by_size = []
    for low, high in zip(STEPS, (*STEPS[1:], None), strict=True):
        here = (gap >= low) & (gap < high if high else True)
        label = f"{low} to {high - 1}" if high else f"{low} or more"
        if here.any():
            won = rules["longer"][here] > 0
            by_size.append((label, _ends(share(won, subject.prompts[here]))))
    return (
        Chart("shares", "Labels that each rule gets right", rows, reference=0.5),
        Chart(
            "shares",
            "When the longer answer is chosen, by characters of difference",
            tuple(by_size),
            reference=0.5,
        ),
    )


def _ends(metric: Metric) -> tuple[float | None, ...]:
    return metric.value, metric.low, metric.high


CHECK = Check(
    name="baselines",
    title="Trivial rules",
    why="What a rule that reads nothing gets right, a model will learn before anything else: "
    "length, Markdown or the name of the model instead of quality. And a benchmark that such a "
    "rule solves measures the rule.",
    metrics={
        "longer": "accuracy of choosing the longer answer (characters)",
        "markdown": "accuracy of choosing more Markdown marks per character",
        "lists": "accuracy of choosing more list items",
        "first": "accuracy of choosing the answer shown first (or, unknown, of the lower id)",
        "model": "accuracy of choosing the model that wins more, learned on other prompts",
        "ties": "share of pairs that the rule can't decide (ties:<rule>)",
    },
    run=run,
    need=Need.PAIRS,
)
