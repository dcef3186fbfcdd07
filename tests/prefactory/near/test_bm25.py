import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefactory.near.bm25 import BM25, best_first, fused

DOCS = ["the cat sat", "the dog sat down", "a bird flew over the house"]


def test_known_scores():
    index = BM25(DOCS)
    assert index.scores("cat sat").round(3).tolist() == [1.684, 0.487, 0]
    assert index.scores("THE").round(3).tolist() == [0.155, 0.138, 0.114]
    assert index.scores("sat cat sat").tolist() == index.scores("cat sat").tolist()
    assert index.scores("nothing of it").tolist() == [0, 0, 0]
    assert index.holders["sat"] == 2


def test_known_fusion():
    first, second = np.array([0, 1, 2]), np.array([1, 2, 0])
    assert fused([first, second], 3).round(5).tolist() == [0.03227, 0.03252, 0.03200]
    assert fused([], 2).tolist() == [0, 0]


def test_equal_scores_are_in_the_order_of_places():
    scores = np.array([1.0, 3.0, 0.0, 3.0, 1.0])
    assert best_first(scores).tolist() == [1, 3, 0, 4, 2]
    assert best_first(scores, depth=3).tolist() == [1, 3, 0]
    assert best_first(scores, above=0.0).tolist() == [1, 3, 0, 4]
    assert best_first(np.zeros(0)).tolist() == []


def test_texts_without_words():
    assert BM25([]).scores("cat").tolist() == []
    assert BM25(["", "!?"]).scores("cat").tolist() == [0, 0]


@given(
    st.lists(st.text("ab \u00df", max_size=8), min_size=1, max_size=5),
    st.text("ab \u00df", max_size=5),
)
def test_as_the_formula_says(texts, query):
    words = [t.casefold().split() for t in texts]
    mean = np.mean([len(own) for own in words])
    wanted = []
    for own in words:
        total = 0.0
        for word in set(query.casefold().split()):
            f, n = own.count(word), sum(word in other for other in words)
            if f:
                idf = np.log(1 + (len(texts) - n + 0.5) / (n + 0.5))
                total += idf * f * 2.5 / (f + 1.5 * (0.25 + 0.75 * len(own) / mean))
        wanted.append(total)
    assert BM25(texts).scores(query) == pytest.approx(wanted)
