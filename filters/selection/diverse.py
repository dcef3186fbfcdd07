"""Rows stay that cover the rest or differ from each other: selections on sentence vectors."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from filters.rules.margin import score_columns
from filters.selection import facility, k_center, quadratic, spaced
from filters.selection.baseline import Measure
from filters.selection.grid import Floats, Grid
from filters.selection.margins import wanted
from filters.selection.places import I64, Places
from filters.selection.selector import Chosen, VectorSelector
from prefactory.context import Context
from prefactory.tables import Shape

EXACT = 10_000
NEIGHBOURS = 128
LARGEST_EXPONENT = 300.0


def _grid(parts: pl.DataFrame) -> Grid:
    return Grid.of(parts["vector"].to_numpy())


def _nearest(grid: Grid, kept: I64) -> tuple[Floats, I64 | None]:
    """Cosine of every row with the nearest chosen one, and that row; nothing if none is chosen."""
    if not kept.size:
        return np.full(len(grid), np.nan), None
    dots, beside = grid.nearest(np.sort(kept))
    return grid.cosine(dots), beside


def _coverage(grid: Grid) -> Measure:
    return Measure("coverage", "higher", lambda rows: facility.coverage(grid, rows))


def side_score(objective: str, shape: Shape) -> str:
    """Column of an objective's score: of pairs the chosen side's."""
    return next(iter(score_columns(objective, shape)))


class KCenter(VectorSelector):
    """Keep rows so that none is far from a kept one: farthest-first traversal.

    The first row is the nearest to the mean; each further one is the farthest from those before it.
    The largest distance that is left is at most twice the least possible (Gonzalez 1985). Favours
    outliers: look at what it keeps, or use `FacilityLocation`.

    Baseline: `covering radius`, the largest distance (0 to 2, of unit vectors) of a row from the
    nearest kept one.

    Example:
        - filters.KCenter: {rows: 10}
    """

    def choose(self, parts: pl.DataFrame, places: Places, ctx: Context) -> Chosen:
        """Choose; the ledger says how far a row is from the nearest kept one."""
        grid = _grid(parts)
        kept = k_center.k_center(grid, places).rows
        measure = Measure("covering radius", "lower", lambda rows: k_center.radius(grid, rows))
        if not kept.size:
            return Chosen(kept, measure, np.full(len(grid), np.nan), "distance")
        score, beside = k_center.distances(grid, kept)
        return Chosen(kept, measure, score, "distance", beside)


class FacilityLocation(VectorSelector):
    """Keep rows so that every row has one like it among the kept: lazy-greedy facility location.

    The greedy choice reaches at least 63 % of the best mean cosine with the nearest kept row
    (negative cosines count as 0), in practice nearly all of it. It favours dense regions as far as
    they are not covered yet.

    Baseline: `coverage`, that mean, 0 to 1.

    Attributes:
        neighbours: how many rows, the most alike, can stand for a row. `auto`: all up to 10,000
            rows, and 128 above that. Fewer make the choice an approximation, and much faster;
            null counts all, in blocks, whatever their number.

    Example:
        - filters.FacilityLocation: {rows: 10}
    """

    neighbours: Literal["auto"] | Annotated[int, Field(ge=1)] | None = "auto"

    def choose(self, parts: pl.DataFrame, places: Places, ctx: Context) -> Chosen:
        """Choose; the ledger says how like the nearest kept row a row is."""
        grid = _grid(parts)
        used = self.neighbours
        if used == "auto":
            used = None if len(grid) <= EXACT else NEIGHBOURS
        kept = facility.facility_location(grid, places, used).rows
        score, beside = _nearest(grid, kept)
        facts = {"neighbours": "all" if used is None or used >= len(grid) else used}
        return Chosen(kept, _coverage(grid), score, "cosine", beside, facts)


class DPP(VectorSelector):
    """Keep rows of quality that differ: greedy MAP of a determinantal point process.

    Kernel L_ij = q_i q_j cos(i, j) with q = exp(alpha * score) (arXiv:1709.05135). As it has the
    rank of the vectors, at most d rows (384 for MiniLM) add anything. For more, set `jitter`, or
    let `fill` take the rest by score.

    Baseline: `log det`, of I + L / j over the selection with j = `jitter`, or 0.001 of the largest
    quality squared without.

    Attributes:
        quality: objective whose score is the quality (of pairs the chosen answer's).
        alpha: weight of quality against difference; 0 leaves quality out.
        jitter: added to the kernel's diagonal, as a share of the largest quality squared.
        fill: without jitter, what happens when no row adds anything: take the rest by `quality`
            (without one by id), or `stop` under the budget.

    Example:
        - filters.DPP: {fraction: 0.5}
    """

    quality: str | None = Field(default=None, min_length=1)
    alpha: float = Field(default=1.0, ge=0)
    jitter: float = Field(default=0.0, ge=0)
    fill: Literal["quality", "stop"] = "quality"

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The score of `quality` (Float64), if it is set."""
        columns = super().needs(shape)
        if self.quality is not None:
            columns[side_score(self.quality, shape)] = pl.Float64()
        return columns

    def reads(self, table: pl.DataFrame, shape: Shape, ctx: Context) -> list[pl.Series]:
        """`vector` and `score`."""
        columns = super().reads(table, shape, ctx)
        if self.quality is not None:
            columns.append(table[side_score(self.quality, shape)].alias("score"))
        return columns

    def choose(self, parts: pl.DataFrame, places: Places, ctx: Context) -> Chosen:
        """Choose; the ledger says which share of a row's own variance no kept row explains."""
        grid = _grid(parts)
        score = np.zeros(len(grid))
        if self.quality is not None:
            score = parts["score"].fill_null(float("nan")).to_numpy()
        top = float(score[places.open].max(initial=-np.inf, where=~np.isnan(score[places.open])))
        below_top = np.where(np.isfinite(score), score, top) - (top if np.isfinite(top) else 0.0)
        q = np.exp(
            np.maximum(self.alpha * np.where(places.open, below_top, 0.0), -LARGEST_EXPONENT)
        )
        features = (grid.q / grid.scale * q[:, None]).astype(np.float32)
        picks, variance = quadratic.dpp(features, places, self.jitter)
        ranked = int(picks.rows.size)
        if self.fill == "quality":
            picks = picks.then(
                places.fill(wanted(np.where(places.open, below_top, np.nan), "high"))
            )
        ridge = self.jitter or 1e-3
        measure = Measure("log det", "higher", lambda r: quadratic.log_det(features, r, ridge))
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.clip(variance / np.square(q), 0.0, None)
        facts = {"by_determinant": ranked, "filled": int(picks.rows.size) - ranked}
        return Chosen(picks.rows, measure, share, "unexplained variance", None, facts)


class DEITA(VectorSelector):
    """Keep the rows of the highest complexity times quality that are not near a better kept one.

    Score first, diversity aware (DEITA, arXiv:2312.15685): rows come in the order of their score,
    and a row is kept if its cosine with every kept row is at most `most_alike`. The published code
    also compares a row with turned-down ones of its batch, so that its result depends on the batch
    size; here it is that of one row at a time.

    Fewer rows than the budget stay if no others are different enough, unless `fill`.

    Baseline: `mean score`.

    Attributes:
        complexity: objective of a prompt's or answer's complexity; without it quality alone counts.
        quality: objective of the quality (of pairs both are the chosen answer's).
        most_alike: greatest cosine with a kept row; 0.9 is from memory, not verified.
        fill: take the best of the rest when the different ones don't fill the budget.

    Example:
        - filters.DEITA: {rows: 10, complexity: complexity, quality: helpfulness}
    """

    complexity: str | None = Field(default=None, min_length=1)
    quality: str | None = Field(default=None, min_length=1)
    most_alike: float = Field(default=0.9, ge=-1, le=1)
    fill: bool = False

    @model_validator(mode="after")
    def _validate_scores(self) -> Self:
        if self.complexity is None and self.quality is None:
            raise ValueError("name the objectives of complexity, quality or both")
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The scores of `complexity` and `quality` (Float64)."""
        scores = dict.fromkeys(self._columns(shape), pl.Float64())
        return {**super().needs(shape), **scores}

    def _columns(self, shape: Shape) -> list[str]:
        return [side_score(o, shape) for o in (self.complexity, self.quality) if o is not None]

    def reads(self, table: pl.DataFrame, shape: Shape, ctx: Context) -> list[pl.Series]:
        """`vector` and `score`, the product."""
        product = pl.fold(1.0, lambda a, b: a * b, [pl.col(c) for c in self._columns(shape)])
        score = table.select(score=product.cast(pl.Float64)).to_series()
        return [*super().reads(table, shape, ctx), score]

    def choose(self, parts: pl.DataFrame, places: Places, ctx: Context) -> Chosen:
        """Choose; the ledger says how like the nearest kept row a row is."""
        grid = _grid(parts)
        score = parts["score"].fill_null(float("nan")).to_numpy()
        order = wanted(np.where(places.open, score, np.nan), "high")
        kept = spaced.spaced(grid, order, self.most_alike, places)
        different = int(kept.size)
        if self.fill:
            kept = np.concatenate([kept, places.fill(order)])
        measure = Measure("mean score", "higher", lambda rows: float(score[rows].mean()))
        near, beside = _nearest(grid, kept)
        facts = {
            "different": different,
            "filled": int(kept.size) - different,
            "coverage": facility.coverage(grid, kept),
        }
        return Chosen(kept, measure, near, "cosine", beside, facts)


class SelfRepellent(VectorSelector):
    """Keep anchors by self-repellent random walks (SRGASM of CAPIMAC), one selector among others.

    Rows are scanned by how often short walks visit them; a row is kept if no kept row is within
    `radius` times the root mean squared distance of rows; when all are near a kept one, the scan
    starts anew. In a trial of the specification `KCenter` and `FacilityLocation` did better, and
    the walk with a history did worse than random.

    Paper and code differ, and both leave much open. Ours: the walks are as the field `walk` says
    (see `filters.selection.spaced.visits`), as many and as long as in the code; the scale is the
    root mean squared distance (the code: mean), which needs no n x n matrix.

    Baseline: `coverage`, the mean cosine with the nearest kept row.

    Attributes:
        walk: `dissimilar` (the published code) or `history` (our reading of the paper).
        alpha: strength of the repulsion.
        radius: see above.

    Example:
        - filters.SelfRepellent: {fraction: 0.5}
    """

    walk: spaced.Walk = "dissimilar"
    alpha: float = Field(default=0.5, ge=0)
    radius: float = Field(default=0.3, ge=0)

    def choose(self, parts: pl.DataFrame, places: Places, ctx: Context) -> Chosen:
        """Choose; the ledger says how like the nearest kept row a row is."""
        grid = _grid(parts)
        count = spaced.visits(grid, ctx.rng("walks"), self.alpha, self.walk)
        order = np.argsort(-count, kind="stable").astype(np.int64)
        reach = self.radius * spaced.spread(grid)
        kept = spaced.covered(grid, order, 1.0 - reach**2 / 2.0, places)
        score, beside = _nearest(grid, kept)
        facts = {"visited": int((count > 0).sum()), "radius": reach}
        return Chosen(kept, _coverage(grid), score, "cosine", beside, facts)
