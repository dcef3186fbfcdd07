"""Assignments and votes, on SQLite and on a real PostgreSQL."""

import threading
import time
from collections import Counter

import polars as pl
import pytest

from prefactory.errors import ConfigError
from review import people
from review.annotations import SCHEMA, annotations_of
from review.assignments import (
    first_shown,
    held_back,
    next_assignment,
    open_rows,
    progress,
    train_again,
)  # fmt: skip
from review.settings import Settings
from review.store import create, open_review
from review.votes import (
    Answer,
    NotCountedError,
    decide,
    disputed,
    last_decision,
    reopen,
    reveal,
    undo,
    vote,
)  # fmt: skip
from tests.review.conftest import some_pairs


def person(review, name="Ada", role="annotator"):
    return people.by_token(review, people.invite(review, name, role))


def take(review, who):
    return next_assignment(review, who, review.settings)


def cast(review, who, held, choice="first", nonce=None, **body):
    nonce = nonce or f"{who.id}-{held['id']}-{time.perf_counter_ns()}"
    return vote(review, who, held["id"], Answer(choice, 2, body), nonce=nonce, guideline=0)


def row_ids(review):
    with review.db.read() as work:
        return {r["id"]: r["row_id"] for r in work.all("select id, row_id from task")}


def test_every_row_goes_to_k_people_and_to_nobody_twice(make):
    review = make(some_pairs(7), people=2)
    crowd = [person(review, name) for name in ("Ada", "Bob", "Cleo")]
    asked, waiting = Counter(), list(crowd)
    while waiting:
        who = waiting.pop(0)
        held = take(review, who)
        if held is not None:
            assert take(review, who)["id"] == held["id"], "what is in hand comes first"
            cast(review, who, held)
            asked[who.name, held["task"]] += 1
            waiting.append(who)
    assert max(asked.values()) == 1
    assert set(Counter(task for _, task in asked).values()) == {2}
    assert open_rows(review) == 0
    table = annotations_of(review)
    assert table.height == 14
    assert table.schema == pl.Schema(SCHEMA)
    assert table["row_id"].n_unique() == 7
    assert set(table["row_id"]) == set(some_pairs(7)["pair_id"])
    assert not set(table["person"]) & {"Ada", "Bob", "Cleo"}, "pseudonyms"
    assert set(annotations_of(review, pseudonyms=False)["person"]) <= {"Ada", "Bob", "Cleo"}


def test_a_vote_that_is_sent_again_counts_once(make):
    review = make()
    ada = person(review)
    held = take(review, ada)
    one = cast(review, ada, held, nonce="n1")
    assert cast(review, ada, held, "second", nonce="n1")["id"] == one["id"]
    with pytest.raises(NotCountedError, match="another window"):
        cast(review, ada, held, "second", nonce="n2")
    assert annotations_of(review)["vote"].to_list() == ["first"]


def test_nobody_votes_for_another_or_with_the_nonce_of_another(make):
    review = make(people=2)
    ada, bob = person(review), person(review, "Bob")
    held = take(review, ada)
    with pytest.raises(NotCountedError, match="no longer yours"):
        cast(review, bob, held)
    cast(review, ada, held, nonce="hers")
    with pytest.raises(NotCountedError, match="no longer yours"):
        cast(review, bob, take(review, bob), nonce="hers")
    assert annotations_of(review).height == 1


def test_undo_asks_again_and_keeps_every_revision(make):
    review = make()
    ada = person(review)
    first = take(review, ada)
    cast(review, ada, first)
    second = take(review, ada)
    cast(review, ada, second, "tie")
    third = take(review, ada)
    assert undo(review, ada, review.settings)
    assert take(review, ada)["id"] == second["id"]
    assert undo(review, ada, review.settings)
    assert take(review, ada)["id"] == first["id"], "the last that was taken back comes first"
    counted = annotations_of(review).filter("counts")
    assert counted.height == 0
    cast(review, ada, first, "second")
    cast(review, ada, second, "bad")
    assert take(review, ada)["id"] == third["id"]
    table = annotations_of(review)
    assert table["vote"].to_list() == ["first", "tie", "withdrawn", "withdrawn", "second", "bad"]
    assert table["revision"].to_list() == [1, 1, 2, 2, 3, 3]
    assert table.filter("counts")["vote"].to_list() == ["second", "bad"]
    assert undo(review, person(review, "Bob"), review.settings) is False


