import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from filters.selection.information import (
    combine,
    entropy,
    gumbel_keys,
    information,
    quotas,
    scale,
    select,
    trimmed,
)

LOGLIK = np.random.default_rng(0).normal(-20, 5, size=300)
SCALINGS = ["unit", "minus_one"]


def shannon(p):
    return -sum(x * np.log(x) for x in p)


@pytest.mark.parametrize(("scaling", "low", "high"), [("unit", 0, 1), ("minus_one", -1, 0)])
def test_scale_reaches_both_ends(scaling, low, high):
    scaled = scale(LOGLIK, scaling)
    assert scaled.min() == low
    assert scaled.max() == high
    assert (np.argsort(scaled) == np.argsort(LOGLIK)).all()


def test_scale_of_equal_likelihoods_is_constant():
    assert scale(np.array([-3.0, -3.0 - 1e-12])).tolist() == [1.0, 1.0]
    assert scale(np.array([-3.0]), "minus_one").tolist() == [0.0]
    assert scale(np.zeros(0)).size == 0


@pytest.mark.parametrize("scaling", SCALINGS)
def test_pointwise_raw_is_minus_p_log_p_and_falls_with_the_likelihood(scaling):
    scaled = scale(LOGLIK, scaling)
    p = np.exp(scaled)
    change = information(scaled, "pointwise_raw")
    np.testing.assert_allclose(change, -p * np.log(p), rtol=0, atol=1e-12)
    assert spearmanr(change, LOGLIK).statistic == pytest.approx(-1, abs=1e-12)
    by_loop = [
        entropy(scaled, normalised=False) - entropy(np.delete(scaled, i), normalised=False)
        for i in range(20)
    ]
    np.testing.assert_allclose(change[:20], by_loop, rtol=0, atol=1e-10)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_pointwise_normalised_is_minus_q_log_q_and_rises_with_the_likelihood(scaling):
    scaled = scale(LOGLIK, scaling)
    q = np.exp(scaled) / np.exp(scaled).sum()
    change = information(scaled, "pointwise_normalised")
    np.testing.assert_allclose(change, -q * np.log(q), rtol=0, atol=1e-12)
    assert spearmanr(change, LOGLIK).statistic == pytest.approx(1, abs=1e-12)
    assert change.sum() == pytest.approx(entropy(scaled), abs=1e-12)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("n", [2, 3, 300])
def test_leave_one_out_is_the_recomputed_entropy(scaling, n):
    scaled = scale(LOGLIK[:n], scaling)
    change = information(scaled, "leave_one_out")
    p = np.exp(scaled)
    brute = []
    for i in range(n):
        rest = np.delete(p, i)
        brute.append(shannon(p / p.sum()) - shannon(rest / rest.sum()))
    np.testing.assert_allclose(change, brute, rtol=0, atol=1e-10)


def test_the_three_readings_rank_differently():
    scaled = scale(LOGLIK)
    change = information(scaled, "leave_one_out")
    assert abs(spearmanr(change, LOGLIK).statistic) < 0.99


def test_entropy_of_equal_elements_is_log_n():
    assert entropy(np.zeros(8)) == pytest.approx(np.log(8))
    assert entropy(np.zeros(0)) == 0
    assert entropy(np.array([-1.0, -1.0]), normalised=False) == pytest.approx(2 / np.e)


@pytest.mark.parametrize("mode", ["pointwise_normalised", "leave_one_out"])
def test_one_element_carries_nothing(mode):
    assert information(np.array([1.0]), mode).tolist() == [0.0]
    assert information(np.zeros(0), mode).size == 0


def test_combine():
    a, b = np.array([1.0, 4.0]), np.array([3.0, 2.0])
    assert combine(a, b, "mean").tolist() == [2, 3]
    assert combine(a, b, "sum").tolist() == [4, 6]
    assert combine(a, b, "min").tolist() == [1, 2]
    assert combine(a, b, "max").tolist() == [3, 4]


def test_trimmed_marks_the_lowest_share():
    loglik = np.arange(201.0)[::-1]
    assert np.flatnonzero(trimmed(loglik, 0.01)).tolist() == [199, 200]
    assert not trimmed(np.arange(100.0), 0.01).any()
    assert not trimmed(np.zeros(500), 0.01).any()
    assert not trimmed(loglik, 0).any()
    assert not trimmed(np.zeros(0), 0.01).any()


def test_quotas_by_largest_remainder():
    assert quotas(np.array([50, 30, 20]), 10).tolist() == [5, 3, 2]
    assert quotas(np.array([5, 3, 2]), 3).tolist() == [1, 1, 1]
    assert quotas(np.array([1, 1, 1]), 2).tolist() == [1, 1, 0]
    assert quotas(np.array([1, 99]), 0).tolist() == [0, 0]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.floats(0, 1))
def test_quotas_fill_the_budget_within_sizes(sizes, share):
    sizes = np.array(sizes)
    k = int(share * sizes.sum())
    places = quotas(sizes, k)
    assert places.sum() == k
    assert (places <= sizes).all()
    assert (np.abs(places - sizes * k / sizes.sum()) < 1).all()


def test_select_takes_the_largest_keys():
    keys, uniform = np.array([1.0, 3.0, 2.0, 3.0]), np.array([0.1, 0.2, 0.3, 0.4])
    assert select(keys, 1, uniform).tolist() == [False, False, False, True]
    assert select(keys, 3, uniform).tolist() == [False, True, True, True]
    assert select(keys, 0, uniform).tolist() == [False] * 4
    assert select(keys, 9, uniform).tolist() == [True] * 4
    last = np.array([False, True, False, True])
    assert select(keys, 3, uniform, last=last).tolist() == [True, False, True, True]
    groups = np.array([0, 1, 0, 1])
    assert select(keys, 2, uniform, groups).tolist() == [False, False, True, True]


def test_gumbel_sample_follows_the_weights():
    uniform = np.random.default_rng(0).random((20_000, 3))
    first = np.argmax([gumbel_keys(np.array([1.0, 2.0, 7.0]), u) for u in uniform], axis=1)
    np.testing.assert_allclose(np.bincount(first) / 20_000, [0.1, 0.2, 0.7], atol=0.01)
    keys = gumbel_keys(np.array([0.0, 1e-9]), np.array([0.999999, 0.0]))
    assert np.isfinite(keys).all()
    assert keys.argmax() == 1
