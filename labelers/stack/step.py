"""A scorer that is learned from the labels of pairs, and says how much it learned."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import polars as pl
from pydantic import Field

from labelers.stack.features import FromPairs, PairRows, folds_of, numbers
from prefactory.context import Context
from prefactory.measures.calibration import Floats
from prefactory.preferences.clustered import clustered_mean, hits
from prefactory.preferences.features import LENGTH
from prefactory.preferences.folds import NONE
from prefactory.preferences.gain import gains
from prefactory.preferences.stack import (
    CrossFit,
    Differences,
    Form,
    Model,
    Rows,
    cross_fit,
    fit,
    skill,
)
from prefactory.step import Scope, State
from prefactory.tables import SCORE, SIDES, Shape

ALL = -1
"""The "fold" of the model that saw every row."""
_ARRAYS = ("vector_weights", "vector_scales", "column_weights", "column_scales")


class PreferenceStack(FromPairs):
    """Learn from pairs which answer is preferred, and score both answers out of fold.

    A Bradley-Terry model on statistics of the texts (the counts of `labelers.TextStatistics`, the
    parts of `labelers.R3`), sentence vectors and scores of others, with a penalty for each group of
    features; see `prefactory.preferences.stack` for the forms. Adds `chosen_score_<name>` and
    `rejected_score_<name>` (Float64, log odds: their difference says how sure the scorer is that
    the label is right; scores of different prompts are not comparable) and that difference as
    `margin_<name>`. Every pair is scored by a model that saw no pair of its cluster of
    near-duplicate prompts, so that labels can be judged by it. Damaged pairs (`damage`) are scored
    and not fitted.

    With `gain` it adds `gain_<name>` (Float64, nats): what one more label of the pair is expected
    to tell about the weights (`prefactory.preferences.gain`), for a review of the most informative
    rows first; null where the pair was not fitted.

    Where the labels teach nothing that the scorer can see (accuracy less than one standard error
    above one half, or a slope that is not above 0), or there is one cluster of prompts, all are
    null and the report says so.

    Attributes:
        name: of the scores.
        form: `statistics`, `joint`, `stack`, or `auto`: the simplest of them, in this order, whose
            log loss on held-out rows is within one standard error of the least.
        gain: say what one more label of each pair would tell.

    Example:
        - labelers.PreferenceStack: {form: joint}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PAIRS,)
    scope: ClassVar[Scope] = "dataset"

    name: str = Field(default="stack", pattern=r"^[a-z0-9_]+$")
    form: Form = "auto"
    gain: bool = False

    version: ClassVar[int] = 3  # 2: damaged rows stay out of the fits; 3: the rule of `auto`

    def identity(self) -> dict[str, Any]:
        """As of any step; scores are the same with and without `gain`."""
        found = super().identity()
        kept = {k: v for k, v in found["fields"].items() if k != "gain" or self.gain}
        return {**found, "fields": kept}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Both sides' scores and the margin; with `oriented` columns the margin only."""
        sides = () if self.oriented else SIDES
        scores = [f"{side}_{SCORE}{self.name}" for side in sides]
        gain = [f"gain_{self.name}"] if self.gain else []
        return dict.fromkeys([*scores, f"margin_{self.name}", *gain], pl.Float64())

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Cross-fit, measure and scale the models.

        Returns:
            tables `models` (fold or -1 for all rows, form, level, weights and scales) and `rows`
            (pair_id, fold, and `gain` where it is asked for); info: `preference_stack` (see
            `report_of`).
        """
        rows = self.gather(parts)
        drawn = self.drawn(rows, ctx)
        seed = int(ctx.rng("folds").integers(2**31))
        fold = folds_of(rows, seed)
        data = Rows.of(rows.differences(drawn), rows.clusters[drawn])
        found = cross_fit(data, self.form, seed, fold[drawn])
        told = skill(found.margins, data.clusters)
        slope = 0.0 if told.teaches_nothing else told.slope
        models = {**found.models, **({ALL: fit(data, self.form, seed)} if len(data) else {})}
        table = [
            _row(k, model.times(slope), rows, drawn[(fold[drawn] != k) | (k == ALL)])
            for k, model in models.items()
        ]
        info = {
            "name": self.name,
            "pairs": len(rows.ids),
            "fitted": len(drawn),
            "damaged": int(rows.damaged.sum()),
            "damage": rows.reasons(),
            "forms": sorted({m.form for m in found.models.values()}),
            **told.as_dict(),
            "length_rule": length_rule(rows.column(LENGTH)[drawn], found, data),
            "weights": weights_of(models.get(ALL), self.columns()),
        }
        folds = pl.DataFrame({"pair_id": rows.ids, "fold": fold})
        if self.gain:
            worth = np.full(len(rows.ids), np.nan)
            if not told.teaches_nothing:
                worth[drawn] = gains(data.data, slope * found.margins)
            folds = folds.with_columns(gain=pl.Series(worth).fill_nan(None))
        state = {"models": pl.DataFrame(table), "rows": folds}
        return State(state, {"preference_stack": info})

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Score both answers by the model that did not see the pair."""
        models, rows = ctx.fitted.tables["models"], ctx.fitted.tables["rows"]
        known = table.select("pair_id").join(rows, on="pair_id", how="left", maintain_order="left")
        fold = known["fold"].fill_null(NONE).to_numpy()
        features = self._sides(table, ctx)
        found = {name: np.full(table.height, np.nan) for name in features}
        taught = not ctx.fitted.info["preference_stack"]["teaches_nothing"]
        for row in models.iter_rows(named=True):
            at = np.flatnonzero((fold == row["fold"]) & (fold != NONE))
            if not taught or not len(at):
                continue
            model, level = _model(row), 0.0 if self.oriented else row["level"]
            for name, side in features.items():
                found[name][at] = model.scores(side.take(at)) - level
        columns = {f"{side}_{SCORE}{self.name}": found[side] for side in SIDES if side in found}
        margin = found["margin"] if self.oriented else found["chosen"] - found["rejected"]
        columns[f"margin_{self.name}"] = margin
        if self.gain:
            columns[f"gain_{self.name}"] = known["gain"].fill_null(np.nan).to_numpy()
        scored = pl.DataFrame(columns, schema=self.adds(Shape.PAIRS))
        return scored.with_columns(pl.all().fill_nan(None))

    def _sides(self, table: pl.DataFrame, ctx: Context) -> dict[str, Differences]:
        """Features of both sides; with `oriented` columns those of the pair, as `margin`."""
        sides = {}
        for side, answers in zip(SIDES, self.answers(table, ctx), strict=True):
            both = [(pl.col(f"{side}_{SCORE}{o}"), self._gap(o)) for o in self.outside]
            scores = numbers(table, [pl.when(gap.is_finite()).then(own) for own, gap in both])
            columns = np.concatenate([answers.statistics.to_numpy(), scores], axis=1)
            sides[side] = Differences(answers.vectors(), columns)
        if not self.oriented:
            return sides
        (a, b), extra = sides.values(), numbers(table, [pl.col(c) for c in self.oriented])
        columns = np.concatenate([a.columns - b.columns, extra], axis=1)
        return {"margin": Differences(a.vectors - b.vectors, columns)}


