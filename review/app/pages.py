"""The pages: what each address does."""

from __future__ import annotations

import secrets
import time
from typing import Any
from urllib.parse import quote

from starlette.responses import HTMLResponse, PlainTextResponse, Response

from review import assignments, people, votes
from review.app import views
from review.app.core import Call, Handler, redirect, role
from review.app.diff import diff
from review.app.forms import PAIR, FormError, answer_of, text
from review.app.text import guidelines_of, visible
from review.database import Row, Work
from review.people import SESSION_S
from review.store import task_of
from review.tasks import unpacked
from review.votes import Answer

CHOICES = {
    "first": "better", "second": "better", "tie": "tie", "bad": "both bad", "skip": "can't judge",
    "done": "answered", "withdrawn": "taken back", "right": "right", "partly": "partly right",
    "wrong": "wrong",
}  # fmt: skip
HISTORY = 50


# -- coming and going ---------------------------------------------------------------------------


@role("anybody")
def join(call: Call) -> Response:
    """Whose link it is; a button starts the session (a look-ahead of a mail program does not)."""
    person = _invited(call)
    if person is None:
        return call.page("message.html.j2", 404, words=LOST)
    return call.page("join.html.j2", name=person.name)


@role("anybody")
def start(call: Call) -> Response:
    """Start a session."""
    person = _invited(call)
    if person is None:
        return call.page("message.html.j2", 404, words=LOST)
    cookie = people.start(call.app.review, person)
    response = redirect("/")
    response.set_cookie(
        call.app.cookie, cookie, max_age=int(SESSION_S), httponly=True, samesite="lax",
        secure=call.request.url.scheme == "https",
    )  # fmt: skip
    return response


LOST = "This link is not, or no longer, valid. Ask whoever invited you for a new one."


def _invited(call: Call) -> people.Person | None:
    client = call.request.client.host if call.request.client else ""
    person = people.by_token(call.app.review, call.request.path_params["token"])
    if person is None and not call.app.guesses.allows(client):
        time.sleep(1)  # in a thread of its own: it keeps nobody else waiting
    return person


@role("reader")
def leave(call: Call) -> Response:
    """End the session."""
    with call.app.review.db.write() as work:
        work.run("delete from session where id = ?", people.digest(call.who.session))
    response = redirect("/bye")
    response.delete_cookie(call.app.cookie)
    return response


@role("anybody")
def bye(call: Call) -> Response:
    """After the session."""
    return call.page("message.html.j2", words="You have left. All your votes are kept.")


# -- voting -------------------------------------------------------------------------------------


@role("annotator")
def work_page(call: Call) -> Response:
    """What the person is asked now."""
    return _work(call)


def _work(call: Call, alert: str = "") -> Response:
    held = assignments.next_assignment(call.app.review, call.who, call.settings)
    return _asked(call, held, alert)


def _asked(call: Call, held: Row | None, alert: str = "") -> Response:
    """The page of an assignment, or of their end; all that it reads in one connection."""
    app, person, settings = call.app, call.who, call.settings
    left = app.fresh("open", lambda: assignments.open_rows(app.review))
    number, guideline = app.guideline
    with app.review.db.read() as work:
        values: dict[str, Any] = {
            "alert": alert,
            "progress": assignments.progress(work, person, left),
            "guideline": number,
            "guidelines": guidelines_of(guideline),
            "feedback": _feedback(call, work) if settings.training else None,
        }
        if held is None:
            right, asked = assignments.training_result(work, person)
            kept = settings.training > 0 and assignments.held_back(work, person, settings)
            values |= {"right": right, "asked": asked, "held_back": kept}
            return call.page("done.html.j2", **values)
        task = task_of(work, held["task"])
        values |= views.content(work, task, held, settings, person.name)
        again = votes.last_answer(work, held) if held["state"] == "redo" else None
    values |= {
        "task": held["id"],
        "nonce": secrets.token_urlsafe(12),
        "training": task["purpose"] == "training",
        "before": _before(again, held),
    }
    return call.page(f"{settings.task}.html.j2", **values)


