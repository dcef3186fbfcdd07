import subprocess
import sys
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefactory.near import shingles
from prefactory.near.shingles import (
    as_lists,
    fold,
    from_lists,
    set_digests,
    shingle_sets,
    word_hashes,
)

ANY_TEXT = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=8)


def lists(texts):
    found = word_hashes(pl.Series(texts, dtype=pl.String))
    return [found.values[a:b].tolist() for a, b in pairwise(found.offsets)]


def sets(texts, n=2):
    found = shingle_sets(pl.Series(texts, dtype=pl.String), n)
    return [set(found.values[a:b].tolist()) for a, b in pairwise(found.offsets)]


def test_the_hash_of_a_word_never_changes():
    # Signatures are stored: another value here needs another SALT and a new version of the steps.
    assert lists(["Rust", "antidisestablishmentarianism"]) == [
        [7240069470543480475],
        [15115109349073697281],
    ]
    assert sorted(sets(["a b c"])[0]) == [2002731974, 3709282870]


def test_case_punctuation_and_compatibility_forms_do_not_count():
    a, b, c = lists(["What is Rust?", "what's... -- IS rust", "\uff37hat is \uff52ust!"])
    assert a == c
    assert b[0] == a[0]
    assert b[2:] == a[1:]
    assert lists(["caf\u00e9"]) == lists(["CAFE\u0301"])


def test_each_character_of_a_script_without_spaces_is_a_word():
    (han, mixed, thai, korean) = lists(["你好吗", "GPT你好", "กขค", "안녕 하세요"])
    assert [len(x) for x in (han, mixed, thai, korean)] == [3, 3, 3, 2]
    assert mixed[1:] == han[:2]


def test_a_text_without_words_is_one_word_of_its_own():
    found = lists(["", None, "?!", "!", "a"])
    assert [len(x) for x in found] == [1] * 5
    assert found[0] == found[1]
    assert len({tuple(x) for x in found}) == 4


def test_shingles_are_runs_of_words_and_a_short_text_is_one():
    ab_bc, ab, a, abab = sets(["a b c", "a b", "a", "a b a b"])
    assert len(ab_bc) == 2
    assert ab < ab_bc
    assert len(a) == 1
    assert not a & ab
    assert ab < abab
    assert len(abab) == 2
    assert [len(s) for s in sets(["a b c d", "a b"], 3)] == [2, 1]


def test_shingles_do_not_run_from_one_text_into_the_next():
    assert sets(["a b", "c d"]) == [sets(["a b"])[0], sets(["c d"])[0]]


def test_long_words_differ_in_their_tails():
    stems = ["x" * k for k in (7, 8, 9, 63, 64, 65, 200, 5000)]
    texts = [s + t for s in stems for t in ("", "a", "b")]
    assert len({tuple(x) for x in lists(texts)}) == len(texts)


@given(ANY_TEXT, st.integers(1, 4))
def test_a_text_has_the_same_set_wherever_it_stands(texts, n):
    assert sets(texts, n) == [sets([t], n)[0] for t in texts]


@given(ANY_TEXT)
def test_blocks_change_nothing(texts):
    texts = [*texts, "word " * 40]
    whole = lists(texts)
    size = shingles.BLOCK_BYTES
    try:
        shingles.BLOCK_BYTES = 16
        assert lists(texts) == whole
    finally:
        shingles.BLOCK_BYTES = size


@given(ANY_TEXT)
def test_lists_come_back(texts):
    found = shingle_sets(pl.Series(texts, dtype=pl.String), 2)
    values, offsets = from_lists(as_lists(found.values, found.offsets))
    assert (values == found.values).all()
    assert (offsets == found.offsets).all()


def test_equal_sets_have_equal_digests():
    found = shingle_sets(pl.Series(["a b c", "A, b; C", "a c b", "a b", ""]), 2)
    a, b, *others = set_digests(found).tolist()
    assert a == b
    assert len({a, *others}) == 4


def test_no_rows():
    found = shingle_sets(pl.Series([], dtype=pl.String), 2)
    assert found.values.dtype == np.uint32
    assert found.sizes.size == 0
    assert set_digests(found).size == 0
    assert fold(pl.Series([], dtype=pl.String)).to_list() == []


@pytest.mark.slow
def test_the_hash_seed_of_python_changes_nothing():
    code = (
        "import polars as pl; from prefactory.near.shingles import *;"
        "print(set_digests(shingle_sets(pl.Series(['a b c', '你好', 'x' * 99]), 2)).tolist())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(found) == 1


SIGMAS = st.sampled_from(
    [*"aB' \u03a3\u03c3\u03c2\u0391\u2019\u00c9e\u0301\u3042\uff21\ufb01\U0001d6ba"]
)


@given(st.lists(st.text(SIGMAS, max_size=9), min_size=1, max_size=6))
def test_folding_by_runs_is_folding_whole_texts(texts):
    column = pl.Series(texts, dtype=pl.String)
    whole = column.str.normalize("NFKC").str.replace_all(shingles.NO_SPACES, " $0 ")
    whole = whole.str.to_lowercase().str.replace_all(r"[^\x00-\x7F\p{L}\p{M}\p{N}]", " ")
    assert shingles.fold(column).str.to_lowercase().to_list() == whole.to_list()
