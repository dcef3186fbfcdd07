"""What merges of adapters reach for each choice of weights, and the choice for a user.

One adapter an objective, and a user's weights w over the objectives (HyperAlign,
arXiv 2601.15968; weights interpolated over rewards, arXiv 2306.04488). The weights v of a merge
are not the user's: what v = w reaches is only best where all rewards bend alike. So rewards are
measured over a lattice of v, and the v with the greatest utility for w is taken, if it stands up
on prompts that did not choose it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl
from markupsafe import Markup
from numpy.typing import NDArray

from prefactory.errors import ConfigError, DataError
from prefactory.measures.calibration import Floats
from prefactory.pages.svg import el, figure, text_at
from prefactory.preferences.clustered import clustered_mean
from trainers.base import hashed
from trainers.objectives.frontier import hypervolume, simplex, undominated

Utility = Literal["linear", "chebyshev"]
DRAWS = 500
REFERENCE = -0.1
"""Where the hypervolume begins, on the scale of `Rewards.levels` (ours)."""


def lattice(objectives: int, steps: int) -> list[tuple[float, ...]]:
    """Weights of merges: multiples of `1 / steps` that sum to 1; each objective alone is there."""
    return list(simplex(objectives, steps))


@dataclass(frozen=True)
class Rewards:
    """Held-out rewards of merges, prompt by prompt.

    Attributes:
        objectives: K names.
        weights: of the merges, Float64[n, K]; each objective alone is one of them.
        values: rewards, larger is better, Float64[n, prompts, K]; NaN where an objective says
            nothing of a prompt.
        base: of the model without an adapter, Float64[prompts, K].
        prompts: their ids.
    """

    objectives: tuple[str, ...]
    weights: Floats
    values: Floats
    base: Floats
    prompts: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse rewards on which there is no scale.

        Raises:
            DataError: an objective says nothing, or its own adapter does not raise it.
        """
        for name, unit, base in zip(self.objectives, self.unit, self.start, strict=True):
            if not unit > 0:
                raise DataError(
                    f"the adapter of {name} does not raise {name} on the held-out prompts "
                    f"({base + unit:.4g}, the base {base:.4g}), so there is nothing to weigh"
                )

    @cached_property
    def _alone(self) -> list[int]:
        return [
            int(np.flatnonzero(self.weights[:, k] == 1)[0]) for k in range(len(self.objectives))
        ]

    @staticmethod
    def _mean(values: Floats, kept: NDArray[Any] | None) -> Floats:
        """Means of the prompts that are kept: Float64[..., K]."""
        some = values if kept is None else values[..., kept, :]
        there = ~np.isnan(some)
        count = there.sum(axis=-2)
        total = np.where(there, some, 0.0).sum(axis=-2)
        found: Floats = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
        return found

    @cached_property
    def start(self) -> Floats:
        """Mean rewards of the base, Float64[K]."""
        return self._mean(self.base, None)

    @cached_property
    def unit(self) -> Floats:
        """By how much each objective's own adapter raises it, Float64[K]."""
        means = self._mean(self.values, None)
        return np.array([means[i, k] for k, i in enumerate(self._alone)]) - self.start

    def levels(self, kept: NDArray[Any] | None = None) -> Floats:
        """Mean rewards on a scale of each objective: the base is 0, its own adapter 1.

        The scale is of all prompts, whatever is kept.

        Args:
            kept: places of prompts, which may be there several times; None: all.

        Returns:
            Float64[n, K].
        """
        found: Floats = (self._mean(self.values, kept) - self.start) / self.unit
        return found

    @property
    def plane(self) -> Floats:
        """What every merge would reach if rewards were linear in its weights: Float64[n, K]."""
        found: Floats = self.weights @ self.levels()[self._alone]
        return found

    def volume(self, kept: NDArray[Any] | None = None) -> float:
        """Hypervolume of the levels over -0.1 of every objective."""
        levels = self.levels(kept)
        return hypervolume(levels[~np.isnan(levels).any(axis=1)], REFERENCE)


def utility(levels: Floats, user: Floats, kind: Utility) -> Floats:
    """What levels are worth to a user: Float64[n, K] -> Float64[n].

    Args:
        levels: on the scale of `Rewards.levels`.
        user: weights of the objectives, Float64[K].
        kind: `linear`, the weighted sum, which reaches only the convex hull of a front;
            `chebyshev`, the least of `level / weight`, which reaches its dents, too.
    """
    if kind == "linear":
        return np.asarray(levels @ user)
    return np.asarray((levels / np.maximum(user, 1e-6)).min(axis=1))


