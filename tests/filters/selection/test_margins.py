import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.selection.margins import margin_probability, product_rule, wanted

A = np.asarray


def test_margins_as_probabilities_are_linear_between_the_quantiles():
    found = margin_probability(A([-9.0, 0, 5, 10, 99]), (0.25, 0.75), shrink=0)
    assert found.tolist() == [0, 0, 0.5, 1, 1]
    found = margin_probability(A([-9.0, 0, 5, 10, 99]), (0.25, 0.75), shrink=0.1)
    assert found == pytest.approx([0.1, 0.1, 0.5, 0.9, 0.9])
    assert margin_probability(A([3.0, 3.0])).tolist() == [0.5, 0.5]
    assert margin_probability(A([])).size == 0


def test_product_rule():
    assert product_rule(A([0.5, 0.9, 0.8]), A([0.7, 0.5, 0.8])) == pytest.approx(
        [0.7, 0.9, 0.64 / 0.68]
    )
    assert product_rule(A([1.0, 0.0]), A([0.0, 1.0])).tolist() == [0.5, 0.5]
    assert product_rule(A([1.0, 0.0]), A([1.0, 0.0])).tolist() == [1.0, 0.0]


@given(st.lists(st.floats(0.01, 0.99), min_size=2, max_size=5))
def test_the_product_rule_adds_log_odds(p):
    odds = sum(np.log(x / (1 - x)) for x in p)
    assert product_rule(*(A([x]) for x in p))[0] == pytest.approx(1 / (1 + np.exp(-odds)))


def test_wanted():
    score = A([2.0, np.nan, 5.0, 2.0, 9.0, -1.0])
    assert wanted(score, "high").tolist() == [4, 2, 0, 3, 5, 1]
    assert wanted(score, "low").tolist() == [5, 0, 3, 2, 4, 1]
    assert wanted(score, "mid").tolist() == [0, 3, 2, 5, 4, 1]
    assert wanted(A([np.nan, np.nan]), "mid").tolist() == [0, 1]