def test_what_lapsed_goes_to_others_and_a_late_vote_counts_only_while_there_is_a_place(make):
    review = make(some_pairs(1), minutes=1)
    ada, bob = person(review), person(review, "Bob")
    held = take(review, ada)
    assert take(review, bob) is None

    def lapse():
        with review.db.write() as work:
            work.run("update assignment set until = ?", time.time() - 1)

    lapse()
    his = take(review, bob)
    assert his["task"] == held["task"]
    with pytest.raises(NotCountedError, match="time for this question had passed"):
        cast(review, ada, held)
    lapse()
    assert take(review, ada)["task"] == held["task"], "given back, and hers again"
    lapse()
    cast(review, bob, his)  # late, but nobody has given hers back: hers lapsed, his counts
    assert annotations_of(review)["person"].n_unique() == 1
    assert open_rows(review) == 0


def test_sides_are_a_fair_coin_of_the_seed_and_stored_with_the_vote(make):
    settings = Settings(seed=5)
    flips = [first_shown(settings, "Ada", str(i)) for i in range(4000)]
    assert 0.47 < sum(flips) / 4000 < 0.53
    other = [first_shown(settings, "Bob", str(i)) for i in range(4000)]
    assert 0.47 < sum(a == b for a, b in zip(flips, other, strict=True)) / 4000 < 0.53
    assert flips == [first_shown(settings, "Ada", str(i)) for i in range(4000)]
    review = make(seed=5)
    ada = person(review)
    held = take(review, ada)
    cast(review, ada, held)
    row = annotations_of(review).row(0, named=True)
    assert row["first_shown"] == first_shown(settings, "Ada", row["row_id"])


def test_training_gives_way_only_to_those_who_pass(make):
    table = some_pairs(12, label_source=pl.lit("judge")).with_row_index("n")
    review = make(
        table, gold="n < 4", gold_share=0.5, training=3, pass_mark=0.6, people=1, where="n > 5"
    )
    ada = person(review)
    with review.db.read() as work:
        purposes = work.all("select purpose, place, expected from task order by place")
    assert [p["purpose"] for p in purposes[:3]] == ["training"] * 3
    assert Counter(p["purpose"] for p in purposes) == {"training": 3, "gold": 1, "work": 6}
    for choice in ("first", "second", "second"):
        cast(review, ada, take(review, ada), choice)
    with review.db.read() as work:
        assert held_back(work, ada, review.settings)
    assert take(review, ada) is None
    assert not undo(review, ada, review.settings), "its answer was told"
    train_again(review, ada, review.settings)
    places = []
    for choice in ("first", "second", "first"):
        held = take(review, ada)
        with review.db.read() as work:
            places.append(work.value("select place from task where id = ?", held["task"]))
        cast(review, ada, held, choice)
    assert places == sorted(places)
    assert take(review, ada) is not None
    assert set(annotations_of(review)["purpose"]) == {"training"}


def test_a_revealed_row_marks_what_is_changed_after_it(make):
    review = make()
    ada = person(review)
    held = take(review, ada)
    assert reveal(review, ada, held["id"]) is None, "not before the vote"
    cast(review, ada, held)
    assert reveal(review, person(review, "Bob"), held["id"]) is None
    assert reveal(review, ada, held["id"])["task"] == held["task"]
    assert reopen(review, ada, held["id"], review.settings)
    cast(review, ada, held, "second")
    assert annotations_of(review)["informed"].to_list() == [False, True, True]


def test_two_adjudicators_never_overwrite(make):
    review = make(some_pairs(2), people=2)
    ada, bob = person(review), person(review, "Bob")
    for choice in ("first", "first"):
        cast(review, ada, take(review, ada), choice)
    for choice in ("second", "first"):
        cast(review, bob, take(review, bob), choice)
    with review.db.read() as work:
        (row,) = disputed(work)
    eve, zoe = person(review, "Eve", "adjudicator"), person(review, "Zoe", "adjudicator")
    said = {"first_shown": True, "guideline": 0}
    with pytest.raises(NotCountedError, match="Only adjudicators"):
        decide(review, ada, row["task"], Answer("first"), seen=0, nonce="a", **said)
    decide(review, eve, row["task"], Answer("second"), seen=0, nonce="e", **said)
    with pytest.raises(NotCountedError, match="Eve has decided"):
        decide(review, zoe, row["task"], Answer("first"), seen=0, nonce="z", **said)
    decide(review, zoe, row["task"], Answer("first"), seen=1, nonce="z2", **said)
    with review.db.read() as work:
        assert last_decision(work, row["task"])["name"] == "Zoe"
        assert disputed(work)[0]["decided"] == 2
    decided = annotations_of(review).filter(role="decision")
    assert decided["vote"].to_list() == ["second", "first"]
    assert decided["counts"].to_list() == [False, True]


