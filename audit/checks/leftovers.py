"""What other programs left in answers: tokens on one side, a judge's words, wrong decoding."""

from __future__ import annotations

from audit.check import Check, Need
from audit.finding import Report
from audit.marked import report
from audit.subject import Subject


def run(subject: Subject) -> Report:
    """Find tokens that one of two answers has, words of a judge, and text decoded wrongly."""
    rules = ("template", "judge", "mojibake") if subject.paired else ("judge", "mojibake")
    return report(
        subject,
        rules,
        "hold tokens of one side, words of a judge or wrongly decoded text",
        ("`template`: tokens of a template or of an end that the other answer has not. `judge`: "
         "[[A]], Score: 7 and the like. `mojibake`: by ftfy, or U+FFFD.",),
    )  # fmt: skip


CHECK = Check(
    name="leftovers",
    title="Leftovers of other programs",
    why="An end token on one side gives the label away; a judge's verdict in an answer is learned "
    "as an answer; wrongly decoded text is learned as it stands.",
    metrics={
        "chosen": "share of chosen answers with a leftover",
        "rejected": "share of rejected answers with one",
        "response": "share of answers with one",
        "template": "share with template or end tokens that the other side has not "
        "(template:<side>)",
        "judge": "share with words of a judge (judge:<side>)",
        "mojibake": "share that was decoded wrongly (mojibake:<side>)",
    },
    run=run,
    faulty_rows=True,
    need=Need.ANSWERS,
)
