"""Pairs stay by one number of their own: implicit reward margin, difficulty, uncertainty."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from filters.rules.margin import score_columns
from filters.selection.baseline import Measure
from filters.selection.ensemble import fit_head, poisson_weights, sigmoid, uncertainty
from filters.selection.grid import Floats
from filters.selection.margins import Order, margin_probability, product_rule, wanted
from filters.selection.places import I64, Places
from filters.selection.selector import Chosen, Selector, embedded, vector_column
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.tables import Shape


class _Ordered(Selector, abstract=True):
    """Base of selections by a number.

    Attributes:
        order: which rows stay: those with the `high`est number, the `low`est, or those nearest to
            the median (`mid`). There is no default, because papers contradict each other.
        random_share: share of the budget that is drawn at random from the rest, so that something
            is left to calibrate with.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PAIRS,)

    order: Order
    random_share: float = Field(default=0.0, ge=0, le=1)

    def by_number(
        self,
        number: Floats,
        name: str,
        parts: pl.DataFrame,
        places: Places,
        ctx: Context,
        **facts: Any,  # noqa: ANN401
    ) -> Chosen:
        """Choose by a number, Float64[n]."""
        first = wanted(np.where(places.open, number, np.nan), self.order)
        whole = places.again().fill(first)
        certain = whole[: whole.size - int(self.random_share * whole.size + 0.5)]
        places.fill(certain)
        draws = ctx.uniform(parts.to_series(0), "rest").to_numpy()
        drawn = places.fill(np.argsort(draws, kind="stable").astype(np.int64))
        better: dict[Order, Literal["higher", "lower", "none"]]
        better = {"high": "higher", "low": "lower", "mid": "none"}
        measure = Measure(
            f"mean {name}", better[self.order], lambda rows: float(number[rows].mean())
        )
        rows = np.concatenate([certain, drawn]).astype(np.int64)
        seen = number[places.eligible]
        shown = dict.fromkeys(("0.05", "0.5", "0.95"))
        if seen.size:
            shown = {q: float(np.quantile(seen, float(q))) for q in shown}
        info = {"order": self.order, "at_random": int(drawn.size), "quantiles": shown, **facts}
        return Chosen(rows, measure, number, name, None, info)


class MarginSelection(_Ordered):
    """Keep pairs by the margin of a score, chosen minus rejected, in an order that you name.

    With one objective the margin itself is the number: for `implicit` of `labelers.ImplicitReward`
    it is DPO's implicit reward margin. Published advice contradicts itself: the smallest margins
    (difficulty, arXiv:2508.04149), the easiest half (Selective DPO, arXiv:2502.09650), the largest
    of two margins (dual margin, arXiv:2502.14560). The specification's advice is to drop the
    negative tail, to keep high to mid margins, and a tenth or a fifth at random.

    With several objectives (dual margin) each margin becomes a probability, linear between the two
    `quantiles` of all margins and brought into [`shrink`, 1 - `shrink`]; their product
    P1 P2 / (P1 P2 + (1 - P1)(1 - P2)) is the number. The paper's limits were not to be had; the
    quantiles and the shrinkage, without which 1 and 0 make 0/0, are ours.

    Baseline: the mean of the number.

    Attributes:
        objectives: one for a margin, two or more for the product rule.
        quantiles: limits of the probabilities.
        shrink: see above.
        negative: whether pairs with a negative margin of any objective may be chosen; with `drop`
            they leave as `not_selected`.

    Example:
        - filters.MarginSelection: {objectives: [reward], order: high, fraction: 0.5}
    """

    objectives: tuple[str, ...] = Field(min_length=1)
    quantiles: tuple[float, float] = (0.05, 0.95)
    shrink: float = Field(default=0.01, ge=0, lt=0.5)
    negative: Literal["keep", "drop"] = "keep"

    @model_validator(mode="after")
    def _validate_quantiles(self) -> Self:
        low, high = self.quantiles
        if not 0 <= low < high <= 1:
            raise ValueError("quantiles: the first must be below the second, both from 0 to 1")
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError("objectives: name each once")
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """Both sides' scores of the objectives (Float64)."""
        return super().needs(shape) | _scores(self.objectives, shape)

    def reads(self, table: pl.DataFrame, shape: Shape, ctx: Context) -> list[pl.Series]:
        """`score_<i>`: margins."""
        return _margins(table, self.objectives)

    def choose(self, parts: pl.DataFrame, places: Places, ctx: Context) -> Chosen:
        """Choose; the ledger says the margin or the product of probabilities."""
        margins = [
            parts[f"score_{i}"].fill_null(float("nan")).to_numpy()
            for i in range(len(self.objectives))
        ]
        against = np.logical_or.reduce([m < 0 for m in margins]) & places.open
        number, name = margins[0], "margin"
        if len(margins) > 1:
            eligible, name = places.eligible, "probability"
            number = np.full(parts.height, np.nan)
            number[eligible] = product_rule(
                *(margin_probability(m[eligible], self.quantiles, self.shrink) for m in margins)
            )
        if self.negative == "drop":
            places.open &= ~against
        return self.by_number(number, name, parts, places, ctx, negative=int(against.sum()))


