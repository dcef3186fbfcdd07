"""The features of pairs that a fit over a whole dataset needs, reduced shard by shard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from catalog.splits import group_key, near_groups, reduce_prompts
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError
from prefactory.measures.calibration import Floats
from prefactory.near.vectors import unit
from prefactory.preferences.clustered import Ints, codes
from prefactory.preferences.damage import whole
from prefactory.preferences.damage.relevance import own_relevance
from prefactory.preferences.features import Answers, describe_pairs, names
from prefactory.preferences.folds import cluster_folds
from prefactory.preferences.stack import Differences
from prefactory.step import Labeler
from prefactory.tables import SCORE, SIDES, Shape, digests, last_user_text

AUTO, OFF = "auto", "off"
_GROUP = ("group", "digest", "bands", "sketch", "words_prompt", "set_prompt")


@dataclass(frozen=True)
class PairRows:
    """The pairs of a dataset, in the order of their ids.

    Attributes:
        ids: pair ids.
        prompts: String, prompt ids.
        groups: digests of the first user messages.
        clusters: Int64[n], of near-duplicate prompts.
        copies: Int64[n], equal on pairs of the same two answers, in either order.
        damage: String, why no fit may see a row, null where one may.
        chosen, rejected: features of the sides.
        outside: Float64[n, k], chosen minus rejected, 0 where a side has no score.
        oriented: Float64[n, j], numbers about the pair as labelled, 0 where null.
    """

    ids: pl.Series
    prompts: pl.Series
    groups: pl.Series
    clusters: Ints
    copies: Ints
    damage: pl.Series
    chosen: Answers
    rejected: Answers
    outside: Floats
    oriented: Floats

    @property
    def damaged(self) -> NDArray[np.bool_]:
        """Rows that no fit may see, Bool[n]."""
        found: NDArray[np.bool_] = self.damage.is_not_null().to_numpy()
        return found

    def reasons(self) -> dict[str, int]:
        """How many rows no fit may see, by reason."""
        counts = self.damage.drop_nulls().value_counts(name="n").sort("damage")
        return dict(counts.iter_rows())

    def differences(self, rows: NDArray[np.int64]) -> Differences:
        """Differences of some rows, by place."""
        c, r = (side.statistics[rows].to_numpy() for side in (self.chosen, self.rejected))
        columns = np.concatenate([c - r, self.outside[rows], self.oriented[rows]], axis=1)
        return Differences(self.chosen.vectors(rows) - self.rejected.vectors(rows), columns)

    def column(self, name: str) -> Floats:
        """Difference of one statistic, Float64[n]."""
        found: Floats = (self.chosen.statistics[name] - self.rejected.statistics[name]).to_numpy()
        return found


class FromPairs(Labeler, abstract=True):
    """What labelers that learn from pairs share: their features and what stays out of the fits.

    Attributes:
        encoder: of the vectors.
        vectors: False leaves out all that needs an encoder.
        outside: objectives of score columns, on both sides, to learn from as well.
        oriented: columns of pairs that count for the label (above 0) or against it, such as
            `margin_<name>` or votes of judges.
        damage: which pairs no fit sees: `auto` finds them by the rules of `filters.Damage` (off
            topic only with vectors), `off` takes none, else the name of a column that marks them
            (Boolean true, or a String that is not empty, which is the reason).
        fit_rows: most rows of a fit; of more a draw is taken, and all are scored.
    """

    learns_labels: ClassVar[bool] = True

    encoder: Encoder = Encoder()
    vectors: bool = True
    outside: tuple[str, ...] = ()
    oriented: tuple[str, ...] = ()
    damage: str = Field(default=AUTO, min_length=1)
    fit_rows: int = Field(default=20_000, ge=100)

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The outside scores and oriented columns, Float64 with nulls allowed."""
        scores = {f"{side}_{SCORE}{o}": pl.Float64() for o in self.outside for side in SIDES}
        return {**scores, **{name: pl.Float64() for name in self.oriented}}

    def opens_engines(self) -> bool:
        """Only vectors need the encoder."""
        return self.vectors

    def columns(self) -> tuple[str, ...]:
        """Names of the plain columns: statistics, outside scores, oriented columns."""
        return (*names(self.vectors), *self.outside, *self.oriented)

    @staticmethod
    def _gap(objective: str) -> pl.Expr:
        chosen, rejected = (pl.col(f"{side}_{SCORE}{objective}") for side in SIDES)
        return chosen - rejected

    def answers(self, table: pl.DataFrame, ctx: Context) -> tuple[Answers, Answers]:
        """Features of both sides of a table.

        Raises:
            ConfigError: vectors are asked for and the run has no encoder.
        """
        if self.vectors and ctx.embed is None:
            raise ConfigError(
                f"{ctx.step} needs an encoder and this run has none; write `vectors: false`"
            )
        return describe_pairs(table, self.encoder, ctx.embed if self.vectors else None)

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to ids, hashes of its prompts, statistics and vectors."""
        chosen, rejected = self.answers(table, ctx)
        group = digests(table.select(group_key(pl.col("prompt"))).to_series())
        rows = table.select(
            "pair_id",
            "prompt_id",
            group=group,
            copy=pl.min_horizontal("chosen_id", "rejected_id")
            + pl.max_horizontal("chosen_id", "rejected_id"),
        ).hstack(self._damage(table, chosen, ctx))
        hashes = reduce_prompts(table).select(_GROUP)
        rows = rows.join(hashes, on="group", how="left", maintain_order="left")
        arrays = {
            "chosen": chosen.statistics.to_numpy(),
            "rejected": rejected.statistics.to_numpy(),
            "outside": numbers(table, [self._gap(o) for o in self.outside]),
            "oriented": numbers(table, [pl.col(c) for c in self.oriented]),
            "x": chosen.query,
            "y_chosen": chosen.answer,
            "y_rejected": rejected.answer,
        }
        return rows.with_columns(_array(name, v) for name, v in arrays.items() if v.shape[1])

    def _damage(self, table: pl.DataFrame, chosen: Answers, ctx: Context) -> pl.DataFrame:
        """Why no fit may see a row, as far as a shard can tell, and what the rest needs."""
        if self.damage == AUTO:
            parts = whole.reduce_pairs(table)
            if not self.vectors or ctx.embed is None:
                return parts
            question = table.select(q=last_user_text(pl.col("prompt")))["q"]
            talk, ends = whole.talk(table), chosen.query.copy()
            longer = (talk != question).fill_null(value=True)
            if longer.any():
                ends[longer.to_numpy()] = ctx.embed(self.encoder, talk.filter(longer))
            own = own_relevance(*(unit(v) for v in (chosen.answer, chosen.query, ends)))
            return parts.with_columns(damage_own=own)
        if self.damage == OFF:
            return pl.DataFrame({"damage": [None] * table.height}, {"damage": pl.String})
        if self.damage not in table.columns:
            raise ConfigError(f"there is no column {self.damage!r} that marks damaged pairs")
        marks, told = table[self.damage], pl.col(self.damage)
        if marks.dtype == pl.Boolean:
            return table.select(damage=pl.when(told).then(pl.lit(self.damage)))
        return table.select(damage=pl.when(told.cast(pl.String) != "").then(told.cast(pl.String)))

    def _reasons(self, parts: pl.DataFrame, clusters: Ints) -> pl.Series:
        """Why no fit may see a row, or null: String[n], named `damage`."""
        if self.damage != AUTO:
            return parts["damage"]
        own = np.zeros(parts.height)
        if "damage_own" in parts.columns:
            own = parts["damage_own"].to_numpy()
        vectors = (_matrix(parts, name) for name in ("y_chosen", "x"))
        return whole.rules(parts, pl.Series(clusters), own, *vectors)

    def gather(self, parts: pl.DataFrame) -> PairRows:
        """The rows of all shards together."""
        near = near_groups([parts.select(_GROUP)])
        joined = parts.select("group").join(near, on="group", how="left", maintain_order="left")
        statistics = [
            pl.DataFrame(parts[side].to_numpy(), schema=list(names(self.vectors))) for side in SIDES
        ]
        x = _matrix(parts, "x")
        chosen, rejected = (
            Answers(part, x, _matrix(parts, f"y_{side}"))
            for part, side in zip(statistics, SIDES, strict=True)
        )
        clusters = codes(joined["number"])
        return PairRows(
            ids=parts["pair_id"],
            prompts=parts["prompt_id"],
            groups=parts["group"],
            clusters=clusters,
            copies=codes(parts["copy"]),
            damage=self._reasons(parts, clusters),
            chosen=chosen,
            rejected=rejected,
            outside=_matrix(parts, "outside"),
            oriented=_matrix(parts, "oriented"),
        )

    def drawn(self, rows: PairRows, ctx: Context) -> Ints:
        """Places of the rows that are fitted: undamaged, at most `fit_rows`, in order."""
        places = np.flatnonzero(~rows.damaged & (rows.copies >= 0))
        if len(places) > self.fit_rows:
            draw = ctx.uniform(rows.ids.gather(places), "fit").to_numpy()
            places = np.sort(places[np.argsort(draw, kind="stable")[: self.fit_rows]])
        return places.astype(np.int64)


def folds_of(rows: PairRows, seed: int) -> Ints:
    """Fold of every row, by cluster: Int64[n]."""
    return cluster_folds(rows.clusters, seed)


def numbers(table: pl.DataFrame, columns: list[pl.Expr]) -> Floats:
    """Numbers of a table, 0 where there is none: Float64[n, k], also for k = 0."""
    found = [table.select(c.cast(pl.Float64).fill_nan(None).fill_null(0.0)) for c in columns]
    return np.stack([np.zeros(table.height), *(f.to_series().to_numpy() for f in found)], 1)[:, 1:]


def _array(name: str, values: NDArray[np.generic]) -> pl.Series:
    kind = pl.Float32() if values.dtype == np.float32 else pl.Float64()
    return pl.Series(name, np.ascontiguousarray(values), dtype=pl.Array(kind, values.shape[1]))


def _matrix(parts: pl.DataFrame, name: str) -> NDArray[Any]:
    """An array column, or no column at all where nothing was stored."""
    return parts[name].to_numpy() if name in parts.columns else np.zeros((parts.height, 0))
