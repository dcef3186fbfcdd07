"""Answers of garbled letters."""

from __future__ import annotations

from audit.check import Check, Need
from audit.finding import Report
from audit.marked import report
from audit.subject import Subject
from prefactory.preferences.damage.garbled import LEAST


def run(subject: Subject) -> Report:
    """Find answers whose letters are in no familiar order and whose words are in no other text."""
    if subject.height < 2 * LEAST:
        return Report(skipped=f"letters are compared with those of {2 * LEAST} rows or more")
    return report(
        subject,
        ("garbled",),
        "have garbled letters",
        ("By a character model of the other half of the answers, and words that no other text "
         "has. Answers in another script than most are left alone; one in another language of "
         "the same script may look garbled where few are in it.",),
    )  # fmt: skip


CHECK = Check(
    name="garbled",
    title="Garbled answers",
    why="A model that is fitted to garbled chosen answers rates them best of all: they look like "
    "nothing else, so that a few teach it a rule.",
    metrics={
        "chosen": "share of chosen answers that are garbled",
        "rejected": "share of rejected answers that are garbled",
        "response": "share of answers that are garbled",
        "garbled": "the same (garbled:<side>)",
    },
    run=run,
    faulty_rows=True,
    need=Need.ANSWERS,
)
