"""Scores from comparisons with anchors: known answers of means and of Bradley-Terry fits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit
from scipy.stats import spearmanr

from labelers.prompt_labels.anchored_scores import against_anchors, mean_outcome, strengths

NAN = np.nan


def test_mean_outcome_and_its_standard_error():
    found = mean_outcome(
        np.array([[1, 0, 0.5, NAN], [1, 1, 1, 1], [NAN, 0.5, NAN, NAN], [NAN] * 4])
    )
    assert found.score[:3].tolist() == [0.5, 1, 0.5]
    assert found.se[0] == pytest.approx(0.5 / 3**0.5)  # sd of (1, 0, .5) is .5
    assert found.se[1] == 0
    assert np.isnan([found.se[2], found.se[3], found.score[3]]).all()
    assert mean_outcome(np.empty((0, 0))).score.size == 0


def test_strengths_of_two_anchors_are_their_log_odds():
    """With hardly any prior, sigmoid(t0 - t1) is the share that the first one won."""
    t = strengths(np.array([[NAN, 0.75], [NAN, NAN]]), prior=1e-9)
    assert expit(t[0] - t[1]) == pytest.approx(0.75, abs=1e-6)
    assert t.sum() == pytest.approx(0, abs=1e-6)


def test_an_anchor_that_always_wins_stays_finite():
    t = strengths(np.array([[NAN, 1.0], [0.0, NAN]]), prior=0.1)
    assert 1 < t[0] < 10
    assert t[0] == pytest.approx(-t[1])
    assert strengths(np.full((3, 3), NAN)).tolist() == [0, 0, 0]
    assert strengths(np.empty((0, 0))).size == 0


def test_strengths_are_found_again():
    rng = np.random.default_rng(0)
    true = rng.normal(0, 1.5, 30)
    true -= true.mean()
    found = strengths(expit(true[:, None] - true[None, :]), prior=1e-9)
    assert np.allclose(found, true, atol=1e-5)


def test_a_prompt_as_strong_as_all_anchors_scores_one_half():
    found = against_anchors(np.array([[0.5, 0.5]]), np.zeros((1, 2)), np.zeros(5))
    assert found.score.tolist() == [0.5]
    # information 2 * 1/4 + .1, slope 1/4
    assert found.se[0] == pytest.approx(0.25 / 0.6**0.5)
    nothing = against_anchors(np.array([[NAN, NAN]]), np.zeros((1, 2)), np.zeros(5))
    assert np.isnan([nothing.score, nothing.se]).all()


def test_the_luck_of_the_draw_is_taken_out():
    """Two equal prompts: one met strong anchors, one weak ones."""
    pool = np.array([-2.0, -1.0, 1.0, 2.0])
    theta = np.array([[1.0, 2.0], [-1.0, -2.0]])
    outcomes = expit(0.0 - theta)
    assert np.ptp(mean_outcome(outcomes).score) > 0.5
    found = against_anchors(outcomes, theta, pool, prior=1e-9).score
    assert found == pytest.approx([0.5, 0.5], abs=1e-6)


def test_a_row_does_not_depend_on_its_company():
    rng = np.random.default_rng(2)
    outcomes = rng.choice([0, 0.5, 1, NAN], (50, 10))
    theta, pool = rng.normal(0, 3, (50, 10)), rng.normal(0, 3, 30)
    whole = against_anchors(outcomes, theta, pool)
    alone = [against_anchors(outcomes[i : i + 1], theta[i : i + 1], pool) for i in range(50)]
    assert np.array_equal(whole.score, [a.score[0] for a in alone])
    assert np.array_equal(whole.se, [a.se[0] for a in alone])


def test_anchors_shared_beat_the_mean_when_draws_are_uneven():
    rng = np.random.default_rng(1)
    pool, own = rng.normal(0, 2, 30), rng.normal(0, 1, 300)
    picks = np.stack([rng.choice(30, 4, replace=False) for _ in own])
    outcomes = rng.binomial(16, expit(own[:, None] - pool[picks])) / 16
    mean = spearmanr(mean_outcome(outcomes).score, own).statistic
    fitted = spearmanr(against_anchors(outcomes, pool[picks], pool).score, own).statistic
    assert fitted > mean + 0.05


@given(arrays(np.float64, (4, 5), elements=st.sampled_from([0, 0.5, 1, NAN])))
def test_any_outcomes_give_scores_in_range(outcomes):
    theta = np.tile(np.linspace(-2, 2, 5), (4, 1))
    for found in (mean_outcome(outcomes), against_anchors(outcomes, theta, theta[0])):
        seen = ~np.isnan(outcomes).all(axis=1)
        assert (np.isnan(found.score) == ~seen).all()
        assert ((found.score[seen] >= 0) & (found.score[seen] <= 1)).all()
