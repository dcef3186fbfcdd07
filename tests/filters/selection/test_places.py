import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.selection.places import Places, equal_shares, rank_in_group


def of(limit, cost, group=None, **more):
    group = None if group is None else np.asarray(group)
    return Places.of(limit, np.asarray(cost, dtype=np.int64), group, **more)


@pytest.mark.parametrize(
    ("sizes", "k", "shares"),
    [
        ([5, 5, 5], 6, [2, 2, 2]),
        ([1, 9, 9], 9, [1, 4, 4]),
        ([9, 9, 9], 8, [3, 3, 2]),
        ([0, 2, 7], 9, [0, 2, 7]),
        ([4, 4], 0, [0, 0]),
    ],
)
def test_equal_shares(sizes, k, shares):
    assert equal_shares(np.asarray(sizes), k).tolist() == shares


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.data())
def test_equal_shares_give_out_everything_and_differ_by_one(sizes, data):
    k = data.draw(st.integers(0, sum(sizes)))
    shares = equal_shares(np.asarray(sizes, dtype=np.int64), k)
    assert shares.sum() == k
    assert (shares <= sizes).all()
    unfilled = shares[shares < sizes]
    assert not unfilled.size or unfilled.max() - unfilled.min() <= 1
    assert not unfilled.size or shares.max() - unfilled.min() <= 1


def test_rows_of_a_budget_are_the_first_of_the_order():
    assert of(2, [1, 1, 1, 1]).fill(np.asarray([3, 1, 0, 2])).tolist() == [3, 1]


def test_each_group_has_a_budget_of_its_own():
    places = of(3, [1] * 6, [0, 0, 0, 0, 1, 1])
    assert places.fill(np.asarray([0, 1, 2, 3, 4, 5])).tolist() == [0, 1, 4]
    places = of(4, [1] * 6, [0, 0, 0, 0, 1, 1], shares="equal")
    assert places.fill(np.asarray([5, 0, 1, 2, 4, 3])).tolist() == [5, 0, 1, 4]


def test_tokens_are_filled_by_smaller_rows_when_larger_ones_do_not_fit():
    places = of(10, [6, 5, 3, 2])
    assert places.fill(np.asarray([0, 1, 2, 3])).tolist() == [0, 2]
    assert places.room.tolist() == [1]
    assert not places.rows().size


def test_rows_that_may_not_be_taken_have_no_share():
    places = of(2, [1] * 4, [0, 0, 1, 1], eligible=np.asarray([False, False, True, True]))
    assert places.room.tolist() == [0, 2]
    assert places.fill(np.arange(4)).tolist() == [2, 3]


def test_a_budget_above_all_takes_all_and_places_can_be_used_again():
    places = of(99, [2, 3])
    assert places.again().fill(np.asarray([1, 0])).tolist() == [1, 0]
    assert places.rows().tolist() == [0, 1]
    assert of(5, np.zeros(0)).fill(np.zeros(0, dtype=np.int64)).size == 0


def test_rank_in_group():
    assert rank_in_group(np.asarray([1, 0, 1, 1, 0])).tolist() == [0, 0, 1, 2, 1]