def _before(again: Row | None, held: Row) -> dict[str, Any]:
    """What the person said before an undo, in the terms of the page."""
    if again is None:
        return {}
    first = "a" if held["first_shown"] else "b"
    letters = {"first": first, "second": "ab".replace(first, "")}
    body = votes.body_of(again)
    said = {"body": body, "choice": again["choice"], "ratings": {}}
    for side, given in body.get("ratings", {}).items():
        if side in letters:
            said["ratings"][letters[side]] = given
    if "edit" in body:
        said["edit"] = {letters[body["edit"]["side"]]: body["edit"]["text"]}
    if again["choice"] in ("first", "second"):
        said["choice"] = f"{letters[again['choice']]}{again['strength']}"
    return said


def _feedback(call: Call, work: Work) -> dict[str, Any] | None:
    """What is told of the last answer, if it was on a training row."""
    last = work.one(
        "select v.choice, v.first_shown, t.purpose, t.expected, t.why from vote v "
        "join task t on t.id = v.task where v.person = ? order by v.at desc limit 1",
        call.who.id,
    )
    if last is None or last["purpose"] != "training":
        return None
    right, asked = assignments.training_result(work, call.who)
    letter = "A" if (last["expected"] == "first") == bool(last["first_shown"]) else "B"
    return {
        "right": last["choice"] == last["expected"], "letter": letter, "why": last["why"],
        "correct": right, "asked": asked,
    }  # fmt: skip


@role("annotator")
def cast(call: Call) -> Response:
    """Keep a vote, then show what is next."""
    form, app = call.form, call.app
    with app.review.db.read() as work:
        held = work.one("select * from assignment where id = ?", text(form, "task", 60))
        if held is None or held["person"] != call.who.id:
            return _next(call, "This question is no longer yours to answer; here is the next.")
        payload = unpacked(bytes(task_of(work, held["task"])["payload"]))
    try:
        answer = answer_of(form, call.settings, payload, bool(held["first_shown"]))
    except FormError as error:
        return call.refuse(str(error), 422)
    try:
        following = votes.vote_and_next(
            app.review, call.who, held["id"], answer, call.settings,
            nonce=text(form, "nonce", 60) or secrets.token_urlsafe(12),
            guideline=_guideline(form, app.guideline[0]),
        )  # fmt: skip
    except votes.NotCountedError as error:
        return _next(call, str(error))
    return _asked(call, following) if call.in_place else redirect("/")


def _guideline(form: dict[str, Any], newest: int) -> int:
    """The version that the page showed."""
    shown = text(form, "guideline", 9)
    return min(int(shown), newest) if shown.isdecimal() else newest


def _next(call: Call, alert: str = "") -> Response:
    if call.in_place or alert:
        return _work(call, alert)
    return redirect("/")


@role("annotator")
def take_back(call: Call) -> Response:
    """Undo the last vote."""
    undone = votes.undo(call.app.review, call.who, call.settings)
    return _next(call, "" if undone else "There is no vote of yours to take back.")


@role("annotator")
def reopen(call: Call) -> Response:
    """Answer a question of the history again."""
    votes.reopen(call.app.review, call.who, text(call.form, "task", 60), call.settings)
    return redirect("/")


@role("annotator")
def retrain(call: Call) -> Response:
    """Begin the training again."""
    assignments.train_again(call.app.review, call.who, call.settings)
    return redirect("/")


@role("annotator")
def history(call: Call) -> Response:
    """The last votes of the person."""
    return _history(call)


def _history(call: Call, told: dict[str, Any] | None = None) -> Response:
    with call.app.review.db.read() as work:
        rows = work.all(
            "select a.id, a.state, a.informed, v.choice, v.strength, v.first_shown, v.at, v.ms, "
            "t.payload, t.purpose from assignment a join vote v on v.assignment = a.id "
            "join task t on t.id = a.task where a.person = ? and a.state = 'done' "
            f"and {votes.FINAL} order by v.at desc limit {HISTORY}",
            call.who.id,
        )
    listed = [
        {
            "id": row["id"],
            "prompt": _excerpt(row),
            "said": _said(row),
            "at": time.strftime("%Y-%m-%d %H:%M", time.gmtime(row["at"])),
            "seconds": row["ms"] / 1000,
            "informed": row["informed"],
            "training": row["purpose"] == "training",
        }
        for row in rows
    ]
    return call.page("history.html.j2", rows=listed, told=told)


def _excerpt(row: Row) -> str:
    prompt = unpacked(bytes(row["payload"]))["prompt"] or [{}]
    words = visible(str(prompt[-1].get("content") or ""))
    return words if len(words) <= 120 else f"{words[:119]}\u2026"


