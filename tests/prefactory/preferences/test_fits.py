"""Bradley-Terry fits, forms, folds and verdicts against known answers."""

import numpy as np
import pytest
from scipy.special import expit

from prefactory.measures.calibration import logistic_slope
from prefactory.preferences import bradley_terry, verdict
from prefactory.preferences.clustered import clustered_mean, hits
from prefactory.preferences.folds import NONE, cluster_folds
from prefactory.preferences.stack import Differences, Rows, choose, cross_fit, fit, skill

FOUR = np.array([[1.0, 0.0], [1.0, 1.0], [-1.0, 2.0], [2.0, -1.0]])


def test_clustered_errors_are_the_known_ones():
    right = np.array([1.0, 1, 0, 1, 0, 0])
    by_cluster = clustered_mean(right, np.array([0, 0, 1, 1, 2, 2]))
    assert by_cluster.value == 0.5
    assert by_cluster.se == pytest.approx(0.2887, abs=1e-4)
    assert clustered_mean(right, np.arange(6)).se == pytest.approx(0.2236, abs=1e-4)


def test_one_cluster_and_no_rows_have_no_error():
    assert np.isnan(clustered_mean(np.ones(4), np.zeros(4)).se)
    assert clustered_mean(np.zeros(0), np.zeros(0)).as_dict()["value"] is None


@pytest.mark.parametrize(
    ("rows", "targets", "penalty", "expected"),
    [
        (np.ones((4, 1)), None, 0.1, [1.6335]),
        (np.ones((4, 1)), None, 1.0, [0.4011]),
        (np.ones((4, 1)), [1.0, 1, 1, 0], 0.1, [0.7369]),
        (np.ones((4, 1)), [0.5] * 4, 0.1, [0.0]),
        (FOUR, None, 0.1, [1.1925, 1.0792]),
        (FOUR, None, np.array([1.0, 0.1]), [0.3523, 0.6996]),
    ],
)
def test_weights_are_the_known_ones(rows, targets, penalty, expected):
    t = None if targets is None else np.array(targets)
    assert bradley_terry.fit(rows, penalty, t) == pytest.approx(expected, abs=1e-4)


def test_the_dual_gives_what_the_primal_gives():
    rng = np.random.default_rng(3)
    z = rng.normal(size=(30, 50))
    penalty = np.repeat([0.5, 0.05], 25)
    found = bradley_terry.fit(z, penalty)  # fewer rows than columns: dual
    root = np.sqrt(penalty)
    primal = bradley_terry._primal(z / root, np.ones(30), np.full(30, 1 / 30)) / root
    assert found == pytest.approx(primal, abs=1e-7)


def test_a_weight_is_a_number_of_copies():
    weights = np.array([1.0, 2, 1, 3])
    copies = np.repeat(FOUR, [1, 2, 1, 3], axis=0)
    assert bradley_terry.fit(FOUR, 0.1, weights=weights) == pytest.approx(
        bradley_terry.fit(copies, 0.1), abs=1e-8
    )


def test_the_slope_of_three_right_and_one_wrong():
    smoothed = logistic_slope(np.array([1.0, 1, 1, -1]))
    assert smoothed == pytest.approx(0.6931, abs=1e-4)


