"""Ridge heads: linear scores on frozen sentence vectors, learned from the scores that are there.

Source: MULTI-TAP stage 2 (arXiv 2510.00766), with a sentence encoder in place of the vision model,
standardised features, and the penalty chosen by cross-validation (its code uses training error,
which always picks the smallest).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import polars as pl
from pydantic import Field, field_validator
from threadpoolctl import threadpool_limits

from labelers import ridge
from labelers.ridge import Floats
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError, DataError
from prefactory.step import Labeler, Scope, State
from prefactory.tables import SCORE, SIDES, Shape, last_user_text, text_of

ALPHAS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
LABEL = "label"
"""Objective whose target, on pairs, is 1 for the chosen and 0 for the rejected answer."""

_ALL = -1  # the "fold" of the model that saw every labelled row


class RidgeHeads(Labeler):
    """Learn one linear head per objective and score every response with it.

    Features are [e(response), e(last user message) * e(response)], standardised. Each head is
    fitted on the rows that have its objective's score, with the penalty of least squared error in
    K-fold cross-validation grouped by prompt. A constant target gives its constant.

    Scores are cross-fitted: all answers to a prompt with a labelled row come from the fold's model
    that did not see that prompt, so they compare; other prompts get the model of all rows.

    Attributes:
        objectives: existing scores to learn. "label" on pairs means chosen 1, rejected 0 (an
            answer on both sides of pairs gets the mean).
        prefix: names the new columns `score_<prefix>_<objective>`.
        encoder: of the vectors.
        alphas: ridge penalties to choose from, on standardised features.
        folds: of the cross-validation; fewer if there are fewer prompts.
        cross_fit: False scores all rows with the model of all rows.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES, Shape.PAIRS)
    scope: ClassVar[Scope] = "dataset"

    objectives: tuple[str, ...] = Field(min_length=1)
    prefix: str = Field(default="ridge", min_length=1)
    encoder: Encoder = Encoder()
    alphas: tuple[float, ...] = Field(default=ALPHAS, min_length=1)
    folds: int = Field(default=5, ge=2)
    cross_fit: bool = True

    @field_validator("objectives", "alphas")
    @classmethod
    def _each_once(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(value)) != len(value):
            raise ValueError("every value may be there once")
        if any(isinstance(v, float) and v <= 0 for v in value):
            raise ValueError("penalties are above 0")
        return value

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The scores to learn, Float64 with nulls allowed ("label" needs none on pairs)."""
        names = [o for o in self.objectives if shape != Shape.PAIRS or o != LABEL]
        return {f"{p}{SCORE}{o}": pl.Float64() for o in names for p in _sides(shape)}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`score_<prefix>_<objective>`, on pairs one for each side, Float64."""
        names = [f"{SCORE}{self.prefix}_{o}" for o in self.objectives]
        return {f"{p}{name}": pl.Float64() for p in _sides(shape) for name in names}

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Features and targets of a shard's answers.

        Returns:
            `row_id` (the response id), `prompt_id`, `features` (Array(Float32, 2d)) and
            `target_<objective>` (Float64, null where not scored); on pairs two rows per pair.
        """
        pairs = "pair_id" in table.columns
        shape = Shape.PAIRS if pairs else Shape.RESPONSES
        parts = []
        for prefix in _sides(shape):
            features = self._features(table, prefix, ctx)
            targets = [self._target(o, prefix).alias(f"target_{o}") for o in self.objectives]
            row_id = pl.col(f"{prefix}id" if pairs else "response_id").alias("row_id")
            vectors = pl.Series("features", features, dtype=pl.Array(pl.Float32, features.shape[1]))
            rows = table.select(row_id, "prompt_id", *targets)
            parts.append(rows.insert_column(2, vectors))
        return pl.concat(parts)

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Fit all heads.

        Returns:
            tables `weights` (objective, fold or -1 for all rows, intercept, weights) and `folds`
            (prompt_id, `fold_<objective>`); info by objective: n, prompts, folds, alpha,
            cv_mse by alpha, r2 (cross-validated) and for "label" the accuracy.

        Raises:
            DataError: an objective has no scored row.
        """
        names = [f"target_{o}" for o in self.objectives]
        rows = parts.sort("row_id", *names).group_by("row_id", maintain_order=True)
        data = rows.agg(pl.col("prompt_id", "features").first(), pl.col(names).mean())
        features = data["features"].to_numpy()
        weights, info = [], {}
        folds = data.select("prompt_id").unique().sort("prompt_id")
        for objective, name in zip(self.objectives, names, strict=True):
            labelled = data[name].is_not_null()
            if not labelled.any():
                raise DataError(
                    f"labelers.RidgeHeads: no row has a finite score of {objective!r} to learn from"
                )
            where = np.flatnonzero(labelled.to_numpy())
            chosen = data.select("prompt_id", name)[where]
            assigned = self._assign(chosen["prompt_id"], ctx)
            head = _Head(self, features[where], chosen[name].to_numpy(), assigned, chosen)
            with threadpool_limits(1, user_api="blas"):  # bits must not depend on the cores
                table, facts = head.fit(classify=objective == LABEL)
            weights.append(table.insert_column(0, pl.Series("objective", [objective] * len(table))))
            info[objective] = facts
            fold = assigned.rename({"fold": f"fold_{objective}"})
            folds = folds.join(fold, on="prompt_id", how="left", maintain_order="left")
        return State({"weights": pl.concat(weights), "folds": folds}, info)

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Score every answer of a table with the fitted heads."""
        if ctx.state is None:
            raise ConfigError("labelers.RidgeHeads scores rows only after fit")
        models, folds = ctx.state.tables["weights"], ctx.state.tables["folds"]
        known = table.select("prompt_id").join(
            folds, on="prompt_id", how="left", maintain_order="left"
        )
        columns = {}
        for prefix in _sides(Shape.PAIRS if "pair_id" in table.columns else Shape.RESPONSES):
            features = self._features(table, prefix, ctx)
            for objective in self.objectives:
                heads = models.filter(pl.col("objective") == objective)
                fold = known[f"fold_{objective}"] if self.cross_fit else None
                column = f"{prefix}{SCORE}{self.prefix}_{objective}"
                columns[column] = _scored(features, heads, fold)
        return pl.DataFrame(columns, schema=self.adds(_shape(table)))

    def _features(self, table: pl.DataFrame, prefix: str, ctx: Context) -> np.ndarray:
        """[e(response), e(last user message) * e(response)]: Float32[n, 2d]."""
        if ctx.embed is None:
            raise ConfigError("labelers.RidgeHeads needs an encoder and this run has none")
        answer = text_of(pl.col(prefix.removesuffix("_") or "response")).fill_null("")
        texts = table.select(query=last_user_text(pl.col("prompt")), answer=answer)
        response = ctx.embed(self.encoder, texts["answer"])
        query = ctx.embed(self.encoder, texts["query"])
        return np.concatenate([response, query * response], axis=1, dtype=np.float32)

    def _target(self, objective: str, prefix: str) -> pl.Expr:
        if objective == LABEL and prefix:
            return pl.lit(1.0 if prefix == "chosen_" else 0.0, dtype=pl.Float64)
        score = pl.col(f"{prefix}{SCORE}{objective}")
        return pl.when(score.is_finite()).then(score)

    def _assign(self, prompt_ids: pl.Series, ctx: Context) -> pl.DataFrame:
        """`prompt_id` and `fold` (Int64) of the labelled prompts; folds differ by one at most.

        A single prompt can't be left out: its fold is null and the model of all rows scores it.
        """
        prompts = prompt_ids.unique().sort()
        count = min(self.folds, prompts.len())
        order = np.lexsort((np.arange(prompts.len()), ctx.uniform(prompts, "fold").to_numpy()))
        fold = np.empty(prompts.len(), np.int64)
        fold[order] = np.arange(prompts.len()) % count
        folds = pl.Series("fold", fold if count > 1 else [None], dtype=pl.Int64)
        return pl.DataFrame({"prompt_id": prompts, "fold": folds})


class _Head:
    """The fit of one objective: features Float32[n, h], targets Float64[n], folds of prompts."""

    def __init__(
        self,
        step: RidgeHeads,
        features: np.ndarray,
        targets: Floats,
        assigned: pl.DataFrame,
        rows: pl.DataFrame,
    ) -> None:
        self.alphas = np.sort(np.asarray(step.alphas, np.float64))
        self.features, self.targets = features, targets
        joined = rows.join(assigned, on="prompt_id", how="left", maintain_order="left")
        self.fold = joined["fold"].fill_null(_ALL).to_numpy()
        self.folds = [int(f) for f in np.unique(self.fold) if f != _ALL]
        self.prompts = assigned.height

    def fit(self, classify: bool) -> tuple[pl.DataFrame, dict[str, Any]]:
        """Return the models (fold, intercept, weights) and the facts for the report."""
        paths, errors = self._paths()
        mse = errors.sum(0) / len(self.targets) if self.folds else None
        best = len(self.alphas) - 1
        if mse is not None:  # of equal errors the largest penalty
            best -= int(np.argmin(mse[::-1]))
        models = {
            fold: (p.weights[best, :, 0], float(p.intercepts[best, 0])) for fold, p in paths.items()
        }
        constant = bool(np.ptp(self.targets) == 0)
        if constant:
            zero = np.zeros(self.features.shape[1])
            models = {fold: (zero, float(self.targets[0])) for fold in models}
        variance = float(np.var(self.targets))
        facts: dict[str, Any] = {
            "n": len(self.targets),
            "prompts": self.prompts,
            "folds": len(self.folds),
            "alpha": float(self.alphas[best]),
            "constant": constant,
            "cv_mse": {}
            if mse is None
            else {str(a): float(mse[i]) for i, a in enumerate(self.alphas)},
            "r2": None if mse is None or constant else 1 - float(mse[best]) / variance,
        }
        if classify:
            facts["accuracy"] = self._accuracy(models)
        table = pl.DataFrame(
            {
                "fold": list(models),
                "intercept": [b for _, b in models.values()],
                "weights": pl.Series(
                    np.stack([w for w, _ in models.values()]),
                    dtype=pl.Array(pl.Float64, self.features.shape[1]),
                ),
            },
            schema_overrides={"fold": pl.Int64},
        )
        return table, facts

    def _paths(self) -> tuple[dict[int, ridge.Path], Floats]:
        """Solutions by left-out fold (-1: none), and squared errors Float64[folds, A] on it."""
        y = self.targets[:, None]
        errors = np.zeros((len(self.folds), len(self.alphas)))
        if len(y) <= self.features.shape[1]:
            paths = {_ALL: ridge.solve_dual(self.features, y, self.alphas)}
            for i, fold in enumerate(self.folds):
                out = self.fold == fold
                paths[fold] = ridge.solve_dual(self.features[~out], y[~out], self.alphas)
                errors[i] = self._row_errors(out, paths[fold])
            return paths, errors
        stats = {f: ridge.moments(self.features[at], y[at]) for f, at in self._members()}
        paths = {_ALL: ridge.solve(ridge.total(list(stats.values())), self.alphas)}
        for i, fold in enumerate(self.folds):
            others = [s for f, s in stats.items() if f != fold]
            paths[fold] = ridge.solve(ridge.total(others), self.alphas)
            errors[i] = ridge.squared_error(stats[fold], paths[fold])[:, 0]
        return paths, errors

    def _members(self) -> list[tuple[int, np.ndarray]]:
        return [(f, self.fold == f) for f in (self.folds or [_ALL])]

    def _row_errors(self, rows: np.ndarray, path: ridge.Path) -> Floats:
        fitted = self.features[rows].astype(np.float64) @ path.weights[:, :, 0].T
        errors: Floats = ((fitted + path.intercepts[:, 0] - self.targets[rows, None]) ** 2).sum(0)
        return errors

    def _accuracy(self, models: dict[int, tuple[Floats, float]]) -> float | None:
        """Share of answers on the right side of 0.5, each scored by a model that left it out."""
        right = total = 0
        for fold, at in self._members():
            scores = ridge.predict(self.features[at], *models[fold])
            clear = self.targets[at] != 0.5
            right += int(((scores > 0.5) == (self.targets[at] > 0.5))[clear].sum())
            total += int(clear.sum())
        return right / total if total and self.folds else None


def _sides(shape: Shape) -> tuple[str, ...]:
    return tuple(f"{side}_" for side in SIDES) if shape == Shape.PAIRS else ("",)


def _shape(table: pl.DataFrame) -> Shape:
    return Shape.PAIRS if "pair_id" in table.columns else Shape.RESPONSES


def _scored(features: np.ndarray, heads: pl.DataFrame, fold: pl.Series | None) -> Floats:
    """Scores Float64[n], by the head of each row's fold (null or no fold: of all rows)."""
    wanted = np.full(len(features), _ALL) if fold is None else fold.fill_null(_ALL).to_numpy()
    scores = np.empty(len(features))
    weights = heads["weights"].to_numpy()
    for place, number in enumerate(heads["fold"].to_list()):
        rows = np.flatnonzero(wanted == number)
        scores[rows] = ridge.predict(
            features[rows], weights[place], float(heads["intercept"][place])
        )
    return scores
