"""Drift of stances: known times and magnitudes, intervals, chance."""

import numpy as np
import pytest

from prefactory.measures.value_drift import drift_time, value_drift

AT = np.linspace(0, 1, 11)
SUPPORT, OPPOSE = np.eye(4)[0], np.eye(4)[2]


def way(parts):
    return np.asarray([(1 - t) * SUPPORT + t * OPPOSE for t in parts])


@pytest.mark.parametrize(
    ("parts", "time"),
    [
        ([0] * 3 + [1] * 8, 0.3),
        (np.linspace(0, 1, 11), 1.0),
        ([0] * 11, 0.0),
        ([0] + [1] * 4 + [0] + [1] * 5, 0.6),
        ([0, 0.5, 0.96] + [1] * 8, 0.2),
    ],
)
def test_time_is_when_it_arrives_for_good(parts, time):
    assert drift_time(way(parts), AT) == pytest.approx(time)


def test_magnitude_is_signed_and_chance_is_told_apart():
    questions = np.repeat(way([0] * 3 + [1] * 8)[:, None], 20, axis=1)
    questions[:, :10] = way([0] * 11)[:, None]  # half of them never move
    found = value_drift(questions, AT, seed=0)
    assert found.magnitude.tolist() == [-0.5, 0, 0.5, 0]
    assert (found.size, found.time, found.questions) == (0.5, pytest.approx(0.3), 20)
    low, high = found.magnitude_interval[2]
    assert low < 0.5 < high
    assert 0.1 < high - low < 0.6
    assert found.p < 0.01
    assert value_drift(questions, AT, seed=0).size_interval == found.size_interval


def test_noise_is_no_drift():
    rng = np.random.default_rng(1)
    shares = rng.dirichlet(np.ones(4), size=(3, 40))
    ps = [
        value_drift(rng.permuted(shares, axis=0), np.asarray([0, 0.5, 1]), s).p for s in range(20)
    ]
    assert np.mean(ps) > 0.2
    assert value_drift(shares, np.asarray([0, 0.5, 1]), 0).size > 0, "though its size is not 0"


def test_turning_training_round_turns_the_sign():
    rng = np.random.default_rng(2)
    shares = rng.dirichlet(np.ones(4), size=(2, 30))
    there, back = (value_drift(s, np.asarray([0.0, 1.0]), 0) for s in (shares, shares[::-1]))
    assert there.magnitude.tolist() == pytest.approx((-back.magnitude).tolist())
    assert there.size == pytest.approx(back.size)
    assert there.magnitude.sum() == pytest.approx(0)


def test_questions_without_answers_are_left_out():
    shares = np.full((2, 3, 4), 0.25)
    shares[1, 0] = np.nan
    assert value_drift(shares, np.asarray([0.0, 1.0]), 0).questions == 2
    shares[:] = np.nan
    with pytest.raises(ValueError, match="no question has answers"):
        value_drift(shares, np.asarray([0.0, 1.0]), 0)
    with pytest.raises(ValueError, match="at 3 checkpoints"):
        value_drift(shares, AT[:3], 0)
