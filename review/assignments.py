"""Who is asked what: k people a row, no row twice for one person, what lapsed is given back."""

from __future__ import annotations

import hashlib
import secrets
import statistics
import time
from dataclasses import dataclass

from review.database import Row, Work
from review.people import FIRST_PLACE, Person
from review.settings import Settings
from review.store import Review

LAPSED = 100
"""Assignments that one request gives back at most."""
RECENT = 20
"""Votes that the pace is the median of."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a person is.

    Attributes:
        done: rows that the person has answered.
        left: rows that are open for the person, about.
        pace: median seconds of the last answers; None without one.
    """

    done: int
    left: int
    pace: float | None


def first_shown(settings: Settings, person: str, row_id: str) -> bool:
    """Whether a person sees the side first that is stored first: a fair coin of the seed."""
    text = f"{settings.seed}|{person}|{row_id}".encode()
    return bool(hashlib.blake2b(text, digest_size=8).digest()[0] & 1)


def next_assignment(review: Review, person: Person, settings: Settings) -> Row | None:
    """What the person is asked now: what is in hand already, else the next open row.

    Training rows come first. Once they are answered, and not well enough, nothing follows
    (`training_result`).

    Returns:
        A row of `assignment`, or None: there is nothing left for this person now. The time of the
        answer counts from now.
    """
    with review.db.write() as work:
        work.one(f"select id from person where id = ?{work.lock}", person.id)  # one at a time
        return take_next(work, person, settings)


def take_next(work: Work, person: Person, settings: Settings) -> Row | None:
    """`next_assignment` within a transaction that has locked the person; it is shown now."""
    now = time.time()
    give_back(work, now)
    mine = _in_hand(work, person, now)
    if mine is not None:
        work.run("update assignment set shown = ? where id = ?", now, mine["id"])
        return mine
    if settings.training and held_back(work, person, settings):
        return None
    task = _open_task(work, person)
    if task is None:
        return None
    return _take(work, person, settings, task, now)


def _in_hand(work: Work, person: Person, now: float) -> Row | None:
    return work.one(
        "select * from assignment where person = ? and state in ('open', 'redo') and until > ? "
        "order by state desc, until desc limit 1",  # what was taken back last comes first
        person.id,
        now,
    )


def give_back(work: Work, now: float) -> None:
    """Give others what was taken and not answered in time."""
    lapsed = work.all(
        "select id, task from assignment where state in ('open', 'redo') and until <= ? "
        f"limit {LAPSED}{work.skip}",
        now,
    )
    for row in lapsed:
        work.run("update assignment set state = 'lapsed' where id = ?", row["id"])
        work.run("update task set open = open + 1 where id = ?", row["task"])


def _open_task(work: Work, person: Person) -> Row | None:
    """The first row that is open and new to the person; where it was found is where to go on.

    Nothing found: rows before that place may have been given back, so it is looked from the start.
    """
    place = work.value("select place from person where id = ?", person.id)
    for start in (place, FIRST_PLACE):
        task = work.one(
            "select t.id, t.row_id, t.place from task t where t.open > 0 and t.place >= ? "
            "and not exists (select 1 from assignment a where a.task = t.id and a.person = ? "
            f"and a.state <> 'lapsed') order by t.place limit 1{_of_task(work)}",
            start,
            person.id,
        )
        if task is not None:
            work.run("update person set place = ? where id = ?", task["place"], person.id)
            return task
    return None


def _of_task(work: Work) -> str:
    return work.skip.replace("update", "update of t")


def _take(work: Work, person: Person, settings: Settings, task: Row, now: float) -> Row:
    work.run("update task set open = open - 1 where id = ?", task["id"])
    side = int(first_shown(settings, person.name, task["row_id"]))
    work.run(
        "insert into assignment values(?, ?, ?, ?, 'open', ?, ?, 0) "
        "on conflict(task, person) do update set id = excluded.id, state = 'open', "
        "shown = excluded.shown, until = excluded.until",
        secrets.token_urlsafe(12), task["id"], person.id, side, now, now + 60 * settings.minutes,
    )  # fmt: skip
    row = work.one("select * from assignment where task = ? and person = ?", task["id"], person.id)
    assert row is not None  # noqa: S101 - it was written just now
    return row


def training_result(work: Work, person: Person) -> tuple[int, int]:
    """Of the training rows that a person has answered in this round: right ones, and how many."""
    row = work.one(
        "select count(*) as asked, "
        "coalesce(sum(case when v.choice = t.expected then 1 else 0 end), 0) as correct "
        "from assignment a join task t on t.id = a.task join vote v on v.assignment = a.id "
        "where a.person = ? and t.purpose = 'training' and a.state = 'done' and v.revision = "
        "(select max(revision) from vote w where w.task = v.task and w.person = v.person)",
        person.id,
    )
    assert row is not None  # noqa: S101 - an aggregate always is one row
    return int(row["correct"]), int(row["asked"])


def held_back(work: Work, person: Person, settings: Settings) -> bool:
    """Whether a person has answered all training rows, and too few of them right."""
    right, asked = training_result(work, person)
    return asked >= settings.training and right < settings.pass_mark * settings.training


def train_again(review: Review, person: Person, settings: Settings) -> None:
    """Open the training rows once more for a person who was held back."""
    with review.db.write() as work:
        if not held_back(work, person, settings):
            return
        mine = work.all(
            "select a.id, t.place from assignment a join task t on t.id = a.task "
            "where a.person = ? and t.purpose = 'training' order by t.place",
            person.id,
        )
        until = time.time() + 60 * settings.minutes
        for number, row in enumerate(mine):  # each a little earlier: the latest comes first
            work.run(
                "update assignment set id = ?, state = 'redo', until = ? where id = ?",
                secrets.token_urlsafe(12), until - number, row["id"],
            )  # fmt: skip
        work.run("update person set round = round + 1 where id = ?", person.id)


def progress(work: Work, person: Person, left: int) -> Progress:
    """How far a person is; `left` is how many rows are open (`open_rows`)."""
    done = work.value(
        "select count(*) from assignment where person = ? and state = 'done'", person.id
    )
    times = work.all(
        f"select ms from vote where person = ? order by at desc limit {RECENT}", person.id
    )
    pace = statistics.median(t["ms"] for t in times) / 1000 if times else None
    return Progress(int(done), left, pace)


def open_rows(review: Review) -> int:
    """Rows that somebody may still take."""
    with review.db.read() as work:
        return int(work.value("select count(*) from task where open > 0 and purpose = 'work'"))
