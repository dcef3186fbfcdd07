"""Pairs leave whose chosen answer a straight line tells from the rejected one most surely."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field

from catalog.splits import group_key, near_groups, reduce_prompts
from filters.content.looks import columns, looks
from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError, DataError
from prefactory.near.pairs import array_column
from prefactory.near.vectors import one_thread
from prefactory.preferences.clustered import codes
from prefactory.preferences.folds import NONE, cluster_folds
from prefactory.preferences.probe import (
    LEAST,
    PAIRED_LIMIT,
    POINTWISE_LIMIT,
    Bools,
    Columns,
    Floats,
    Ints,
    paired_decisions,
    pointwise_decisions,
)
from prefactory.step import FittedFilter, State
from prefactory.tables import SIDES, Shape, digests, text_of

HASHES = ("digest", "bands", "sketch", "words_prompt", "set_prompt")
LEAST_ROUND = 100
"""A round drops at least one in so many of the pairs that are left."""


class Separability(FittedFilter):
    """Drop the pairs whose sides a probe tells apart most surely, until it no longer can.

    The probe is the audit's (L2 logistic, after arXiv 2504.02193): it reads what answers look like,
    or what they mean, and is cross-fitted by cluster of near-duplicate prompts, so that each pair
    is judged by one that saw no copy of its prompt. While it gets more right than a limit, of the
    pairs or of the answers one by one, half of the pairs that are too many leave, those with the
    largest margins first, and it is fitted anew to the rest. Equal answers take no part.

    It takes good pairs as well: what is easy for the probe need not be wrong. The way to get there
    (rounds, halves, `most`) is ours.

    Reasons: `separable`; the detail is the margin, in log odds, by which the probe told the sides
    apart when the pair left.

    Attributes:
        reads: what the probe reads: `looks` (style, opening, hashed words), or `meaning` (sentence
            vectors of the answers).
        limit: accuracy of the probe, pair by pair, that is left at most; the audit's by default.
        pointwise_limit: the same of answers one by one.
        most: share of the pairs that may leave.
        fit_rows: pairs that a probe learns from at most, drawn by seed and id; all are judged.
        encoder: of the vectors of `meaning`.

    Raises:
        DataError: more than `most` of the pairs would have to leave.

    Example:
        - filters.Separability: {}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PAIRS,)
    learns_labels: ClassVar[bool] = True

    reads: Literal["looks", "meaning"] = "looks"
    limit: float = Field(default=PAIRED_LIMIT, ge=0.5, lt=1)
    pointwise_limit: float = Field(default=POINTWISE_LIMIT, ge=0.5, lt=1)
    most: float = Field(default=0.5, gt=0, lt=1)
    fit_rows: int = Field(default=4000, ge=100)
    encoder: Encoder = Field(default_factory=Encoder)

    def opens_engines(self) -> bool:
        """Only `meaning` needs the encoder."""
        return self.reads == "meaning"

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce pairs to hashes of their prompts and what the probe reads of both sides.

        Raises:
            ConfigError: `reads` is `meaning` and the context has no encoder.
        """
        if self.reads == "meaning" and ctx.embed is None:
            raise ConfigError(f"{ctx.step} needs an encoder for `reads: meaning`; write `looks`")
        group = digests(table.select(group_key(pl.col("prompt"))).to_series()).alias("group")
        hashes = group.to_frame().join(
            reduce_prompts(table), on="group", how="left", maintain_order="left"
        )
        texts = table.select(text_of(pl.col(side)).fill_null("").alias(side) for side in SIDES)
        parts = [table.select("pair_id"), hashes.select("group", *HASHES)]
        parts.append(texts.select(equal=pl.col("chosen") == pl.col("rejected")))
        for side in SIDES:
            if self.reads == "looks":
                read = looks(texts[side])
            else:
                assert ctx.embed is not None  # noqa: S101 - asked above
                vectors = np.asarray(ctx.embed(self.encoder, texts[side]), dtype=np.float32)
                read = pl.DataFrame({"dense": array_column(vectors, pl.Float32())})
            parts.append(read.rename({name: f"{side}_{name}" for name in read.columns}))
        return pl.concat(parts, how="horizontal")

    @one_thread()
    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Choose the pairs that go.

        Args:
            parts: the rows of `fit_shard`, sorted by id.
            ctx: folds and the sample are drawn by its seed.

        Returns:
            table `dropped` (pair_id, reason, detail); info: `separability` with the pairs that
            took part, those that left, and the accuracies before and after, null if none.
        """
        near = near_groups([parts.select("group", *HASHES)])
        number = parts.select("group").join(near, on="group", how="left", maintain_order="left")
        seed = int(ctx.rng("folds").integers(2**31))
        folds = cluster_folds(codes(number["number"]), seed)
        there = ~parts["equal"].to_numpy() & (folds != NONE)
        sides = [_columns(parts.filter(there), f"{side}_") for side in SIDES]
        draws = ctx.uniform(parts.filter(there)["pair_id"], "fit").to_numpy()
        pairs = _Pairs(sides[0], sides[1], folds[there], draws)
        margins, accuracies = self._drop(pairs, ctx)
        whole = np.full(parts.height, np.nan)
        whole[there] = margins
        dropped = parts.select("pair_id", margin=pl.Series(whole).fill_nan(None)).drop_nulls()
        dropped = dropped.select(
            "pair_id",
            reason=pl.lit("separable"),
            detail=pl.format("margin {}", pl.col("margin").round_sig_figs(4)),
        )
        info: dict[str, Any] = {
            "n": int(there.sum()),
            "dropped": dropped.height,
            "rounds": max(0, len(accuracies) - 1),
            "before": accuracies[0] if accuracies else None,
            "after": accuracies[-1] if accuracies else None,
        }
        return State({"dropped": dropped}, {"separability": info})

    def _drop(self, pairs: _Pairs, ctx: Context) -> tuple[Floats, list[dict[str, float]]]:
        """Margins of the pairs that leave, NaN of the others, and accuracies by round."""
        n = pairs.folds.size
        margins, left = np.full(n, np.nan), np.arange(n)
        accuracies: list[dict[str, float]] = []
        while left.size >= LEAST:
            side_by_side, one_by_one = pairs.take(left).judge(self.fit_rows)
            right = {"paired": _right(side_by_side), "pointwise": _right(one_by_one.ravel())}
            accuracies.append({name: round(value, 4) for name, value in right.items()})
            over = (right["paired"] - self.limit) / (1 - self.limit)
            over_alone = (right["pointwise"] - self.pointwise_limit) / (1 - self.pointwise_limit)
            if max(over, over_alone) <= 0:
                break
            sure = side_by_side if over >= over_alone else one_by_one.sum(axis=0)
            share = max(max(over, over_alone) / 2, 1 / LEAST_ROUND)
            goes = np.argsort(-sure, kind="stable")[: math.ceil(share * left.size)]
            margins[left[goes]] = sure[goes]
            left = np.delete(left, goes)
            if n - left.size > self.most * n:
                raise DataError(
                    f"{ctx.step}: a probe gets {accuracies[0]['paired']:.1%} of the pairs and "
                    f"{accuracies[0]['pointwise']:.1%} of the answers right, and more than "
                    f"{self.most:.0%} of the pairs would have to leave until it gets no more than "
                    f"{self.limit:.0%} and {self.pointwise_limit:.0%}: the sides differ throughout."
                    " Pair answers of one model (labelers.Pairs: {models: same}), or raise `most`"
                )
        return margins, accuracies


