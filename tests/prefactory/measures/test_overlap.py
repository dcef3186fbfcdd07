from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import LCSseq, Levenshtein

from prefactory.measures.overlap import rouge_l, words

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
        ("abcbdab", "bdcaba", 4, 5),  # a common textbook pair
    ],
)
def test_known_answers(a, b, common, edits):
    """Of the library: nothing else tells what its cutoffs and word sizes do."""
    assert (LCSseq.similarity(a, b), Levenshtein.distance(a, b)) == (common, edits)
    assert rouge_l(a, b) == (2 * common / (len(a) + len(b)) if a or b else 1.0)


WORDS = st.lists(st.sampled_from(["a", "the", "\u732b", "caf\u00e9", ""]), max_size=70)


@given(SHORT, SHORT)
def test_letters_agree_with_the_quadratic_table(a, b):
    assert rouge_l(a, b) == (2 * plain_lcs(a, b) / (len(a) + len(b)) if a or b else 1)
    assert Levenshtein.distance(a, b) == plain_edit(a, b)


@settings(deadline=None, max_examples=50)
@given(WORDS, WORDS, st.floats(0, 1))
def test_words_agree_with_the_quadratic_table_and_a_limit_hides_nothing_above_it(a, b, above):
    f1 = 2 * plain_lcs(a, b) / (len(a) + len(b)) if a or b else 1
    assert rouge_l(a, b) == rouge_l(b, a) == f1
    found = rouge_l(a, b, above)
    assert found == f1 if f1 > above else found <= above
    assert Levenshtein.distance(a, b) == plain_edit(a, b)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=9), st.randoms())
def test_hashes_of_words_are_told_apart(a, random):
    b = a.copy()
    random.shuffle(b)
    assert LCSseq.similarity(a, b) == plain_lcs(a, b)


def test_words_in_many_scripts():
    assert words("Don't PANIC, 42_times!") == ["don", "t", "panic", "42", "times"]
    assert words("GPT说你好 ok") == ["gpt", "说", "你", "好", "ok"]
    assert words("Ünï مرحبا") == ["ünï", "مرحبا"]
    assert words("... 😀") == []
