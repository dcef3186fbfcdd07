"""Coverage of categories: known answers, several categories a row, empty cells."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefactory.errors import DataError
from prefactory.measures.coverage import coverage, jensen_shannon, joint_cells, normalised_entropy

EASY = ("easy", "middle", "hard")


def series(*values, dtype=None):
    return pl.Series("v", list(values), dtype=dtype)


def test_a_uniform_set_has_entropy_1_and_a_single_category_0():
    assert coverage(series(*EASY * 4), EASY).entropy == 1.0
    assert coverage(series("easy", "easy"), EASY).entropy == 0.0
    assert coverage(series("easy"), ["easy"]).entropy is None
    assert normalised_entropy(np.array([0.5, 0.25, 0.25])) == pytest.approx(1.5 / np.log2(3))


def test_support_and_shares():
    found = coverage(series("easy", "hard", None, "odd", "easy", "easy"), EASY)
    assert found.table.rows() == [
        ("easy", 3, 0.75, None),
        ("middle", 0, 0.0, None),
        ("hard", 1, 0.25, None),
    ]
    assert (found.rows, found.labelled, found.missing) == (6, 4, ["middle"])
    assert found.unknown.rows() == [("odd", 1)]
    assert found.distance is None


def test_a_row_with_several_categories_is_shared_among_them():
    lists = series(["a", "b"], ["a"], [], None, ["a", "b", "a", "z"])
    found = coverage(lists, ["a", "b", "c"])
    assert found.table.select("support", "share").rows() == [
        (3, pytest.approx(2 / 3)),
        (2, pytest.approx(1 / 3)),
        (0, 0),
    ]
    assert found.labelled == 3
    assert coverage(lists).table["category"].to_list() == ["a", "b", "z"]


def test_distance_to_a_wanted_mix():
    values = series("easy", "easy", "hard", "hard")
    assert coverage(values, EASY, {"easy": 2, "hard": 2}).distance == 0.0
    assert coverage(values, EASY, {"middle": 1}).distance == 1.0
    only = coverage(series("easy"), EASY, {"easy": 1, "hard": 1})
    assert only.distance == pytest.approx(0.557923, abs=1e-6)
    assert only.table["target"].to_list() == [0.5, 0, 0.5]


def test_nothing_to_measure():
    for values in (
        series(dtype=pl.String),
        series(None, None),
        series("odd"),
        series(dtype=pl.Null),
    ):
        found = coverage(values, EASY, {"easy": 1})
        assert (found.labelled, found.entropy, found.distance) == (0, None, None)
        assert found.table["share"].sum() == 0


@pytest.mark.parametrize(
    ("target", "message"),
    [({"soft": 1}, "names soft"), ({"easy": -1}, "at least 0"), ({"easy": 0}, "not all 0")],
)
def test_wrong_targets(target, message):
    with pytest.raises(DataError, match=message):
        coverage(series("easy"), EASY, target)


def test_wrong_values():
    with pytest.raises(DataError, match="not Int64"):
        coverage(series(1, 2))
    with pytest.raises(DataError, match="twice"):
        coverage(series("a"), ["a", "a"])


def test_empty_joint_cells():
    table = pl.DataFrame({"d": ["easy", "hard", None], "t": [["code"], ["code", "law"], ["law"]]})
    found = joint_cells(table, {"d": EASY, "t": ["code", "law"]})
    assert found.rows() == [
        ("easy", "code", 1),
        ("easy", "law", 0),
        ("middle", "code", 0),
        ("middle", "law", 0),
        ("hard", "code", 1),
        ("hard", "law", 1),
    ]
    with pytest.raises(DataError, match="6 combinations of d, t; 1 to 5"):
        joint_cells(table, {"d": EASY, "t": ["code", "law"]}, most=5)
    with pytest.raises(DataError, match="0 combinations"):
        joint_cells(table, {"d": []})


SHARES = st.lists(st.floats(0, 10), min_size=3, max_size=3).filter(lambda p: sum(p) > 0.01)


@given(SHARES, SHARES)
def test_the_distance_is_one(p, q):
    p, q = np.array(p), np.array(q)
    assert jensen_shannon(p, p) == pytest.approx(0, abs=1e-7)
    assert jensen_shannon(p, q) == pytest.approx(jensen_shannon(q, p))
    assert 0 <= jensen_shannon(p, q) <= 1
    assert 0 <= normalised_entropy(p) <= 1


@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=3)), st.randoms())
def test_shares_sum_to_one_in_any_order(rows, random):
    found = coverage(pl.Series(rows, dtype=pl.List(pl.String)))
    shuffled = random.sample(rows, len(rows))
    again = coverage(pl.Series(shuffled, dtype=pl.List(pl.String)))
    assert again.table.equals(found.table)
    if found.labelled:
        assert found.table["share"].sum() == pytest.approx(1)
