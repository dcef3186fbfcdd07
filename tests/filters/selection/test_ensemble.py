import numpy as np
import pytest
from scipy.optimize import minimize

from filters.selection.ensemble import (
    binary_entropy,
    fit_head,
    poisson_weights,
    sigmoid,
    uncertainty,
)

A = np.asarray


def test_entropy():
    found = binary_entropy(A([0, 0.5, 1, 0.25]))
    assert found == pytest.approx([0, np.log(2), 0, 0.5623351446])


def test_agreement_is_not_disagreement():
    """Two sure members who contradict each other; two who are both undecided; two who agree."""
    found = uncertainty(A([[0.0, 1.0], [0.5, 0.5], [0.9, 0.9]]))
    assert found.entropy == pytest.approx([np.log(2), np.log(2), 0.3250829734])
    assert found.mutual_information == pytest.approx([np.log(2), 0, 0])


def test_only_members_that_are_heard_count():
    heard = A([[True, True, False], [True, True, True]])
    found = uncertainty(A([[0.2, 0.4, 0.99], [0.2, 0.4, 0.9]]), heard)
    two, three = uncertainty(A([[0.2, 0.4]])), uncertainty(A([[0.2, 0.4, 0.9]]))
    assert found.entropy == pytest.approx([two.entropy[0], three.entropy[0]])
    assert found.mutual_information[0] == pytest.approx(two.mutual_information[0])


def test_sigmoid_does_not_overflow():
    assert sigmoid(A([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]


def test_poisson_weights():
    draws = (np.arange(100_000) + 0.5) / 100_000
    weights = poisson_weights(draws)
    assert weights.mean() == pytest.approx(1, abs=1e-3)
    assert (weights == 0).mean() == pytest.approx(np.exp(-1), abs=1e-4)
    assert weights.var() == pytest.approx(1, abs=1e-2)


def test_head_is_the_minimum():
    rng = np.random.default_rng(0)
    gaps = rng.normal(size=(80, 5)) + A([1.0, 0, 0, 0.5, 0])
    weights = rng.integers(0, 3, size=80).astype(float)

    def loss(head):
        value = (weights * np.logaddexp(0, -gaps @ head)).sum() / weights.sum()
        return value + 0.05 * head @ head

    best = minimize(loss, np.zeros(5), tol=1e-12)
    head, hessian = fit_head(gaps, weights, 0.1)
    assert head == pytest.approx(best.x, abs=1e-4)
    assert loss(head) <= best.fun + 1e-9
    for start in ((head, hessian), (10 - head, hessian), (head, np.eye(5)), (head, np.eye(5) / 99)):
        assert fit_head(gaps, weights, 0.1, start)[0] == pytest.approx(head, abs=1e-5)
    assert not fit_head(gaps, 0 * weights, 0.1)[0].any()


def test_separable_pairs_give_a_finite_head():
    assert np.isfinite(fit_head(np.ones((10, 3)) * 50, np.ones(10), 1e-3)[0]).all()
