"""Sums in whatever pieces and order: the same bits, and the true sum."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefactory.measures import exact

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(NUMBERS, max_size=40), st.integers(0, 40), st.randoms())
def test_terms_have_the_very_sum(values, cut, rng):
    values = [v for v in values if abs(v) < 1e300 and (v == 0 or abs(v) > 1e-290)]
    true = float(sum(map(Fraction, values)))
    rng.shuffle(values)
    pieces = [exact.terms(np.array(piece)) for piece in (values[:cut], values[cut:])]
    assert math.fsum(x for piece in pieces for x in piece) == true


def test_terms_are_few():
    values = np.random.default_rng(0).normal(size=100_000)
    found = exact.terms(values)
    assert len(found) < 100
    assert math.fsum(found) == math.fsum(values)


@settings(deadline=None)
@given(st.integers(0, 2000), st.integers(0, 10**6))
def test_products_are_those_of_whole_numbers_in_any_pieces(n, seed):
    rng = np.random.default_rng(seed)
    high = 2**exact.BITS
    left, right = rng.integers(-high, high + 1, (n, 3)), rng.integers(-high, high + 1, (n, 2))
    true = left.astype(object).T @ right.astype(object)
    cuts = sorted([0, n, *rng.integers(0, n + 1, 3)])
    parts = [
        exact.products(left[a:b].astype(float), right[a:b].astype(float)) for a, b in pairwise(cuts)
    ]
    summed = exact.total(parts)
    for i, row in enumerate(true):
        for j, value in enumerate(row):
            assert (int(summed.high[i, j]) << 30) + int(summed.low[i, j]) == value
    assert np.array_equal(summed.floats(), true.astype(np.float64).reshape(3, 2))


def test_sums_of_the_largest_numbers_stay_exact():
    n = 512 * 600  # more blocks than are held in 64 bits
    columns = np.full((n, 1), 2.0**exact.BITS)
    summed = exact.products(columns, columns)
    assert (int(summed.high[0, 0]) << 30) + int(summed.low[0, 0]) == n * 2 ** (2 * exact.BITS)


@pytest.mark.parametrize("most", [1.0, 0.999, 1.5, 3e-200, 7e20])
def test_the_grid_is_as_fine_as_it_may_be(most):
    (step,) = exact.grid(np.array([most]))
    assert math.frexp(step)[0] == 0.5
    assert 2 ** (exact.BITS - 1) <= most / step <= 2**exact.BITS
    assert exact.on_grid(np.array([most, -most]), step).tolist() == [
        round(most / step),
        -round(most / step),
    ]
    value = np.array([[most / 3]])
    coarse, fine = exact.slices(value, np.array([step]))[0]
    assert coarse * step + fine * step * 2.0**-exact.BITS == pytest.approx(most / 3, rel=1e-12)
    assert abs(fine) <= 2**exact.BITS


def test_no_rows_and_no_spread():
    assert exact.grid(np.zeros(2)).tolist() == [1.0, 1.0]
    none = exact.products(np.zeros((0, 2)), np.zeros((0, 1)))
    assert none.floats().tolist() == [[0.0], [0.0]]
    assert exact.terms(np.zeros(0)) == exact.terms(np.zeros(3)) == []
    assert [s.stop - s.start for s in exact.pieces(0)] == [4096]
