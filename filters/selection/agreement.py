"""Pairs are drawn at random among those that a scorer of the other pairs agrees with."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from catalog.splits import group_key, near_groups, reduce_prompts
from filters.selection.baseline import Measure
from filters.selection.grid import Floats
from filters.selection.places import I64, Places
from filters.selection.selector import Chosen, Selector
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError, DataError
from prefactory.preferences.clustered import Ints, codes
from prefactory.preferences.features import LENGTH, describe_pairs, names
from prefactory.preferences.folds import cluster_folds
from prefactory.preferences.stack import Differences, Form, Rows, Skill, cross_fit, skill
from prefactory.step import State
from prefactory.tables import Shape, digests

HASHES = ("digest", "bands", "sketch", "words_prompt", "set_prompt")
SHOWN = 20


class AgreementDraw(Selector):
    """Keep a random draw of the pairs whose label a cross-fitted scorer agrees with.

    A Bradley-Terry scorer (`prefactory.preferences.stack`) is fitted to four fifths of the clusters
    of near-duplicate prompts and judges the fifth that it did not see. Pairs with a margin above 0
    are candidates; of them as many as the budget asks for are drawn uniformly by seed and id, all
    if there is no budget, and all that there are if it asks for more. Not those with the largest
    margins: they are easy and alike. A row's own label has no part in the fit that judges it, but
    what stays depends on the labels of others: the shares of sources and of pairs whose longer
    answer is chosen move towards what the scorer likes, and are reported before and after.

    The rule is ours; what it gained on four sets is in docs/selection.md. It harms with a
    scorer of another value, so there is none but the one fitted here, and it has to show that it
    learned something: an accuracy on held-out pairs of at least 1/2 and two standard errors.
    Pairs that a scorer agrees with are also easier to judge: accuracy on a test split of them is
    too high. What the draw gains is said by the run, judged on all pairs.

    Reasons: `disagrees` (the detail has the margin), `not_selected` (a candidate that was not
    drawn).

    Attributes:
        form: of the scorer; `stack` and `auto` take some five times as long as `joint`.
        vectors: False for a scorer of text statistics alone, which needs no encoder.
        encoder: of the vectors.
        fit_rows: pairs that are fitted at most, a draw by seed and id; all are judged.
        untaught: what happens where the labels teach the scorer nothing: the run is refused, or
            the draw is from all pairs and the report says so.

    Raises:
        DataError: `untaught` is `refuse` and the scorer learned nothing.

    Example:
        - filters.AgreementDraw: {}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PAIRS,)
    learns_labels: ClassVar[bool] = True
    version: ClassVar[int] = 2  # 2: the rule of `auto`

    form: Form = "joint"
    vectors: bool = True
    encoder: Encoder = Field(default_factory=Encoder)
    fit_rows: int = Field(default=20_000, ge=100)
    untaught: Literal["refuse", "random"] = "refuse"

    @model_validator(mode="after")
    def _validate_budget(self) -> Self:
        if [self.fraction, self.rows, self.tokens].count(None) < 2:
            raise ValueError("set one of fraction, rows and tokens, or none for all that agree")
        return self

    def size(self, n: int) -> int:
        """All rows, if no budget is set."""
        return n if self.rows is None and self.fraction is None else super().size(n)

    def opens_engines(self) -> bool:
        """Only vectors need the encoder."""
        return self.vectors

    def reads(self, table: pl.DataFrame, shape: Shape, ctx: Context) -> list[pl.Series]:
        """Hashes of the prompts, `source`, and differences: `columns` and `vectors` (arrays)."""
        if self.vectors and ctx.embed is None:
            raise ConfigError(
                f"{ctx.step} needs an encoder and this run has none; write `vectors: false`"
            )
        sides = describe_pairs(table, self.encoder, ctx.embed if self.vectors else None)
        chosen, rejected = (side.statistics.to_numpy() for side in sides)
        group = digests(table.select(group_key(pl.col("prompt"))).to_series()).alias("group")
        hashes = group.to_frame().join(
            reduce_prompts(table), on="group", how="left", maintain_order="left"
        )
        columns = [group, *hashes.select(HASHES).get_columns(), table["source"]]
        columns.append(_array("columns", chosen - rejected, pl.Float64()))
        if self.vectors:
            gap = (sides[0].vectors() - sides[1].vectors()).astype(np.float32)
            columns.append(_array("vectors", gap, pl.Float32()))
        return columns

    def choose(self, parts: pl.DataFrame, places: Places, ctx: Context) -> Chosen:
        """Judge and draw; the ledger says the margin."""
        group = near_groups([parts.select("group", *HASHES)])
        near = parts.select("group").join(group, on="group", how="left", maintain_order="left")
        margins, scorer = self._judge(parts, codes(near["number"]), ctx)
        taught = scorer.accuracy.value - 0.5 >= 2 * scorer.accuracy.se  # False for NaN
        if not taught and self.untaught == "refuse":
            raise DataError(_refusal(ctx.step, scorer))
        agrees = margins > 0 if taught else np.ones(parts.height, dtype=bool)
        places.open &= agrees
        draws = ctx.uniform(parts.to_series(0), "draw").to_numpy()
        rows = places.fill(np.argsort(draws, kind="stable").astype(np.int64))
        asked = self.size(parts.height)
        budgeted = self.tokens is None and (self.rows is not None or self.fraction is not None)
        facts = {
            "scorer": scorer.as_dict(),
            "taught": taught,
            "agreeing": int(agrees.sum()),
            "fewer_than_asked": bool(budgeted and rows.size < asked),
            "shares": self._shares(parts, rows),
        }
        shown = margins if taught else np.full(parts.height, np.nan)
        measure = Measure(
            "share of pairs that the scorer agrees with",
            "higher",
            lambda rows: float((margins[rows] > 0).mean()),
        )
        return Chosen(rows, measure, shown, "margin", None, facts)

    def _judge(self, parts: pl.DataFrame, clusters: Ints, ctx: Context) -> tuple[Floats, Skill]:
        """Margins of all pairs by scorers that did not see their cluster, Float64[n]."""
        seed = int(ctx.rng("folds").integers(2**31))
        fold = cluster_folds(clusters, seed)
        data = Differences(_matrix(parts, "vectors"), _matrix(parts, "columns"))
        drawn = np.arange(parts.height)
        if parts.height > self.fit_rows:
            draws = ctx.uniform(parts.to_series(0), "fit").to_numpy()
            drawn = np.sort(np.argsort(draws, kind="stable")[: self.fit_rows])
        rows = Rows.of(data.take(drawn), clusters[drawn])
        fits = cross_fit(rows, self.form, seed, fold[drawn])
        margins = np.full(parts.height, np.nan)
        for k, model in fits.models.items():
            held = fold == k
            margins[held] = model.scores(data.take(held))
        return margins, skill(fits.margins, rows.clusters)

    def _shares(self, parts: pl.DataFrame, rows: I64) -> dict[str, Any]:
        """Shares before and after: of sources, and of pairs whose longer answer is chosen."""
        longer = _matrix(parts, "columns")[:, names(self.vectors).index(LENGTH)] > 0
        shares = {"longer chosen": _before_after(longer, rows)}
        sources = parts["source"].value_counts(sort=True).head(SHOWN)["source"]
        for source in sources.sort().to_list():
            of_source = (parts["source"] == source).fill_null(value=False).to_numpy()
            shares[f"source {source}"] = _before_after(of_source, rows)
        return shares

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """See `Selector.fit`; rows that the scorer disagrees with have a reason of their own."""
        state = super().fit(parts, ctx)
        against = (pl.col("reason") == "not_selected") & (pl.col("score") <= 0)
        why = pl.when(against).then(pl.lit("disagrees")).otherwise("reason")
        return State({"rows": state.tables["rows"].with_columns(reason=why)}, state.info)


