"""Votes: each is durable before the page says so, none is overwritten, none counts twice."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from prefactory.errors import DataError, PrefactoryError
from prefactory.identity import fingerprint
from review.assignments import give_back, take_next
from review.database import Row, Work
from review.early import settle
from review.people import Person
from review.settings import Settings
from review.store import Review, clean, read_meta

_ABOUT = ("row_id", "purpose", "queue", "stratum", "inclusion", "name", "pseudonym")
DECIDED = (
    "task", "revision", "person", "choice", "strength", "first_shown", "at", "guideline", "nonce",
    *_ABOUT,
)  # fmt: skip
VOTED = (*DECIDED, "assignment", "ms", "informed")
"""What the digest of a decision and of a vote covers, beside its body."""
WITHDRAWN = "withdrawn"
"""Choice of the revision that an undo writes: until the next one, the person has no vote here."""


class NotCountedError(PrefactoryError):
    """A vote that can't count; the text is for the person."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What somebody said.

    Attributes:
        choice: of pairs `first` or `second` (sides as stored), `tie`, `bad`; `skip` (can't judge)
            of all tasks; `done` where the answer is in `body`; of rationales `right`, `partly`,
            `wrong`.
        strength: 2 better, 1 slightly better, 0 neither.
        body: ratings, reasons, comment, edit, flag, order, tags, steps.
    """

    choice: str
    strength: int = 0
    body: Mapping[str, Any] = field(default_factory=dict)


def vote(
    review: Review, person: Person, assignment: str, answer: Answer, *, nonce: str, guideline: int
) -> Row:
    """Keep a vote. When this returns, it is on disk.

    The same nonce again changes nothing: a double click, or a resend after a lost answer.

    Args:
        review: where.
        person: who.
        assignment: what was asked.
        answer: what was said.
        nonce: of the form that was sent, random.
        guideline: version of the guidelines that was shown.

    Returns:
        The row of `vote`.

    Raises:
        NotCountedError: this question is not, or no longer, this person's to answer.
    """
    with review.db.write() as work:
        row = keep(work, person, assignment, answer, nonce, guideline)
        settle(work, Settings.model_validate(read_meta(work, "settings")), row["task"])
        return row


def vote_and_next(
    review: Review,
    person: Person,
    assignment: str,
    answer: Answer,
    settings: Settings,
    *,
    nonce: str,
    guideline: int,
) -> Row | None:
    """Keep a vote and take what is next, in one transaction: a vote waits for the disk once.

    Args, errors: of `vote`; nothing is taken where the vote does not count.

    Returns:
        What the person is asked next (`take_next`), or None.
    """
    with review.db.write() as work:
        work.one(f"select id from person where id = ?{work.lock}", person.id)  # one at a time
        row = keep(work, person, assignment, answer, nonce, guideline)
        settle(work, settings, row["task"])
        return take_next(work, person, settings)


def keep(
    work: Work, person: Person, assignment: str, answer: Answer, nonce: str, guideline: int
) -> Row:
    """`vote` within a transaction."""
    held = work.one(f"select * from assignment where id = ?{work.lock}", assignment)
    known = work.one("select * from vote where nonce = ?", nonce)
    if known is not None and known["person"] == person.id:
        return known
    if held is None or held["person"] != person.id or known is not None:
        raise NotCountedError("This question is no longer yours to answer; here is the next.")
    if held["state"] == "done":
        raise NotCountedError("You have answered this question already, in another window.")
    now = time.time()
    if held["state"] == "lapsed" or held["until"] <= now:
        _take_back(work, held, now)
    row = {
        "id": secrets.token_urlsafe(12),
        "assignment": assignment,
        "task": held["task"],
        "person": person.id,
        "revision": _next_revision(work, held),
        "choice": answer.choice,
        "strength": answer.strength,
        "first_shown": held["first_shown"],
        "ms": max(0, round(1000 * (now - held["shown"]))),
        "at": now,
        "guideline": guideline,
        "informed": held["informed"],
        "nonce": nonce,
    }
    row["body"] = _sealed(work, row, VOTED, answer.body)
    _insert(work, row)
    work.run("update assignment set state = 'done' where id = ?", assignment)
    return row


def _sealed(work: Work, row: Row, fields: Sequence[str], body: Mapping[str, Any]) -> str:
    """What is kept of an answer's body: the digest of all that is published of it, and JSON."""
    text = clean(orjson.dumps(dict(body)).decode())
    about = work.one(
        f"select {', '.join(_ABOUT)} from task, person where task.id = ? and person.id = ?",
        row["task"],
        row["person"],
    )
    return f"{_digest(row | (about or {}), fields, text)} {text}"


def body_of(row: Row, fields: Sequence[str] = ()) -> dict[str, Any]:
    """The body of a vote or decision.

    Args:
        row: of it; with its task's and person's columns where it is checked.
        fields: `VOTED` or `DECIDED`; without them it is not checked.

    Raises:
        DataError: a bit of it has changed since.
    """
    digest, _, text = row["body"].partition(" ")
    if row["body"].startswith("{"):  # of before it had a digest
        text = row["body"]
    elif fields and digest != _digest(row, fields, text):
        raise DataError(
            f"the answer {row['nonce']!r} of the review is damaged, so nothing is made of its "
            "votes: put a copy of its database in its place"
        )
    body: dict[str, Any] = orjson.loads(text)
    return body


def _digest(row: Row, fields: Sequence[str], text: str) -> str:
    return fingerprint([*(str(row.get(name)) for name in fields), text])


def _insert(work: Work, row: Row, table: str = "vote") -> None:
    work.run(
        f"insert into {table}({', '.join(row)}) values({', '.join('?' * len(row))})",
        *row.values(),
    )


def _next_revision(work: Work, held: Row) -> int:
    last = work.value(
        "select max(revision) from vote where task = ? and person = ?", held["task"], held["person"]
    )
    return int(last or 0) + 1


def _take_back(work: Work, held: Row, now: float) -> None:
    """Use a place of a row again after its time has passed, if there still is one."""
    give_back(work, now)
    if work.value("select state from assignment where id = ?", held["id"]) != "lapsed":
        return  # many have lapsed, and this one was not given back yet
    if not work.run("update task set open = open - 1 where id = ? and open > 0", held["task"]):
        raise NotCountedError(
            "The time for this question had passed and others have answered it; here is the next."
        )


def undo(review: Review, person: Person, settings: Settings) -> bool:
    """Take the person's last vote back and ask that question again; False if there is none.

    Training rows stay: their answer was told.
    """
    with review.db.write() as work:
        last = work.one(
            "select v.* from vote v join assignment a on a.id = v.assignment "
            "join task t on t.id = v.task where v.person = ? and a.state = 'done' "
            "and t.purpose <> 'training' order by v.at desc limit 1",
            person.id,
        )
        return last is not None and _reopen(work, last["assignment"], settings)


def reopen(review: Review, person: Person, assignment: str, settings: Settings) -> bool:
    """Ask a question again that the person has answered; False if it is none."""
    with review.db.write() as work:
        mine = work.one(
            "select a.id from assignment a join task t on t.id = a.task where a.id = ? "
            "and a.person = ? and t.purpose <> 'training'",
            assignment,
            person.id,
        )
        return mine is not None and _reopen(work, assignment, settings)


def _reopen(work: Work, assignment: str, settings: Settings) -> bool:
    held = work.one(f"select * from assignment where id = ?{work.lock}", assignment)
    if held is None or held["state"] != "done":
        return False
    now = time.time()
    last = work.one(
        "select * from vote where task = ? and person = ? order by revision desc limit 1",
        held["task"],
        held["person"],
    )
    assert last is not None  # noqa: S101 - it is done
    withdrawn = last | {
        "id": secrets.token_urlsafe(12),
        "revision": last["revision"] + 1,
        "choice": WITHDRAWN,
        "strength": 0,
        "ms": 0,
        "at": now,
        "informed": held["informed"],
        "nonce": secrets.token_urlsafe(12),
    }
    withdrawn["body"] = _sealed(work, withdrawn, VOTED, {})
    _insert(work, withdrawn)
    work.run(
        "update assignment set state = 'redo', shown = ?, until = ? where id = ?",
        now,
        now + 60 * settings.minutes,
        assignment,
    )
    return True


def last_answer(work: Work, assignment: Row) -> Row | None:
    """What the person said last about a question, apart from taking it back."""
    return work.one(
        "select * from vote where task = ? and person = ? and choice <> ? "
        "order by revision desc limit 1",
        assignment["task"],
        assignment["person"],
        WITHDRAWN,
    )


def reveal(review: Review, person: Person, assignment: str) -> Row | None:
    """Let a person see what the machine said of a row that they have answered.

    From now on a changed vote on it is `informed`. None if there is no such answer.
    """
    with review.db.write() as work:
        held = work.one(
            "select * from assignment where id = ? and person = ? and state = 'done'",
            assignment,
            person.id,
        )
        if held is None:
            return None
        work.run("update assignment set informed = 1 where id = ?", assignment)
    return held


# -- what votes leave open ---------------------------------------------------------------------

FINAL = (
    "v.choice <> 'withdrawn' and v.revision = (select max(w.revision) from vote w "
    "where w.task = v.task and w.person = v.person)"
)
"""Condition on votes `v`: the one of its person that counts."""


def disputed(work: Work, most: int = 200) -> list[Row]:
    """Rows whose votes differ in the side, undecided ones first: `task`, votes of each kind."""
    rows = work.all(
        "select v.task as task, "
        "sum(case when v.choice = 'first' then 1 else 0 end) as first_votes, "
        "sum(case when v.choice = 'second' then 1 else 0 end) as second_votes, "
        "count(*) as votes, "
        "(select max(d.revision) from decision d where d.task = v.task) as decided "
        f"from vote v join task t on t.id = v.task where t.purpose = 'work' and {FINAL} "
        "group by v.task having sum(case when v.choice = 'first' then 1 else 0 end) > 0 "
        "and sum(case when v.choice = 'second' then 1 else 0 end) > 0 "
        "order by v.task limit ?",
        most,
    )
    return sorted(rows, key=lambda row: row["decided"] is not None)


def last_decision(work: Work, task: int) -> Row | None:
    """The decision that holds for a row, with the name of who made it."""
    return work.one(
        "select d.*, p.name from decision d join person p on p.id = d.person where d.task = ? "
        "order by d.revision desc limit 1",
        task,
    )


def decide(
    review: Review,
    person: Person,
    task: int,
    answer: Answer,
    *,
    seen: int,
    first_shown: bool,
    nonce: str,
    guideline: int,
) -> Row:
    """Decide where votes differ. A decision is never overwritten: another one comes after it.

    Args:
        review: where.
        person: an adjudicator or owner.
        task: the row.
        answer: the decision.
        seen: revision of the decision that the page showed; 0 if there was none.
        first_shown: which side stood first on the page.
        nonce: of the form.
        guideline: version that was shown.

    Raises:
        NotCountedError: the person does not decide, or somebody has decided since the page was
            loaded; with their decision.
    """
    if not person.decides:
        raise NotCountedError("Only adjudicators decide.")
    with review.db.write() as work:
        work.one(f"select id from task where id = ?{work.lock}", task)
        known = work.one("select * from decision where nonce = ?", nonce)
        if known is not None:
            return known
        last = last_decision(work, task)
        if last is not None and last["revision"] != seen:
            raise NotCountedError(
                f"{last['name']} has decided this row since you opened it: {last['choice']}. "
                "Yours was not kept; look at it again if you differ."
            )
        row = {
            "task": task, "revision": seen + 1, "person": person.id, "choice": answer.choice,
            "strength": answer.strength, "first_shown": int(first_shown), "at": time.time(),
            "guideline": guideline, "nonce": nonce,
        }  # fmt: skip
        row["body"] = _sealed(work, row, DECIDED, answer.body)
        _insert(work, row, "decision")
    return row
