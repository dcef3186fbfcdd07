"""The best rows by a score."""

import pytest
from pydantic import ValidationError

from filters import Top
from prefactory.context import Context
from prefactory.tables import ROW_ID, shape_of
from tests.helpers import pairs, prompts, responses

NAN = float("nan")


def left(step, rows):
    """Reason of every row, by its place, and what `fit` found."""
    parts = step.fit_shard(rows, Context())
    state = step.fit(parts.sort(parts.columns[0]), Context())
    return step.keep(rows, Context(state=state)), state


def kept(step, rows):
    verdict, _ = left(step, rows)
    return [i for i, reason in enumerate(verdict["reason"]) if reason is None]


def answers(*scores, of=lambda i: f"q{i}"):
    return responses(*[(of(i), f"a{i}") for i in range(len(scores))], score_good=list(scores))


@pytest.mark.parametrize(("order", "places"), [("high", [1, 3]), ("low", [0, 2])])
def test_the_best_share_stays(order, places):
    rows = answers(1.0, 7.0, 2.0, 9.0)
    assert kept(Top(objective="good", fraction=0.5, order=order), rows) == places


def test_the_best_of_each_prompt():
    rows = answers(1.0, 2.0, 90.0, 80.0, 70.0, 5.0, of=lambda i: "pqr"[(i > 1) + (i > 4)])
    step = Top(objective="good", per_group=1, group_by="prompt_id")
    assert kept(step, rows) == [1, 2, 5]
    assert kept(Top(objective="good", per_group=2, group_by="prompt_id"), rows) == [0, 1, 2, 3, 5]
    assert kept(Top(objective="good", rows=3), rows) == [2, 3, 4]


def test_a_share_of_each_group():
    rows = answers(*map(float, range(8)), of=lambda i: f"p{i // 4}")
    step = Top(objective="good", fraction=0.5, group_by="prompt_id")
    assert kept(step, rows) == [2, 3, 6, 7]


def test_rows_without_a_score_leave_with_their_reason():
    rows = answers(None, 3.0, NAN, float("inf"), 1.0)
    verdict, state = left(Top(objective="good", rows=1), rows)
    assert verdict["reason"].to_list() == [
        "null_score", None, "null_score", "null_score", "not_selected"
    ]  # fmt: skip
    assert verdict["detail"].to_list() == [None, None, None, None, "score 1.0"]
    assert (state.info["n"], state.info["k"], state.info["null_score"]) == (5, 1, 3)
    assert state.info["baseline"]["selected"] == 3.0
    assert kept(Top(objective="good", fraction=1.0), rows) == [1, 4]


def test_ties_go_to_the_lowest_id_in_any_order():
    rows = answers(*[4.0] * 12)
    step, ids = Top(objective="good", rows=5), ROW_ID[shape_of(rows)]
    for table in (rows, rows.reverse(), rows.sample(fraction=1.0, shuffle=True, seed=3)):
        verdict, _ = left(step, table)
        stays = table.filter(verdict["reason"].is_null())[ids].sort().to_list()
        assert stays == rows[ids].sort().to_list()[:5]


def test_pairs_go_by_one_side_and_prompts_by_their_own_score():
    rows = pairs(
        *[(f"q{i}", f"c{i}", f"r{i}") for i in range(3)],
        chosen_score_good=[3.0, 1.0, 2.0],
        rejected_score_good=[0.0, 5.0, 1.0],
    )
    assert kept(Top(objective="good", rows=1), rows) == [0]
    assert kept(Top(objective="good", rows=1, side="rejected"), rows) == [1]
    asked = prompts("one", "two", "three", score_good=[1.0, 3.0, 2.0])
    assert kept(Top(objective="good", rows=2), asked) == [1, 2]


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({}, "exactly one of"),
        ({"rows": 1, "per_group": 1, "group_by": "source"}, "exactly one of"),
        ({"per_group": 1}, "per_group needs group_by"),
    ],
)
def test_a_budget_is_one(fields, match):
    with pytest.raises(ValidationError, match=match):
        Top(objective="good", **fields)
