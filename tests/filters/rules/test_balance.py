"""Pairs leave until a mark of answers decides for neither side."""

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from filters import Balance
from filters.rules.balance import MARKS, surplus
from prefactory.context import Context
from prefactory.errors import DataError
from tests.audit.cases import rows, table


def state_of(step, data, seed=0):
    ctx = Context(seed=seed)
    return step.fit(step.fit_shard(data, ctx).sort("pair_id"), ctx)


def longer(n, of=200):
    """Pairs of which the first n have a longer chosen answer, the others a longer rejected one."""
    return table(
        [(p, f"{c} {r}" if i < n else c, r if i < n else f"{r} {c}")
         for i, (p, c, r) in enumerate(rows(of))]
    )  # fmt: skip


def test_the_side_that_leads_loses_as_many_pairs_as_it_takes_and_no_more():
    step = Balance(more="longer", limit=0.1)
    data = longer(140)
    state = state_of(step, data)
    info = state.info["balance"]
    assert (info["n"], info["before"]) == (200, 0.4)
    assert info["dropped"] == 67  # (80 - 67) / (200 - 67) is the first mean that is below .1
    assert 0.09 < info["after"] <= 0.1
    verdict = step.keep(data, Context(state=state))
    gone = verdict["reason"].is_not_null()
    assert gone.sum() == 67
    assert not gone[140:].any()
    assert set(verdict["detail"].drop_nulls()) == {"longer: chosen"}


def test_within_the_limit_nothing_leaves_and_the_other_side_may_lead():
    assert state_of(Balance(more="longer"), longer(101)).info["balance"]["dropped"] == 0
    state = state_of(Balance(more="longer"), longer(60))
    assert set(state.tables["dropped"]["detail"]) == {"longer: rejected"}
    assert state.info["balance"]["after"] == pytest.approx(-0.02, abs=0.01)


def test_the_draw_goes_by_seed_and_id_and_not_by_the_order_of_rows():
    step, data = Balance(more="longer"), longer(140)
    one = set(state_of(step, data).tables["dropped"]["pair_id"])
    assert one == set(state_of(step, data[::-1]).tables["dropped"]["pair_id"])
    assert one != set(state_of(step, data, seed=1).tables["dropped"]["pair_id"])


def test_marks_openings_and_places_are_read():
    data = table(
        [
            (p, f"Great Big Question {c}" if i < 50 else c, r)
            for i, (p, c, r) in enumerate(rows(100))
        ]
    ).with_columns(chosen_position=pl.lit(0), rejected_position=pl.lit(1))
    for step, before in (
        (Balance(opening="great big question"), 0.5),
        (Balance(opening="GREAT"), 0.5),
        (Balance(mark="emojis"), 0.0),
        (Balance(more="first", most=1.0), 1.0),
    ):
        assert state_of(step, data).info["balance"]["before"] == before, step
    assert "longer" not in MARKS


def test_too_many_pairs_are_refused_with_their_number():
    with pytest.raises(DataError, match=r"198 of 200 pairs .* 'longer' .* more than 60%"):
        state_of(Balance(more="longer"), longer(199))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "set one of more, mark and opening, not 0"),
        ({"more": "longer", "mark": "bold"}, "not 2"),
        ({"mark": "nice"}, "'nice' is none of refusal"),
        ({"opening": "two words"}, "neither one word nor three"),
    ],
)
def test_wrong_fields(fields, said):
    with pytest.raises(ValidationError, match=said):
        Balance(**fields)


def test_surplus_is_the_least_count_for_any_signs():
    rng = np.random.default_rng(0)
    for _ in range(200):
        sign = rng.integers(-1, 2, rng.integers(1, 40))
        limit = float(rng.choice([0, 0.02, 0.1, 0.5]))
        goes = surplus(sign, limit, rng.random(len(sign)))
        left = np.delete(sign, goes)
        assert not len(left) or abs(left.mean()) <= limit + 1e-9
        if len(goes):
            one_less = np.delete(sign, goes[1:])
            assert abs(one_less.mean()) > limit
