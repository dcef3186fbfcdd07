"""How much data is enough: the exponential plateau of quality against dataset size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.special import fdtri, stdtrit

from prefactory.errors import DataError

Floats = NDArray[np.float64]
Interval = tuple[float, float]

SLIGHT = 0.01
"""Share of the gain below which a difference from the curve does not matter."""

AT_BOUND = 0.05
"""On log scale: a rate so near to the bound is at it."""
CLEAR = 0.01
"""Level of the test that there is a gain."""

GAIN = float(np.log(20.0))
"""c n at 95 % of the total gain."""


@dataclass(frozen=True, slots=True)
class Plateau:
    """The curve y(n) = y_inf - (y_inf - y0) exp(-c n) fitted to measurements.

    Attributes:
        y_inf: quality at the plateau, in units of y; an extrapolation unless `reached`.
        y0: quality without data.
        c: rate, per row.
        n_max: largest size that was measured, in rows.
        reached: whether c n_max >= 1, so that the data show the bend, and a measured size lies on
            it (where c is at the bound of the fit, all of the gain is before the smallest size).
        gained: whether the gain is clear of 0: a curve without one fits worse (F test at 1 %, our
            choice), and over repeats the largest size is better than none (see
            `plateau_of_repeats`).
        n_95: rows that give 95 % of the total gain, ln(20) / c; null unless `reached` and `gained`.
        intervals: 95 % intervals for `y_inf`, `y0`, `c` and, if reached, `n_95`: by the delta
            method (rates on log scale), or by a bootstrap of repeats (see `plateau_of_repeats`).
        rmse: root mean squared residual, in units of y.
        excess: by how much quality rose more (in the direction of the gain) than the curve from the
            first measured size with `n_95` rows to the largest, and the standard error of that
            over the repeats; null without repeats or such sizes.
    """

    y_inf: float
    y0: float
    c: float
    n_max: float
    reached: bool
    n_95: float | None
    intervals: dict[str, Interval]
    rmse: float
    excess: tuple[float, float] | None = None
    gained: bool = True

    @property
    def saving(self) -> float | None:
        """Share of the largest size that 95 % of the gain does without; null unless reached."""
        return None if self.n_95 is None else 1.0 - self.n_95 / self.n_max

    @property
    def measured(self) -> bool:
        """Whether the rows for 95 % of the gain lie within the sizes that were measured."""
        return self.n_95 is not None and self.n_95 <= self.n_max

    def summary(self, unit: str = "rows") -> str:
        """How many rows are enough, in words: a number with its interval, or why there is none.

        Args:
            unit: what a row is called.
        """
        if not self.gained:
            return (
                f"How many {unit} are enough can't be said: no gain is clear of 0 (from "
                f"{self.y0:.3f} without data to {self.y_inf:.3f}). More repeats or larger sizes "
                "may show one."
            )
        if self.n_95 is None and self.c * self.n_max >= 1.0:
            return (
                f"How many {unit} are enough can't be said: all of the gain is there at the "
                "smallest size that was measured. Measure smaller sizes."
            )
        if self.n_95 is None:
            return (
                f"How many {unit} are enough can't be said: the curve is still rising at "
                f"{self.n_max:,.0f} {unit} (c n_max = {self.c * self.n_max:.2f}, below 1). "
                "Measure larger sizes; nothing is extrapolated."
            )
        low, high = self.intervals["n_95"]
        upper = f"{high:,.0f}" if np.isfinite(high) else "no upper end"
        text = (
            f"95 % of the gain ({self.y0:.3f} to {self.y_inf:.3f}) takes {self.n_95:,.0f} {unit} "
            f"(95 % interval {low:,.0f} to {upper})"
        )
        if not self.measured:
            return (
                f"{text}, which is beyond the largest size that was measured "
                f"({self.n_max:,.0f}): measure larger sizes before relying on it."
            )
        saving = 1.0 - self.n_95 / self.n_max
        text = f"{text} of the {self.n_max:,.0f} that were measured: {saving:.0%} saved."
        excess, error = self.excess or (0.0, 0.0)
        if excess <= max(2.0 * error, SLIGHT * abs(self.y_inf - self.y0)):
            return text
        return (
            f"{text} But from there to the largest size quality still rose by {excess:.3f} ± "
            f"{error:.3f} more than the curve: it does not describe these data, and the number is "
            "a lower bound."
        )

    def at(self, n: float) -> float:
        """Quality at n rows.

        Raises:
            DataError: beyond `n_max` when the plateau was not reached.
        """
        if n > self.n_max and not self.reached:
            raise DataError(
                f"c n_max = {self.c * self.n_max:.2f} < 1: the plateau is not in sight at "
                f"{self.n_max:g} rows, so nothing is said about {n:g}; measure larger sizes"
            )
        return float(self.y_inf - (self.y_inf - self.y0) * np.exp(-self.c * n))


def exponential_plateau(n: Sequence[float], y: Sequence[float]) -> Plateau:
    """Fit the exponential plateau by bounded non-linear least squares (arXiv:2411.10545).

    Sizes are scaled to [0, 1]. The starts are linear fits over a grid of rates.

    Args:
        n: sizes in rows, not negative; at least 5 different ones, with 0 (the model before
            alignment) among them. Repeated sizes are repeated measurements.
        y: quality at each size, such as a win rate.

    Returns:
        The fitted curve with intervals.

    Raises:
        DataError: for too few sizes, no size 0, values that are not finite, or a constant y.
    """
    sizes, quality = np.asarray(n, dtype=np.float64), np.asarray(y, dtype=np.float64)
    _check(sizes, quality)
    n_max = float(sizes.max())
    x = sizes / n_max

    def residuals(theta: Floats) -> Floats:
        return (
            np.asarray(theta[0] - (theta[0] - theta[1]) * np.exp(-np.exp(theta[2]) * x)) - quality
        )

    low, high = np.log(1e-3), np.log(1e4)
    start = _start(x, quality, np.geomspace(2e-3, 5e3, 200))
    bounds = ([-np.inf, -np.inf, low], [np.inf, np.inf, high])
    fit = least_squares(residuals, start, bounds=bounds, xtol=1e-14, ftol=1e-14, gtol=1e-14)
    y_inf, y0, log_rate = (float(v) for v in fit.x)
    freedom = max(1, x.size - 3)
    variance = 2.0 * fit.cost / freedom * np.linalg.pinv(fit.jac.T @ fit.jac)
    half = stdtrit(freedom, 0.975) * np.sqrt(np.maximum(np.diagonal(variance), 0.0))
    c = float(np.exp(log_rate)) / n_max
    smallest = float(sizes[sizes > 0].min())
    reached = c * n_max >= 1.0 and log_rate < high - AT_BOUND and smallest <= GAIN / c
    gained = _gained(quality, 2.0 * fit.cost)
    n_95 = GAIN / c if reached and gained else None
    with np.errstate(over="ignore"):
        factor = float(np.exp(half[2]))
    intervals = {
        "y_inf": (y_inf - float(half[0]), y_inf + float(half[0])),
        "y0": (y0 - float(half[1]), y0 + float(half[1])),
        "c": (c / factor, c * factor),
    }
    if n_95 is not None:
        intervals["n_95"] = (n_95 / factor, n_95 * factor)
    rmse = float(np.sqrt(2.0 * fit.cost / x.size))
    return Plateau(y_inf, y0, c, n_max, reached, n_95, intervals, rmse, gained=gained)


def plateau_of_repeats(
    n: Sequence[float], y: Sequence[Sequence[float]], *, draws: int = 200, seed: int = 0
) -> Plateau:
    """Fit the plateau to the means of repeated measurements, with intervals from the repeats.

    Measurements of one repeat (one split, one seed) share what is peculiar to it, so they are not
    independent, and the delta method's intervals are too narrow. Here whole repeats are drawn anew
    with replacement, the curve is fitted to their means, and the intervals are the 2.5 and 97.5 %
    quantiles of the fits. A fit that does not reach its plateau counts as `n_95` = infinity.

    Args:
        n: sizes in rows, as for `exponential_plateau`.
        y: quality, one list of a value for each size for each repeat; at least 3 repeats.
        draws: bootstrap draws.
        seed: of the bootstrap.

    Returns:
        The curve of the means.

    Raises:
        DataError: as `exponential_plateau`, or for fewer than 3 repeats.
    """
    values = np.asarray(y, dtype=np.float64)
    if values.ndim != 2 or len(values) < 3 or values.shape[1] != len(n):
        raise DataError(f"y must be 3 or more lists of {len(n)} values, got shape {values.shape}")
    fit = exponential_plateau(n, values.mean(axis=0).tolist())
    rng = np.random.default_rng(seed)
    resampled: dict[str, list[float]] = {"y_inf": [], "y0": [], "c": [], "n_95": []}
    for _ in range(draws):
        again = values[rng.integers(len(values), size=len(values))].mean(axis=0)
        refit = exponential_plateau(n, again.tolist())
        for name, drawn in resampled.items():
            value = getattr(refit, name)
            drawn.append(np.inf if value is None else value)
    intervals = {}
    for name, drawn in resampled.items():
        if name in fit.intervals:
            low, high = np.quantile(drawn, [0.025, 0.975], method="inverted_cdf")
            intervals[name] = (float(low), float(high))
    sizes = np.asarray(n, float)
    if not (fit.gained and _rises(fit, sizes, values)):
        return replace(fit, n_95=None, gained=False, intervals=intervals)
    return replace(fit, intervals=intervals, excess=_excess(fit, sizes, values))


def _rises(fit: Plateau, sizes: Floats, values: Floats) -> bool:
    """Whether over the repeats the larger half of the sizes is beyond size 0, by a t test."""
    large = values[:, sizes > np.median(sizes)].mean(axis=1)
    gain = np.sign(fit.y_inf - fit.y0) * (large - values[:, sizes == 0].mean(axis=1))
    error = float(gain.std(ddof=1) / np.sqrt(len(gain)))
    return bool(gain.mean() > stdtrit(len(gain) - 1, 1.0 - CLEAR) * error)


def _excess(fit: Plateau, sizes: Floats, values: Floats) -> tuple[float, float] | None:
    """Rise of the repeats from `n_95` rows to the largest size, beyond that of the curve."""
    after = np.flatnonzero((sizes >= (fit.n_95 or np.inf)) & (sizes < fit.n_max))
    if not after.size:
        return None
    first, last = after[np.argmin(sizes[after])], int(np.argmax(sizes))
    sign = 1.0 if fit.y_inf >= fit.y0 else -1.0
    curve = fit.at(float(sizes[last])) - fit.at(float(sizes[first]))
    rises = sign * (values[:, last] - values[:, first] - curve)
    return float(rises.mean()), float(rises.std(ddof=1) / np.sqrt(len(rises)))


def _gained(quality: Floats, error: float) -> bool:
    """Whether the curve fits better than a constant by more than chance (F test, `CLEAR`)."""
    flat = float(np.square(quality - quality.mean()).sum())
    freedom = quality.size - 3
    if error <= 1e-18 * max(flat, 1.0):
        return True
    ratio = (flat - error) / 2.0 / (error / max(freedom, 1))
    return bool(ratio > fdtri(2, max(freedom, 1), 1.0 - CLEAR))


def _check(sizes: Floats, quality: Floats) -> None:
    if sizes.shape != quality.shape or sizes.ndim != 1:
        raise DataError(f"n and y must be lists of one length, got {sizes.shape}, {quality.shape}")
    if not (np.isfinite(sizes).all() and np.isfinite(quality).all()) or (sizes < 0).any():
        raise DataError("n must be finite and not negative, y must be finite")
    if np.unique(sizes).size < 5 or 0.0 not in sizes:
        raise DataError(
            f"the plateau needs at least 5 different sizes with 0 among them, got "
            f"{np.unique(sizes).tolist()}"
        )
    if np.ptp(quality) <= 1e-12 * max(1.0, float(np.abs(quality).max())):
        raise DataError("y is the same at every size: there is no gain to fit")


def _start(x: Floats, y: Floats, rates: Floats) -> Floats:
    """Best of the linear least-squares fits at fixed rates: (y_inf, y0, log rate)."""
    fits = []
    for rate in rates:
        decay = np.exp(-rate * x)
        design = np.stack([1.0 - decay, decay], axis=1)
        solution = np.linalg.lstsq(design, y, rcond=None)[0]
        error = float(np.square(design @ solution - y).sum())
        fits.append((error, float(solution[0]), float(solution[1]), float(np.log(rate))))
    return np.asarray(min(fits)[1:])
