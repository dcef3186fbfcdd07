"""Visibly damaged answers: garbled, looping, echoing the question, speaking for the user."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from audit.check import Check, Need
from audit.finding import Chart, Metric, Report
from audit.stats import share
from audit.subject import EXAMPLES, Side, Subject
from filters.rules.quality import UNFINISHED, Quality
from prefactory.context import Context
from prefactory.tables import in_parts

LEAK = (
    r"(?:\n\n|^)[ \t]*(?:Human|User|Assistant|System)[ \t]*:|### ?(?:Instruction|Response|Input):|"
    r"<\|(?:im_start|im_end|endoftext|eot_id|start_header_id|user|assistant)\|>|\[/?INST\]|"
    r"<\|?(?:start_of_turn|end_of_turn)\|?>"
)
"""Marks of a chat template or of another turn inside an answer."""
TRUNCATED_FROM = 400
"""Characters above which an answer that ends in the middle counts as truncated."""


def run(subject: Subject) -> Report:
    """Judge the answers of each side by `filters.Quality` and by marks of other turns."""
    metrics: dict[str, Metric] = {}
    rows: list[int] = []
    notes: list[str] = []
    bars: dict[str, list[float]] = {}
    for number, side in enumerate(subject.sides):
        reasons = _reasons(subject, side)
        bad = reasons.is_not_null().to_numpy()
        metrics[side.name] = share(bad, side.prompts)
        counts = reasons.drop_nulls().value_counts().sort("reason")
        for reason, n in counts.iter_rows():
            metrics[f"{reason}:{side.name}"] = Metric(
                n / reasons.len(), n=reasons.len(), unit="share"
            )
            bars.setdefault(reason, [0.0] * len(subject.sides))[number] = n / reasons.len()
        cut = _truncated(side)
        metrics[f"truncated:{side.name}"] = share(cut, side.prompts)
        at = np.flatnonzero(bad)[: EXAMPLES - len(rows)]
        rows += [int(row) for row in side.rows[at]]
        notes += [f"{side.name}: {reason}" for reason in reasons.gather(pl.Series(at))]
    kind = "sides" if subject.two_sided else "bars"
    shown = tuple((reason, tuple(values)) for reason, values in sorted(bars.items()))
    told = ", ".join(
        f"{100 * (metrics[s.name].value or 0):.1f}% of {s.name}" for s in subject.sides
    )
    return Report(
        headline=f"{told} answers are damaged".replace("of response", "of the"),
        metrics=metrics,
        examples=subject.examples(rows, notes),
        charts=(Chart(kind, "Damaged answers", shown),) if shown else (),  # type: ignore[arg-type]
        notes=(
            "By the rules of filters.Quality (control characters, runs, loops, repeated lines, "
            "prompt echo) and marks of other turns. `truncated` is over "
            f"{TRUNCATED_FROM} characters and ends in the middle; code and lists often do, so it "
            "has no limit.",
        ),
    )


def _reasons(subject: Subject, side: Side) -> pl.Series:
    """The reason of each damaged answer, null where it is fine."""
    at = pl.Series(side.rows)
    column = side.name if subject.paired else "response"
    table = subject.table.select("prompt", response=column)[at]
    return in_parts(_judged, table.with_columns(side.text.rename("text")))["reason"]


def _judged(table: pl.DataFrame) -> pl.DataFrame:
    step, text = Quality(no_text=False), pl.col("text")
    marks = table.select(blank=text.str.strip_chars() == "", leak=text.str.contains(LEAK))
    judged = step.keep(table.drop("text"), Context()).select("reason").hstack(marks)
    reason = pl.when("blank").then(None).when("leak").then(pl.lit("role_leak")).otherwise("reason")
    return judged.select(reason=reason)


def _truncated(side: Side) -> NDArray[np.bool_]:
    text = side.text.str.strip_chars()
    long = text.str.len_chars() > TRUNCATED_FROM
    return (long & text.str.tail(4).str.contains(UNFINISHED)).to_numpy()


CHECK = Check(
    name="damaged",
    title="Damaged answers",
    why="A loop, a garbled text or an answer that goes on to play the user is imitated when it was "
    "chosen, and too easy to beat when it was rejected.",
    metrics={
        "chosen": "share of chosen answers that are damaged",
        "rejected": "share of rejected answers that are damaged",
        "response": "share of answers that are damaged",
        "truncated": "share of long answers that end in the middle (truncated:<side>)",
        "role_leak": "share with marks of another turn or of a chat template (role_leak:<side>)",
        "control_characters": "share with control or replacement characters",
        "long_run": "share with one character many times in a row",
        "low_alphanumeric": "share with hardly a letter or digit",
        "duplicate_lines": "share with mostly repeated lines",
        "repeated_trigrams": "share with mostly repeated words",
        "prompt_echo": "share that begin with the whole question",
    },
    run=run,
    need=Need.ANSWERS,
    mends=("- filters.Quality: {}",),
)
