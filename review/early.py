"""When a row needs no further vote: its votes make a side probable enough.

Votes are weighed by each person's skill on the gold rows so far, `s = (right + 3) / (asked + 4)`
(.75 of somebody of whom nothing is known): `log odds = sum of +-logit(s)`. Two votes at least: at a
skill of .95 a single one would do. The labels that are published come from all votes together
(`prefactory.votes.consensus`).
"""

from __future__ import annotations

import math

from review.database import Work
from review.settings import Settings

LEAST = 2
RIGHT, ASKED = 3.0, 4.0
"""Of the prior of a skill (our choice)."""
_STANDS = (
    "v.revision = (select max(w.revision) from vote w where w.task = v.task "
    "and w.person = v.person) and v.informed = 0"
)


def settle(work: Work, settings: Settings, task: int) -> None:
    """Close a row that is sure, or open it again where a changed vote has made it unsure.

    Args:
        work: the transaction of the vote.
        settings: of the review; nothing is done without `sure`, or of other tasks than pairs.
        task: the row.
    """
    if settings.sure is None or settings.task != "pair":
        return
    row = work.one(f"select purpose from task where id = ?{work.lock}", task)
    if row is None or row["purpose"] != "work":
        return
    taken = work.value("select count(*) from assignment where task = ? and state <> 'lapsed'", task)
    left = 0 if certainty(work, task) >= settings.sure else max(settings.people - int(taken), 0)
    work.run("update task set open = ? where id = ?", left, task)


def certainty(work: Work, task: int) -> float:
    """Probability of the side that the votes on a row make more probable; 0 below two votes."""
    votes = work.all(
        f"select v.person, v.choice from vote v where v.task = ? and {_STANDS} "
        "and v.choice in ('first', 'second')",
        task,
    )
    if len(votes) < LEAST:
        return 0.0
    odds = sum(
        math.copysign(_logit(work, vote["person"]), 1 if vote["choice"] == "first" else -1)
        for vote in votes
    )
    return 1 / (1 + math.exp(-abs(odds)))


def _logit(work: Work, person: str) -> float:
    right = "coalesce(sum(case when v.choice = t.expected then 1 else 0 end), 0)"
    told = work.one(
        f"select count(*) as asked, {right} as correct from vote v join task t on t.id = v.task "
        f"where v.person = ? and {_STANDS} and t.purpose = 'gold' "
        "and v.choice in ('first', 'second')",
        person,
    )
    assert told is not None  # noqa: S101 - an aggregate always is one row
    skill = (int(told["correct"]) + RIGHT) / (int(told["asked"]) + ASKED)
    skill = min(max(skill, 0.51), 0.98)  # who is below chance on gold tells nothing here
    return math.log(skill / (1 - skill))
