import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.splits import group_key, with_split
from tests.helpers import assistant, content, messages, prompts, system, user


def keys(*conversations):
    table = pl.DataFrame({"prompt": messages(*conversations)})
    return table.select(group_key(pl.col("prompt"))).to_series().to_list()


def test_conversations_that_open_alike_are_one_group():
    found = keys(
        [user("What is  Rust?")],
        [system("Be brief."), user("what is rust")],
        [user("What is Rust?!"), assistant("A language."), user("And Go?")],
        [user("\uff37hat is \uff52ust")],  # full-width letters
    )
    assert found == ["what is rust"] * 4


def test_other_openings_are_other_groups():
    found = keys(
        [user("a b")], [user("ab")], [user("?!")], [user("!")], [user("")], [], [user("שלום")]
    )
    assert found == ["a b", "ab", "?!", "!", "", "", "שלום"]


TEXTS = st.lists(st.text("aAbB ?", max_size=4), max_size=20)


@given(TEXTS, st.integers(0, 5))
def test_groups_do_not_straddle_splits(texts, seed):
    table = prompts(*texts)
    found = with_split(table, 0.5, seed).with_columns(group_key(pl.col("prompt")).alias("group"))
    assert (
        found.group_by("group").agg(pl.col("split").n_unique())["split"].to_list()
        == [1] * found["group"].n_unique()
    )
    assert set(found["split"]) <= {"train", "test"}


@given(TEXTS, st.integers(0, 20))
def test_the_split_of_a_row_does_not_depend_on_the_others(texts, cut):
    table = prompts(*texts)
    pieces = [with_split(t, 0.5, 0) for t in (table[:cut], table[cut:])]
    assert pl.concat(pieces).equals(with_split(table, 0.5, 0))


@pytest.mark.parametrize(("fraction", "low", "high"), [(0, 0, 0), (0.1, 60, 140), (0.5, 430, 570)])
def test_the_share_of_the_test_split(fraction, low, high):
    table = prompts(*[f"question {i}" for i in range(1000)])
    found = [with_split(table, fraction, seed)["split"].to_list() for seed in (0, 1)]
    assert all(low <= split.count("test") <= high for split in found)
    assert (found[0] != found[1]) == (fraction > 0)


def test_a_larger_test_split_holds_the_smaller():
    table = prompts(*[f"question {i}" for i in range(200)])
    small, large = (
        set(content(with_split(table, f, 3).filter(split="test"), "prompt")) for f in (0.1, 0.4)
    )
    assert small < large
