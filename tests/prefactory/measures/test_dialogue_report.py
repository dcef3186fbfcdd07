"""Measures of dialogues by hand: turn decay, named diagnoses, and votes (TAS, FAS, FCR, VSF)."""

import polars as pl
import pytest

from generators.dialogues.play import TURN_META
from prefactory.errors import DataError
from prefactory.measures.dialogue_report import (
    ballots_of,
    dialogue_report,
    dialogues_of,
    of_each,
    turns_of,
)

META = {"phase": 0, "actor": "doctor", "visible_to": [], "facts_revealed": [], "dropped": False,
        "tokens": 1, "round": 0, "rating": None, "votes": None, "out": None}  # fmt: skip


def rated(turn, rating):
    return {**META, "turn": turn, "rating": rating}


def vote(turn, *votes, by_night=False):
    """Votes such as "a>x": lower case is honest, upper case hides."""
    cast = [v.split(">") for v in votes]
    return {
        **META,
        "turn": turn,
        "actor": "moderator",
        "votes": [
            {
                "voter": voter,
                "hidden": voter.isupper(),
                "voted": voted or None,
                "voted_hidden": voted.isupper() if voted else None,
            }
            for voter, voted in cast
        ],
    }


def table(*dialogues):
    """(case, cell, diagnosis, turn, meta) -> rows as the step makes them, two of each."""
    rows = [
        {
            "source_prompt_id": case,
            "dialogue_id": f"d{i}",
            "cell": cell,
            "diagnosis": diagnosis,
            "diagnosis_turn": turn,
            "winner": None,
            "turn_meta": meta,
            "transcript": [],
        }
        for i, (case, cell, diagnosis, turn, meta) in enumerate(dialogues)
        for _ in range(2)
    ]
    return pl.DataFrame(rows, schema_overrides={"turn_meta": TURN_META, "winner": pl.String})


def test_ratings_fall_turn_by_turn():
    report = dialogue_report(
        table(
            ("a", "p=calm", None, None, [rated(1, 9.0), rated(3, 7.0), rated(5, 5.0)]),
            ("b", "p=calm", None, None, [rated(1, 5.0), rated(3, 5.0)]),
            ("b", "p=curt", None, None, [rated(1, 4.0)]),
        )
    )
    assert (report["dialogues"], report["cases"]) == (3, 2)
    curve = [
        (p["turn"], p["rating"]["value"], p["rating"]["n"]) for p in report["ratings"]["curve"]
    ]
    assert curve == [(1, 6.0, 3), (2, 6.0, 2), (3, 5.0, 1)]
    assert report["ratings"]["curve"][2]["rating"]["low"] is None  # one case tells no spread
    # within dialogues a turn costs 2 and 0: mean -1, whatever dialogues came so far
    assert report["ratings"]["slope"]["value"] == -1.0
    assert report["ratings"]["slope"]["n"] == 2
    cells = {c["cell"]: c["rating"]["value"] for c in report["ratings"]["cells"]}
    assert cells == {"p=calm": 6.2, "p=curt": 4.0}
    assert report["diagnosis"] is report["votes"] is None


def test_a_diagnosis_is_counted_from_the_turn_that_names_it():
    turns = [rated(1, 5.0), rated(3, 5.0), rated(5, 5.0)]
    report = dialogue_report(
        table(
            ("a", "", "exact", 3, turns),
            ("b", "", "close", 1, turns),
            ("c", "", "none", None, turns),
            ("d", "", "exact", 5, turns),
            ("e", "", None, None, turns),  # nobody could say
        )
    )["diagnosis"]
    assert report["exact"]["value"] == 0.5
    assert report["exact"]["n"] == 4
    assert report["close"]["value"] == 0.75
    assert [(p["turn"], p["named"]["value"]) for p in report["curve"]] == [
        (1, 0.25),
        (2, 0.5),
        (3, 0.75),
    ]


def test_votes_by_hand():
    meta = [
        vote(5, "a>X", "b>X", "c>a", "X>a", "Y>a"),  # by day: honest 2 of 3 agree, 2 of 3 right
        vote(6, "X>c", "Y>c"),  # by night: all agree
        vote(12, "a>Y", "b>X", "X>b", "Y>"),  # honest 1 of 2 agree, both right; Y says nothing
        vote(13, "X>b", "Y>a"),  # half agree
    ]
    found = table(("g", "", None, None, meta))
    (row,) = of_each(ballots_of(turns_of(dialogues_of(found)))).to_dicts()
    assert row["TAS"] == pytest.approx((1 + 1 / 2) / 2)
    assert row["FAS"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert row["FCR"] == pytest.approx((2 / 3 + 1) / 2)
    # after their first vote of a kind: a changes, b stays, X changes by day (a, b) and by night
    # (c, b), Y by night (c, a): 4 of 5
    assert row["VSF"] == pytest.approx(4 / 5)
    votes = dialogue_report(found)["votes"]
    assert votes["FCR"]["value"] == pytest.approx(5 / 6, abs=1e-6)
    assert votes["FCR"]["n"] == 1


def test_a_first_vote_changes_nothing():
    one = table(("g", "", None, None, [vote(3, "a>X", "X>a")]))
    votes = dialogue_report(one)["votes"]
    assert votes["VSF"]["value"] is None  # not 1, and not 0
    assert votes["TAS"]["value"] is None  # no vote by night
    assert votes["FAS"]["value"] == votes["FCR"]["value"] == 1
    both = table(
        ("g", "", None, None, [vote(3, "a>X", "X>a")]),
        ("h", "", None, None, [vote(3, "a>b", "X>a"), vote(4, "a>b", "X>a")]),
    )
    votes = dialogue_report(both)["votes"]
    assert (votes["VSF"]["value"], votes["VSF"]["n"]) == (0, 1)
    assert (votes["FCR"]["value"], votes["FCR"]["n"]) == (0.5, 2)


def test_a_day_and_a_night_of_one_voter_are_two_kinds():
    meta = [vote(1, "a>X", "X>a"), vote(2, "X>b"), vote(3, "a>X", "X>a"), vote(4, "X>b")]
    assert dialogue_report(table(("g", "", None, None, meta)))["votes"]["VSF"]["value"] == 0


def test_other_rows_are_refused():
    with pytest.raises(DataError, match="of no dialogues"):
        dialogue_report(pl.DataFrame({"prompt_id": ["a"]}))
