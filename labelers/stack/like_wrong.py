"""How like each pair is to those whose label people found wrong."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import polars as pl
from pydantic import Field
from scipy.special import logit

from prefactory.context import Context
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError
from prefactory.preferences.trust import normed
from prefactory.step import Labeler, Scope, State
from prefactory.tables import Shape, text_of
from prefactory.votes.loop import likeness, retrieval


class LikeWrong(Labeler):
    """Find the rows like those that were got wrong, for the next round of a review.

    A pair is likened by the difference of its answers' vectors, as it was labelled at first, to the
    pairs that people turned round (`human_turned` of `labelers.Annotations`).

    Adds `like_wrong` (Float64, the largest cosine, in [-1, 1]; 0 where nothing was turned; null on
    rows that people have checked) and, where the table has `trust`, `retrieval` (Float64, lower is
    to be asked about earlier: log odds of trust over their root mean square, less half the
    likeness; our choice; null where either is). The part `retrieved` of a review's queue goes by
    `retrieval`.

    Attributes:
        encoder: of the vectors.
        turned: Boolean column, true where people turned the pair round.
        checked: column that is not 0 where people voted.

    Example:
        - labelers.LikeWrong: {}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PAIRS,)
    scope: ClassVar[Scope] = "dataset"

    encoder: Encoder = Encoder()
    turned: str = Field(default="human_turned", min_length=1)
    checked: str = Field(default="human_votes", min_length=1)

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """What people did, and the trust in each label."""
        return {self.turned: pl.Boolean(), self.checked: pl.Int64(), "trust": pl.Float64()}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Likeness, and the score by which rows are retrieved."""
        return {"like_wrong": pl.Float64(), "retrieval": pl.Float64()}

    def opens_engines(self) -> bool:
        """Vectors are needed."""
        return True

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to ids, differences of vectors, trust and what people did.

        Raises:
            ConfigError: the run has no encoder.
        """
        if ctx.embed is None:
            raise ConfigError(f"{ctx.step} needs an encoder and this run has none")
        chosen, rejected = (
            ctx.embed(self.encoder, table.select(text_of(pl.col(c)).fill_null("")).to_series())
            for c in ("chosen", "rejected")
        )
        turned = table[self.turned].fill_null(value=False)
        sign = np.where(turned.to_numpy(), -1, 1).astype(np.float32)[:, None]
        gap = np.ascontiguousarray((np.asarray(chosen) - np.asarray(rejected)) * sign, np.float32)
        kind = pl.Array(pl.Float32(), gap.shape[1] if gap.ndim == 2 else 1)
        return table.select(
            "pair_id", "trust", turned=turned, checked=pl.col(self.checked).fill_null(0) > 0
        ).with_columns(gap=pl.Series(gap, dtype=kind))

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Liken all rows.

        Returns:
            table `rows` (pair_id and the columns of `adds`); info: `like_wrong`.
        """
        vectors, wrong = parts["gap"].to_numpy(), parts["turned"].to_numpy()
        like = likeness(vectors, wrong)
        trust = parts["trust"].fill_null(np.nan).to_numpy()
        odds = logit(np.clip(trust, 1e-9, 1 - 1e-9))
        score = np.where(np.isnan(odds), np.nan, retrieval(normed(odds), like))
        free = ~parts["checked"]
        table = parts.select("pair_id", like_wrong=pl.Series(like), retrieval=pl.Series(score))
        table = table.with_columns(
            pl.when(free).then(pl.col(c).fill_nan(None)) for c in ("like_wrong", "retrieval")
        )
        return State({"rows": table}, {"like_wrong": {"turned": int(wrong.sum())}})

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Look the likeness up."""
        rows = ctx.fitted.tables["rows"]
        found = table.select("pair_id").join(rows, on="pair_id", how="left", maintain_order="left")
        return found.select(list(self.adds(Shape.PAIRS)))