@dataclass(frozen=True)
class Chosen:
    """The merge for a user.

    Attributes:
        user: their weights.
        weights: of the merge that is taken: those with the greatest utility, if that holds on
            prompts which did not choose them; else the user's own.
        best: weights with the greatest utility on the half of the prompts that chose.
        seen: their utility on that half, which is too high: the best of many is lucky.
        utility: their utility on the other half.
        plain: utility of the user's own weights there.
        gain: mean difference of the two on the other half; of `chebyshev` without an interval.
        low, high: interval of 95 % of the gain, by prompt; None where it has none.
    """

    user: tuple[float, ...]
    weights: tuple[float, ...]
    best: tuple[float, ...]
    seen: float
    utility: float
    plain: float
    gain: float
    low: float | None
    high: float | None


def choose(
    rewards: Rewards, user: Sequence[float], kind: Utility = "linear", seed: int = 0
) -> Chosen:
    """Take the merge that is worth most to a user on half of the prompts; measure on the other.

    Args:
        rewards: of all merges, the user's own weights among them.
        user: weights of the objectives, 0 or more, summing to 1.
        kind: of the utility.
        seed: of the halves, which are by prompt.

    Raises:
        ConfigError: the user's own weights were not measured.
    """
    w = np.asarray(user, np.float64)
    same = np.flatnonzero(np.abs(rewards.weights - w).max(axis=1) < 1e-9)
    if not len(same):
        raise ConfigError("the user's own weights are not among the merges that were measured")
    own = int(same[0])
    first, second = halves(rewards.prompts, seed)
    worth = utility(rewards.levels(first), w, kind)
    best = int(np.nanargmax(worth))
    there = utility(rewards.levels(second), w, kind)
    gain = float(there[best] - there[own])
    low = high = None
    if best != own:
        low, high = _interval(rewards, w, kind, (best, own), second, seed)
    taken = best if low is not None and low > 0 else own
    mine, greatest = (tuple(rewards.weights[i].tolist()) for i in (taken, best))
    return Chosen(
        tuple(w.tolist()), mine, greatest, float(worth[best]), float(there[best]),
        float(there[own]), gain, low, high,
    )  # fmt: skip


