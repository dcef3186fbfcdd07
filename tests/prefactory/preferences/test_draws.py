"""Draws of one pair: counted, the majority chosen, whatever the order of the rows."""

import polars as pl
import pytest

from prefactory import ledger
from prefactory.preferences.draws import COUNTED, DRAWS, count_draws, one_draw
from prefactory.shards import without_copies
from prefactory.tables import Shape, check
from prefactory.testing import pairs


def drawn(*draws, margins=None):
    """Pairs of one prompt, `+` for the first answer and `-` for the other, each one draw."""
    rows = [("q", "A", "B") if sign == "+" else ("q", "B", "A") for sign in draws]
    table = pl.concat([pairs(row) for row in rows]).with_columns(
        source_id=pl.format("f:{}", pl.int_range(pl.len()) + 1),
        margin=pl.Series(margins or [1.0] * len(draws)),
    )
    names = pl.Series("who", [f"rater_{i}" for i in range(len(draws))])
    return one_draw(table.with_columns(names), pl.col("who")).drop("who")


def test_draws_become_one_pair_with_their_counts():
    rows, gone = count_draws(drawn("+", "-", "+", "+"))
    row = rows.row(0, named=True)
    assert rows.height == 1
    assert row["chosen"][0]["content"] == "A"
    assert (row["chosen_draws"], row["rejected_draws"], row["tied_draws"]) == (3, 1, 0)
    assert row["chosen_annotators"] == ["rater_0", "rater_2", "rater_3"]
    assert row["rejected_annotators"] == ["rater_1"]
    assert row["margin"] == 0.5
    assert gone["row_id"].to_list() == ["f:2", "f:3", "f:4"]
    assert set(gone["reason"]) == {COUNTED}


def test_four_to_none_and_three_to_one_differ():
    all_of_them, most = (count_draws(drawn(*d))[0] for d in ("++++", "+++-"))
    assert (all_of_them["margin"][0], most["margin"][0]) == (1.0, 0.5)
    assert all_of_them["pair_id"][0] == most["pair_id"][0]


def test_as_many_draws_for_either_side_are_a_tie():
    rows, gone = count_draws(drawn("+", "-"))
    assert rows.height == 0
    assert gone["reason"].to_list() == ["tie", "tie"]


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_the_draws_does_not_matter(seed):
    table = drawn("+", "-", "-", "+", "-", margins=[0.5, 1.0, 0.25, 1.0, 0.75])
    facts = ["pair_id", "margin", *DRAWS]
    mixed = count_draws(table.sample(fraction=1, shuffle=True, seed=seed))[0]
    assert mixed.select(facts).equals(count_draws(table)[0].select(facts))


def test_numbers_of_the_sides_become_means_and_stay_with_their_answers():
    table = drawn("+", "-", "+").with_columns(
        chosen_is_acceptable=pl.Series([1.0, 0.0, 1.0]),
        rejected_is_acceptable=pl.Series([0.0, 1.0, 0.0]),
    )
    row = count_draws(table)[0].row(0, named=True)
    assert (row["chosen_is_acceptable"], row["rejected_is_acceptable"]) == (1.0, 0.0)


def test_rows_that_are_no_draws_stay_as_they_are():
    plain = pairs(("q", "A", "B"))
    assert count_draws(plain)[0].equals(plain)
    none = drawn("+", "+").with_columns(pl.lit(None, d).alias(c) for c, d in DRAWS.items())
    rows, gone = count_draws(none)
    assert (rows.height, gone.height) == (2, 0)


def test_every_draw_is_a_row_or_in_the_ledger():
    table = drawn("+", "-", "+")
    rows, left = without_copies(table, Shape.PAIRS, "source")
    check(rows, Shape.PAIRS)
    assert rows.height + left.height == table.height
    assert ledger.count(left) == {COUNTED: 2}