class EnsembleUncertainty(_Ordered):
    """Keep pairs by what an ensemble of reward models does not know, in an order that you name.

    Each member gives a probability that chosen beats rejected. `entropy` is that of their mean:
    all that is not known. `mutual_information` is the part on which they disagree (BALD,
    arXiv:1112.5745): what a label could teach them, and also where labels may be wrong.

    Members are the scores of `objectives` (two or more; p = sigmoid(margin), the margin divided by
    its root mean square unless `scale` is `raw`), or, without objectives, `heads` Bradley-Terry
    heads on sentence vectors, each fitted to a Poisson bootstrap of the prompts. A pair is judged
    by the heads that did not see its prompt, if there are two of them, else by all. Which members,
    bootstrap and scale are our choices.

    Baseline: the mean of the measure.

    Attributes:
        measure: `entropy` or `mutual_information`, in nats (0 to ln 2).
        objectives: the scores that are the members; none for heads.
        scale: of margins: `sd` divides each objective's by its root mean square, `raw` takes them
            as log odds.
        heads: members, if there are no objectives.
        l2: penalty of the heads.
        encoder: sentence encoder of the heads.

    Example:
        - filters.EnsembleUncertainty: {order: high, fraction: 0.5}
    """

    learns_labels: ClassVar[bool] = True

    measure: Literal["entropy", "mutual_information"] = "mutual_information"
    objectives: tuple[str, ...] = ()
    scale: Literal["sd", "raw"] = "sd"
    heads: int = Field(default=8, ge=2, le=256)
    l2: float = Field(default=1e-3, gt=0)
    encoder: Encoder = Field(default_factory=Encoder)

    @model_validator(mode="after")
    def _validate_objectives(self) -> Self:
        if len(self.objectives) == 1 or len(set(self.objectives)) < len(self.objectives):
            raise ValueError("objectives: name two or more, each once; or none, for heads")
        return self

    def opens_engines(self) -> bool:
        """The encoder is opened for heads only."""
        return not self.objectives

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """Both sides' scores of the objectives (Float64)."""
        return super().needs(shape) | _scores(self.objectives, shape)

    def reads(self, table: pl.DataFrame, shape: Shape, ctx: Context) -> list[pl.Series]:
        """`score_<i>`: margins; or `vector` (Array(Float32, d)) and `prompt_id`."""
        if self.objectives:
            return _margins(table, self.objectives)
        gaps = embedded(table, shape, "difference", self.encoder, ctx, type(self).__name__)
        return [vector_column(gaps), table["prompt_id"]]

    def choose(self, parts: pl.DataFrame, places: Places, ctx: Context) -> Chosen:
        """Choose; the ledger says the entropy or mutual information."""
        counts = None
        if self.objectives:
            p = np.stack([self._probability(parts[f"score_{i}"], places) for i in self._members()])
        else:
            p, counts = self._heads(parts, ctx)
        measures = uncertainty(p.T, None if counts is None else counts.T)
        number = np.where(places.eligible, getattr(measures, self.measure), np.nan)
        name = self.measure.replace("_", " ")
        return self.by_number(number, name, parts, places, ctx, members=len(p))

    def _members(self) -> range:
        return range(len(self.objectives))

    def _probability(self, margins: pl.Series, places: Places) -> Floats:
        margin = margins.fill_null(float("nan")).to_numpy()
        size = 1.0
        if self.scale == "sd" and places.eligible.any():
            size = float(np.sqrt(np.square(margin[places.eligible]).mean())) or 1.0
        return sigmoid(np.where(places.eligible, margin, 0.0) / size)

    def _heads(self, parts: pl.DataFrame, ctx: Context) -> tuple[Floats, np.ndarray]:
        """Probabilities by the heads, Float64[K, n], and which are heard, Bool[K, n]."""
        gaps = parts["vector"].to_numpy()
        names = parts["prompt_id"].unique().sort()
        of_rows: I64 = names.search_sorted(parts["prompt_id"]).to_numpy().astype(np.int64)
        start = fit_head(gaps, np.ones(len(gaps)), self.l2)
        p, unseen = [], []
        for i in range(self.heads):
            weights = poisson_weights(ctx.uniform(names, f"head {i}").to_numpy())[of_rows]
            head, _ = fit_head(gaps, weights, self.l2, start)
            p.append(sigmoid(gaps.astype(np.float64) @ head))
            unseen.append(weights == 0)
        counts = np.stack(unseen)
        counts |= counts.sum(axis=0) < 2
        return np.stack(p), counts


def _scores(objectives: tuple[str, ...], shape: Shape) -> dict[str, pl.DataType]:
    return {name: dtype for o in objectives for name, dtype in score_columns(o, shape).items()}


def _margins(table: pl.DataFrame, objectives: tuple[str, ...]) -> list[pl.Series]:
    margins = []
    for i, objective in enumerate(objectives):
        chosen, rejected = (pl.col(c) for c in score_columns(objective, Shape.PAIRS))
        margin = table.select("pair_id", margin=chosen - rejected)["margin"]
        margins.append(margin.alias(f"score_{i}"))
    return margins