def length_rule(length: Floats, found: CrossFit, data: Rows) -> dict[str, Any]:
    """How often the longer answer (or the shorter, as on the other folds) is the chosen one.

    Returns:
        `accuracy` and `ahead`: what the scorer's accuracy is above the rule's, on the same rows.
    """
    rule = np.full(len(data), np.nan)
    for k in np.unique(found.fold[found.fold != NONE]):
        held = found.fold == k
        rule[held] = length[held] if hits(length[~held]).mean() >= 0.5 else -length[held]
    there = ~np.isnan(found.margins)
    right, kept = hits(rule[there]), data.clusters[there]
    return {
        "accuracy": clustered_mean(right, kept).as_dict(),
        "ahead": clustered_mean(hits(found.margins[there]) - right, kept).as_dict(),
    }


def weights_of(model: Model | None, columns: tuple[str, ...]) -> dict[str, float]:
    """Weight of each plain column for its typical difference, and the size of those of vectors."""
    if model is None:
        return {}
    plain = dict(zip(columns, model.column_weights.tolist(), strict=True))
    if model.vector_weights.any():
        plain["vectors"] = float(np.sqrt((model.vector_weights**2).sum()))
    return plain


def _row(fold: int, model: Model, rows: PairRows, trained: np.ndarray) -> dict[str, Any]:
    """A model as a row of the state, with the mean score of the answers that it was trained on."""
    level = 0.0
    for start in range(0, len(trained), 4096):
        at = trained[start : start + 4096]
        for side in (rows.chosen, rows.rejected):
            columns = side.statistics[at].to_numpy()
            pad = model.column_weights.size - columns.shape[1]
            columns = np.concatenate([columns, np.zeros((len(at), pad))], axis=1)
            level += float(model.scores(Differences(side.vectors(at), columns)).sum())
    arrays = {name: getattr(model, name).tolist() for name in _ARRAYS}
    mean = level / max(2 * len(trained), 1)
    return {"fold": fold, "form": model.form, "level": mean, **arrays}


def _model(row: dict[str, Any]) -> Model:
    return Model(row["form"], *(np.asarray(row[name], np.float64) for name in _ARRAYS))