def halves(prompts: Sequence[str], seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Places of prompts, drawn by their ids: one half chooses, the other measures."""
    drawn = np.array([hashed(p, f"half {seed}") for p in prompts])
    order = np.argsort(drawn, kind="stable")
    half = max(1, len(order) // 2)
    return np.sort(order[:half]), np.sort(order[half:])


def _interval(
    rewards: Rewards,
    user: Floats,
    kind: Utility,
    two: tuple[int, int],
    kept: NDArray[Any],
    seed: int,
) -> tuple[float, float]:
    """Interval of 95 % of the difference of two merges' utility, by drawing prompts anew."""
    rng = np.random.default_rng(seed)
    gaps = []
    for _ in range(DRAWS):
        one, other = utility(rewards.levels(rng.choice(kept, len(kept)))[list(two)], user, kind)
        gaps.append(one - other)
    low, high = np.nanquantile(gaps, [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True)
class Simplex:
    """Rewards over the simplex, and the merge for a user.

    Attributes:
        rewards: of all merges.
        chosen: for the user; None if there is none.
        how: what the rewards are.
        seed: of the draws.
    """

    rewards: Rewards
    chosen: Chosen | None
    how: str
    seed: int = 0

    @cached_property
    def rows(self) -> pl.DataFrame:
        """A row a merge: `weight_`, `level_`, `se_`, `plane_` by objective, and `dominated`."""
        r = self.rewards
        levels, plane = r.levels(), r.plane
        columns: dict[str, Any] = {}
        for k, name in enumerate(r.objectives):
            errors = [clustered_mean(v[~np.isnan(v)], np.flatnonzero(~np.isnan(v))).se
                      for v in r.values[:, :, k]]  # fmt: skip
            columns |= {
                f"weight_{name}": r.weights[:, k], f"level_{name}": levels[:, k],
                f"se_{name}": np.array(errors) / r.unit[k], f"plane_{name}": plane[:, k],
            }  # fmt: skip
        return pl.DataFrame(columns).with_columns(dominated=pl.Series(~undominated(levels)))

    @cached_property
    def volumes(self) -> tuple[float, float, float]:
        """Hypervolume over -0.1, with an interval of 95 % by drawing prompts anew."""
        n = len(self.rewards.prompts)
        rng = np.random.default_rng(self.seed)
        drawn = [self.rewards.volume(rng.integers(0, n, n)) for _ in range(DRAWS)]
        low, high = np.quantile(drawn, [0.025, 0.975])
        return self.rewards.volume(), float(low), float(high)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        value, low, high = self.volumes
        return {
            "objectives": list(self.rewards.objectives), "reward": self.how,
            "prompts": len(self.rewards.prompts), "reference": REFERENCE,
            "hypervolume": {"value": value, "interval": [low, high]},
            "merges": self.rows.to_dicts(),
            "chosen": None if self.chosen is None else dict(vars(self.chosen)),
        }  # fmt: skip

    def lines(self) -> list[str]:
        """Lines for a terminal."""
        r = self.rewards
        lines = [
            f"{self.how} of {len(r.weights)} merges on {len(r.prompts)} held-out prompts; 0 is the "
            "base, 1 the objective's own adapter; in brackets the plane through the corners",
            "weights " + " ".join(r.objectives),
        ]
        for row in self.rows.iter_rows(named=True):
            weights = " ".join(f"{row[f'weight_{o}']:.2f}" for o in r.objectives)
            levels = ", ".join(
                f"{o} {row[f'level_{o}']:.3f} ± {row[f'se_{o}']:.3f} ({row[f'plane_{o}']:.3f})"
                for o in r.objectives
            )
            lines.append(f"{weights}: {levels}" + (", dominated" if row["dominated"] else ""))
        value, low, high = self.volumes
        lines.append(f"hypervolume over {REFERENCE:g}: {value:.4f} [{low:.4f}, {high:.4f}]")
        return [*lines, *self._user()]

    def _user(self) -> list[str]:
        c = self.chosen
        if c is None:
            return []
        said = [
            f"for the user {_said(c.user)}: best on half of the prompts {_said(c.best)}, utility "
            f"{c.seen:.3f} there and {c.utility:.3f} on the other half, where the weights "
            f"themselves have {c.plain:.3f}"
        ]
        if c.low is not None:
            said.append(f"gain over them {c.gain:+.3f} [{c.low:+.3f}, {c.high:+.3f}]")
        return [*said, f"taken: {_said(c.weights)}"]

    def chart(self) -> Markup:
        """Levels of the first two objectives; those that none dominates are filled."""
        size, pad = 300, 44
        levels, two = self.rewards.levels(), self.rewards.objectives[:2]
        low, high = min(-0.1, float(np.nanmin(levels))), max(1.1, float(np.nanmax(levels)))

        def place(value: float) -> float:
            return size * (value - low) / (high - low)

        marks = [el("rect", x=pad, y=pad, width=size, height=size, class_="frame")]
        for row, level in zip(self.rows.iter_rows(named=True), levels, strict=True):
            said = ", ".join(f"{o} {row[f'weight_{o}']:.2f}" for o in self.rewards.objectives)
            spot = {"cx": pad + place(level[0]), "cy": pad + size - place(level[1])}
            marks.append(el("circle", el("title", said), **spot, r=2 if row["dominated"] else 4))
        marks += [
            text_at(pad + size / 2, size + pad + 26, two[0], "middle"),
            text_at(pad, pad - 10, two[1], "start"),
        ]
        summary = f"Rewards of merges on {two[0]} and {two[1]}"
        return figure(size + 2 * pad, size + 2 * pad, summary, *marks)


def _said(weights: Sequence[float]) -> str:
    return ", ".join(f"{w:.3g}" for w in weights)


def by_sign(
    margins: Mapping[tuple[float, ...] | None, Floats],
    signs: pl.DataFrame,
    objectives: Sequence[str],
) -> tuple[Floats, Floats, tuple[str, ...]]:
    """Rewards from held-out pairs: how often a model prefers what an objective does.

    Args:
        margins: weights of a merge (None: the base) -> its margins of the pairs, NaN: not read.
        signs: `prompt_id` and `sign_<objective>` of the pairs, in their order.
        objectives: names.

    Returns:
        Values of the merges in order, Float64[n, prompts, K], those of the base, and the prompts.
    """
    prompts = tuple(signs["prompt_id"].unique(maintain_order=True))
    place = {p: i for i, p in enumerate(prompts)}
    group = np.array([place[p] for p in signs["prompt_id"]])

    def table(own: Floats) -> Floats:
        out = np.full((len(prompts), len(objectives)), np.nan)
        for k, name in enumerate(objectives):
            sign = signs[f"sign_{name}"].fill_null(0).to_numpy().astype(np.float64)
            said = (sign != 0) & ~np.isnan(own)
            right = (np.sign(own * sign) + 1) / 2
            total = np.bincount(group[said], weights=right[said], minlength=len(prompts))
            count = np.bincount(group[said], minlength=len(prompts))
            np.divide(total, count, out=out[:, k], where=count > 0)
        return out

    values = np.stack([table(own) for weights, own in margins.items() if weights is not None])
    return values, table(margins[None]), prompts
