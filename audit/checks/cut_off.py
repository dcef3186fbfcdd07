"""Answers that end in the middle, and on which side."""

from __future__ import annotations

import polars as pl

from audit.check import Check, Need
from audit.finding import Chart, Report, flagged
from audit.stats import difference, share
from audit.subject import Subject
from prefactory.preferences.damage.marks import unfinished
from prefactory.tables import in_parts

CHARACTERS, WORDS = 20, 4
"""Least size of an answer and of its last line: less than the rule of damage asks, since both sides
are read alike (on six sets of people and judges the gap moves by .008 at most)."""


def run(subject: Subject) -> Report:
    """Count answers that end in the middle of a line, by side."""
    metrics, named, hits = {}, [], []
    for side in subject.sides:
        cut = in_parts(lambda part: unfinished(part, CHARACTERS, WORDS).to_frame(), side.text)[
            "unfinished"
        ]
        hits.append(cut.to_numpy())
        metrics[side.name] = share(hits[-1], side.prompts)
        named.append(flagged(side.rows[hits[-1]], f"the {side.name} answer ends in the middle"))
    told = ", ".join(f"{100 * (m.value or 0):.1f}% of {name}" for name, m in metrics.items())
    bars = tuple((name, (m.value, m.low, m.high)) for name, m in metrics.items())
    if subject.two_sided:
        first, second = subject.sides
        metrics["gap"] = difference(hits[0], hits[1], first.prompts, second.prompts)
    return Report(
        headline=f"{told} answers end in the middle".replace("of response", "of the"),
        metrics=metrics,
        rows=pl.concat(named),
        charts=(Chart("shares", "Answers that end in the middle", bars),),
        notes=(
            "The last line has four words or more and ends in a letter, a comma or a dash. No rule "
            "on texts is sure of it (of real cut-offs it finds a third, and as many answers that "
            "are whole), so the share itself is no fault; a gap between the sides is.",
        ),
        recipe=("# cut both sides alike where they were generated: the same limit of tokens",),
    )


CHECK = Check(
    name="cut_off",
    title="Answers cut off on one side",
    why="Where one side was cut by a limit of tokens, the end of the text gives the label away.",
    metrics={
        "chosen": "share of chosen answers that end in the middle",
        "rejected": "share of rejected answers that do",
        "response": "share of answers that do",
        "gap": "chosen minus rejected",
    },
    run=run,
    need=Need.ANSWERS,
)
