"""The expected gain of a label: its value, both ways to compute it, and what it is good for."""

import numpy as np
import pytest
from scipy.special import expit

from prefactory.preferences.gain import _gains, gains
from prefactory.preferences.stack import Differences, Rows, fit


def test_it_is_half_the_growth_of_the_log_determinant():
    rng = np.random.default_rng(0)
    z, curve = rng.normal(size=(30, 6)), rng.uniform(0.05, 0.25, 30)
    whole = np.eye(6) + (z * curve[:, None]).T @ z
    grown = [
        np.linalg.slogdet(whole + c * np.outer(r, r))[1] for r, c in zip(z, curve, strict=True)
    ]
    assert _gains(z, curve) == pytest.approx((np.array(grown) - np.linalg.slogdet(whole)[1]) / 2)


def test_more_columns_than_rows_are_the_same_by_the_other_system():
    rng = np.random.default_rng(1)
    z, curve = rng.normal(size=(12, 40)), rng.uniform(0.05, 0.25, 12)
    whole = np.linalg.inv(np.eye(40) + (z * curve[:, None]).T @ z)
    wanted = 0.5 * np.log1p(curve * np.einsum("ni,ij,nj->n", z, whole, z))
    assert _gains(z, curve) == pytest.approx(wanted)


def test_equal_answers_tell_nothing_and_turning_a_pair_round_changes_nothing():
    rng = np.random.default_rng(2)
    columns = rng.normal(size=(50, 3))
    columns[0] = 0.0
    data, margins = Differences(np.zeros((50, 0)), columns), rng.normal(size=50)
    found = gains(data, margins)
    assert found[0] == 0.0
    assert (found[1:] > 0).all()
    turned = np.arange(50) % 2 == 0
    assert gains(data.turned(turned), np.where(turned, -margins, margins)) == pytest.approx(found)
    margins[3] = np.nan
    assert np.isnan(gains(data, margins)[3])


def test_labels_that_gain_most_teach_more_than_random_ones():
    better = 0
    for seed in range(10):
        rng = np.random.default_rng([seed, 3])
        w = rng.normal(size=8)
        columns = rng.normal(size=(600, 8)) * rng.choice([0.2, 2.0], (600, 1), p=[0.8, 0.2])
        right = rng.random(600) < expit(columns @ w)
        columns[~right] *= -1
        data = Differences(np.zeros((600, 0)), columns)
        worth = gains(data, rng.normal(scale=1e-3, size=600))  # nothing is known yet

        def skill(rows, data=data, w=w):
            model = fit(Rows.of(data.take(rows), rows), "statistics")
            weights = model.column_weights / model.column_scales
            return weights @ w / np.linalg.norm(weights) / np.linalg.norm(w)

        drawn = rng.permutation(600)[:40]
        better += skill(np.argsort(-worth)[:40]) > skill(drawn)
    assert better >= 8
