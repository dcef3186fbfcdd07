"""One ridge head, fitted in rounds over runs of rows: a survey, sums by fold, held-out signs.

What a run says adds up to the bit (`prefactory.measures.exact`), so how rows are cut into runs
changes nothing. Where there are fewer rows than features, the rows themselves are handed on and the
dual form is solved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from labelers.heads import ridge
from labelers.heads.ridge import Floats
from prefactory.context import Context
from prefactory.measures import exact

ALL = -1
"""The "fold" of the model that saw every labelled row."""
Folds = np.ndarray
Tables = dict[str, pl.DataFrame]


class Rows(NamedTuple):
    """What one head is fitted on.

    Attributes:
        ids: String[n], of answers or pairs.
        features: Float32[n, h]; of pairs the difference, chosen minus rejected.
        targets: Float64[n]; of pairs 1.
        prompts: prompt ids, length n.
        middles: of pairs the mean features of both answers, Float32[n, h].
    """

    ids: pl.Series
    features: np.ndarray
    targets: Floats
    prompts: pl.Series
    middles: np.ndarray | None = None


def answers(parts: pl.DataFrame, target: str) -> Rows:
    """Every distinct answer with a target; of several targets the mean."""
    known = parts.filter(pl.col(target).is_not_null()).sort("row_id", target)
    groups = known.group_by("row_id", maintain_order=True)
    data = groups.agg(pl.col("prompt_id", "features").first(), pl.col(target).mean())
    features = data["features"].to_numpy()
    return Rows(data["row_id"], features, data[target].to_numpy(), data["prompt_id"])


def differences(parts: pl.DataFrame, side: str) -> Rows:
    """Every pair, chosen minus rejected; `side` is 1 where an answer was chosen, else 0."""
    rows = parts.sort("pair_id")
    chosen, rejected = (rows.filter(pl.col(side) == value) for value in (1, 0))
    a, b = chosen["features"].to_numpy(), rejected["features"].to_numpy()
    middles = (a + b) / np.float32(2)
    return Rows(chosen["pair_id"], a - b, np.ones(len(a)), chosen["prompt_id"], middles)


def draws(prompts: pl.Series, ctx: Context) -> Floats:
    """What decides the fold of a prompt, Float64 in [0, 1)."""
    return ctx.uniform(prompts, "fold").to_numpy()


# -- the survey -----


def survey(rows: Rows, ctx: Context) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Draws of the prompts of a run, and what is counted of its rows."""
    own = pl.DataFrame({"draw": draws(rows.prompts.unique(), ctx)})
    middles = rows.features[:0] if rows.middles is None else rows.middles
    facts = {
        "n": len(rows.targets),
        "least": float(rows.targets.min(initial=np.inf)),
        "most": float(rows.targets.max(initial=-np.inf)),
        "features": ridge.largest(rows.features).tolist(),
        "middles": ridge.largest(middles).tolist(),
    }
    return own, facts


class Plan(NamedTuple):
    """How one head is fitted.

    Attributes:
        n: rows.
        prompts: labelled prompts.
        cuts: Float64[folds - 1], draws from which the next fold starts; folds differ by one prompt.
        folds: how many there are; 0 of a single prompt, which can't be left out.
        spread: least and largest target.
        features, middles: Float64[h], largest absolute values.
    """

    n: int
    prompts: int
    cuts: list[float]
    folds: int
    spread: tuple[float, float]
    features: list[float]
    middles: list[float]

    @property
    def dual(self) -> bool:
        """Whether there are no more rows than features, so that the rows themselves are used."""
        return self.n <= len(self.features)

    @property
    def grid(self) -> ridge.Grid:
        """Grids of features and targets."""
        spread = np.abs(np.array([self.spread])).max(axis=1)
        return ridge.Grid(exact.grid(np.array(self.features)), exact.grid(spread))

    def fold(self, drawn: Floats) -> Folds:
        """The fold of prompts by their draws, Int64[n]; `ALL` of a single prompt."""
        if not self.folds:
            return np.full(drawn.size, ALL)
        return np.searchsorted(np.asarray(self.cuts), drawn, side="right").astype(np.int64)

    def members(self) -> list[int]:
        """The folds, or that of all rows."""
        return list(range(self.folds)) or [ALL]


