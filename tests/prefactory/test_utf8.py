"""Changes beyond ASCII: a distinct run is changed once, and no text differs from the long way."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefactory.utf8 import ROWS, change_runs, utf8

SIGNS = st.sampled_from(
    [*"aB' \n\u2019\u201c\u00e9\u0301\u0327\u1100\u1161\u11a8\uac00\u3042\ufb01"]
)
TEXTS = st.lists(st.none() | st.text(SIGNS | st.characters(codec="utf-8"), max_size=12), max_size=9)


@pytest.mark.parametrize("form", ["NFC", "NFKC"])
@given(texts=TEXTS)
def test_a_unicode_form_by_runs_is_that_of_the_whole_text(form, texts):
    column = pl.Series("t", texts, dtype=pl.String)
    by_runs = change_runs(column, lambda runs: runs.str.normalize(form))
    assert by_runs.equals(column.str.normalize(form), null_equal=True)
    assert by_runs.name == "t"


def test_a_mark_composes_with_the_letter_before_it():
    text = pl.Series(["cafe\u0301s", "\u0301e", "plain"])
    found = change_runs(text, lambda runs: runs.str.normalize("NFC"))
    assert found.to_list() == ["caf\u00e9s", "\u0301e", "plain"]


def test_a_run_ends_with_its_text_and_is_changed_once():
    seen: list[str] = []

    def doubled(runs: pl.Series) -> pl.Series:
        seen.extend(runs)
        return runs + runs.str.tail(1)

    texts = pl.Series(["a\u00e9", "\u00e8b\u00e9", "b\u00e9", None] * ROWS)[: ROWS - 1]
    found = change_runs(texts, doubled)
    assert found[:4].to_list() == [
        "a\u00e9\u00e9",
        "\u00e8\u00e8b\u00e9\u00e9",
        "b\u00e9\u00e9",
        None,
    ]
    assert sorted(seen) == ["a\u00e9", "b\u00e9", "\u00e8"]


def test_parts_change_nothing():
    texts = pl.Series([f"{i} \u201cquoted\u201d e\u0301" for i in range(ROWS + 3)])
    assert change_runs(texts, lambda t: t.str.normalize("NFKC")).equals(texts.str.normalize("NFKC"))


def test_bytes_and_where_texts_start():
    data, ends = utf8(pl.Series(["ab", "", "\u00e9"])[1:])
    assert (bytes(data), ends.tolist()) == ("\u00e9".encode(), [0, 0, 2])
    assert utf8(pl.Series([], dtype=pl.String))[1].tolist() == [0]
