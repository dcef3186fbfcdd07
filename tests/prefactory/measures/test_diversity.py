"""Diversity: known answers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefactory.measures import diversity as d


def test_vendi_counts_different_items():
    assert d.vendi(np.ones((6, 6))) == pytest.approx(1)
    assert d.vendi(np.eye(6)) == pytest.approx(6)
    assert d.vendi(np.kron(np.eye(3), np.ones((2, 2)))) == pytest.approx(3)  # three kinds, twice
    assert d.vendi(np.eye(1)) == pytest.approx(1)
    assert math.isnan(d.vendi(np.zeros((0, 0))))


def test_vendi_orders():
    kernel = np.kron(np.eye(2), np.ones((3, 3)))
    kernel = np.pad(kernel, (0, 2))
    kernel[6:, 6:] = np.eye(2)  # shares 3/8, 3/8, 1/8, 1/8
    p = np.array([3, 3, 1, 1]) / 8
    assert d.vendi(kernel) == pytest.approx(math.exp(-(p * np.log(p)).sum()))
    assert d.vendi(kernel, 2) == pytest.approx(1 / (p**2).sum())
    assert d.vendi(kernel, math.inf) == pytest.approx(8 / 3)
    assert d.vendi(kernel, 0.1) == pytest.approx((p**0.1).sum() ** (1 / 0.9))
    assert d.vendi(np.eye(4), 0.1) == pytest.approx(4)


def test_vendi_of_vectors_is_that_of_their_cosines_whatever_the_shape():
    rng = np.random.default_rng(0)
    for shape in ((20, 5), (5, 20)):
        x = rng.standard_normal(shape)
        u = x / np.linalg.norm(x, axis=1, keepdims=True)
        assert d.vendi_of(x) == pytest.approx(d.vendi(u @ u.T))
        assert d.vendi_of(x * rng.uniform(0.1, 9, (shape[0], 1))) == pytest.approx(d.vendi_of(x))


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (np.ones((2, 3)), r"square.*\(2, 3\)"),
        (np.array([[1, 0.5], [0.1, 1]]), "not symmetric"),
        (np.array([[2.0, 0], [0, 1]]), "diagonal"),
    ],
)
def test_what_is_no_kernel(kernel, message):
    with pytest.raises(ValueError, match=message):
        d.vendi(kernel)


def test_uniformity():
    assert d.uniformity(np.ones((4, 3))) == pytest.approx(0)
    assert d.uniformity(np.array([[2.0, 0], [-1, 0]])) == pytest.approx(-8)
    assert d.uniformity(np.eye(2)) == pytest.approx(-4)  # distance squared 2, t = 2
    assert d.uniformity(np.eye(2), t=1) == pytest.approx(-2)
    three = np.array([[1.0, 0], [1, 0], [-1, 0]])
    assert d.uniformity(three) == pytest.approx(math.log((1 + 2 * math.exp(-8)) / 3))
    assert math.isnan(d.uniformity(np.ones((1, 3))))
    with pytest.raises(ValueError, match="direction"):
        d.uniformity(np.zeros((2, 3)))


def test_uniformity_in_blocks(monkeypatch):
    x = np.random.default_rng(1).standard_normal((50, 4))
    whole = d.uniformity(x)
    monkeypatch.setattr(d, "BLOCK", 7)
    assert d.uniformity(x) == pytest.approx(whole)


def test_self_rouge_l():
    assert d.self_rouge_l(["the cat sat"] * 4) == 1
    assert d.self_rouge_l(["one two", "three four", "five six"]) == 0
    assert math.isnan(d.self_rouge_l(["alone"]))


@given(st.integers(2, 300), st.integers(1, 60), st.integers(0, 5))
def test_pairs_are_distinct_and_ordered(n, pairs, seed):
    drawn = d._drawn_pairs(n, pairs, seed)
    assert len(set(drawn)) == len(drawn) == min(pairs, n * (n - 1) // 2)
    assert all(0 <= i < j < n for i, j in drawn)


def test_pairs_are_drawn_evenly():
    hits = np.zeros((8, 8))
    for seed in range(400):
        for i, j in d._drawn_pairs(8, 7, seed):
            hits[i, j] += 1
    counts = hits[np.triu_indices(8, 1)]
    assert counts.sum() == 2800
    assert (abs(counts - 100) < 50).all()  # 5 standard deviations


def test_self_bleu():
    assert d.self_bleu(["a b c d e"] * 3) == pytest.approx(1)
    assert d.self_bleu(["a b c d", "e f g h"]) == 0
    # b against a: precisions 3/4, 2/3, 1/2 up to trigrams; a against b the same
    expected = (3 / 4 * 2 / 3 * 1 / 2) ** (1 / 3)
    assert d.self_bleu(["a b c d", "a b c x"], most=3) == pytest.approx(expected)
    # the shorter of two pays for its brevity: exp(1 - 4/2); of the longer 2/4 of words match
    assert d.self_bleu(["a b", "a b c d"], most=1) == pytest.approx((math.exp(-1) + 0.5) / 2)
    # counts are clipped: one "a" of three
    assert d.self_bleu(["a a a", "a b c"], most=1) == pytest.approx((1 / 3 + 1 / 3) / 2)
    assert math.isnan(d.self_bleu(["", "x"]))


def slow_self_bleu(texts, most):
    from collections import Counter

    tokens = [d.tokens(t) for t in texts]
    scores = []
    for i, own in enumerate(tokens):
        others = tokens[:i] + tokens[i + 1 :]
        logs = []
        for n in range(1, min(most, len(own)) + 1):
            mine = d._grams(own, n)
            clip = Counter()
            for other in others:
                clip |= d._grams(other, n)
            hit = sum(min(c, clip[g]) for g, c in mine.items())
            logs.append(math.log(hit / mine.total()) if hit else -math.inf)
        near = min((len(o) for o in others), key=lambda x: (abs(x - len(own)), x))
        scores.append(min(1, math.exp(1 - near / len(own))) * math.exp(sum(logs) / len(logs)))
    return sum(scores) / len(scores)


@given(st.lists(st.text("abc ", min_size=1, max_size=14).filter(str.strip), min_size=2, max_size=5))
def test_self_bleu_is_bleu_against_all_others(texts):
    spaced = [" ".join(t.replace(" ", "")) for t in texts]
    assert d.self_bleu(spaced, most=3) == pytest.approx(slow_self_bleu(spaced, 3))


def test_repetition():
    assert d.distinct_n(["a b a b"], 1) == 0.5
    assert d.distinct_n(["a b", "a b"], 2) == 0.5
    assert math.isnan(d.distinct_n(["a"], 2))
    varied = ["".join(chr(c) for c in np.random.default_rng(0).integers(97, 123, 3000))]
    assert d.compression_ratio(["same words again"] * 100) > 20
    assert d.compression_ratio(varied) < 2
    assert math.isnan(d.compression_ratio([]))
    assert d.compression_ratio(["\ud800 half a character"]) > 0


def test_facts_are_seeded_and_leave_out_what_needs_two():
    texts = [f"text number {i} of many" for i in range(50)]
    assert d.of_texts(texts, 20, 3) == d.of_texts(texts, 20, 3)
    assert d.of_texts(texts, 20, 3) != d.of_texts(texts, 20, 4)
    assert d.of_texts(texts, 20)["texts"] == 20
    assert d.of_texts(["one"]) == {
        "texts": 1,
        "distinct_texts": 1,
        "compression_ratio": pytest.approx(3 / 11, abs=1e-6),
    }
    assert d.of_texts([]) == {"texts": 0, "distinct_texts": 0}
