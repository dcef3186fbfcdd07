import numpy as np
import polars as pl
import pytest
from scipy.special import expit

from prefactory.measures.win_rate import (
    controlled_win_rate,
    length_control,
    length_controlled_win_rate,
    style_control,
)


def biased(n=20_000, seed=0, skill=0.0, bias=2.0, mean=0.4):
    """A judge that wants length: P(win) = sigmoid(skill + bias tanh(dlen / sd))."""
    rng = np.random.default_rng(seed)
    length = rng.normal(mean, 1, n) * 100
    p = expit(skill + bias * length_control(length))
    return (rng.random(n) < p).astype(float), length


def test_a_judge_that_sees_length_alone_finds_both_sides_equal():
    """The figure of the specification: raw .626, length-controlled near .5."""
    wins, length = biased(mean=0.51)
    found = length_controlled_win_rate(wins, length)
    assert found.raw == pytest.approx(0.626, abs=0.01)
    assert found.controlled == pytest.approx(0.5, abs=3 * found.controlled_se)
    assert found.controlled_se < 0.005
    assert found.low < 0.5 < found.high
    assert found.effects[0] == pytest.approx(2, abs=0.1)
    assert found.n == 20_000


def test_skill_is_left_when_length_is_taken_away():
    wins, length = biased(skill=0.5)
    found = length_controlled_win_rate(wins, length)
    assert found.controlled == pytest.approx(float(expit(0.5)), abs=3 * found.controlled_se)
    turned = length_controlled_win_rate(1 - wins, -length)
    assert turned.controlled == pytest.approx(1 - found.controlled, abs=1e-6)
    assert turned.effects == pytest.approx(found.effects, abs=1e-6)
    assert length_controlled_win_rate(wins, length / 7).controlled == pytest.approx(
        found.controlled
    )


def test_difficulty_stays():
    rng = np.random.default_rng(1)
    n = 20_000
    length, hard = rng.normal(0.5, 1, n), rng.normal(0, 1, n)
    truth = 0.3 - hard
    wins = (rng.random(n) < expit(truth + length_control(length))).astype(float)
    found = length_controlled_win_rate(wins, length, hard)
    assert found.controlled == pytest.approx(float(expit(truth).mean()), abs=0.012)


def test_errors_are_those_of_repeated_experiments():
    found = [length_controlled_win_rate(*biased(400, seed, 0.3)) for seed in range(200)]
    spread = np.std([f.controlled for f in found])
    assert np.mean([f.controlled_se for f in found]) == pytest.approx(spread, rel=0.15)
    assert 0.9 <= np.mean([f.low <= expit(0.3) <= f.high for f in found]) <= 0.99


def test_copies_in_a_group_add_nothing():
    wins, length = biased(500)
    one = length_controlled_win_rate(wins, length)
    groups = pl.Series(list(range(500)) * 3)
    three = length_controlled_win_rate(np.tile(wins, 3), np.tile(length, 3), groups=groups)
    assert three.controlled == pytest.approx(one.controlled)
    assert three.controlled_se == pytest.approx(one.controlled_se, rel=1e-6)
    assert three.raw_se == pytest.approx(one.raw_se)


def test_no_difference_in_length_is_the_raw_rate():
    wins = np.array([1, 0, 0.5, 1])
    found = length_controlled_win_rate(wins, np.zeros(4))
    assert found.controlled == pytest.approx(0.625)
    assert found.raw == 0.625
    assert found.effects == (0.0,)


def test_length_that_decides_everything_stays_finite():
    length = np.linspace(-1, 1, 50)
    found = length_controlled_win_rate((length > 0).astype(float), length)
    assert found.controlled == pytest.approx(0.5, abs=1e-6)
    assert np.isfinite(found.effects).all()
    assert 0 <= found.low <= found.high <= 1


def test_style_controls():
    one, two = np.array([10.0, 0.0, 3.0]), np.array([30.0, 0.0, 1.0])
    found = style_control(one, two)
    raw = np.array([-0.5, 0, 0.5])
    assert found == pytest.approx((raw - raw.mean()) / raw.std())
    assert style_control(one, one).tolist() == [0, 0, 0]
    assert style_control(np.zeros(0), np.zeros(0)).shape == (0,)
    dense = style_control(np.array([1.0, 0.0]), np.array([0.0, 0.0]), extra=1)
    assert dense == pytest.approx([1, -1])


def test_wrong_input():
    with pytest.raises(ValueError, match="2 verdicts, 3 rows of controls"):
        controlled_win_rate(np.zeros(2), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="0 verdicts"):
        controlled_win_rate(np.zeros(0), np.zeros((0, 1)))
    with pytest.raises(ValueError, match="controls finite"):
        controlled_win_rate(np.zeros(1), np.full((1, 1), np.nan))
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        controlled_win_rate(np.array([1.5]), np.zeros((1, 1)))
