import numpy as np
import pytest

from labelers.heads.directional import (
    bias_direction,
    guided,
    guided_reward,
    learn_direction,
    within_prompts,
    without_direction,
)
from prefactory.errors import DataError

RNG = np.random.default_rng(0)
E = RNG.normal(size=(6, 5))
A = RNG.normal(size=(6, 5))
B = RNG.normal(size=5)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_known_answers():
    assert guided(E, B, omega=1) == pytest.approx(unit(E + B))
    assert guided(E, B, omega=0) == pytest.approx(unit(E - B))
    for omega in (0, 1, 1.5):
        assert guided(E, np.zeros(5), omega) == pytest.approx(unit(E))
    assert guided_reward(E, A, np.zeros(5)) == pytest.approx((unit(E) * unit(A)).sum(1))
    plus, minus = unit(np.array([1.0, 1])), unit(np.array([1.0, -1]))
    found = guided(np.array([[1.0, 0]]), np.array([0.0, 1]))
    assert found[0] == pytest.approx(minus + 1.5 * (plus - minus))


def test_rewards_are_cosines_whatever_the_lengths():
    found = guided_reward(E, A * 7, B)
    assert (np.abs(found) <= 1).all()
    assert found == pytest.approx(guided_reward(E, A, B))
    assert np.isfinite(guided_reward(np.zeros((1, 5)), np.zeros((1, 5)), np.zeros(5))).all()


def test_the_learned_direction_is_a_maximum():
    drift = np.array([0.0, 0, 0, 0, 1])
    answers = unit(unit(E) + 1.5 * drift)
    b = learn_direction(E, answers, penalty=1e-3)

    def objective(b):
        return guided_reward(E, answers, b).mean() - 1e-3 * (b**2).sum()

    assert objective(b) > objective(np.zeros(5)) + 0.1
    for axis in np.eye(5):
        for step in (1e-2, -1e-2):
            assert objective(b) >= objective(b + step * axis)
    assert unit(b)[4] > 0.9  # it is the way the answers drift
    assert learn_direction(E, answers, penalty=1e-3).tolist() == b.tolist()
    with pytest.raises(DataError, match="do not fit"):
        learn_direction(E, answers[:3])


def test_a_projected_reward_does_not_move_along_the_direction():
    w = RNG.normal(size=5)
    h = without_direction(E, B)
    moved = without_direction(E + 3.7 * B, B)
    assert (moved @ w) == pytest.approx(h @ w)
    assert (h @ B) == pytest.approx(np.zeros(6), abs=1e-12)
    assert without_direction(h, B) == pytest.approx(h)
    assert without_direction(E, np.zeros(5)).tolist() == E.tolist()


def found_direction(hidden, nuisance, groups):
    states, cause = within_prompts(hidden, nuisance, groups)
    return bias_direction(cause @ states, float(cause @ cause), float(nuisance @ nuisance))


def test_the_bias_direction_is_that_of_the_nuisance_within_prompts():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(200), 4)
    length = rng.normal(size=800) + 5 * np.repeat(rng.normal(size=200), 4)
    true = unit(np.array([1.0, -2, 0, 0.5]))
    topic = np.repeat(rng.normal(size=(200, 4)), 4, axis=0) * 3 * length.reshape(-1, 4).mean()
    hidden = topic + np.outer(length, true) + 0.1 * rng.normal(size=(800, 4))
    found = found_direction(hidden, length, groups)
    assert found @ true > 0.999
    # a reward that liked length likes only the rest, on pairs that differ in length alone
    w = true + np.array([0, 0, 1.0, 0])
    longer = without_direction(hidden + 2 * true, found) @ w - without_direction(hidden, found) @ w
    assert np.abs(longer).max() < 0.1 < 2 * true @ w


def test_a_nuisance_that_does_not_vary_within_prompts_has_no_direction():
    alike = np.array([1, 1, 2, 2, 3, 3.0])
    assert found_direction(E, alike, np.repeat([0, 1, 2], 2)).tolist() == [0.0] * 5
