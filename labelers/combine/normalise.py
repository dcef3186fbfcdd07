"""Scores on a scale of their own: standardised on a frozen reference, ranked, or as log odds."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import polars as pl
from pydantic import Field, field_validator, model_validator

from labelers.combine.scoring import Floats
from prefactory.context import Context
from prefactory.errors import DataError
from prefactory.identity import fingerprint
from prefactory.measures import portable
from prefactory.step import Labeler, Scope, State
from prefactory.tables import SCORE, Shape

CLIP = 5.0
NUMBERS = {
    "reference": ("mean", "sd"),
    "quantile": ("values",),
    "logistic": ("slope", "intercept"),
}
"""What each method freezes, by objective."""

Name = Annotated[str, Field(min_length=1)]
Numbers = dict[str, float | tuple[float, ...]]


class Logistic(NamedTuple):
    """P(good) = sigmoid(slope * score + intercept)."""

    slope: float
    intercept: float


def moments(values: Floats) -> tuple[float, float]:
    """Mean and population sd of Float64[n] (n > 0, no NaN); a spread of rounding noise is 0."""
    sd = float(values.std())
    return float(values.mean()), sd if sd > 1e-12 * float(np.abs(values).max()) else 0.0


def reference_frozen(values: Floats, mean: float, sd: float, clip: float = CLIP) -> Floats:
    """`clip((r - mean) / sd, -clip, clip)` with numbers that these values do not move.

    Quark Medical (arXiv:2602.11661) names the idea; its formula was not to be had, this is ours.

    Args:
        values: Float64[n], NaN where not scored.
        mean: of the reference.
        sd: of the reference, above 0.
        clip: in sd.

    Returns:
        Float64[n] in sd of the reference.

    Raises:
        DataError: sd is 0.
    """
    if not sd > 0:
        raise DataError(f"scores without spread have no scale (sd {sd}); leave the objective out")
    result: Floats = np.clip((values - mean) / sd, -clip, clip)
    return result


def empirical_cdf(values: Floats, reference: Floats) -> Floats:
    """Share of the reference below each value, ties counted half: (mean rank - 1/2) / N.

    Args:
        values: Float64[n], NaN where not scored.
        reference: Float64[N], sorted, N > 0.

    Returns:
        Float64[n] in [0, 1]; 0.5 on average over the reference itself.
    """
    below = np.searchsorted(reference, values, "left")
    upto = np.searchsorted(reference, values, "right")
    return np.where(np.isnan(values), np.nan, (below + upto) / (2.0 * len(reference)))


def platt(scores: Floats, good: Floats) -> Logistic:
    """Logistic scale of scores by outcomes: `slope * score + intercept` are log odds of good.

    Outcomes are smoothed as Platt (1999) does, to (N+ + 1) / (N+ + 2) and 1 / (N- + 2), so that
    the scale is finite even where a threshold parts good from bad.

    Args:
        scores: Float64[n], no NaN, not all alike.
        good: Float64[n] in [0, 1].
    """
    mean, sd = moments(scores)
    if not sd > 0:
        raise DataError("scores without spread tell nothing of what is good")
    yes = float(good.sum())
    high, low = (yes + 1) / (yes + 2), 1 / (len(good) - yes + 2)
    design = np.stack([(scores - mean) / sd, np.ones(len(scores))], axis=1)
    slope, intercept = _logistic(design, low + (high - low) * good)
    return Logistic(slope / sd, intercept - slope / sd * mean)


def bradley_terry_slope(margins: Floats) -> float:
    """Slope by which score differences become Bradley-Terry log odds.

    Args:
        margins: Float64[n], score of the preferred answer minus that of the other; not all 0. Of n
            pairs (n + 1) / (n + 2) count as won, so that the slope is finite if all are positive.
    """
    scale = float(np.sqrt((margins**2).mean())) if margins.size else 0.0
    if not scale > 0:
        raise DataError("no pair of answers differs in score")
    won = np.full(len(margins), (len(margins) + 1) / (len(margins) + 2))
    return float(_logistic(margins[:, None] / scale, won)[0]) / scale


def _solved(matrix: Floats, right: Floats) -> Floats:
    """Solution of a system of one or two equations, without LAPACK."""
    if len(right) == 1:
        return np.asarray(right / matrix[0])
    (a, b), (c, d) = matrix
    found = np.array([d * right[0] - b * right[1], a * right[1] - c * right[0]])
    return np.asarray(found / (a * d - b * c))


def _logistic(design: Floats, target: Floats) -> Floats:
    """Logistic regression Float64[n, p] -> [n] in (0, 1), p 1 or 2, by Newton with halved steps.

    No BLAS, whose bits depend on cores and processor. Returns Float64[p].
    """
    weights = np.zeros(design.shape[1])

    def loss(w: Floats) -> float:
        z = (design * w).sum(axis=1)
        return float((portable.softplus(z) - target * z).mean())

    best = loss(weights)
    for _ in range(100):
        p = portable.logistic((design * weights).sum(axis=1))
        gradient = (design * (p - target)[:, None]).mean(axis=0)
        curved = design * (p * (1 - p))[:, None]
        hessian = (curved[:, :, None] * design[:, None, :]).mean(axis=0)
        step = _solved(hessian + 1e-12 * np.eye(len(weights)), gradient)
        size = 1.0
        while size > 1e-10 and loss(weights - size * step) > best:
            size /= 2
        weights = weights - size * step
        best = min(best, loss(weights))
        if np.abs(size * step).max() < 1e-10:
            break
    return weights


class Normalise(Labeler):
    """Add `score_<objective>_<suffix>`: an objective on a scale that is frozen and recorded.

    - `reference`: standardised by mean and sd of a reference and clipped at `clip` sd.
    - `quantile`: share of the reference below, ties half; in [0, 1]. For scorers whose units mean
      nothing to each other.
    - `logistic`: log odds, for scores such as a judge's 1 to 10 that are not on the
      Bradley-Terry scale that `labelers.Combine` (`logsigmoid`) and `labelers.MAP` expect. With
      `compare: answers` the odds that an answer is good, by a `target` in [0, 1] (or at least
      `good_from`); with `compare: pairs` the odds to be preferred over a mean answer, by which of
      two answers to a prompt has the higher target. A negative slope means that the score falls
      where the target rises; the state says so.

    The reference is this dataset (all answers, each once; of one model by `of_model`), or numbers:
    by objective `mean` and `sd`, `values` (any number of reference scores) or `slope` and
    `intercept`, or the name of a JSON file with them, for example the `info` of this step in an
    earlier run. The numbers of a file, not its name, are identity. Source of the idea:
    arXiv:2602.11661 (reference-frozen normalisation); the formulas are ours.

    Attributes:
        objectives: to be normalised.
        suffix: of the new objectives' names.
        method: see above.
        reference: `dataset`, numbers, or a JSON file (relative to the working directory).
        of_model: only this model's answers are the reference.
        clip: for `reference`, in sd.
        target: for `logistic`, the objective that says what is good.
        good_from: for `logistic`: a target from here on is good (1), below it is not (0).
        compare: for `logistic`.
        on_constant: a reference without spread is an `error`, or `drop` makes the objective null.

    Example:
        - labelers.Normalise: {objectives: [helpfulness]}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    scope: ClassVar[Scope] = "dataset"

    objectives: tuple[Name, ...] = Field(min_length=1)
    suffix: str = Field(default="norm", min_length=1)
    method: Literal["reference", "quantile", "logistic"] = "reference"
    reference: Literal["dataset"] | dict[Name, Numbers] = "dataset"
    of_model: str | None = None
    clip: float = Field(default=CLIP, gt=0)
    target: str | None = None
    good_from: float | None = None
    compare: Literal["answers", "pairs"] = "answers"
    on_constant: Literal["error", "drop"] = "error"

    @field_validator("reference", mode="before")
    @classmethod
    def _read(cls, value: object) -> object:
        if not isinstance(value, str) or value == "dataset":
            return value
        try:
            data = json.loads(Path(value).read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"can't read the numbers in {value}: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"{value} is not JSON: {error}") from error
        known = {name for names in NUMBERS.values() for name in names}
        scales = data.get("objectives", data) if isinstance(data, dict) else data
        if not isinstance(scales, dict) or not all(isinstance(v, dict) for v in scales.values()):
            raise ValueError(f"{value} has no mapping of objectives to their numbers")
        return {o: {k: n for k, n in v.items() if k in known} for o, v in scales.items()}

    @model_validator(mode="after")
    def _validate(self) -> Self:
        if len(set(self.objectives)) != len(self.objectives):
            raise ValueError("objectives: name each once")
        fits = self.method == "logistic" and self.reference == "dataset"
        if fits != (self.target is not None):
            raise ValueError("target is for logistic, which needs it unless reference has numbers")
        if self.good_from is not None and (self.target is None or self.compare == "pairs"):
            raise ValueError("good_from is for logistic with a target and compare: answers")
        if self.reference != "dataset":
            self._validate_numbers(self.reference)
        return self

    def _validate_numbers(self, reference: Mapping[str, Numbers]) -> None:
        wanted = NUMBERS[self.method]
        for objective in self.objectives:
            given = reference.get(objective, {})
            if not set(wanted) <= set(given):
                raise ValueError(f"reference: {objective} needs {' and '.join(wanted)}")
            for name in wanted:
                if isinstance(given[name], tuple) != (name == "values") or given[name] == ():
                    raise ValueError(f"reference: {objective}: {name} is of the wrong kind")

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The scores to normalise and the target (Float64)."""
        names = dict.fromkeys([*self.objectives, *([self.target] if self.target else [])])
        return {f"{SCORE}{name}": pl.Float64() for name in names}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`score_<objective>_<suffix>` (Float64) of every objective."""
        return {f"{SCORE}{o}_{self.suffix}": pl.Float64() for o in self.objectives}

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard of RESPONSES to `response_id`, `prompt_id` and the scores needed."""
        if self.of_model is not None:
            table = table.filter(pl.col("model") == self.of_model)
        scores = [pl.col(c) for c in self.needs(Shape.RESPONSES)]
        finite = [pl.when(score.is_finite()).then(score) for score in scores]
        return table.select("response_id", "prompt_id", *finite)

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Freeze the scale of every objective.

        Returns:
            State with `info`: `method`, `reference`, `version` (a digest of all frozen numbers),
            and by objective `scored` answers, `dropped`, and the numbers of the method (for
            `quantile` the 101 percentiles as `values`; all values are in the table `values`).

        Raises:
            DataError: nothing is scored, no spread (unless dropped), a target outside [0, 1].
        """
        parts = parts.sort("response_id").unique("response_id", keep="first", maintain_order=True)
        objectives: dict[str, Any] = {}
        tables = []
        for objective in self.objectives:
            scored = parts[f"{SCORE}{objective}"].drop_nulls().to_numpy()
            numbers = self._numbers(objective, scored, parts)
            values = np.sort(np.asarray(numbers.get("values", ()), np.float64))
            column = pl.DataFrame({"value": values})
            tables.append(column.select(pl.lit(objective).alias("objective"), "value"))
            if values.size:
                numbers["values"] = np.quantile(values, np.linspace(0, 1, 101)).tolist()
            dropped = not numbers
            objectives[objective] = {"scored": int(scored.size), "dropped": dropped, **numbers}
        table = pl.concat(tables)
        frozen = {o: {k: v for k, v in f.items() if k != "scored"} for o, f in objectives.items()}
        digest = hashlib.blake2b(table["value"].to_numpy().tobytes(), digest_size=16).hexdigest()
        info = {
            "method": self.method,
            "reference": "dataset" if self.reference == "dataset" else "given",
            "version": fingerprint([self.method, self.clip, frozen, digest]),
            "objectives": objectives,
        }
        return State({"values": table}, info)

    def _numbers(self, objective: str, scored: Floats, parts: pl.DataFrame) -> dict[str, Any]:
        """The numbers to freeze; none if there is no spread and such objectives are dropped."""
        if self.reference != "dataset":
            numbers = dict(self.reference[objective])
        elif self.method == "quantile" and scored.size:
            return {"values": scored}
        else:
            numbers = self._learned(objective, scored, parts)
        if numbers.get("sd", 1.0) == 0 or not numbers:
            if self.on_constant == "drop":
                return {}
            raise DataError(
                f"labelers.Normalise: the reference scores of {objective!r} have no spread "
                f"({scored.size} scored), so they give no scale; leave it out of objectives, or "
                "set on_constant: drop"
            )
        return {name: numbers[name] for name in NUMBERS[self.method]}

    def _learned(self, objective: str, scored: Floats, parts: pl.DataFrame) -> Numbers:
        mean, sd = moments(scored) if scored.size else (0.0, 0.0)
        if self.method == "reference" or not sd > 0:
            return {"mean": mean, "sd": sd} if sd > 0 else {}
        rows = parts.select(
            "prompt_id", score=f"{SCORE}{objective}", target=f"{SCORE}{self.target}"
        ).drop_nulls()
        if self.compare == "pairs":
            both = rows.join(rows, on="prompt_id", suffix="_of_other", maintain_order="left_right")
            won = both.filter(pl.col("target") > pl.col("target_of_other"))
            margins = (won["score"] - won["score_of_other"]).to_numpy()
            if not (margins != 0).any():
                return {}
            slope = bradley_terry_slope(margins)
            return Logistic(slope, -slope * mean)._asdict()
        good = rows["target"]
        if self.good_from is not None:
            good = (good >= self.good_from).cast(pl.Float64)
        elif good.len() and not good.is_between(0, 1).all():
            raise DataError(
                f"labelers.Normalise: the target {self.target!r} runs from {good.min()!r} to "
                f"{good.max()!r}, not from 0 to 1; say from where on it is good (good_from)"
            )
        if not rows.height or not moments(rows["score"].to_numpy())[1] > 0:
            return {}
        return platt(rows["score"].to_numpy(), good.to_numpy())._asdict()

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Put every score on the frozen scale; null where not scored, or dropped."""
        columns = {}
        for objective in self.objectives:
            score = pl.col(f"{SCORE}{objective}")
            finite = table.select(pl.when(score.is_finite()).then(score).otherwise(math.nan))
            new = self._scaled(objective, finite.to_series().to_numpy(), ctx.fitted)
            columns[f"{SCORE}{objective}_{self.suffix}"] = new
        return pl.DataFrame(columns).fill_nan(None)

    def _scaled(self, objective: str, values: Floats, state: State) -> Floats:
        facts = state.info["objectives"][objective]
        if facts["dropped"]:
            return np.full(len(values), np.nan)
        if self.method == "reference":
            return reference_frozen(values, facts["mean"], facts["sd"], self.clip)
        if self.method == "logistic":
            result: Floats = facts["slope"] * values + facts["intercept"]
            return result
        reference = state.tables["values"].filter(pl.col("objective") == objective)["value"]
        return empirical_cdf(values, reference.to_numpy())
