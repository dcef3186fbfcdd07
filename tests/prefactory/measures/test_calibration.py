import numpy as np
import polars as pl
import pytest
from scipy.special import expit

from prefactory.measures.calibration import calibration_errors, pairwise_accuracy, reliability


def calibrated(n=20_000, seed=0):
    """Margins N(1, 1.5); the outcome is drawn with the probability that the margin states."""
    rng = np.random.default_rng(seed)
    gap = rng.normal(1, 1.5, n)
    return np.where(rng.random(n) < expit(gap), gap, -gap)


def test_known_bins():
    # sigmoid(log 3) = .75 twice right and once wrong, over both orders
    margins = np.log(3) * np.array([1.0, 1.0, -1.0])
    table = reliability(margins, bins=4)
    assert table["n"].to_list() == [3, 3]
    assert table["low"].to_list() == [0.25, 0.75]
    assert table["mean_p"].to_list() == pytest.approx([0.25, 0.75])
    assert table["mean_y"].to_list() == pytest.approx([1 / 3, 2 / 3])
    found = calibration_errors(margins, bins=4)
    assert (found.ece, found.ace, found.mce) == pytest.approx((1 / 12, 1 / 12, 1 / 12))


def test_ece_weighs_bins_by_size_and_ace_does_not():
    margins = np.array([0.0, 0.0, 0.0, 50.0])  # p = .5 six times (gap 0), p = 1 and 0 once (gap 0)
    assert calibration_errors(margins).mce == pytest.approx(0)
    margins = np.array([0.0, 0.0, 0.0, -50.0])  # sure and wrong
    found = calibration_errors(margins)
    assert (found.ece, found.ace, found.mce) == pytest.approx((2 / 8, 2 / 3, 1.0))


def test_constant_half_is_perfectly_calibrated():
    assert calibration_errors(np.zeros(100)).ece == 0


@pytest.mark.parametrize(("factor", "ece"), [(1.0, 0.0054), (0.3, 0.1662), (3.0, 0.133)])
def test_ece_sees_the_scale_of_the_margins_and_accuracy_does_not(factor, ece):
    margins = calibrated() * factor
    assert calibration_errors(margins).ece == pytest.approx(ece, abs=5e-5)
    assert pairwise_accuracy(margins)[0] == pytest.approx(0.77, abs=0.002)


def test_one_order_only_would_call_a_calibrated_model_bad():
    assert (1 - expit(calibrated())).mean() == pytest.approx(0.3157, abs=5e-5)


@pytest.mark.parametrize("bins", [1, 5, 10, 20])
def test_both_orders_make_probabilities_and_outcomes_sum_alike(bins):
    table = reliability(np.random.default_rng(0).normal(size=50), bins)
    assert table["n"].sum() == 100
    assert (table["mean_p"] * table["n"]).sum() == pytest.approx(50)
    assert (table["mean_y"] * table["n"]).sum() == pytest.approx(50)


def test_accuracy_counts_a_tie_as_one_half():
    assert pairwise_accuracy(np.array([1.0, 2.0, -1.0, 0.0]))[0] == 0.625


def test_standard_error_is_binomial_for_single_pairs():
    margins = np.array([1.0] * 80 + [-1.0] * 20)
    alone = pl.Series([str(i) for i in range(100)])
    assert pairwise_accuracy(margins)[1] == pytest.approx(0.04)
    assert pairwise_accuracy(margins, alone)[1] == pytest.approx(0.04)


def test_standard_error_is_the_same_number_every_time():
    rng = np.random.default_rng(0)
    margins = rng.normal(size=2000)
    prompts = pl.Series([str(i) for i in rng.integers(0, 900, 2000)])
    assert len({pairwise_accuracy(margins, prompts) for _ in range(20)}) == 1


def test_pairs_of_one_prompt_are_no_independent_evidence():
    margins = np.repeat([1.0, -1.0], [80, 20])
    prompts = pl.Series([str(i // 4) for i in range(100)])  # 25 prompts of 4 pairs that agree
    assert pairwise_accuracy(margins, prompts)[1] == pytest.approx(np.sqrt(0.8 * 0.2 / 25))
