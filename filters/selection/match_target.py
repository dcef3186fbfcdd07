"""Rows stay so that their mix becomes a target mix: of prompts in a file, or of a column."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from filters.contamination.benchmarks import read_benchmark
from filters.selection.baseline import Measure
from filters.selection.grid import Floats
from filters.selection.information import gumbel_keys, mix_quotas, systematic
from filters.selection.places import I64, Places
from filters.selection.selector import Chosen, On, VectorSelector
from filters.selection.transport import drift, target_weights
from prefactory.context import Context
from prefactory.errors import ConfigError, DataError
from prefactory.identity import fingerprint
from prefactory.step import State
from prefactory.tables import Shape

MOST = 5000
SAMPLE = 1000


class MatchTarget(VectorSelector):
    """Keep rows so that what they are about comes near to a target mix.

    With a `target` file of prompts (real requests, say) every target prompt shares its weight of
    1/m out among the rows by the nearness of their vectors, exp(-(1 - cos) / `eps`): entropic
    optimal transport with the target's marginal held and the rows' free. Rows are then drawn with
    a chance of budget times weight, at most 1 (a systematic draw in random order, whose chances are
    exact), or the heaviest are taken (`top`, which keeps the rows nearest to any target prompt, not
    its mix). A mix can't be reached if rows of a kind are scarcer than the budget needs:
    `effective_rows` under the budget says so.

    With `mix` every value of a column has a share of the budget, by largest remainder, and a
    uniform draw (`top`: the lowest ids) fills it. What a scarce kind can't fill goes to the others
    by their shares; a kind that is not named is kept only when nothing else is left. With
    `group_by` or a budget of tokens the draw is by weight (share / rows of the kind) without
    replacement (Gumbel-top-k).

    At most 5,000 target prompts count (a sample, by seed).

    Baseline: `drift`, the Sinkhorn divergence between (a sample of 1,000 of) the selection and the
    target, 0 for the same mix; of a `mix` the total variation distance, 0 to 1.

    Attributes:
        target: file of prompts, read as by `filters.contamination.benchmarks.read_benchmark`. Its
            content is part of the step's identity.
        target_column: its column of prompts, if it has none of the usual names.
        mix: share of each value of `column`; shares are brought to sum to 1.
        column: a String column of the rows, for `mix`.
        eps: temperature of nearness; smaller follows the target more closely, and noise too.
        select: how rows are chosen by weight.

    Example:
        - filters.MatchTarget: {column: domain, mix: {math: 0.5, code: 0.5}, rows: 10}
    """

    version: ClassVar[int] = 2

    target: str | None = Field(default=None, min_length=1)
    target_column: str | None = None
    mix: dict[str, float] | None = None
    column: str = Field(default="source", min_length=1)
    eps: float = Field(default=0.05, gt=0)
    select: Literal["sample", "top"] = "sample"
    on: On = "prompt"

    @model_validator(mode="after")
    def _validate_target(self) -> Self:
        if (self.target is None) == (self.mix is None):
            raise ValueError("set exactly one of target (a file) and mix (shares of a column)")
        shares = [1.0] if self.mix is None else list(self.mix.values())
        if min(shares, default=0.0) < 0 or not sum(shares) > 0:
            raise ValueError("mix: shares must not be negative, and one must be above 0")
        return self

    def identity(self) -> dict[str, Any]:
        """As of any step, with the digest of the target's content in the place of its name."""
        identity = super().identity()
        if self.target is None:
            return identity
        digest = fingerprint(self._read().to_list())
        return {**identity, "fields": {**identity["fields"], "target": digest}}

    def opens_engines(self) -> bool:
        """The encoder is opened for a target file only."""
        return self.target is not None

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The column of `mix` (String), if it is set.

        Raises:
            ConfigError: the target can't be read.
        """
        if self.target is not None:
            try:
                self._read()
            except DataError as error:
                raise ConfigError(str(error)) from error
        return {**super().needs(shape), **({} if self.mix is None else {self.column: pl.String()})}

    def reads(self, table: pl.DataFrame, shape: Shape, ctx: Context) -> list[pl.Series]:
        """`vector`; or `kind` (String)."""
        if self.mix is not None:
            return [table[self.column].alias("kind")]
        return super().reads(table, shape, ctx)

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """See `Selector.fit`."""
        if self.target is None:
            return super().fit(parts, ctx)
        # the encoder is opened before BLAS is held to one thread
        self._vectors(ctx)
        return super().fit(parts, ctx)

    def choose(self, parts: pl.DataFrame, places: Places, ctx: Context) -> Chosen:
        """Choose; the ledger says a row's weight, times the number of rows."""
        if self.mix is not None:
            weights, measure = self._by_mix(parts["kind"])
        else:
            weights, measure = self._by_file(parts["vector"].to_numpy(), parts, ctx)
        rows = places.fill(self._order(weights, parts, places, ctx))
        total = float(np.square(weights).sum())
        facts = {"effective_rows": float(1.0 / total) if total > 0 else 0.0}
        if self.mix is not None:
            facts |= self._shares(parts["kind"], rows)
        return Chosen(rows, measure, weights * parts.height, "weight", None, facts)

    def _order(self, weights: Floats, parts: pl.DataFrame, places: Places, ctx: Context) -> I64:
        """The rows in the order in which they are wanted, Int64[n]."""
        draws = ctx.uniform(parts.to_series(0), "draw").to_numpy()
        plain = self.group_by is None and self.tokens is None
        budget = int(places.room.sum())
        if self.mix is not None and plain:
            places_of = np.arange(draws.size, dtype=np.float64) if self.select == "top" else draws
            return self._quota_order(parts["kind"], places_of, budget)
        if self.select == "top":
            return np.argsort(-weights, kind="stable").astype(np.int64)
        keys = gumbel_keys(weights, draws)
        if plain:
            start = float(ctx.rng("systematic").random())
            keys = keys + np.where(systematic(weights, draws, budget, start), np.inf, 0.0)
        return np.argsort(-keys, kind="stable").astype(np.int64)

    def _quota_order(self, kind: pl.Series, draws: Floats, budget: int) -> I64:
        """Rows of each kind up to its quota, drawn uniformly, then all others."""
        assert self.mix is not None  # noqa: S101 - checked by the caller
        table = pl.DataFrame({"kind": kind, "draw": draws}).with_row_index("i")
        table = table.with_columns(rank=pl.col("draw").rank("ordinal").over("kind"))
        sizes = dict(table["kind"].value_counts().iter_rows())
        names = sorted(name for name, share in self.mix.items() if share > 0)
        shares = np.array([self.mix[name] for name in names])
        most = np.array([sizes.get(name, 0) for name in names], dtype=np.int64)
        quota = dict(zip(names, mix_quotas(shares, most, budget).tolist(), strict=True))
        limit = pl.col("kind").replace_strict(quota, default=0, return_dtype=pl.Int64)
        named = pl.col("kind").is_in(names).fill_null(value=False)
        order = table.sort((pl.col("rank") > limit), ~named, "draw")["i"]
        return order.to_numpy().astype(np.int64)

    def _by_mix(self, kind: pl.Series) -> tuple[Floats, Measure]:
        assert self.mix is not None  # noqa: S101 - checked by the caller
        total = sum(self.mix.values())
        shares = {name: share / total for name, share in self.mix.items()}
        kinds = pl.DataFrame({"kind": kind}).with_columns(
            share=pl.col("kind").replace_strict(shares, default=0.0, return_dtype=pl.Float64),
            size=pl.len().over("kind"),
        )
        weights = kinds.select(pl.col("share") / pl.col("size")).to_series().to_numpy()
        weights = weights / weights.sum() if weights.sum() > 0 else weights
        names = kind.fill_null("\0").to_numpy().astype(str)

        def distance(rows: I64) -> float:
            values, counts = np.unique(names[rows], return_counts=True)
            shares_of_rows = dict(zip(values.tolist(), (counts / rows.size).tolist(), strict=True))
            every = shares.keys() | shares_of_rows.keys()
            gaps = [abs(shares_of_rows.get(v, 0.0) - shares.get(v, 0.0)) for v in sorted(every)]
            return float(sum(gaps)) / 2.0

        return weights, Measure("distance from the mix", "lower", distance)

    def _shares(self, kind: pl.Series, rows: I64) -> dict[str, Any]:
        kept = kind.gather(rows).value_counts(sort=False).sort(kind.name)
        return {"kept": {str(k): n for k, n in kept.iter_rows()}}

    def _by_file(
        self, vectors: NDArray[np.float32], parts: pl.DataFrame, ctx: Context
    ) -> tuple[Floats, Measure]:
        target = self._vectors(ctx)
        sampled = ctx.rng("target sample").permutation(len(target))[:SAMPLE]
        draws = np.argsort(ctx.uniform(parts.to_series(0), "sample").to_numpy(), kind="stable")
        draw_rank = np.empty(draws.size, dtype=np.int64)
        draw_rank[draws] = np.arange(draws.size)

        def distance(rows: I64) -> float:
            sample = rows[np.argsort(draw_rank[rows], kind="stable")][:SAMPLE]
            return drift(vectors[np.sort(sample)], target[np.sort(sampled)], self.eps)

        weights = target_weights(vectors, target, self.eps)
        return weights, Measure("drift", "lower", distance)

    def _read(self) -> pl.Series:
        """The target's prompts, sorted: their order does not matter."""
        assert self.target is not None  # noqa: S101 - checked by the caller
        return read_benchmark(self.target, self.target_column).texts.sort()

    def _vectors(self, ctx: Context) -> NDArray[np.float32]:
        texts = self._read()
        if ctx.embed is None:
            raise ConfigError("MatchTarget needs an encoder; this context has none")
        if texts.len() > MOST:
            few = np.sort(ctx.rng("target").permutation(texts.len())[:MOST])
            texts = texts.gather(few)
        return np.asarray(ctx.embed(self.encoder, texts), dtype=np.float32)
