import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefactory.measures import portable

NAMES = ("exp", "log", "log1p", "expm1", "logistic", "softplus")
OLDEST = {
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-AVX512F,-AVX512VL,-AVX512BW,-FMA,-FMA4,-AVX",
    "OPENBLAS_CORETYPE": "Nehalem",
}
"""A processor without AVX and FMA, as libraries see it."""
BITS = """
import hashlib, sys, numpy as np
from prefactory.measures import portable
draws = np.random.default_rng(3).normal(size=(4, 5000)) * [[1e-9], [1.0], [30.0], [300.0]]
for name in sys.argv[1:]:
    x = np.abs(draws) if name.startswith("log") and name != "logistic" else draws
    print(hashlib.sha256(getattr(portable, name)(x).tobytes()).hexdigest())
print(hashlib.sha256(portable.softmax(draws.T).tobytes()).hexdigest())
print(hashlib.sha256(portable.logsumexp(draws.T).tobytes()).hexdigest())
print(hashlib.sha256(np.exp(draws).tobytes()).hexdigest())
"""


def bits(environment):
    child = subprocess.run(
        [sys.executable, "-c", BITS, *NAMES], check=True, capture_output=True, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    return child.stdout.split()


def test_bits_are_those_of_a_processor_without_vectors():
    here, there = bits({}), bits(OLDEST)
    assert here[:-1] == there[:-1]
    assert len(here) == len(NAMES) + 3


REFERENCE = {
    "exp": np.exp, "log": np.log, "log1p": np.log1p, "expm1": np.expm1,
    "logistic": lambda x: 1 / (1 + np.exp(-x)), "softplus": lambda x: np.logaddexp(0 * x, x),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_off_by_three_units_at_most(name):
    x = np.concatenate([np.random.default_rng(1).normal(size=4000) * s for s in (1e-9, 1, 30, 200)])
    x = np.abs(x) if name in ("log", "log1p") else x
    x = x[np.abs(x) < 690]
    expected = REFERENCE[name](x.astype(np.longdouble))
    if np.finfo(np.longdouble).nmant < 63:
        pytest.skip("no numbers longer than float64 here")
    unit = np.spacing(np.abs(expected).astype(np.float64)).astype(np.longdouble)
    assert (np.abs(getattr(portable, name)(x) - expected) / unit).max() < 3


@pytest.mark.filterwarnings("error")
def test_ends():
    inf, nan = np.inf, np.nan
    ends = np.array([0.0, inf, -inf, nan, 1e300, -1e300])
    assert np.array_equal(portable.exp(ends), [1, inf, 0, nan, inf, 0], equal_nan=True)
    assert np.array_equal(portable.expm1(ends), [0, inf, -1, nan, inf, -1], equal_nan=True)
    assert np.array_equal(portable.logistic(ends), [0.5, 1, 0, nan, 1, 0], equal_nan=True)
    assert np.array_equal(
        portable.softplus(ends), [np.log(2), inf, 0, nan, 1e300, 0], equal_nan=True
    )
    ends, expected = np.array([0, 1, inf, nan, -1]), [-inf, 0, inf, nan, nan]
    assert np.array_equal(portable.log(ends), expected, equal_nan=True)
    assert np.array_equal(portable.log1p(ends - 1), expected, equal_nan=True)
    assert portable.exp([-745.0])[0] == np.exp(-745.0) > 0  # the least number that there is


@given(st.lists(st.floats(-600, 600), min_size=1, max_size=8))
def test_shares_sum_to_one_and_a_sum_of_one_is_itself(row):
    rows = np.array([row])
    assert portable.softmax(rows).sum() == pytest.approx(1)
    assert portable.logsumexp(rows[:, :1])[0] == row[0]
    assert portable.logsumexp(rows)[0] == pytest.approx(float(np.logaddexp.reduce(row)), rel=1e-12)
