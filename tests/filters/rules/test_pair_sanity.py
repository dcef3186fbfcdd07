import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import PairSanity
from filters.rules.pair_sanity import small_edit
from prefactory.context import Context
from tests.helpers import ledger_of, one_file, pairs, recipe, run
from tests.prefactory.measures.test_overlap import plain_edit

LONG = "The cat sat on the mat, and nobody in the house minded it at all. " * 3


def judged(*rows, **fields):
    return PairSanity(**fields).keep(pairs(*[("q", *r) for r in rows]), Context()).rows()


@pytest.mark.parametrize(
    ("chosen", "rejected", "verdict"),
    [
        ("abc", "abc", ("same_text", "both answers are one text")),
        ("", "", ("same_text", "both answers are one text")),
        ("abc", "", ("length_ratio", "0.0 to 1")),
        ("x" * 31, "y" * 10, ("length_ratio", "3.1 to 1")),
        ("x" * 10, "y" * 31, ("length_ratio", "0.323 to 1")),
        ("x" * 30, "y" * 10, (None, None)),
        ("x" * 10, "y" * 30, (None, None)),
        ("x" * 99 + "y", "x" * 100, ("small_edit", "0.01")),
        ("x" * 100, "x" * 95 + "y" * 5, (None, None)),
        ("x" * 100, "x" * 96 + "y" * 4, ("small_edit", "0.04")),
        (LONG, LONG.replace("cat", "dog"), ("small_edit", "0.0455")),
        (LONG, LONG.upper(), (None, None)),
    ],
)
def test_the_rules_at_their_edges(chosen, rejected, verdict):
    assert judged((chosen, rejected)) == [verdict]


def test_options():
    rows = [("a a a a", "bbbbbbbbb"), ("x" * 100, "x" * 99 + "y")]
    assert judged(*rows, unit="words")[0][0] == "length_ratio"
    assert judged(*rows, min_edit=0) == [(None, None)] * 2
    assert judged(*rows, max_ratio=1.2)[0][0] == "length_ratio"


TEXT = st.text("ab 说.", max_size=40)


@given(TEXT, TEXT, st.sampled_from([0.05, 0.2, 0.5, 1.0]))
def test_the_bound_never_changes_the_verdict(a, b, below):
    if not a and not b:
        return
    exact = plain_edit(a, b) / max(len(a), len(b))
    assert small_edit(a, b, below) == (exact if exact < below else None)


@given(st.text("ab", min_size=60, max_size=90), st.lists(st.integers(0, 59), max_size=9))
def test_heads_never_hide_a_small_edit(a, places):
    b = a
    for place in places:  # edits anywhere, insertions and deletions in turn
        b = b[:place] + b[place + 1 :] if place % 2 else f"{b[:place]}c{b[place:]}"
    exact = plain_edit(a, b) / max(len(a), len(b))
    assert small_edit(a, b, 0.1) == (exact if exact < 0.1 else None)


def test_in_a_run_the_ledger_says_why(tmp_path):
    table = pairs(("q", "good", "good"), ("q", "a good answer", "a bad reply"))
    result = run(recipe("filters.PairSanity"), one_file(table), tmp_path)
    assert ledger_of(result)["reason"].to_list() == ["same_text"]