@dataclass(frozen=True)
class _Pairs:
    """What a probe reads of pairs, their folds, and the draws by which some are learned from."""

    chosen: Columns
    rejected: Columns
    folds: Ints
    draws: Floats

    def take(self, rows: Ints) -> _Pairs:
        chosen, rejected = self.chosen.take(rows), self.rejected.take(rows)
        return _Pairs(chosen, rejected, self.folds[rows], self.draws[rows])

    def judge(self, fit_rows: int) -> tuple[Floats, Floats]:
        """Margins of the pairs [n], and of their answers towards their labels [2, n]."""
        n = self.folds.size
        fitted: Bools = np.zeros(n, dtype=bool)
        fitted[np.argsort(self.draws, kind="stable")[:fit_rows]] = True
        paired = paired_decisions(self.chosen, self.rejected, self.folds, fitted)
        label = np.arange(2 * n) < n
        alone = pointwise_decisions(
            self.chosen.below(self.rejected), label, np.tile(self.folds, 2), np.tile(fitted, 2)
        )
        return paired, np.where(label, alone, -alone).reshape(2, n)


def _columns(parts: pl.DataFrame, side: str) -> Columns:
    if f"{side}words" in parts.columns:
        return columns(parts, side)
    return Columns(parts[f"{side}dense"].to_numpy().astype(np.float64))


def _right(margins: Floats) -> float:
    """Share of margins above 0; 0 counts one half."""
    return float(((np.sign(margins) + 1) / 2).mean())
