"""MAP: the weights of several rewards that reach a palette of wanted levels, by convex duality.

Source: "MAP: Multi-Human-Value Alignment Palette" (arXiv:2410.19198). Among all distributions p
over answers with E_p r_i >= c_i the nearest to the reference model's p0 in KL is proportional to
p0 exp(lambda' r), where lambda >= 0 maximises g(lambda) = -log E_p0 exp(lambda' r) + lambda' c.
E_p0 is the mean over n pilot answers, of all prompts together as in the paper.

Unlike the paper's code (Adam on log lambda, 150 steps, infeasible when float32 overflows), whether
a palette can be reached is a linear programme, and the dual is solved to convergence in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import polars as pl
from pydantic import Field, model_validator
from scipy.optimize import linprog, minimize
from scipy.special import logsumexp
from threadpoolctl import threadpool_limits

from labelers.combine import scoring
from labelers.combine.normalise import moments
from labelers.combine.scoring import Floats
from prefactory.context import Context
from prefactory.errors import DataError
from prefactory.step import Labeler, Scope, State
from prefactory.tables import SCORE, Shape

ENOUGH = 50
"""Effective pilot answers below which the answer is not to be trusted."""
INSIDE = 0.99
"""How far of the way from the means to the edge of what can be reached `nearest` goes."""
_TOLERANCE = 1e-9
_EDGE = 1e-6
_ROUNDS = 200

Name = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Palette(NamedTuple):
    """The answer to a palette.

    Attributes:
        weights: lambda, Float64[m], per unit of each reward, >= 0; NaN if not feasible.
        feasible: whether a finite lambda reaches the palette.
        slack: the largest amount, in sd of each reward, by which all values can be exceeded at
            once; negative if the palette can't be reached.
        realised: levels E_lambda r that lambda gives on the pilot answers, Float64[m].
        kl: KL(p_lambda || p0) in nats, at most log n.
        ess: effective number of pilot answers, 1 / sum of squared shares, 1 to n.
        nearest: the palette itself, or, on the straight way from the means to it, one just inside
            (0.99 of the way) what can be reached, Float64[m].
        message: the same in words.
    """

    weights: Floats
    feasible: bool
    slack: float
    realised: Floats
    kl: float
    ess: float
    nearest: Floats
    message: str


def quantile_palette(
    rewards: Floats, q: float | Sequence[float], raised: Sequence[int] | None = None
) -> Floats:
    """The paper's "HHH-q%": the raised values at max(mean, q-quantile), the others at the mean.

    Args:
        rewards: Float64[n, m].
        q: quantile in [0, 1], one for all or one for each raised value.
        raised: places of the values to raise; None: all.

    Returns:
        Float64[m].
    """
    columns = list(range(rewards.shape[1]) if raised is None else raised)
    quantiles = [q] * len(columns) if isinstance(q, float | int) else list(q)
    palette: Floats = rewards.mean(axis=0)
    for column, share in zip(columns, quantiles, strict=True):
        palette[column] = max(palette[column], np.quantile(rewards[:, column], share))
    return palette


def slack(rewards: Floats, palette: Floats) -> float:
    """The largest t with E_w r >= palette + t for some weighting w of the pilot answers.

    Args:
        rewards: Float64[n, m].
        palette: Float64[m].

    Returns:
        t in units of the rewards; negative if the palette can't be reached.
    """
    return _furthest(rewards - palette, np.ones(rewards.shape[1]))


def _furthest(spare: Floats, ahead: Floats) -> float:
    """The largest t with E_w spare >= t ahead (Float64[n, m], Float64[m], not all <= 0).

    The programme over n weights is solved by its dual over m values, min s with s >= v' spare_j for
    all j, v' ahead = 1, v >= 0, into which only answers that bind are brought, a bundle at a time;
    so a million answers take seconds. Where `ahead` is <= 0 the mean of `spare` must be >= 0.
    """
    m = spare.shape[1]
    taken = np.unique(np.concatenate([spare.argmax(axis=0), spare.argmin(axis=0)]))
    for _ in range(_ROUNDS):
        rows = np.concatenate([spare[taken], spare.mean(axis=0)[None]])  # the mean: bounded below
        optimum = linprog(
            np.append(np.zeros(m), 1.0),
            A_ub=np.column_stack([rows, -np.ones(len(rows))]),
            b_ub=np.zeros(len(rows)),
            A_eq=np.append(ahead, 0.0)[None],
            b_eq=[1.0],
            bounds=[(0, None)] * m + [(None, None)],
            method="highs",
        )
        if optimum.x is None:
            raise DataError(f"the linear programme of the palette failed: {optimum.message}")
        values = spare @ optimum.x[:m]
        bundle = np.argsort(-values, kind="stable")[: 2 * m]
        new = bundle[values[bundle] > optimum.fun + _TOLERANCE * max(1.0, abs(optimum.fun))]
        new = np.setdiff1d(new, taken)
        if not new.size:
            break
        taken = np.concatenate([taken, new])
    return float(optimum.fun)


def solve(rewards: Floats, palette: Floats, names: Sequence[str] | None = None) -> Palette:
    """Find the weights of a palette (arXiv:2410.19198), or say what could be reached instead.

    A palette at or below the means needs no weights. One on the edge of what can be reached is
    reached only by weights that grow without bound, and counts as not feasible.

    Args:
        rewards: Float64[n, m] of n pilot answers, no NaN, n > 0.
        palette: Float64[m], in units of the rewards.
        names: of the m values, for the message.

    Raises:
        DataError: wrong shapes, or numbers that are not finite.
    """
    rewards, palette = np.asarray(rewards, np.float64), np.asarray(palette, np.float64)
    if rewards.ndim != 2 or not len(rewards) or palette.shape != rewards.shape[1:]:
        raise DataError(f"rewards {rewards.shape} and palette {palette.shape} do not fit")
    if not (np.isfinite(rewards).all() and np.isfinite(palette).all()):
        raise DataError("rewards and palette must be finite numbers")
    mean, sd = (np.array(v) for v in zip(*(moments(r) for r in rewards.T), strict=True))
    unit = np.where(sd > 0, sd, 1.0)
    z, c = np.where(sd > 0, (rewards - mean) / unit, 0.0), (palette - mean) / unit
    names = names or [f"value {i + 1}" for i in range(len(c))]
    asked = c > _TOLERANCE
    with threadpool_limits(1, user_api="blas"):  # bits must not depend on the cores
        spare = slack(z, c)
        if not asked.any():
            return _answer(z, np.zeros(len(c)), rewards, palette, spare, unit)
        # Finite weights exist exactly if some weighting that leaves no pilot answer out meets the
        # palette, that is if one could go beyond it on the straight line from the means.
        if _furthest(z, c) > 1 + _EDGE:
            return _answer(z, _dual(z, c), rewards, palette, spare, unit)
        reach = _furthest(z - np.minimum(c, 0.0), np.maximum(c, 0.0))
    part = INSIDE * min(max(reach, 0.0), 1.0)
    nearest = np.where(asked, mean + part * (palette - mean), palette)
    words = ", ".join(f"{name} {v:.6g}" for name, v in zip(names, nearest, strict=True))
    message = (
        f"not reachable: {_conflict(z, c, names)}; the nearest reachable palette is "
        f"{words} ({part:.0%} of the way from the means)"
    )
    nan = np.full(len(c), np.nan)
    return Palette(nan, False, spare, nan, math.nan, math.nan, nearest, message)


def _conflict(z: Floats, c: Floats, names: Sequence[str]) -> str:
    above = (c > _TOLERANCE) & (c >= z.max(axis=0) - _TOLERANCE)
    if above.any():
        alone = ", ".join(name for name, out in zip(names, above, strict=True) if out)
        return f"no pilot answer lies above the level asked of {alone}"
    raised = ", ".join(name for name, up in zip(names, c > _TOLERANCE, strict=True) if up)
    return f"these values conflict ({raised} raised, the others held)"


def _dual(z: Floats, c: Floats) -> Floats:
    """Maximise -log mean exp(z lambda) + lambda' c over lambda >= 0: Float64[m]."""

    def negative(weights: Floats) -> tuple[float, Floats]:
        exponents = z @ weights
        total = logsumexp(exponents)
        share = np.exp(exponents - total)
        return float(total - math.log(len(z)) - weights @ c), share @ z - c

    options = {"maxiter": 10_000, "maxfun": 100_000, "ftol": 1e-15, "gtol": 1e-10}
    start = np.zeros(len(c))
    optimum = minimize(
        negative, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(c), options=options
    )
    result: Floats = optimum.x
    return result


