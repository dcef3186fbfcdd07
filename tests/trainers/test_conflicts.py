"""Clipped CAGrad against grids, its definition and its invariances."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.objectives.conflicts import least_gain, step_of


def problem(seed, k, rank=6):
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(k, rank)) * rng.uniform(0.2, 2, size=(k, 1))
    weights = rng.dirichlet(np.ones(k))
    return gradients, gradients @ gradients.T, weights


def value(p, gram, weights, radius):
    s = radius * np.sqrt(weights @ gram @ weights)
    return p @ gram @ weights + s * np.sqrt(np.maximum(p @ gram @ p, 0))


@given(st.integers(0, 10_000), st.floats(0.01, 0.95))
def test_two_objectives_are_never_above_the_best_of_a_grid(seed, radius):
    _, gram, weights = problem(seed, 2)
    p = least_gain(gram, weights, radius)
    assert p.min() >= 0
    assert p.sum() == pytest.approx(1)
    grid = [value(np.array([x, 1 - x]), gram, weights, radius) for x in np.linspace(0, 1, 501)]
    assert value(p, gram, weights, radius) <= min(grid) + 1e-9


@given(st.integers(0, 10_000), st.integers(3, 5), st.floats(0.01, 0.95))
def test_more_objectives_are_never_above_random_mixtures(seed, k, radius):
    _, gram, weights = problem(seed, k)
    p = least_gain(gram, weights, radius)
    assert p.min() >= 0
    assert p.sum() == pytest.approx(1)
    others = np.random.default_rng(seed).dirichlet(np.full(k, 0.5), size=2000)
    best = min(value(x, gram, weights, radius) for x in others)
    assert value(p, gram, weights, radius) <= best + 1e-9


@pytest.mark.parametrize("scale", [1e-4, 1e-3, 1e3])
def test_the_scale_of_the_gradients_changes_nothing(scale):
    gram, weights = np.array([[1.0, -0.6], [-0.6, 2.0]]), np.array([0.7, 0.3])
    at_one = least_gain(gram, weights, 0.4)
    assert 0.01 < at_one[0] < 0.99, "an interior root, which absolute tolerances lose"
    assert least_gain(gram * scale**2, weights, 0.4) == pytest.approx(at_one, abs=1e-6)


def test_opposite_gradients_cancel_and_the_weighted_sum_is_taken():
    gram = np.array([[1.0, -1.0], [-1.0, 1.0]])
    p = least_gain(gram, np.array([0.8, 0.2]), 0.9)
    assert p @ gram @ p == pytest.approx(0, abs=1e-5) or p.max() == 1
    assert step_of(np.zeros((2, 2)), np.array([0.8, 0.2]), 0.4).tolist() == [0.8, 0.2]


@given(st.integers(0, 10_000), st.floats(0.0, 0.95))
def test_the_update_gains_on_the_weighted_objective(seed, radius):
    gradients, gram, weights = problem(seed, 3)
    g0, g = weights @ gradients, step_of(gram, weights, radius) @ gradients
    assert g @ g0 >= (1 - radius) * (g0 @ g0) - 1e-9


@given(st.integers(0, 300))
def test_unclipped_it_maximises_the_worst_gain_in_the_ball(seed):
    gradients, gram, weights = problem(seed, 2)
    radius = 0.4
    g0 = weights @ gradients
    g = step_of(gram, weights, radius, clip=False) @ gradients
    assert np.linalg.norm(g - g0) <= radius * np.linalg.norm(g0) + 1e-9
    rng = np.random.default_rng(seed)
    ways = rng.normal(size=(2000, gradients.shape[1]))
    ways *= radius * np.linalg.norm(g0) / np.linalg.norm(ways, axis=1, keepdims=True)
    worst = ((g0 + ways) @ gradients.T).min(axis=1).max()
    assert (gradients @ g).min() >= worst - 1e-9


def test_without_a_radius_it_is_the_weighted_sum():
    _, gram, weights = problem(1, 3)
    assert step_of(gram, weights, 0.0).tolist() == weights.tolist()


def test_clipping_gives_no_objective_more_than_its_weight():
    _, gram, weights = problem(5, 3)
    radius = 0.5
    added = step_of(gram, weights, radius) - weights
    p = np.minimum(least_gain(gram, weights, radius), weights)
    assert added == pytest.approx(radius * np.sqrt(weights @ gram @ weights / (p @ gram @ p)) * p)


def test_too_many_objectives_are_refused():
    with pytest.raises(ValueError, match="11 objectives"):
        least_gain(np.eye(11), np.full(11, 1 / 11), 0.4)
