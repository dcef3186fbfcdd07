"""The common part of selections: read a shard, choose a budget, compare with random, look up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from filters.selection.baseline import Measure, against_random
from filters.selection.grid import Floats
from filters.selection.places import I64, Bools, Places
from filters.selection.subsample import Budgeted
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError
from prefactory.near.vectors import one_thread, unit32
from prefactory.step import State
from prefactory.tables import ROW_ID, SIDES, Shape, last_user_text, question_and_answer, shape_of

CHOICES = pl.Schema(
    {
        "row_id": pl.String,
        "selected": pl.Boolean,
        "reason": pl.String,
        "detail": pl.String,
        "rank": pl.Int64,
        "score": pl.Float64,
    }
)
"""Schema of the state's table `rows`: `rank` counts the chosen rows from 1 in their order."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a selection decided.

    Attributes:
        rows: Int64[k], the rows that stay, in the order in which they were taken.
        measure: what the selection is compared with random ones by.
        score: Float64[n], what the ledger says of a row, NaN for nothing.
        word: what the score is called.
        beside: Int64[n], the chosen row that is nearest to each row.
        facts: for the report.
    """

    rows: I64
    measure: Measure
    score: Floats
    word: str
    beside: I64 | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


class Selector(Budgeted, abstract=True):
    """Base of selections. Rows are handled in the order of their ids, so ties go to the lowest id.

    The state's `info` holds `baseline`: the objective of this selection beside that of five random
    ones of the same budget and quotas.

    Reasons: `not_selected` (the detail says how near it was), `null_score` (a score that the
    selection needs is missing, NaN or infinite; such rows are never chosen).
    """

    def reads(self, table: pl.DataFrame, shape: Shape, ctx: Context) -> list[pl.Series]:
        """Columns that `choose` needs of a shard; a null in a `score*` column bars the row."""
        raise NotImplementedError

    def choose(self, parts: pl.DataFrame, places: Places, ctx: Context) -> Chosen:
        """Choose rows of the whole dataset (at least one row, sorted by id) and use up places."""
        raise NotImplementedError

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to its ids, the columns of `reads`, `tokens` and `group_by`."""
        shape = shape_of(table)
        parts = table.select(ROW_ID[shape], *self.cost_columns(shape))
        return parts.with_columns(self.reads(table, shape, ctx))

    @one_thread()
    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Choose.

        Args:
            parts: the rows of `fit_shard`, sorted by row id.
            ctx: its seed and step name are the randomness.

        Returns:
            State with the table `rows` (see `CHOICES`) and the facts: `n`, `k`, `baseline`, groups
            and what the selection learned.
        """
        ids, n = parts.to_series(0), parts.height
        if not n:
            return State({"rows": pl.DataFrame(schema=CHOICES)}, {"n": 0, "k": 0})
        eligible = _complete(parts)
        places = self.places(parts, eligible=eligible)
        chosen = self.choose(parts, places.again(), ctx)
        kept = np.zeros(n, dtype=bool)
        kept[chosen.rows] = True
        facts: dict[str, Any] = {
            "n": n,
            "k": int(chosen.rows.size),
            **self.spent(parts, kept),
            "null_score": int((~eligible).sum()),
            "baseline": against_random(chosen.measure, chosen.rows, places, ids, ctx),
            **chosen.facts,
        }
        if self.group_by is not None:
            names = parts["group_by"]
            counts = pl.DataFrame({"group": names, "n": 1, "k": pl.Series(kept).cast(pl.Int64)})
            counts = counts.group_by("group").sum().sort("n", "group", descending=[True, False])
            rows = counts.head(SHOWN).iter_rows()
            facts["groups"] = counts.height
            facts["kept_by_group"] = {str(name): f"{k} of {size}" for name, size, k in rows}
        return State({"rows": _table(ids, chosen, kept, eligible)}, facts)


def _complete(parts: pl.DataFrame) -> Bools:
    scores = [pl.col(c).is_finite().fill_null(value=False) for c in _scores(parts)]
    if not scores:
        return np.ones(parts.height, dtype=bool)
    return parts.select(pl.all_horizontal(scores)).to_series().to_numpy()


def _scores(parts: pl.DataFrame) -> list[str]:
    return [c for c in parts.columns if c.startswith("score")]


def _table(ids: pl.Series, chosen: Chosen, kept: Bools, eligible: Bools) -> pl.DataFrame:
    rank = np.zeros(len(ids), dtype=np.int64)
    rank[chosen.rows] = np.arange(1, chosen.rows.size + 1)
    score = pl.col("score").fill_nan(None)
    detail = pl.format(f"{chosen.word} {{}}", score.round_sig_figs(4))
    columns = {
        "row_id": ids,
        "selected": pl.Series(kept),
        "eligible": pl.Series(eligible),
        "rank": pl.Series(rank),
        "score": pl.Series(chosen.score, dtype=pl.Float64),
    }
    if chosen.beside is not None:
        columns["beside"] = ids.gather(chosen.beside)
        detail = pl.format("{}, nearest kept {}", detail, pl.col("beside"))
    table = pl.DataFrame(columns)
    why = pl.when("eligible").then(pl.lit("not_selected")).otherwise(pl.lit("null_score"))
    dropped = ~pl.col("selected")
    return table.select(
        "row_id",
        "selected",
        reason=pl.when(dropped).then(why),
        detail=pl.when(dropped & pl.col("eligible")).then(detail),
        rank=pl.when("selected").then("rank"),
        score=score,
    ).cast(CHOICES)


SHOWN = 50
"""Groups, the largest, that the report counts."""

On = Literal["row", "prompt", "difference"]


class VectorSelector(Selector, abstract=True):
    """Base of selections on sentence vectors.

    Attributes:
        on: what is embedded. `row`: the last user message of a prompt; question and answer of a
            response (last user message, line end, answer); the mean of both answers' unit vectors
            of a pair. `prompt`: the last user message. `difference` (pairs only): the vector of
            the chosen answer minus that of the rejected one.
        encoder: sentence encoder.
    """

    on: On = "row"
    encoder: Encoder = Field(default_factory=Encoder)

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """As of every selection.

        Raises:
            ConfigError: for `difference` on anything but PAIRS.
        """
        if self.on == "difference" and shape != Shape.PAIRS:
            raise ConfigError("on: difference is of pairs; use row or prompt")
        return super().needs(shape)

    def reads(self, table: pl.DataFrame, shape: Shape, ctx: Context) -> list[pl.Series]:
        """`vector`, Array(Float32, d)."""
        vectors = embedded(table, shape, self.on, self.encoder, ctx, type(self).__name__)
        return [vector_column(vectors)]


def vector_column(vectors: NDArray[np.float32]) -> pl.Series:
    """Vectors as a column `vector`, Array(Float32, d)."""
    return pl.Series("vector", vectors, dtype=pl.Array(pl.Float32, vectors.shape[1]))


def embedded(
    table: pl.DataFrame, shape: Shape, on: On, encoder: Encoder, ctx: Context, who: str
) -> NDArray[np.float32]:
    """Vectors of rows, see `VectorSelector`: Float32[n, d].

    Raises:
        ConfigError: the context has no encoder.
    """
    if ctx.embed is None:
        raise ConfigError(f"{who} needs an encoder; this context has none")
    if on == "prompt" or shape == Shape.PROMPTS:
        return _vectors(table, [last_user_text(pl.col("prompt"))], encoder, ctx)[0]
    sides = ["response"] if shape == Shape.RESPONSES else list(SIDES)
    vectors = _vectors(table, [question_and_answer(side) for side in sides], encoder, ctx)
    if len(vectors) == 1:
        return vectors[0]
    chosen, rejected = vectors
    both = chosen - rejected if on == "difference" else (chosen + rejected) / np.float32(2.0)
    return both.astype(np.float32)


def _vectors(
    table: pl.DataFrame, texts: list[pl.Expr], encoder: Encoder, ctx: Context
) -> list[NDArray[np.float32]]:
    assert ctx.embed is not None  # noqa: S101 - checked by the caller
    columns = [table.select(text=text.fill_null("")).to_series() for text in texts]
    vectors = np.asarray(ctx.embed(encoder, pl.concat(columns)), dtype=np.float32)
    parts = np.split(vectors, len(texts))
    return [unit32(part) for part in parts]
