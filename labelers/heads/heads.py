"""Ridge heads: linear scores on frozen sentence vectors, learned from the scores that are there.

Source: MULTI-TAP stage 2 (arXiv 2510.00766), with a sentence encoder in place of the vision model,
standardised features, and the penalty chosen by cross-validation (its code uses training error,
which always picks the smallest). Human labels of pairs are learned from differences, as by a
Bradley-Terry model, which the source does not do.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
import polars as pl
from pydantic import Field, field_validator
from threadpoolctl import threadpool_limits

from labelers.heads import ridge
from labelers.heads.ridge import Floats
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError, DataError
from prefactory.step import Labeler, Scope, State
from prefactory.tables import SCORE, SIDES, Shape, last_user_text, text_of

ALPHAS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6)
LABEL = "label"
"""Objective that, on pairs, is learned from which answer was chosen."""

_ALL = -1  # the "fold" of the model that saw every labelled row


class RidgeHeads(Labeler):
    """Learn one linear head per objective and score every response with it.

    Features are [e(response), e(last user message) * e(response)], standardised. Each head is
    fitted on the rows that have its objective's score, with the penalty of least squared error in
    K-fold cross-validation grouped by prompt. A constant target gives its constant.

    "label" on pairs has no absolute target: what is learned is the difference of the features,
    chosen minus rejected, with target 1 and no intercept, since the pair in the other order has
    the negative of both. A prompt whose answers are all good then pulls on nothing. The score
    w . (features - mean features of the training pairs) means something only against other
    answers to the same prompt; a gap of 1 is what the head aims at.

    Scores are cross-fitted: all answers to a prompt with a labelled row come from the fold's model
    that did not see that prompt, so they compare; other prompts get the model of all rows.

    Attributes:
        objectives: existing scores to learn; "label" on pairs is which answer was chosen.
        prefix: names the new columns `score_<prefix>_<objective>`.
        encoder: of the vectors; `labelers.models.causal.write_hidden_state_encoder` makes a causal
            LM one, by the hidden state at the last token.
        alphas: ridge penalties to choose from, on standardised features.
        folds: of the cross-validation; fewer if there are fewer prompts.
        cross_fit: False scores all rows with the model of all rows.

    Example:
        - labelers.RidgeHeads: {objectives: [helpfulness]}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES, Shape.PAIRS)
    scope: ClassVar[Scope] = "dataset"
    learns_labels: ClassVar[bool] = True
    version: ClassVar[int] = 2

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
            `target_<objective>` (Float64, null where not scored; "label" on pairs: 1 chosen, 0
            rejected); on pairs two rows per pair, with `pair_id`.
        """
        pairs = "pair_id" in table.columns
        shape = Shape.PAIRS if pairs else Shape.RESPONSES
        parts = []
        for prefix in _sides(shape):
            features = self._features(table, prefix, ctx)
            targets = [self._target(o, prefix).alias(f"target_{o}") for o in self.objectives]
            row_id = pl.col(f"{prefix}id" if pairs else "response_id").alias("row_id")
            vectors = pl.Series("features", features, dtype=pl.Array(pl.Float32, features.shape[1]))
            pair_id = ["pair_id"] if pairs else []
            rows = table.select(row_id, "prompt_id", *targets, *pair_id)
            parts.append(rows.insert_column(2, vectors))
        return pl.concat(parts)

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Fit all heads.

        Returns:
            tables `weights` (objective, fold or -1 for all rows, intercept, weights) and `folds`
            (prompt_id, `fold_<objective>`); info by objective: n (answers; "label" on pairs:
            pairs), prompts, folds, alpha, cv_mse by alpha, r2 (cross-validated, against the mean;
            "label" on pairs: against no opinion), for "label" the held-out accuracy, and notes,
            sentences on what makes the head doubtful.

        Raises:
            DataError: an objective has no scored row.
        """
        weights, info = [], {}
        folds = parts.select("prompt_id").unique().sort("prompt_id")
        for objective in self.objectives:
            by_pair = objective == LABEL and "pair_id" in parts.columns
            rows = _differences(parts) if by_pair else _answers(parts, f"target_{objective}")
            if not len(rows.targets):
                raise DataError(
                    f"labelers.RidgeHeads: no row has a finite score of {objective!r} to learn from"
                )
            assigned = self._assign(rows.prompts, ctx)
            head = _Head(self, rows, assigned)
            with threadpool_limits(1, user_api="blas"):  # bits must not depend on the cores
                table, facts = head.fit(classify=objective == LABEL)
            weights.append(table.insert_column(0, pl.Series("objective", [objective] * len(table))))
            info[objective] = facts
            fold = assigned.rename({"fold": f"fold_{objective}"})
            folds = folds.join(fold, on="prompt_id", how="left", maintain_order="left")
        return State({"weights": pl.concat(weights), "folds": folds}, info)

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Score every answer of a table with the fitted heads."""
        models, folds = ctx.fitted.tables["weights"], ctx.fitted.tables["folds"]
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


class _Rows(NamedTuple):
    """What one head is fitted on.

    Attributes:
        features: Float32[n, h]; of pairs the difference, chosen minus rejected.
        targets: Float64[n]; of pairs 1.
        prompts: prompt ids, length n.
        middles: of pairs the mean features of both answers, Float32[n, h].
    """

    features: np.ndarray
    targets: Floats
    prompts: pl.Series
    middles: np.ndarray | None = None


def _answers(parts: pl.DataFrame, target: str) -> _Rows:
    """Every distinct answer with a target; of several targets the mean."""
    known = parts.filter(pl.col(target).is_not_null()).sort("row_id", target)
    groups = known.group_by("row_id", maintain_order=True)
    data = groups.agg(pl.col("prompt_id", "features").first(), pl.col(target).mean())
    return _Rows(data["features"].to_numpy(), data[target].to_numpy(), data["prompt_id"])


def _differences(parts: pl.DataFrame) -> _Rows:
    """Every pair, chosen minus rejected."""
    rows = parts.sort("pair_id")
    chosen, rejected = (rows.filter(pl.col(f"target_{LABEL}") == side) for side in (1, 0))
    a, b = chosen["features"].to_numpy(), rejected["features"].to_numpy()
    return _Rows(a - b, np.ones(len(a)), chosen["prompt_id"], (a + b) / np.float32(2))


class _Head:
    """The fit of one objective on some rows, with the folds of their prompts."""

    def __init__(self, step: RidgeHeads, rows: _Rows, assigned: pl.DataFrame) -> None:
        self.alphas = np.sort(np.asarray(step.alphas, np.float64))
        self.features, self.targets, prompts, self.middles = rows
        joined = pl.DataFrame({"prompt_id": prompts}).join(
            assigned, on="prompt_id", how="left", maintain_order="left"
        )
        self.fold = joined["fold"].fill_null(_ALL).to_numpy()
        self.folds = [int(f) for f in np.unique(self.fold) if f != _ALL]
        self.prompts = assigned.height

    @property
    def by_pair(self) -> bool:
        return self.middles is not None

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
        constant = not self.features.any() if self.by_pair else bool(np.ptp(self.targets) == 0)
        if constant:
            zero = np.zeros(self.features.shape[1])
            level = 0.0 if self.by_pair else float(self.targets[0])
            models = dict.fromkeys(models, (zero, level))
        variance = 1.0 if self.by_pair else float(np.var(self.targets))
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
        judged = 0
        if classify:
            facts["accuracy"], judged = self._accuracy(models)
        facts["notes"] = self._notes(facts, best, judged)
        if self.middles is not None:
            seen = {f: self.middles[(self.fold != f) | (f == _ALL)] for f in models}
            models = {fold: (w, _level(seen[fold], w)) for fold, (w, _) in models.items()}
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
        centred = not self.by_pair
        if len(y) <= self.features.shape[1]:
            paths = {_ALL: ridge.solve_dual(self.features, y, self.alphas, centred)}
            for i, fold in enumerate(self.folds):
                out = self.fold == fold
                paths[fold] = ridge.solve_dual(self.features[~out], y[~out], self.alphas, centred)
                errors[i] = self._row_errors(out, paths[fold])
            return paths, errors
        stats = {f: ridge.moments(self.features[at], y[at]) for f, at in self._members()}
        if self.by_pair:
            stats = {f: ridge.symmetric(s) for f, s in stats.items()}
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

    def _accuracy(self, models: dict[int, tuple[Floats, float]]) -> tuple[float | None, int]:
        """Share of right sides, each scored by a model that left it out, and of how many.

        Of pairs the sign of the gap counts, no gap as half; of answers the side of 0.5.
        """
        right, total = 0.0, 0
        middle = 0.0 if self.by_pair else 0.5
        for fold, at in self._members():
            scores = ridge.predict(self.features[at], *models[fold]) - middle
            clear = self.targets[at] != middle
            same = np.sign(scores) == np.sign(self.targets[at] - middle)
            right += float((same + 0.5 * (scores == 0))[clear].sum())
            total += int(clear.sum())
        return (right / total, total) if total and self.folds else (None, 0)

    def _notes(self, facts: dict[str, Any], best: int, judged: int) -> list[str]:
        """What makes the head doubtful, in sentences."""
        if facts["constant"]:
            return ["There is no difference to learn: every answer gets the same score."]
        if not self.folds:
            return ["One prompt allows no cross-validation: the largest alpha was taken."]
        notes = []
        last = len(self.alphas) - 1
        if last and best in (0, last):
            side = "largest" if best else "smallest"
            notes.append(f"The chosen alpha, {facts['alpha']:g}, is the {side} of the grid.")
        if facts["r2"] <= 0:
            notes.append(f"The head explains nothing of held-out rows (r2 {facts['r2']:.3f}).")
        accuracy = facts.get("accuracy")
        if accuracy is not None and accuracy <= 0.5 + 0.5 / judged**0.5:
            notes.append(
                f"The held-out accuracy, {accuracy:.3f} on {judged}, is no better than chance "
                "by one standard error."
            )
        return notes


def _level(middles: np.ndarray, weights: Floats) -> float:
    """Intercept of a head on pairs: the mean answer of the pairs that it saw scores 0."""
    return 0.0 - float((middles.mean(0, dtype=np.float64) * weights).sum())


def _sides(shape: Shape) -> tuple[str, ...]:
    return tuple(f"{side}_" for side in SIDES) if shape == Shape.PAIRS else ("",)


def _shape(table: pl.DataFrame) -> Shape:
    return Shape.PAIRS if "pair_id" in table.columns else Shape.RESPONSES


def _scored(features: np.ndarray, heads: pl.DataFrame, fold: pl.Series | None) -> Floats:
    """Scores Float64[n], by the head of each row's fold (null or no fold: of all rows)."""
    wanted = np.full(len(features), _ALL) if fold is None else fold.fill_null(_ALL).to_numpy()
    scores = np.empty(len(features))
    weights = heads["weights"].to_numpy()
    for i, number in enumerate(heads["fold"].to_list()):
        rows = np.flatnonzero(wanted == number)
        scores[rows] = ridge.predict(features[rows], weights[i], float(heads["intercept"][i]))
    return scores