def planted():
    rng = np.random.default_rng(0)
    n = 600
    vectors = rng.normal(size=(n, 40))
    columns = rng.normal(size=(n, 3)) * [1, 10, 0.1]
    t = 0.12 * vectors[:, :20].sum(1) + 0.8 * columns[:, 0]
    turned = ~(rng.random(n) < expit(t))
    data = Differences(vectors, columns).turned(turned)
    return Rows.of(data, np.arange(n) // 2), np.where(turned, -t, t)


@pytest.mark.parametrize(
    ("form", "expected"), [("statistics", 0.610), ("joint", 0.617), ("stack", 0.650)]
)
def test_planted_preferences_are_found_as_far_as_they_can_be(form, expected):
    rows, truth = planted()
    found = skill(cross_fit(rows, form).margins, rows.clusters)
    assert found.accuracy.value == pytest.approx(expected, abs=0.03)
    assert hits(truth).mean() == pytest.approx(0.672, abs=0.01)
    assert not found.teaches_nothing


def told_by(vectors, columns, seed, n=200):
    """Labels that follow a vector, a column or both by so much, and 39 vectors of noise."""
    rng = np.random.default_rng(seed)
    v, c = rng.normal(size=(n, 40)), rng.normal(size=(n, 1))
    turned = ~(rng.random(n) < expit(vectors * v[:, 0] + columns * c[:, 0]))
    return Rows.of(Differences(v, c).turned(turned), np.arange(n) // 2)


def test_a_form_has_to_be_better_than_simpler_ones_by_more_than_an_error():
    by_column = [choose(told_by(0.0, 1.0, seed)) for seed in range(6)]
    assert by_column == ["statistics"] * 6
    by_vector = [choose(told_by(6.0, 0.0, seed)) for seed in range(6)]
    assert "statistics" not in by_vector
    both = [choose(told_by(6.0, 6.0, seed)) for seed in range(6)]
    assert "statistics" not in both


def turn(rows, where):
    return Rows(
        rows.data.turned(where),
        rows.clusters,
        np.where(where, 1 - rows.targets, rows.targets),
        rows.weights,
    )


@pytest.mark.parametrize("form", ["auto", "statistics", "joint", "stack"])
def test_turning_pairs_round_changes_no_weight(form):
    rows, _ = planted()
    rows = rows.take(np.arange(160))
    where = np.random.default_rng(1).random(len(rows)) < 0.5
    a, b = fit(rows, form), fit(turn(rows, where), form)
    assert a.form == b.form
    assert a.column_weights == pytest.approx(b.column_weights, abs=1e-10)
    assert a.vector_weights == pytest.approx(b.vector_weights, abs=1e-10)
    back = rows.data.turned(np.ones(len(rows), bool))
    assert (a.scores(back) == -a.scores(rows.data)).all()


def test_constant_columns_get_no_weight():
    rows, _ = planted()
    data = Differences(rows.data.vectors, np.c_[rows.data.columns, np.zeros(len(rows))])
    for form in ("statistics", "joint", "stack"):
        assert fit(Rows.of(data, rows.clusters), form).column_weights[-1] == 0


def test_without_vectors_the_form_is_statistics():
    rows, _ = planted()
    data = Differences(np.zeros((len(rows), 0)), rows.data.columns)
    assert fit(Rows.of(data, rows.clusters), "stack").form == "statistics"


def test_a_slope_moves_every_weight():
    rows, _ = planted()
    model = fit(rows, "joint")
    assert model.times(2.0).scores(rows.data) == pytest.approx(2 * model.scores(rows.data))


def test_folds_hold_clusters_together_and_do_not_follow_the_order():
    clusters = np.array(list("aabbccddeeff"))
    fold = cluster_folds(clusters, 4)
    assert set(fold) == {0, 1, 2, 3, 4}
    assert (fold[::2] == fold[1::2]).all()
    order = np.random.default_rng(2).permutation(12)
    assert (cluster_folds(clusters[order], 4) == fold[order]).all()
    assert set(cluster_folds(np.array([0, 1, 1]), 0)) == {0, 1}
    assert (cluster_folds(np.zeros(3), 0) == NONE).all()


def test_one_cluster_has_no_held_out_margin_and_teaches_nothing():
    rows, _ = planted()
    alone = Rows.of(rows.data, np.zeros(len(rows)))
    found = cross_fit(alone, "joint")
    assert np.isnan(found.margins).all()
    assert skill(found.margins, alone.clusters).teaches_nothing
    assert fit(alone, "stack").column_weights.any()  # the model of all rows is still there


def test_pure_noise_and_inverse_margins_teach_nothing():
    rng = np.random.default_rng(1)
    assert skill(-np.abs(rng.normal(size=50)), np.arange(50)).teaches_nothing
    clear = skill(np.abs(rng.normal(size=50)), np.arange(50))
    assert not clear.teaches_nothing
    assert clear.as_dict()["accuracy"]["value"] == 1.0


def opinion_of(strength, of_length, anchor):
    rng = np.random.default_rng(0)
    m, length = rng.normal(size=400), rng.normal(size=400)
    first = rng.random(400) < expit(strength * m + of_length * length)
    sign = np.where(first, 1.0, -1.0)
    second = rng.random(400) < expit(-2 * length)
    if anchor is not None:
        sign = np.where(second, 1.0, -1.0)
        m = anchor * m + length
    return m * sign, length * sign, np.arange(400) // 2


def test_labels_that_follow_the_opinion_agree_and_their_inverse_is_inverted():
    m, length, clusters = opinion_of(0.8, 0.5, None)
    found = verdict.judge(m, length, clusters)
    assert found.verdict == "agrees"
    assert found.agreement.value == pytest.approx(0.642, abs=1e-3)
    assert (found.agreement.low, found.agreement.high) == pytest.approx((0.600, 0.685), abs=1e-3)
    assert found.given_length == pytest.approx(5.59, abs=0.01)
    assert verdict.judge(-m, -length, clusters).verdict == "inverted"


def test_labels_that_only_prefer_the_shorter_answer_are_against():
    found = verdict.judge(*opinion_of(0.8, 0.5, 0.5))
    assert found.verdict == "against"
    assert found.agreement.value == pytest.approx(0.245, abs=1e-3)
    assert (found.agreement.low, found.agreement.high) == pytest.approx((0.205, 0.285), abs=1e-3)
    assert found.given_length == pytest.approx(-1.15, abs=0.01)
    assert found.shorter > 0.7


def test_few_rows_few_clusters_and_an_opinion_that_is_length_are_not_enough():
    m, length, clusters = opinion_of(0.8, 0.5, None)
    assert verdict.judge(m[:49], length[:49], clusters[:49]).verdict == "unknown"
    assert verdict.judge(m, length, clusters % 9).verdict == "unknown"
    assert verdict.judge(-m[:199], -length[:199], clusters[:199]).verdict == "against"
    assert verdict.judge(length, length, clusters).given_length == 0.0