def _said(row: Row) -> str:
    words = CHOICES.get(row["choice"], str(row["choice"]))
    if row["choice"] not in ("first", "second"):
        return words
    letter = "A" if (row["choice"] == "first") == bool(row["first_shown"]) else "B"
    return f"{letter} {'slightly ' if row['strength'] == 1 else ''}{words}"


@role("annotator")
def reveal(call: Call) -> Response:
    """What the machine said of a row, after the vote."""
    if not call.settings.reveal:
        return call.refuse("In this review the machine's labels stay hidden.", 403)
    held = votes.reveal(call.app.review, call.who, text(call.form, "task", 60))
    if held is None:
        return call.refuse("There is no answer of yours to this question.", 404)
    with call.app.review.db.read() as work:
        task = task_of(work, held["task"])
    label = None
    if call.settings.task == "pair":
        label = "A" if held["first_shown"] else "B"
    return _history(call, {"id": held["id"], "label": label, "facts": views.facts_of(task)})


# -- parts of a question --------------------------------------------------------------------------


def _own(call: Call, work: Work) -> tuple[Row, Row] | None:
    """The assignment of an address and its task, if it is this person's."""
    held = work.one(
        "select * from assignment where id = ? and person = ?",
        call.request.path_params["task"],
        call.who.id,
    )
    return None if held is None else (held, task_of(work, held["task"]))


@role("annotator")
def whole(call: Call) -> Response:
    """The whole text of an answer, as text."""
    with call.app.review.db.read() as work:
        own = _own(call, work)
        words = None if own is None else views.plain_side(own[1], own[0], _side(call))
    if words is None:
        return PlainTextResponse("not found", 404)
    return PlainTextResponse(visible(words))


def _side(call: Call) -> str:
    return str(call.request.path_params["side"])


@role("annotator")
def edit(call: Call) -> Response:
    """A field with the text of an answer, to edit it."""
    with call.app.review.db.read() as work:
        own = _own(call, work)
        words = None if own is None else views.editable(own[1], own[0], _side(call))
    if words is None:
        return call.refuse("There is no such answer to edit.", 404)
    letter = _side(call)
    html = call.app.templates.get_template("edit.html.j2").render(letter=letter, words=words)
    return HTMLResponse(html)


@role("annotator")
def compare(call: Call) -> Response:
    """What differs between the two answers."""
    with call.app.review.db.read() as work:
        own = _own(call, work)
        sides = [None if own is None else views.plain_side(own[1], own[0], s) for s in "ab"]
    if None in sides:
        return call.refuse("There are no two answers to compare.", 404)
    html, all_of_it = diff(str(sides[0]), str(sides[1]))
    page = call.app.templates.get_template("diff.html.j2").render(html=html, whole=all_of_it)
    return HTMLResponse(page)


@role("annotator")
def guidelines(call: Call) -> Response:
    """The guidelines on a page of their own, also older versions."""
    wanted = call.request.query_params.get("version", "")
    number, body = call.app.review.guideline(int(wanted) if wanted.isdecimal() else None)
    return call.page(
        "guidelines.html.j2", number=number, newest=call.app.guideline[0], html=guidelines_of(body)
    )


# -- adjudication ---------------------------------------------------------------------------------


@role("adjudicator")
def disputed(call: Call) -> Response:
    """Rows whose votes differ."""
    with call.app.review.db.read() as work:
        rows = votes.disputed(work)
        listed = [row | {"prompt": _excerpt(task_of(work, row["task"]))} for row in rows]
    return call.page("disputed.html.j2", rows=listed)


def _pair(call: Call) -> tuple[int, Row]:
    """The number of an adjudicator's row, and how it would be assigned to them."""
    number = int(call.request.path_params["number"])
    with call.app.review.db.read() as work:
        task = task_of(work, number)
    side = assignments.first_shown(call.settings, call.who.name, task["row_id"])
    return number, {"first_shown": int(side), "row": task}


