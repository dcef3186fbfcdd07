"""Answers that go on to speak for another turn."""

from __future__ import annotations

from audit.check import Check, Need
from audit.finding import Report
from audit.marked import report
from audit.subject import Subject


def run(subject: Subject) -> Report:
    """Find marks of other turns, template tokens, and last lines that cue another turn."""
    return report(
        subject,
        ("role_leak", "trailing_cue"),
        "speak for another turn or cue one",
        ("`Human:`, `User:`, `Assistant:` or `System:` at the start or after a blank line, "
         "tokens of a chat template, or a last line that is nothing but a cue.",),
    )  # fmt: skip


CHECK = Check(
    name="role_leaks",
    title="Role leaks",
    why="An answer that goes on to play the user teaches a model not to stop; a template token in "
    "the text is read as one by the tokenizer.",
    metrics={
        "chosen": "share of chosen answers with a mark of another turn",
        "rejected": "share of rejected answers with one",
        "response": "share of answers with one",
        "role_leak": "share that speak for another turn, or hold a token (role_leak:<side>)",
        "trailing_cue": "share whose last line cues another turn (trailing_cue:<side>)",
    },
    run=run,
    faulty_rows=True,
    need=Need.ANSWERS,
)