def _before_after(marks: np.ndarray, rows: I64) -> list[float]:
    before = float(marks.mean()) if marks.size else 0.0
    return [round(before, 4), round(float(marks[rows].mean()) if rows.size else 0.0, 4)]


def _refusal(step: str, scorer: Skill) -> str:
    accuracy = scorer.accuracy
    if not np.isfinite(accuracy.se):
        reason = "all prompts are near-duplicates of one another, so no pair can be held out"
    else:
        share = f"{accuracy.value:.3f} ± {accuracy.se:.3f}"
        reason = f"its accuracy on {accuracy.n:,} held-out pairs is {share}"
    return (
        f"{step}: the labels teach the scorer nothing that selects ({reason}; at least 1/2 and two "
        "standard errors are needed). Take filters.RandomSubsample, or write `untaught: random`"
    )


def _array(name: str, values: np.ndarray, dtype: pl.DataType) -> pl.Series:
    kind = pl.Array(dtype, values.shape[1])
    return pl.Series(name, np.ascontiguousarray(values), dtype=kind)


def _matrix(parts: pl.DataFrame, name: str) -> Floats:
    """An array column as Float64[n, d]; d is 0 where there is none."""
    if name not in parts.columns:
        return np.zeros((parts.height, 0))
    return parts[name].to_numpy().astype(np.float64)
