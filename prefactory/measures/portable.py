"""Exponentials and logarithms with the same bits on every processor.

NumPy, SciPy and the C library pick another implementation where a processor has AVX-512 or FMA, and
its last bit differs; numbers that a step stores would then have another digest on another machine.
Here only sums, products, quotients and powers of two are used, which IEEE 754 fixes, by the
reductions and polynomials of Sun's fdlibm (e_exp.c, e_log.c): off by less than a unit in the last
place, which costs a few microseconds a thousand numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_PER_LN2 = 1.44269504088896338700e00
_EXP = (
    1.66666666666666019037e-01, -2.77777777770155933842e-03, 6.61375632143793436117e-05,
    -1.65339022054652515390e-06, 4.13813679705723846039e-08,
)  # fmt: skip
_LOG = (
    6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01,
    2.222219843214978396e-01, 1.818357216161805012e-01, 1.531383769920937332e-01,
    1.479819860510658591e-01,
)  # fmt: skip
_LEAST, _MOST = -745.2, 709.8
"""Beyond these an exponential is 0 or infinite."""


def exp(x: ArrayLike) -> Floats:
    """E to the power of x, any shape; NaN stays NaN."""
    x = np.asarray(x, dtype=np.float64)
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        inside = np.clip(np.where(np.isnan(x), 0.0, x), _LEAST, _MOST)
        times = np.rint(inside * _PER_LN2)
        high, low = inside - times * _LN2_HIGH, times * _LN2_LOW
        r = high - low
        near = r - r * r * _polynomial(r * r, _EXP)
        y = 1.0 - ((low - r * near / (2.0 - near)) - high)
        found = np.ldexp(y, times.astype(np.int64))
    found = np.where(x > _MOST, np.inf, np.where(x < _LEAST, 0.0, found))
    return np.where(np.isnan(x), x, found)


def log(x: ArrayLike) -> Floats:
    """Natural logarithm, any shape; -inf at 0, NaN below."""
    x = np.asarray(x, dtype=np.float64)
    part, power = np.frexp(np.where((x > 0) & np.isfinite(x), x, 1.0))
    small = part < np.sqrt(0.5)
    f = np.where(small, 2.0 * part, part) - 1.0
    k = np.where(small, power - 1, power).astype(np.float64)
    s = f / (2.0 + f)
    z = s * s
    half = 0.5 * f * f
    found = k * _LN2_HIGH - ((half - (s * (half + z * _polynomial(z, _LOG)) + k * _LN2_LOW)) - f)
    found = np.where(x == 0, -np.inf, np.where(x < 0, np.nan, found))
    return np.where(np.isnan(x) | (x == np.inf), x, found)


def log1p(x: ArrayLike) -> Floats:
    """Logarithm of 1 + x, exact near 0 too."""
    x = np.asarray(x, dtype=np.float64)
    u = 1.0 + x
    with np.errstate(invalid="ignore", divide="ignore"):
        found = log(u) + np.where(np.isfinite(u) & (u > 0), (x - (u - 1.0)) / u, 0.0)
    return np.where(u == 1.0, x, found)


def expm1(x: ArrayLike) -> Floats:
    """E to the power of x, less 1, exact near 0 too (Kahan)."""
    x = np.asarray(x, dtype=np.float64)
    u = exp(x)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.where(np.isfinite(u) & (u > 1e-17), (u - 1.0) * (x / log(u)), u - 1.0)
    return np.where(u == 1.0, x, found)


def logistic(x: ArrayLike) -> Floats:
    """1 / (1 + exp(-x)), any shape, without overflow."""
    x = np.asarray(x, dtype=np.float64)
    small = exp(-np.abs(x))
    return np.asarray(np.where(x < 0, small, 1.0) / (1.0 + small))


def softplus(x: ArrayLike) -> Floats:
    """log(1 + exp(x)), any shape, without overflow."""
    x = np.asarray(x, dtype=np.float64)
    return np.asarray(np.maximum(x, 0.0) + log1p(exp(-np.abs(x))))


def logsumexp(x: Floats) -> Floats:
    """Logarithm of the sum of exponentials of each row: Float64[n, K] -> Float64[n]."""
    most = x.max(axis=1)
    return np.asarray(most + log(exp(x - most[:, None]).sum(axis=1)))


def softmax(x: Floats) -> Floats:
    """Exponentials of each row as shares that sum to 1: Float64[n, K], twice."""
    shares = exp(x - x.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _polynomial(x: Floats, factors: tuple[float, ...]) -> Floats:
    """factors[0] + factors[1] x + ..., by Horner's rule."""
    found = np.full_like(x, factors[-1])
    for factor in factors[-2::-1]:
        found = found * x + factor
    return found
