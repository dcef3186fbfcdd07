"""Hashed names: shared slots, hardly a shared signature, the same on every machine."""

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from prefactory.errors import DataError
from prefactory.spaces.hashed import Categories, slots_of


def test_two_look_ups_tell_apart_what_one_does_not():
    values = pl.Series([f"value {i}" for i in range(4060)])
    one = slots_of("f", values, 4096, 1)[:, 0]
    shared = int((np.bincount(one, minlength=4096)[one] > 1).sum())
    expected = 4060 * (1 - (1 - 1 / 4096) ** 4059)  # 2,553; 2,545 in the specification's draw
    assert shared == pytest.approx(expected, abs=100)
    two = slots_of("f", values, 4096, 2)
    assert len(np.unique(two, axis=0)) >= 4058, "half a pair in the mean"


def test_slots_are_the_same_everywhere_and_apart_by_feature():
    values = pl.Series(["gpt-4", None, "é", ""])
    found = slots_of("model", values, 1000, 2)
    assert found.tolist() == [[394, 206], [-1, -1], [754, 692], [264, 933]]
    assert (slots_of("source", values, 1000, 2)[0] != found[0]).all()
    assert slots_of("model", values[2:], 1000, 2).tolist() == found[2:].tolist()


def test_columns_of_the_prompt_are_read_with_those_of_the_answer():
    table = pl.DataFrame({"model": ["a", "a", "b", None], "source": ["x", "y", "x", "x"]})
    alone = Categories(slots=64).features(table)
    assert (alone[0] == alone[1]).all()
    assert (alone[0] != alone[2]).any()
    assert not alone[3].any(), "no name, no feature"
    assert alone.sum(axis=1) == pytest.approx([1, 1, 1, 0])
    both = Categories(prompt=("source",), slots=64).features(table)
    assert (both[0] != both[1]).any()
    assert both.sum(axis=1) == pytest.approx([2, 2, 2, 0])
    assert (
        both[:2].tobytes() == Categories(prompt=("source",), slots=64).features(table[:2]).tobytes()
    )


def test_pairs_have_the_columns_of_both_sides():
    pairs = pl.DataFrame({"chosen_model": ["a"], "rejected_model": ["b"], "source": ["x"]})
    categories = Categories(prompt=("source",))
    assert categories.of_side(pairs, "rejected").to_dicts() == [{"model": "b", "source": "x"}]
    with pytest.raises(DataError, match="no column 'chosen_model'"):
        categories.of_side(pairs.drop("chosen_model"), "chosen")
    with pytest.raises(DataError, match="no column 'model'"):
        categories.features(pairs)
    with pytest.raises(ValidationError, match="each column once"):
        Categories(prompt=("a", "a"))