def test_people_at_once_lose_no_vote_and_get_no_row_twice(make):
    review = make(some_pairs(40), people=3)
    crowd = [person(review, f"P{i}") for i in range(6)]
    said, failures = [], []

    def work(who):
        try:
            while (held := take(review, who)) is not None:
                choice = "first" if hash((who.name, held["task"])) % 2 else "second"
                cast(review, who, held, choice)
                said.append((who.name, held["task"], choice))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(who,)) for who in crowd]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    ids = row_ids(review)
    stored = annotations_of(review, pseudonyms=False)
    assert sorted(stored.select("person", "row_id", "vote").iter_rows()) == sorted(
        (name, ids[task], choice) for name, task, choice in said
    )
    assert stored.height == 120
    assert set(stored.group_by("row_id").len()["len"]) == {3}


def test_a_review_is_made_once_and_opened_again(make, tmp_path, url):
    review = make(name="once", people=2)
    again = open_review(tmp_path, "once", url)
    assert again.settings == review.settings
    assert again.meta("rows") == 12
    same = create(
        tmp_path, "once", some_pairs(), Settings(people=2), review.meta("source"), url=url
    )
    assert same.secret == review.secret
    with pytest.raises(ConfigError, match=r"other settings.*people: 2 -> 3.*--as NAME"):
        create(tmp_path, "once", some_pairs(), Settings(people=3), review.meta("source"), url=url)
    with pytest.raises(ConfigError, match=r"no review 'onc'.*did you mean 'once'"):
        open_review(tmp_path, "onc", url)
    again.db.close()
    same.db.close()


def test_more_people_open_rows_again_and_fewer_close_them(make):
    review = make(some_pairs(3))
    ada, bob = person(review), person(review, "Bob")
    cast(review, ada, take(review, ada))
    review.change(people=2)
    assert open_rows(review) == 3
    cast(review, bob, take(review, bob))
    review.change(people=1)
    assert open_rows(review) == 2
    with pytest.raises(ConfigError, match="seed of the review"):
        review.change(seed=1)


def test_a_row_that_is_sure_is_asked_about_no_more(make):
    review = make(some_pairs(2), people=5, sure=0.85)
    crowd = [person(review, name) for name in ("Ada", "Bob", "Cleo", "Dan", "Eve")]
    asked = Counter()
    for number, who in enumerate(crowd):
        while (held := take(review, who)) is not None:
            asked[held["task"]] += 1
            first = held["task"] == min(row_ids(review))
            cast(review, who, held, "first" if first or number % 2 else "second")
    agreed, differ = (asked[task] for task in sorted(asked))
    assert agreed == 2, "two who agree: .9"
    assert differ > 2
    with review.db.read() as work:
        task = min(row_ids(review))
        assert work.value("select open from task where id = ?", task) == 0
        mine = work.one("select * from assignment where task = ? and person = ?", task, crowd[1].id)
    assert reopen(review, crowd[1], mine["id"], review.settings)
    held = take(review, crowd[1])
    assert held["task"] == task
    cast(review, crowd[1], held, "second")
    with review.db.read() as work:
        assert work.value("select open from task where id = ?", task) == 3, "it is open again"


def test_guidelines_are_versions(make):
    review = make()
    assert review.guideline() == (0, "")
    assert review.write_guideline("# Be fair") == 1
    assert review.write_guideline("# Be fair") == 1
    assert review.write_guideline("# Be fair\0 and kind") == 2
    assert review.guideline() == (2, "# Be fair\u2400 and kind")
    assert review.guideline(1) == (1, "# Be fair")


def test_links_and_sessions(make):
    review = make()
    old = people.invite(review, "Ada")
    ada = people.by_token(review, old)
    cookie = people.start(review, ada)
    assert people.by_cookie(review, cookie).name == "Ada"
    assert people.by_cookie(review, cookie + "x") is None
    new = people.invite(review, "Ada", "owner")
    assert people.by_token(review, old) is None, "a new link ends the old one"
    assert people.by_cookie(review, cookie) is None, "and open sessions"
    assert people.by_token(review, new).id == ada.id
    assert people.by_token(review, new).role == "owner"
    people.dismiss(review, "Ada")
    assert people.by_token(review, new) is None
    for name in ("", " ", "x" * 61, "a\u202eb"):
        with pytest.raises(ConfigError, match="can't be a person's name"):
            people.invite(review, name)
    with pytest.raises(ConfigError, match="no role 'boss'"):
        people.invite(review, "Bo", "boss")
    with review.db.read() as work:
        stored = str(work.all("select * from person")) + str(work.all("select * from session"))
    assert old not in stored
    assert new not in stored
    assert cookie not in stored


def told_of(review, who):
    with review.db.read() as work:
        return progress(work, who, open_rows(review))


def test_progress(make):
    review = make(some_pairs(4))
    ada = person(review)
    assert told_of(review, ada).done == 0
    cast(review, ada, take(review, ada))
    told = told_of(review, ada)
    assert (told.done, told.left) == (1, 3)
    assert told.pace is not None
