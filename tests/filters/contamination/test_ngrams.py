import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.contamination.ngrams import NgramIndex, spans

LONG = "one two three four five six seven eight nine ten eleven twelve"
OTHER = "red orange yellow green blue indigo violet black white grey pink brown"


def found(prompts, texts, n=8, least=0.5):
    index = NgramIndex.build(pl.Series(prompts, dtype=pl.String), n)
    return index.search(pl.Series(texts, dtype=pl.String), least).rows()


def test_verbatim_prompts_are_found_whole():
    assert found([OTHER, LONG], [f"Please: {LONG}!", "nothing"]) == [(0, 1, 12, 1.0)]


def test_case_and_punctuation_do_not_count():
    assert found([LONG], [LONG.upper().replace(" ", ", ")]) == [(0, 0, 12, 1.0)]


def test_changed_numbers_leave_the_rest():
    words = LONG.split()
    words[9] = "99"  # the runs before it cover nine of twelve words
    assert found([LONG], [" ".join(words)]) == [(0, 0, 9, 0.75)]


def test_at_most_half_is_no_match():
    half = " ".join([*LONG.split()[:8], *OTHER.split()])
    sixteen = f"{LONG} thirteen fourteen fifteen sixteen"
    assert found([sixteen], [half]) == []
    assert found([sixteen], [half], least=0.4) == [(0, 0, 8, 0.5)]


def test_words_of_different_texts_do_not_add_up():
    first, second = LONG.split()[:8], LONG.split()[4:]
    whole = found([LONG], [" ".join(first), " ".join(second)])
    assert whole == [(0, 0, 8, pytest.approx(2 / 3)), (1, 0, 8, pytest.approx(2 / 3))]


def test_paraphrases_are_not_found():
    assert found([LONG], [" and ".join(LONG.split())]) == []


def test_short_prompts_must_be_the_whole_text():
    assert found(["What is it?"], ["what IS it", "what is it now", "it is what"]) == [
        (0, 0, 3, 1.0)
    ]


def test_prompts_without_words_are_never_found():
    assert found(["", "?!", None], ["", "?!", None, "x"]) == []


def test_scripts_without_spaces_count_characters():
    text = "\u4eca\u5929\u7684\u5929\u6c14\u975e\u5e38\u597d\u6211\u4eec\u53bb\u516c\u56ed"
    assert found([text], [f"\u95ee\uff1a{text}\u3002"]) == [(0, 0, 13, 1.0)]


def test_boilerplate_alone_is_not_looked_for_but_counts():
    head = "please answer the following question with one word only thank you"
    prompts = [
        f"{head} item{i} alpha{i} beta{i} gamma{i} delta{i} eps{i} zeta{i} eta{i}"
        for i in range(150)
    ]
    assert found(prompts, [head + " nothing else"]) == []
    assert found(prompts, [prompts[7]]) == [(0, 7, 19, 1.0)]


def test_blocks_and_order_of_texts_do_not_matter(monkeypatch):
    rng = np.random.default_rng(0)
    words = np.array([*LONG.split(), *OTHER.split()])
    texts = [" ".join(rng.choice(words, 30)) + f" {LONG if i % 5 == 0 else ''}" for i in range(60)]
    whole = found([LONG, OTHER], texts)
    assert {row for row, *_ in whole} == set(range(0, 60, 5))
    monkeypatch.setattr("filters.contamination.ngrams.BLOCK", 7)
    assert found([LONG, OTHER], texts) == whole
    turned = found([LONG, OTHER], texts[::-1])
    assert sorted((59 - t, *rest) for t, *rest in turned) == whole


@given(
    st.lists(st.lists(st.sampled_from("abcdef"), min_size=0, max_size=12), min_size=1, max_size=4),
    st.lists(st.lists(st.sampled_from("abcdef"), min_size=0, max_size=16), min_size=1, max_size=3),
    st.integers(2, 4),
)
def test_it_is_what_the_definition_says(prompts, texts, n):
    expected = []
    for (t, text), (p, prompt) in itertools.product(enumerate(texts), enumerate(prompts)):
        if not prompt:
            continue
        if len(prompt) < n:
            if prompt == text:
                expected.append((t, p, len(prompt), 1.0))
            continue
        runs = {tuple(text[i : i + n]) for i in range(len(text) - n + 1)}
        covered = set()
        for i in range(len(prompt) - n + 1):
            if tuple(prompt[i : i + n]) in runs:
                covered |= set(range(i, i + n))
        if len(covered) > len(prompt) / 2:
            expected.append((t, p, len(covered), len(covered) / len(prompt)))
    joined = [[" ".join(words) for words in lists] for lists in (prompts, texts)]
    assert found(*joined, n=n) == [pytest.approx(row) for row in expected]


def test_spans_show_what_matched():
    text = f"Well. {LONG.upper()}, and so on"
    assert [text[a:b] for a, b in spans(text, LONG)] == [LONG.upper()]
    both = f"{LONG} ... {LONG}"
    assert len(spans(both, LONG)) == 2
    short = "so what is it, then"
    assert [short[a:b] for a, b in spans(short, "What is it?")] == ["what is it"]
    assert spans("", LONG) == spans(LONG, "") == []
