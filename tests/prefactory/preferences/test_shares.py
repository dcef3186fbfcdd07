"""Shares of wrong labels and the ranking of suspects against known answers."""

import numpy as np
import pytest
from scipy.special import expit

from prefactory.preferences import shares, trust
from prefactory.preferences.stack import Differences, Rows


def noisy_margins(rate, n=5000, seed=0, spread=2.6):
    rng = np.random.default_rng(seed)
    t = rng.normal(0, spread, n)
    right = rng.random(n) < expit(t)
    right ^= rng.random(n) < rate
    return np.where(right, t, -t)


def test_the_share_of_wrong_labels_is_the_known_one():
    margins = noisy_margins(0.15)
    assert (margins > 0).mean() == pytest.approx(0.720, abs=1e-3)
    found = shares.profile(margins, np.arange(5000))
    assert (found.value, found.low, found.high) == pytest.approx((0.13, 0.09, 0.16), abs=0.011)
    bound = shares.upper_bound(margins, np.arange(5000))
    assert 0.142 + 0.016 < bound < 0.142 + 2.2 * 0.016
    whole = shares.wrong_share(margins, np.arange(5000), 0.85)
    assert whole.estimate == found
    assert whole.refused == ""


def test_the_share_is_refused_where_the_data_cannot_tell():
    margins = noisy_margins(0.15)
    every = np.arange(5000)
    assert "AUC" in shares.wrong_share(margins, every, 0.64).refused
    assert "AUC" in shares.wrong_share(margins, every, None).refused
    assert shares.wrong_share(margins, every, 0.72).refused == ""  # .8 without the wrong labels
    assert "fewer" in shares.wrong_share(margins[:399], every[:399], 0.9).refused
    few = shares.wrong_share(noisy_margins(0.15, 1000, spread=0.7), every[:1000], 0.9)
    assert "wider" in few.refused
    assert few.estimate is None
    assert few.bound > 0
    assert shares.wrong_share(np.full(3, np.nan), np.arange(3), 0.9).bound is None


def test_clusters_of_several_rows_widen_the_interval():
    margins = noisy_margins(0.15, 600)
    copied = np.repeat(margins, 4)
    apart = shares.profile(copied, np.arange(2400))
    together = shares.profile(copied, np.repeat(np.arange(600), 4))
    assert together.value == apart.value
    assert together.high - together.low > apart.high - apart.low


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(0, 50, 0.0, 0.0714), (12, 100, 0.0700, 0.1981), (3, 200, 0.0051, 0.0432)],
)
def test_wilson_is_the_known_one(hits, n, low, high):
    found = shares.wilson(hits, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)


def test_a_judge_is_corrected_by_its_errors():
    assert shares.rogan_gladen(0.22, 0.8, 0.85) == pytest.approx(0.1077, abs=1e-4)
    found = shares.judged(110, 500, (80, 100), (85, 100))
    assert found.value == pytest.approx(0.1024, abs=1e-4)
    assert (found.low, found.high) == pytest.approx((0.0, 0.2100), abs=1e-4)
    assert shares.judged(110, 500, (20, 29), (85, 100)) is None
    assert shares.judged(110, 500, (50, 100), (50, 100)) is None


def test_predictions_add_to_checked_rows():
    truth = np.array([1.0, 0, 0, 1, 0, 0, 0, 0, 1, 0])
    predicted = np.array([0.9, 0.2, 0.1, 0.6, 0.3, 0.1, 0.2, 0.1, 0.4, 0.3])
    found, weight = shares.prediction_powered(truth, predicted, np.linspace(0, 0.8, 40))
    assert weight == 1
    assert found.value == pytest.approx(0.3800, abs=1e-4)
    assert (found.low, found.high) == pytest.approx((0.1791, 0.5809), abs=1e-4)


