import numpy as np
import pytest

from filters.selection.transport import drift, target_weights, transport

RNG = np.random.default_rng(0)


def kinds(*sizes, noise=0.05, seed=0):
    """Rows of three kinds, around the axes."""
    centres = np.repeat(np.eye(3), sizes, axis=0)
    return centres + noise * np.random.default_rng(seed).normal(size=centres.shape)


def test_weights_bring_the_mix_to_the_target():
    """The specification's trial: a mix of 200, 50, 10 becomes .202, .300, .498 for .2, .3, .5."""
    rows, target = kinds(200, 50, 10), kinds(20, 30, 50, seed=1)
    weights = target_weights(rows, target)
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    assert (weights >= 0).all()
    mix = [weights[:200].sum(), weights[200:250].sum(), weights[250:].sum()]
    assert mix == pytest.approx([0.2, 0.3, 0.5], abs=0.01)


def test_weights_by_the_formula_and_in_blocks():
    rows, target = RNG.normal(size=(2100, 4)), RNG.normal(size=(30, 4))
    x, z = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (rows, target))
    kernel = np.exp((x @ z.T - 1) / 0.05)
    expected = (kernel / kernel.sum(axis=0)).mean(axis=1)
    assert target_weights(rows, target) == pytest.approx(expected, rel=1e-9)
    assert target_weights(rows[:0], target).size == 0


def test_far_targets_do_not_underflow():
    weights = target_weights(
        np.asarray([[1.0, 0], [0.9, 0.1]]), np.asarray([[-1.0, 0.0]]), eps=1e-4
    )
    assert weights == pytest.approx([0, 1])


def test_transport_to_itself_is_the_identity():
    rows = RNG.normal(size=(12, 6))
    plan, cost = transport(rows, rows, eps=0.005, iterations=500)
    assert np.diagonal(plan) == pytest.approx(np.full(12, 1 / 12), abs=1e-3)
    assert cost == pytest.approx(0, abs=1e-3)


def test_transport_keeps_both_marginals():
    weights = np.asarray([0.7, 0.2, 0.1])
    plan, cost = transport(RNG.normal(size=(3, 4)), RNG.normal(size=(5, 4)), weights, 0.2, 2000)
    assert plan.sum(axis=1) == pytest.approx(weights, abs=1e-6)
    assert plan.sum(axis=0) == pytest.approx(np.full(5, 0.2), abs=1e-6)
    assert 0 <= cost <= 2


def test_drift_is_zero_on_itself_and_grows_with_the_difference():
    same = kinds(20, 20, 20)
    assert drift(same, same) == pytest.approx(0, abs=1e-9)
    near, far = kinds(25, 20, 15, seed=2), kinds(55, 4, 1, seed=2)
    assert drift(same, near) < drift(same, far)


@pytest.mark.parametrize("eps", [0.2, 0.05])
def test_logarithms_give_the_same_plan(eps, monkeypatch):
    rows, target = RNG.normal(size=(9, 4)), RNG.normal(size=(7, 4))
    weights = np.asarray([0.0, *[1 / 8] * 8])
    plan, cost = transport(rows, target, weights, eps, 500)
    monkeypatch.setattr("filters.selection.transport.HELD", 1.0)
    again, same = transport(rows, target, weights, eps, 500)
    assert again == pytest.approx(plan, abs=1e-8)
    assert cost == pytest.approx(same)
    assert plan[0] == pytest.approx(np.zeros(7))