def planned(drawn: Floats, facts: Sequence[Mapping[str, Any]], folds: int) -> Plan:
    """Plan a head from what all runs say.

    Args:
        drawn: draws of all prompts.
        facts: of `survey`.
        folds: wanted; there are no more than prompts.
    """
    count = min(folds, drawn.size)
    first = [-(-i * drawn.size // count) for i in range(1, count)]
    cuts = np.partition(drawn, first)[first].tolist() if first else []
    largest = {k: np.max([f[k] for f in facts], axis=0).tolist() for k in ("features", "middles")}
    spread = min(f["least"] for f in facts), max(f["most"] for f in facts)
    n = sum(f["n"] for f in facts)
    return Plan(n, drawn.size, cuts, count if count > 1 else 0, spread, **largest)


# -- sums by fold -----


def said(rows: Rows, plan: Plan, ctx: Context) -> Tables:
    """Of a run `counts` and `sums` by fold, or its `rows`; of pairs the sum of `middles` too."""
    fold = plan.fold(draws(rows.prompts, ctx))
    at = [fold == f for f in plan.members()]
    tables: Tables = {"counts": pl.DataFrame({"n": [int(own.sum()) for own in at]})}
    if rows.middles is not None:
        step = exact.grid(np.array(plan.middles))
        each = [_total(rows.middles[own], step) for own in at]
        tables["middles"] = pl.DataFrame({"sum": np.concatenate(each)})
    if plan.dual:
        features = pl.Series(rows.features, dtype=pl.Array(pl.Float32, len(plan.features)))
        columns = {"id": rows.ids, "features": features, "target": rows.targets, "fold": fold}
        return {**tables, "rows": pl.DataFrame(columns)}
    targets = rows.targets[:, None]
    found = [ridge.sums(rows.features[own], targets[own], plan.grid) for own in at]
    halves = {k: np.concatenate([getattr(s, k).ravel() for s in found]) for k in ("high", "low")}
    return {**tables, "sums": pl.DataFrame(halves)}


def _total(vectors: np.ndarray, step: Floats) -> np.ndarray:
    """Sum of vectors on a grid, Int64[h]."""
    total = np.zeros(step.size, np.int64)
    for rows in exact.pieces(len(vectors)):
        total += exact.on_grid(vectors[rows], step).astype(np.int64).sum(axis=0)
    return total


# -- the head -----


class Head:
    """A head of all runs, from what they said."""

    def __init__(self, plan: Plan, alphas: Sequence[float], tables: Sequence[Tables]) -> None:
        """Solve it, by every penalty and without each fold."""
        self.plan, self.alphas = plan, np.sort(np.asarray(alphas, np.float64))
        self.by_pair = "middles" in tables[0]
        self.counts = np.sum([t["counts"]["n"].to_numpy() for t in tables], axis=0)
        if self.by_pair:
            sums = np.sum([t["middles"]["sum"].to_numpy() for t in tables], axis=0)
            self.middles = sums.reshape(len(plan.members()), -1)
        self.paths, self.errors = (self._dual if plan.dual else self._primal)(tables)

    def _dual(self, tables: Sequence[Tables]) -> tuple[dict[int, ridge.Path], Floats]:
        """Solutions by left-out fold (`ALL`: none), and squared errors Float64[folds, A] on it."""
        rows = pl.concat([t["rows"] for t in tables]).sort("id")
        x, y = rows["features"].to_numpy(), rows["target"].to_numpy()[:, None]
        fold = rows["fold"].to_numpy()
        self.variance = float(np.var(y))
        paths = {ALL: ridge.solve_dual(x, y, self.alphas, not self.by_pair)}
        errors = np.zeros((self.plan.folds, self.alphas.size))
        for f in range(self.plan.folds):
            out = fold == f
            paths[f] = path = ridge.solve_dual(x[~out], y[~out], self.alphas, not self.by_pair)
            fitted = x[out].astype(np.float64) @ path.weights[:, :, 0].T + path.intercepts[:, 0]
            errors[f] = ((fitted - y[out]) ** 2).sum(0)
        return paths, errors

    def _primal(self, tables: Sequence[Tables]) -> tuple[dict[int, ridge.Path], Floats]:
        size = len(self.plan.features) + 3
        shape = len(self.plan.members()), size, size
        summed = exact.total(
            exact.Whole(*(t["sums"][k].to_numpy().reshape(shape) for k in ("high", "low")))
            for t in tables
        )
        found = [exact.Whole(*(half[i] for half in summed)) for i in range(shape[0])]
        every = self._moments(found)
        self.variance = max(0.0, float((every.yy / every.n - (every.y / every.n) ** 2)[0]))
        paths = {ALL: ridge.solve(every, self.alphas)}
        errors = np.zeros((self.plan.folds, self.alphas.size))
        for f in range(self.plan.folds):
            others = [own for i, own in enumerate(found) if i != f]
            paths[f] = ridge.solve(self._moments(others), self.alphas)
            errors[f] = ridge.squared_error(self._moments([found[f]]), paths[f])[:, 0]
        return paths, errors

    def _moments(self, parts: list[exact.Whole]) -> ridge.Moments:
        stats = ridge.moments_of(exact.total(parts), self.plan.grid)
        return ridge.symmetric(stats) if self.by_pair else stats

    def models(self) -> tuple[pl.DataFrame, dict[str, Any]]:
        """`fold`, `intercept` and `weights` of the best penalty, and the facts for the report."""
        plan, last = self.plan, len(self.alphas) - 1
        mse = self.errors.sum(0) / plan.n if plan.folds else None
        best = last if mse is None else last - int(np.argmin(mse[::-1]))  # of equals the largest
        chosen = {f: (p.weights[best, :, 0], float(p.intercepts[best, 0]))
                  for f, p in self.paths.items()}  # fmt: skip
        constant = not any(plan.features) if self.by_pair else plan.spread[0] == plan.spread[1]
        if constant:
            level = 0.0 if self.by_pair else plan.spread[0]
            chosen = dict.fromkeys(chosen, (np.zeros(len(plan.features)), level))
        variance = 1.0 if self.by_pair else self.variance
        facts = {
            "n": plan.n,
            "prompts": plan.prompts,
            "folds": plan.folds,
            "alpha": float(self.alphas[best]),
            "constant": constant,
            "cv_mse": {}
            if mse is None
            else {str(a): float(mse[i]) for i, a in enumerate(self.alphas)},
            "r2": None if mse is None or constant else 1 - float(mse[best]) / variance,
        }
        if self.by_pair:
            chosen = {f: (w, self._level(f, w)) for f, (w, _) in chosen.items()}
        weights = pl.Series([w for w, _ in chosen.values()],
                            dtype=pl.Array(pl.Float64, len(plan.features)))  # fmt: skip
        columns = {"fold": list(chosen), "intercept": [b for _, b in chosen.values()]}
        schema = {"fold": pl.Int64, "intercept": pl.Float64}
        return pl.DataFrame(columns, schema).with_columns(weights=weights), facts

    def _level(self, fold: int, weights: Floats) -> float:
        """Intercept of a head on pairs: the mean answer of the pairs that it saw scores 0."""
        seen = np.array([f != fold or f == ALL for f in self.plan.members()])
        sums = self.middles[seen].sum(axis=0) * exact.grid(np.array(self.plan.middles))
        return 0.0 - float((sums / int(self.counts[seen].sum()) * weights).sum())


# -- held-out signs -----


def judged(rows: Rows, plan: Plan, models: pl.DataFrame, ctx: Context) -> tuple[float, int]:
    """Right sides of a run, each scored by a model that left it out, and of how many.

    Of pairs the sign of the gap counts, no gap as half; of answers the side of 0.5.
    """
    by_pair = rows.middles is not None
    middle = 0.0 if by_pair else 0.5
    scores = scored(rows.features, models, plan.fold(draws(rows.prompts, ctx)), not by_pair)
    clear = rows.targets != middle
    same = np.sign(scores - middle) == np.sign(rows.targets - middle)
    return float((same + 0.5 * (scores == middle))[clear].sum()), int(clear.sum())


def scored(
    features: np.ndarray, models: pl.DataFrame, wanted: Folds, intercepts: bool = True
) -> Floats:
    """Scores Float64[n], by the head of each row's fold (`ALL`: of all rows).

    Args:
        features: Float32[n, h].
        models: of one objective (see `Head.models`).
        wanted: folds, Int64[n].
        intercepts: whether they are added.
    """
    scores = np.empty(len(features))
    weights, added = models["weights"].to_numpy(), models["intercept"].to_list()
    for i, number in enumerate(models["fold"].to_list()):
        rows = np.flatnonzero(wanted == number)
        scores[rows] = ridge.predict(features[rows], weights[i], added[i] * intercepts)
    return scores


def notes(facts: Mapping[str, Any], alphas: Sequence[float], of: int) -> list[str]:
    """What makes a head doubtful, in sentences; `of` so many its accuracy is."""
    if facts["constant"]:
        return ["There is no difference to learn: every answer gets the same score."]
    if not facts["folds"]:
        return ["One prompt allows no cross-validation: the largest alpha was taken."]
    found = []
    ends = {min(alphas): "smallest", max(alphas): "largest"}
    if len(alphas) > 1 and facts["alpha"] in ends:
        side = ends[facts["alpha"]]
        found.append(f"The chosen alpha, {facts['alpha']:g}, is the {side} of the grid.")
    if facts["r2"] <= 0:
        found.append(f"The head explains nothing of held-out rows (r2 {facts['r2']:.3f}).")
    accuracy = facts.get("accuracy")
    if accuracy is not None and accuracy <= 0.5 + 0.5 / of**0.5:
        found.append(
            f"The held-out accuracy, {accuracy:.3f} on {of}, is no better than chance "
            "by one standard error."
        )
    return found