def _answer(
    z: Floats, scaled: Floats, rewards: Floats, palette: Floats, spare: float, unit: Floats
) -> Palette:
    exponents = z @ scaled
    log_share = exponents - logsumexp(exponents)
    share = np.exp(log_share)
    kl = max(float(share @ (log_share + math.log(len(z)))), 0.0)
    ess = float(1 / (share**2).sum())
    realised = share @ rewards
    short = float(((palette - realised) / unit).max())
    message = f"reached with KL {kl:.3f} nats, {ess:.0f} effective of {len(z)} pilot answers"
    if not scaled.any():
        message = "the means reach it already, so all weights are 0"
    elif ess < ENOUGH and len(z) > 1:
        message += f"; fewer than {ENOUGH}, so the weights are not to be relied upon"
    if short > 1e-4:
        message += f"; not converged, {short:.2g} sd short"
    return Palette(scaled / unit, True, spare, realised, kl, ess, palette, message)


class MAP(Labeler):
    """Add `score_<name>` = lambda' r, with the weights that reach a palette of wanted levels.

    The pilot is every answer of the dataset that has all scores (of one model by `of_model`, which
    should be the model to be aligned). `palette` says which mean level each objective is to have
    after alignment, in its own units; `quantiles` says it as quantiles of the pilot (levels below
    the mean become the mean). Objectives that neither names are held at their mean. Choosing
    answers by the score is then the step from the reference model towards that palette, at the
    least KL. Source: arXiv:2410.19198; see `labelers.combine.palette.solve` for what is ours.

    Attributes:
        name: of the new objective.
        objectives: the m values, in order.
        palette: objective -> level.
        quantiles: objective -> quantile, or one quantile for all objectives.
        of_model: only this model's answers are the pilot.
        on_unreachable: `error`, which says the nearest palette that can be reached, or `nearest`
            takes that one.

    Example:
        - labelers.MAP:
            name: palette
            objectives: [helpfulness, brevity]
            palette: {helpfulness: 2.8, brevity: -0.5}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    scope: ClassVar[Scope] = "dataset"

    name: str = Field(min_length=1)
    objectives: tuple[Name, ...] = Field(min_length=1)
    palette: dict[Name, float] | None = None
    quantiles: Share | dict[Name, Share] | None = None
    of_model: str | None = None
    on_unreachable: Literal["error", "nearest"] = "error"

    @model_validator(mode="after")
    def _validate(self) -> Self:
        if len(set(self.objectives)) != len(self.objectives):
            raise ValueError("objectives: name each once")
        if self.name in self.objectives:
            raise ValueError(f"name: {self.name!r} is one of the objectives it combines")
        wanted = self.quantiles if self.palette is None else self.palette
        if (self.palette is None) == (self.quantiles is None) or wanted == {}:
            raise ValueError("give the palette as levels (palette) or as quantiles, not both")
        if isinstance(wanted, dict) and not set(wanted) <= set(self.objectives):
            strange = ", ".join(sorted(set(wanted) - set(self.objectives)))
            raise ValueError(f"the palette names {strange}, which is not among the objectives")
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The score of every objective (Float64)."""
        return {f"{SCORE}{objective}": pl.Float64() for objective in self.objectives}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`score_<name>` (Float64)."""
        return {f"{SCORE}{self.name}": pl.Float64()}

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard of RESPONSES to `response_id` and scores, of the pilot answers."""
        if self.of_model is not None:
            table = table.filter(pl.col("model") == self.of_model)
        columns = list(self.needs(Shape.RESPONSES))
        finite = pl.all_horizontal(pl.col(*columns).is_finite())
        return table.select("response_id", *columns).filter(finite.fill_null(value=False))

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Solve the palette on the pilot answers.

        Returns:
            State with `info`: `pilot` answers, `weights`, `mean`, `palette` asked, `reached`,
            `realised` (by objective), `feasible`, `slack`, `kl`, `ess`, `message`.

        Raises:
            DataError: no pilot answer, or a palette that can't be reached (unless `nearest`).
        """
        parts = parts.sort("response_id").unique("response_id", keep="first", maintain_order=True)
        rewards = parts.select(list(self.needs(Shape.RESPONSES))).to_numpy()
        if not len(rewards):
            raise DataError(
                f"labelers.MAP: no pilot answer has a score of all of {', '.join(self.objectives)}"
            )
        asked = self._asked(rewards)
        palette = answer = solve(rewards, asked, self.objectives)
        if not palette.feasible:
            if self.on_unreachable == "error":
                raise DataError(
                    f"labelers.MAP: {palette.message}; ask for that, or set on_unreachable: nearest"
                )
            answer = solve(rewards, palette.nearest)
        info: dict[str, Any] = {"pilot": len(rewards)}
        named = {
            "weights": answer.weights,
            "mean": rewards.mean(axis=0),
            "palette": asked,
            "reached": palette.nearest,
            "realised": answer.realised,
        }
        info |= {
            key: dict(zip(self.objectives, values.tolist(), strict=True))
            for key, values in named.items()
        }
        info |= {"feasible": palette.feasible, "slack": palette.slack, "kl": answer.kl}
        return State(info={**info, "ess": answer.ess, "message": palette.message})

    def _asked(self, rewards: Floats) -> Floats:
        if self.palette is not None:
            levels = zip(self.objectives, rewards.mean(axis=0), strict=True)
            return np.array([self.palette.get(o, float(mean)) for o, mean in levels])
        if not isinstance(self.quantiles, dict):
            return quantile_palette(rewards, self.quantiles or 0.0)
        columns = [self.objectives.index(o) for o in self.quantiles]
        return quantile_palette(rewards, list(self.quantiles.values()), columns)

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Weigh the scores of every answer; null where one is missing."""
        score = pl.col(*self.needs(Shape.RESPONSES))
        finite = table.select(pl.when(score.is_finite()).then(score).otherwise(math.nan))
        weights = np.array([ctx.fitted.info["weights"][o] for o in self.objectives])
        combined = scoring.weighted_sum(finite.to_numpy(), weights)
        return pl.DataFrame({f"{SCORE}{self.name}": combined}).fill_nan(None)
