"""Pairs stay that tell a Bradley-Terry model most: D-optimal selection by Fisher information."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import polars as pl
from pydantic import Field

from filters.rules.margin import score_columns
from filters.selection.baseline import Measure
from filters.selection.ensemble import sigmoid
from filters.selection.places import Places
from filters.selection.quadratic import d_optimal, log_det
from filters.selection.selector import Chosen, Selector, embedded, vector_column
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.tables import Shape


class DOptimal(Selector):
    """Keep the pairs that together carry most Fisher information on a linear preference model.

    Under a Bradley-Terry model whose reward is linear in the sentence vector, a pair with vectors
    c and r and probability p adds p (1 - p) (c - r)(c - r)' to the information matrix. Greedily the
    pair is taken whose information raises log det(ridge I + sum) most (D-optimality), with rank-one
    updates and lazy evaluation; a second pair that asks in the same direction adds little.

    Without a score every p is 1/2 and the selection depends on vectors alone. With one, pairs whose
    winner the scorer already knows weigh less; a pair that is not scored counts as undecided.

    That the matrix is of the vectors' differences and starts with `ridge` I are our choices.

    Baseline: `log det`, of I + information / ridge.

    Attributes:
        score: objective whose margin, chosen minus rejected, gives p = sigmoid(`slope` margin).
        slope: Bradley-Terry log odds for one unit of the score.
        ridge: information that is there before; in units of pairs at distance 2 with p = 1/2. More
            of it favours pairs of very different answers over new directions.
        encoder: sentence encoder of the answers with their questions.

    Example:
        - filters.DOptimal: {fraction: 0.5}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PAIRS,)

    score: str | None = Field(default=None, min_length=1)
    slope: float = Field(default=1.0, gt=0)
    ridge: float = Field(default=0.01, gt=0)
    encoder: Encoder = Field(default_factory=Encoder)

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """Both sides' scores (Float64), if `score` is set."""
        scores = score_columns(self.score, shape)
        return {**super().needs(shape), **scores}

    def reads(self, table: pl.DataFrame, shape: Shape, ctx: Context) -> list[pl.Series]:
        """`vector` and `margin` (Float64, null where not scored)."""
        margin = pl.lit(None, dtype=pl.Float64)
        if self.score is not None:
            chosen, rejected = (pl.col(c) for c in score_columns(self.score, shape))
            margin = chosen - rejected
        margins = table.select("pair_id", margin=margin.fill_nan(None))["margin"]
        gaps = embedded(table, shape, "difference", self.encoder, ctx, type(self).__name__)
        return [vector_column(gaps), margins]

    def choose(self, parts: pl.DataFrame, places: Places, ctx: Context) -> Chosen:
        """Choose; the ledger says what one more pair like a row would still add to log det."""
        margin = parts["margin"].fill_null(0.0).to_numpy()
        p = sigmoid(self.slope * margin)
        features = parts["vector"].to_numpy() * np.sqrt(p * (1.0 - p))[:, None]
        features = features.astype(np.float32)
        picks, left = d_optimal(features, places, self.ridge)
        measure = Measure("log det", "higher", lambda r: log_det(features, r, self.ridge))
        facts = {"unscored": parts["margin"].null_count()} if self.score is not None else {}
        return Chosen(picks.rows, measure, left, "gain", None, facts)