@role("adjudicator")
def decision(call: Call) -> Response:
    """A row to decide, with what people said of it."""
    number, held = _pair(call)
    with call.app.review.db.read() as work:
        said = work.all(
            "select v.choice, v.strength, v.body, p.name from vote v "
            f"join person p on p.id = v.person where v.task = ? and {votes.FINAL} order by p.name",
            number,
        )
        last = votes.last_decision(work, number)
        values = views.content(work, held["row"], held, call.settings, call.who.name)
    told = [{"name": row["name"], "said": _said(row | held)} for row in said]
    if last is not None:
        last = last | {"said": _said(last | {"first_shown": held["first_shown"]})}
    return call.page(
        "decide.html.j2", number=number, told=told, last=last, nonce=secrets.token_urlsafe(12),
        guideline=call.app.guideline[0], training=False, before={}, **values,
    )  # fmt: skip


@role("adjudicator")
def decide(call: Call) -> Response:
    """Keep a decision."""
    number, held = _pair(call)
    form = call.form
    choice = text(form, "choice")
    if choice not in PAIR or choice == "skip":
        raise FormError("Choose one of the answers, tie, or both bad.")
    answer = answer_of(form, call.settings, {}, bool(held["first_shown"]))
    seen = text(form, "seen", 9)
    votes.decide(
        call.app.review, call.who, number, Answer(answer.choice, answer.strength, answer.body),
        seen=int(seen) if seen.isdecimal() else 0, first_shown=bool(held["first_shown"]),
        nonce=text(form, "nonce", 60) or secrets.token_urlsafe(12),
        guideline=_guideline(form, call.app.guideline[0]),
    )  # fmt: skip
    return redirect("/decide")


# -- the owner ------------------------------------------------------------------------------------


@role("owner")
def overview(call: Call) -> Response:
    """Who has done what."""
    return _overview(call)


def _overview(call: Call, link: dict[str, str] | None = None) -> Response:
    review = call.app.review
    with review.db.read() as work:
        crowd = work.all(
            "select p.name, p.role, "
            "(select count(*) from assignment a where a.person = p.id and a.state = 'done') done, "
            f"(select count(*) from vote v join task t on t.id = v.task where {votes.FINAL} "
            "and v.person = p.id and t.purpose = 'gold') gold, "
            f"(select count(*) from vote v join task t on t.id = v.task where {votes.FINAL} "
            "and v.person = p.id and t.purpose = 'gold' and v.choice = t.expected) gold_right "
            "from person p where p.active = 1 order by p.name"
        )
        total = work.value("select count(*) from task where purpose = 'work'")
        full = work.value(
            "select count(*) from task t where purpose = 'work' and open = 0 and not exists "
            "(select 1 from assignment a where a.task = t.id and a.state in ('open', 'redo'))"
        )
    number, body = review.guideline()
    return call.page(
        "overview.html.j2", crowd=crowd, total=total, full=full, link=link, number=number,
        guidelines=body, roles=people.ROLES,
    )  # fmt: skip


@role("owner")
def invite(call: Call) -> Response:
    """A link for somebody, shown once."""
    name = text(call.form, "name", 200)
    token = people.invite(call.app.review, name, text(call.form, "role") or "annotator")
    base = str(call.request.base_url).rstrip("/")
    return _overview(call, {"name": name, "url": f"{base}/join/{quote(token)}"})


@role("owner")
def write_guidelines(call: Call) -> Response:
    """A new version of the guidelines."""
    call.app.review.write_guideline(text(call.form, "guidelines", 200_000))
    call.app.forget()
    return redirect("/overview")


@role("anybody")
def favicon(call: Call) -> Response:
    """No picture."""
    return Response(status_code=204)


ROUTES: dict[tuple[str, str], Handler] = {
    ("GET", "/"): work_page,
    ("GET", "/join/{token}"): join,
    ("POST", "/join/{token}"): start,
    ("POST", "/leave"): leave,
    ("GET", "/bye"): bye,
    ("POST", "/vote"): cast,
    ("POST", "/undo"): take_back,
    ("POST", "/reopen"): reopen,
    ("POST", "/retrain"): retrain,
    ("GET", "/history"): history,
    ("POST", "/reveal"): reveal,
    ("GET", "/whole/{task}/{side}"): whole,
    ("GET", "/edit/{task}/{side}"): edit,
    ("GET", "/diff/{task}"): compare,
    ("GET", "/guidelines"): guidelines,
    ("GET", "/decide"): disputed,
    ("GET", "/decide/{number:int}"): decision,
    ("POST", "/decide/{number:int}"): decide,
    ("GET", "/overview"): overview,
    ("POST", "/invite"): invite,
    ("POST", "/guidelines"): write_guidelines,
    ("GET", "/favicon.ico"): favicon,
}
