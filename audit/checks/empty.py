"""Answers that say nothing: no character that could be seen."""

from __future__ import annotations

import numpy as np

from audit.check import Check, Need
from audit.finding import Metric, Report, flagged
from audit.stats import share
from audit.subject import Subject
from prefactory.preferences.damage.marks import VISIBLE

REASONS = ("empty_answer", "missing_answer", "no_answer")


def run(subject: Subject) -> Report:
    """Count empty answers by side, and those that the reader left out."""
    empty = [~side.text.str.contains(VISIBLE).to_numpy() for side in subject.sides]
    metrics = {
        side.name: share(mask, side.prompts)
        for side, mask in zip(subject.sides, empty, strict=True)
    }
    rows = np.zeros(subject.height, dtype=bool)
    for side, mask in zip(subject.sides, empty, strict=True):
        rows[side.rows[mask]] = True
    refused = subject.intake.refused(*REASONS).height
    total = subject.height + refused
    bad = int(rows.sum()) + refused
    metrics["answers"] = Metric(bad / total, n=total, unit="share")
    where = f" ({refused:,} left out by the reader)" if refused else ""
    headline = f"{bad:,} of {total:,} rows have an answer without text{where}"
    at = np.flatnonzero(rows)
    return Report(
        headline=headline if bad else "every answer says something",
        metrics=metrics,
        rows=flagged(at, "an answer holds nothing but space and invisible signs"),
        left_out=subject.intake.named(*REASONS),
    )


CHECK = Check(
    name="empty",
    title="Empty answers",
    why="Trainers accept an empty answer in silence. As the rejected side it teaches only that "
    "text beats no text; as the chosen side it teaches silence.",
    metrics={
        "answers": "share of rows with an empty answer, those counted that the reader left out",
        "chosen": "share of chosen answers without text",
        "rejected": "share of rejected answers without text",
        "response": "share of answers without text",
    },
    run=run,
    faulty_rows=True,
    need=Need.ANSWERS,
    mends=("- filters.Damage: {rules: [empty]}",),
)
