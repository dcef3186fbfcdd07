from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.bit_parallel import edit_distance, lcs, words

SHORT = st.text("abc ", max_size=9)


def table(a, b, step):
    """The plain quadratic table."""
    grid = {(i, j): i + j for i in range(len(a) + 1) for j in range(len(b) + 1)}
    for i, j in product(range(1, len(a) + 1), range(1, len(b) + 1)):
        grid[i, j] = step(grid, i, j, a[i - 1] == b[j - 1])
    return grid[len(a), len(b)]


def plain_edit(a, b):
    return table(
        a,
        b,
        lambda g, i, j, same: min(g[i - 1, j] + 1, g[i, j - 1] + 1, g[i - 1, j - 1] + (not same)),
    )


def plain_lcs(a, b):
    indels = table(
        a,
        b,
        lambda g, i, j, same: g[i - 1, j - 1] if same else min(g[i - 1, j], g[i, j - 1]) + 1,
    )
    return (len(a) + len(b) - indels) // 2


@pytest.mark.parametrize(
    ("a", "b", "common", "edits"),
    [
        ("", "", 0, 0),
        ("", "abc", 0, 3),
        ("abc", "", 0, 3),
        ("kitten", "sitting", 4, 3),
        ("abcde", "abcde", 5, 0),
        ("a" * 200, "a" * 130 + "b" * 70, 130, 70),
    ],
)
def test_known_answers(a, b, common, edits):
    assert (lcs(a, b), edit_distance(a, b)) == (common, edits)


@given(SHORT, SHORT)
def test_both_agree_with_the_quadratic_table(a, b):
    assert lcs(a, b) == lcs(b, a) == plain_lcs(a, b)
    assert edit_distance(a, b) == edit_distance(b, a) == plain_edit(a, b)


def test_words_in_many_scripts():
    assert words("Don't PANIC, 42_times!") == ["don", "t", "panic", "42", "times"]
    assert words("GPT说你好 ok") == ["gpt", "说", "你", "好", "ok"]
    assert words("Ünï مرحبا") == ["ünï", "مرحبا"]
    assert words("... 😀") == []
