"""Calibration and agreement of scorers: with the label, and with each other."""

from __future__ import annotations

import re

import numpy as np
import polars as pl

from audit.check import Check, Need
from audit.finding import Chart, Metric, Report
from audit.stats import share
from audit.subject import EXAMPLES, LABEL, Subject
from prefactory.measures.disagreement import agreement, answer_pairs, calibration
from prefactory.measures.score_columns import margins, scored
from prefactory.tables import SCORE, SIDES, Shape

NAME = re.compile(r"[A-Za-z]\w*")
LEAST = 30
"""Pairs that a calibration needs."""


def run(subject: Subject) -> Report:
    """Measure each score against the label, and every two scores against each other."""
    table, metrics = subject.table, dict[str, Metric]()
    if subject.shape == Shape.PAIRS:
        names = scored(table)
        metrics = _with_label(subject, names)
    else:
        columns = [c for c in table.columns if c.startswith(SCORE) and c != LABEL]
        names = [c.removeprefix(SCORE) for c in columns]
        table = answer_pairs(table.select("prompt_id", "response_id", *columns)) if names else table
    if not names:
        return Report(skipped="there are no scores on both answers")
    for row in agreement(table, names).iter_rows(named=True):
        if row["n"]:
            n, decided = row["n"], row["same"] + row["conflict"]
            value = row["same"] / decided if decided else None
            metrics[f"between:{row['a']}~{row['b']}"] = Metric(value, n=n, unit="share")
    if not metrics:
        return Report(skipped="there is one score, and no label to hold it against")
    shown = tuple(
        (name.split(":", 1)[1], (m.value, m.low, m.high))
        for name, m in metrics.items()
        if name.startswith("with_label:")
    )
    unmeasured = {}
    if subject.shape != Shape.PAIRS:
        unmeasured = dict.fromkeys(("with_label", "ece"), Need.PAIRS.value)
    order, notes = _conflicts(subject, names)
    return Report(
        headline=_told(metrics),
        metrics=metrics,
        examples=subject.examples(order, notes),
        charts=(Chart("shares", "Labels that each score bears out", shown, reference=0.5),)
        if shown
        else (),
        notes=(
            "ECE over both orders of every pair (MORE, arXiv 2312.07401), after one fitted scale "
            "for each score: it says how well the shape of its margins fits, and flatters a "
            "little. `between` leaves out pairs that either score ties.",
        ),
        unmeasured=unmeasured,
        recipe=_recipe(metrics),
    )


def _with_label(subject: Subject, names: list[str]) -> dict[str, Metric]:
    metrics = {}
    gaps = margins(subject.table, names)
    for name in names:
        there = gaps[name].is_not_null()
        if there.any():
            value = (gaps[name].filter(there).sign() + 1).to_numpy() / 2
            metrics[f"with_label:{name}"] = share(value, subject.prompts[there.to_numpy()])
    for row in calibration(subject.table, names).iter_rows(named=True):
        if row["n"] >= LEAST:
            metrics[f"ece:{row['objective']}"] = Metric(row["ece"], n=row["n"])
    return metrics


def _conflicts(subject: Subject, names: list[str]) -> tuple[list[int], list[str]]:
    """Pairs in which most scores go against the label."""
    if not subject.paired:
        return [], []
    gaps = margins(subject.table, names)
    against = gaps.select(n=pl.sum_horizontal((pl.all() < 0).cast(pl.Int64).fill_null(0)))["n"]
    worst = np.argsort(-against.to_numpy(), kind="stable")[:EXAMPLES]
    order = [int(row) for row in worst if against[int(row)]]
    notes = [f"{against[r]} of {len(names)} scores put the {SIDES[1]} answer higher" for r in order]
    return order, notes


def _recipe(metrics: dict[str, Metric]) -> tuple[str, ...]:
    """Advice: what to combine, of the scores that bear the labels out."""
    labels = {n[11:]: m.value or 0.0 for n, m in metrics.items() if n.startswith("with_label:")}
    kept = [name for name, value in labels.items() if value >= 0.5 and NAME.fullmatch(name)]
    if not kept:
        return ()
    weights = ", ".join(f"{name}: 1" for name in kept[:8])
    return (
        "# no step mends a score; to use those that bear the labels out and no other:",
        f"# - labelers.Combine: {{name: total, method: logsigmoid, weights: {{{weights}}}}}",
    )


def _told(metrics: dict[str, Metric]) -> str:
    parts = []
    labels = {n: m.value or 0.0 for n, m in metrics.items() if n.startswith("with_label:")}
    if labels:
        least = min(labels, key=labels.__getitem__)
        parts.append(f"{least[11:]} bears out {100 * labels[least]:.1f}% of the labels")
        if len(labels) > 1:
            parts[0] += f", the least of {len(labels)} scores"
    pairs = {n: m.value or 0.0 for n, m in metrics.items() if n.startswith("between:")}
    if pairs:
        least = min(pairs, key=pairs.__getitem__)
        both = least[8:].replace("~", " and ")
        parts.append(f"{both} agree on {100 * pairs[least]:.1f}% of pairs, the least")
    return "; ".join(parts)


CHECK = Check(
    name="agreement",
    title="Calibration and agreement of scorers",
    why="A score that follows the label no better than a coin weighs noise, and two that disagree "
    "measure different things: averaging them hides it. Margins that are not calibrated mislead "
    "any threshold.",
    metrics={
        "with_label": "share of pairs whose chosen answer scores higher (with_label:<score>)",
        "between": "share of decided pairs that two scores order alike (between:<a>~<b>)",
        "ece": "calibration error of the score's margins on a fitted scale (ece:<score>)",
    },
    run=run,
    need=Need.ANSWERS,
)