def test_strata_and_inclusion_probabilities_weigh_the_checked_rows():
    found = shares.stratified([15, 3, 0], [30, 30, 30], [100, 300, 600])
    assert found.value == pytest.approx(0.1 * 0.5 + 0.3 * 0.1)
    assert found.low < found.value < found.high
    every = shares.stratified([5, 1], [10, 10], [10, 10])  # all rows were checked
    assert (every.low, every.high) == (every.value, every.value)
    with pytest.raises(ValueError, match="checked"):
        shares.stratified([0, 1], [0, 10], [10, 10])
    wrong, drawn = np.array([1.0, 1, 0, 0]), np.array([0.5, 0.1, 0.5, 0.1])
    assert shares.horvitz_thompson(wrong, drawn, 100) == pytest.approx(0.12)


def test_wilson_covers_the_truth():
    rng = np.random.default_rng(5)
    found = [shares.wilson(int(x), 100) for x in rng.binomial(100, 0.095, 400)]
    assert np.mean([f.low <= 0.095 <= f.high for f in found]) > 0.92


def data(n=500, seed=0):
    rng = np.random.default_rng(seed)
    columns = rng.normal(size=(n, 3))
    right = rng.random(n) < expit(3 * columns[:, 0])
    return Differences(rng.normal(size=(n, 5)), columns).turned(~right)


def test_turned_rows_are_suspect_by_every_signal():
    truth = np.random.default_rng(3).random(500) < 0.15
    rows = Rows.of(data().turned(truth), np.arange(500))
    for signal in (trust.by_rows(rows), trust.dynamics(rows)):
        area, se = trust.auc(-signal, truth)
        assert area > 0.75
        assert 0.01 < se < 0.05
        assert trust.precision_in_top(-signal, truth) > 0.4
    both = trust.total({"rows": trust.by_rows(rows), "dynamics": trust.dynamics(rows)})
    assert trust.auc(-both, truth)[0] > 0.75


def test_the_self_test_ranks_like_real_swaps():
    clean = data(600)
    truth = np.random.default_rng(3).random(600) < 0.1

    def score(turned, seed):
        return trust.dynamics(Rows.of(clean.turned(turned), np.arange(600)))

    found = trust.self_test(score, 600)
    real, se = trust.auc(-score(truth, 0), truth)
    assert found.planted == 0.1
    assert abs(found.auc - real) < 2.5 * np.hypot(se, found.se)
    assert found == trust.self_test(score, 600)
    assert found.precision[0.05] > found.planted
    assert found.as_dict()["precision"]["0.1"] == found.precision[0.1]


def test_copies_share_a_fold_and_do_not_confirm_each_other():
    columns = np.random.default_rng(2).normal(size=(60, 30)).repeat(2, axis=0)
    noise = Differences(np.zeros((120, 0)), columns)
    rows = Rows.of(noise, np.arange(120))
    apart = trust.by_rows(rows)
    together = trust.by_rows(rows, np.arange(120) // 2)
    assert apart.mean() > together.mean() + 0.2  # apart, noise seems to be learned


def test_trust_is_bayes_rule():
    m, e = np.array([-2.0, 0.0, 0.5, 3.0]), 0.2
    by_hand = (1 - e) * expit(m) / ((1 - e) * expit(m) + e * expit(-m))
    assert trust.trust(m, 1.0, e) == pytest.approx(by_hand)
    assert trust.trust(np.zeros(2), 1.0, 0.1) == pytest.approx([0.9, 0.9])
    assert trust.trust(m, -1.0, 0.1) == pytest.approx([0.9] * 4)


def test_votes_and_normed_margins():
    assert trust.votes(np.array([3.0, 0.0]), np.array([0.0, 0.0])) == pytest.approx(
        [np.log(4), 0.0]
    )
    assert trust.normed(np.array([3.0, -4.0, np.nan])) == pytest.approx(
        np.array([3, -4, 0]) / np.sqrt(12.5)
    )
    assert trust.auc(np.array([1.0, 1.0]), np.array([True, False]))[0] == 0.5
