"""Ridge heads: linear scores on frozen sentence vectors, learned from the scores that are there.

Source: MULTI-TAP stage 2 (arXiv 2510.00766), with a sentence encoder in place of the vision model,
standardised features, and the penalty chosen by cross-validation (its code uses training error,
which always picks the smallest). Human labels of pairs are learned from differences, as by a
Bradley-Terry model, which the source does not do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import polars as pl
from pydantic import Field, field_validator
from threadpoolctl import threadpool_limits

from labelers.heads.in_rounds import (
    ALL,
    Head,
    Plan,
    Rows,
    answers,
    differences,
    draws,
    judged,
    notes,
    planned,
    said,
    scored,
    survey,
)
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError, DataError
from prefactory.step import Labeler, Scope, State
from prefactory.step.exchange import Concluded, Rounds
from prefactory.tables import SCORE, SIDES, Shape, last_user_text, text_of

ALPHAS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6)
LABEL = "label"
"""Objective that, on pairs, is learned from which answer was chosen."""

_LISTS = {name: pl.List(pl.Float64()) for name in ("cuts", "spread", "features", "middles")}


class RidgeHeads(Rounds, Labeler):
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
    that did not see that prompt, so they compare; other prompts get the model of all rows. A
    prompt's fold follows from a draw by seed and id.

    The fit is rounds over runs of rows with exact sums (`prefactory.measures.exact`), for which
    features keep 22 bits below the largest of their column: no worker holds more than `--fit-rows`
    rows, and the heads are the same to the bit.

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
    version: ClassVar[int] = 3

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

    def look(self, parts: pl.DataFrame, known: State | None, ctx: Context) -> State:
        """A survey of a run of rows, then its sums by fold, then its held-out signs of "label"."""
        tables: dict[str, pl.DataFrame] = {}
        facts: dict[str, Any] = {}
        with threadpool_limits(1, user_api="blas"):  # bits must not depend on the cores
            for i, objective in enumerate(self.objectives):
                rows = self._rows(parts, objective)
                if known is None:
                    tables[f"draws_{i}"], facts[objective] = survey(rows, ctx)
                elif "weights" not in known.tables:
                    found = said(rows, _plan(known, objective), ctx)
                    tables |= {f"{name}_{i}": table for name, table in found.items()}
                elif objective == LABEL:
                    models = _models(known, objective)
                    facts[LABEL] = judged(rows, _plan(known, objective), models, ctx)
        return State(tables, facts)

    def conclude(self, looks: Sequence[State], known: State | None, ctx: Context) -> Concluded:
        """Plan the folds, then fit all heads, then count what "label" gets right.

        Returns:
            in the end tables `weights` (objective, fold or -1 for all rows, intercept, weights) and
            `plans` (objective, `cuts` of the draws that decide a prompt's fold, ...); info by
            objective: n (answers; "label" on pairs: pairs), prompts, folds, alpha, cv_mse by alpha,
            r2 (cross-validated, against the mean; "label" on pairs: against no opinion), for
            "label" the held-out accuracy, and notes, sentences on what makes the head doubtful.

        Raises:
            DataError: an objective has no scored row.
        """
        if known is None:
            plans = [self._planned(looks, i) for i in range(len(self.objectives))]
            table = pl.DataFrame([p._asdict() for p in plans], schema_overrides=_LISTS)
            table = table.insert_column(0, pl.Series("objective", self.objectives))
            return Concluded(State({"plans": table}), last=False)
        if "weights" not in known.tables:
            return self._fitted(looks, known)
        counts = [look.info[LABEL] for look in looks]
        right, of = (sum(each) for each in zip(*counts, strict=True))
        facts = {**known.info[LABEL], "accuracy": right / of if of else None}
        facts["notes"] = notes(facts, self.alphas, of)
        return Concluded(State(known.tables, {**known.info, LABEL: facts}), last=True)

    def _planned(self, looks: Sequence[State], place: int) -> Plan:
        objective = self.objectives[place]
        facts = [look.info[objective] for look in looks]
        if not any(fact["n"] for fact in facts):
            raise DataError(
                f"labelers.RidgeHeads: no row has a finite score of {objective!r} to learn from"
            )
        drawn = [look.tables[f"draws_{place}"]["draw"].to_numpy() for look in looks]
        return planned(np.concatenate(drawn), facts, self.folds)

    def _fitted(self, looks: Sequence[State], known: State) -> Concluded:
        weights, info = [], {}
        for i, objective in enumerate(self.objectives):
            kinds = ("counts", "sums", "rows", "middles")
            tables = [{k: look.tables[f"{k}_{i}"] for k in kinds if f"{k}_{i}" in look.tables}
                      for look in looks]  # fmt: skip
            plan = _plan(known, objective)
            with threadpool_limits(1, user_api="blas"):
                models, facts = Head(plan, self.alphas, tables).models()
            if objective == LABEL:
                facts["accuracy"] = None
            weights.append(models.select(pl.lit(objective).alias("objective"), pl.all()))
            info[objective] = {**facts, "notes": notes(facts, self.alphas, 0)}
        tried = LABEL in self.objectives and bool(info[LABEL]["folds"])
        state = State({"weights": pl.concat(weights), "plans": known.tables["plans"]}, info)
        return Concluded(state, last=not tried)

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Score every answer of a table with the fitted heads; all rows of a prompt are in it."""
        columns = {}
        sides = _sides(_shape(table))
        folds = {o: self._folds(table, o, ctx) for o in self.objectives}
        for prefix in sides:
            features = self._features(table, prefix, ctx)
            for objective in self.objectives:
                models = _models(ctx.fitted, objective)
                column = f"{prefix}{SCORE}{self.prefix}_{objective}"
                columns[column] = scored(features, models, folds[objective])
        return pl.DataFrame(columns, schema=self.adds(_shape(table)))

    def _folds(self, table: pl.DataFrame, objective: str, ctx: Context) -> np.ndarray:
        """The fold of each row's prompt, `ALL` where no row of it has a target."""
        drawn = draws(table["prompt_id"], ctx)
        if not self.cross_fit:
            return np.full(drawn.size, ALL)
        there = [self._target(objective, side).is_not_null() for side in _sides(_shape(table))]
        known = table.select(pl.any_horizontal(there).any().over("prompt_id")).to_series()
        return np.where(known.to_numpy(), _plan(ctx.fitted, objective).fold(drawn), ALL)

    def _rows(self, parts: pl.DataFrame, objective: str) -> Rows:
        if objective == LABEL and "pair_id" in parts.columns:
            return differences(parts, f"target_{LABEL}")
        return answers(parts, f"target_{objective}")

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


def _plan(state: State, objective: str) -> Plan:
    row = state.tables["plans"].row(by_predicate=pl.col("objective") == objective, named=True)
    return Plan(**{**{name: row[name] for name in Plan._fields}, "spread": tuple(row["spread"])})


def _models(state: State, objective: str) -> pl.DataFrame:
    return state.tables["weights"].filter(pl.col("objective") == objective)


def _sides(shape: Shape) -> tuple[str, ...]:
    return tuple(f"{side}_" for side in SIDES) if shape == Shape.PAIRS else ("",)


def _shape(table: pl.DataFrame) -> Shape:
    return Shape.PAIRS if "pair_id" in table.columns else Shape.RESPONSES
