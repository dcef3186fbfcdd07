"""Rows leave whose answer refuses: all of them, or as many as bring a side to a share."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from prefactory.context import Context
from prefactory.errors import ConfigError
from prefactory.measures.refusals import refuses
from prefactory.step import FittedFilter, State
from prefactory.tables import ROW_ID, SIDES, Shape, shape_of, text_of

Side = Literal["chosen", "rejected", "response"]
Bools = NDArray[np.bool_]
EXCERPT = 80
"""Characters of the answer that the ledger shows."""


class Refusals(FittedFilter):
    """Drop rows whose answer refuses, where that is not wanted.

    An answer refuses if it says so in its first 300 characters, by lists of phrases in seventeen
    languages (see `prefactory.measures.refusals` for how often they are right). A chosen refusal
    of a harmless prompt teaches to refuse, a rejected one teaches to comply; with a harmful prompt
    it is the other way round, so rows of safety data are left alone and not counted: name their
    `safety` sources, or a column that says which prompts are `harmful`.

    The share of refusals on a side is brought to `max_share` at most (0 takes out all), by dropping
    of the rows that refuse there a random part, the same for every shard size and order. The
    Baichuan Alignment report controls the share of refusals and gives no number; the default is
    ours: no chosen (or only) answer refuses, rejected ones may.

    Reasons: `refusal_chosen`, `refusal_rejected`, `refusal` (of responses), `refusal_both` (both
    answers of a pair). The detail is how the answer begins.

    Attributes:
        max_share: side -> greatest share of refusals, of the rows that are not exempt. A side that
            is not named has no limit.
        both: what to do with pairs in which both answers refuse: `drop` them all, or `keep` them,
            as far as the shares allow.
        safety: names of sources (column `source`) whose rows are exempt.
        harmful: Boolean column; rows with true are exempt.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES, Shape.PAIRS)

    max_share: dict[Side, Annotated[float, Field(ge=0, le=1)]] = Field(
        default={"chosen": 0.0, "response": 0.0}
    )
    both: Literal["keep", "drop"] = "keep"
    safety: tuple[str, ...] = ()
    harmful: str | None = Field(default=None, min_length=1)

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The column `harmful` (Boolean), if it is set.

        Raises:
            ConfigError: if nothing would be filtered in such a table.
        """
        if not self._limits(shape) and not (self.both == "drop" and shape == Shape.PAIRS):
            raise ConfigError(
                f"max_share limits {', '.join(self.max_share)}, and {shape} have none"
            )
        return {} if self.harmful is None else {self.harmful: pl.Boolean()}

    def _limits(self, shape: Shape) -> dict[str, float]:
        sides = SIDES if shape == Shape.PAIRS else ("response",)
        return {side: self.max_share[side] for side in sides if side in self.max_share}

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Judge the answers of a shard.

        Args:
            table: RESPONSES or PAIRS.
            ctx: not used.

        Returns:
            Row id, `exempt`, and one column a side (Boolean): `response`, or `chosen`, `rejected`.
        """
        shape = shape_of(table)
        sides = SIDES if shape == Shape.PAIRS else ("response",)
        texts = table.select(text_of(pl.col(side)).fill_null("").alias(side) for side in sides)
        exempt = pl.col("source").is_in(list(self.safety)).fill_null(value=False)
        if self.harmful is not None:
            exempt = exempt | pl.col(self.harmful).fill_null(value=False)
        ids = table.select(ROW_ID[shape], exempt=exempt)
        return ids.with_columns(refuses(texts[side]).alias(side) for side in sides)

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Choose the rows that go.

        Args:
            parts: the rows of `fit_shard`, sorted by row id.
            ctx: draws.

        Returns:
            State with the table `dropped` (`unit`, `reason`) and the facts `rows`, `exempt` and, of
            each side, `<side>_before` and `<side>_after`: shares of refusals among the others.
        """
        ids = parts.to_series(0)
        shape = Shape.RESPONSES if "response" in parts.columns else Shape.PAIRS
        sides = [side for side in (*SIDES, "response") if side in parts.columns]
        flags = {side: parts[side].to_numpy() for side in sides}
        judged = ~parts["exempt"].to_numpy()
        reasons = np.full(parts.height, "", dtype=object)
        if shape == Shape.PAIRS and self.both == "drop":
            reasons[judged & flags["chosen"] & flags["rejected"]] = "refusal_both"
        draws = {side: ctx.uniform(ids, side).to_numpy() for side in self._limits(shape)}
        dropping = True
        while dropping:  # a row that goes for one side changes the share of the other
            dropping = False
            for side, limit in self._limits(shape).items():
                stays = judged & (reasons == "")
                lost = _surplus(stays & flags[side], int(stays.sum()), limit, draws[side])
                reasons[lost] = "refusal" if side == "response" else f"refusal_{side}"
                dropping = dropping or bool(lost.size)
        stays = judged & (reasons == "")
        facts: dict[str, Any] = {"rows": parts.height, "exempt": int((~judged).sum())}
        for side in sides:
            facts[f"{side}_before"] = _share(flags[side], judged)
            facts[f"{side}_after"] = _share(flags[side], stays)
        dropped = pl.DataFrame(
            {"unit": ids, "reason": pl.Series(reasons.tolist(), dtype=pl.String)}
        )
        return State({"dropped": dropped.filter(pl.col("reason") != "")}, facts)

    def keep(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Look the rows up in the state, and show how the refusal begins (see `Filter.keep`)."""
        shape = shape_of(table)
        judged = table.select(
            ["response"] if shape == Shape.RESPONSES else list(SIDES)
        ).with_columns(self.decisions(table, ctx)["reason"])
        drops = pl.col("reason").is_not_null()
        if shape == Shape.RESPONSES:
            return judged.select("reason", detail=_begin("response", drops))
        side = pl.col("reason") == "refusal_rejected"
        detail = pl.coalesce(_begin("rejected", side), _begin("chosen", drops))
        return judged.select("reason", detail=detail)


def _begin(side: str, where: pl.Expr) -> pl.Expr:
    text = text_of(pl.col(side)).fill_null("").str.head(4 * EXCERPT)
    text = text.str.strip_chars().str.replace_all(r"\s+", " ")
    more = pl.when(text.str.len_chars() > EXCERPT).then(pl.lit("...")).otherwise(pl.lit(""))
    return pl.when(where).then(pl.format(f"{side}: {{}}{{}}", text.str.head(EXCERPT), more))


def _surplus(
    refusing: Bools, rows: int, limit: float, draws: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Places of refusing rows that must go so that at most a share of the rest refuses."""
    at = np.flatnonzero(refusing)
    if limit >= 1 or not at.size:
        return at[:0]
    others = rows - at.size
    most = math.floor(limit * others / (1 - limit) + 1e-9)
    return at[np.lexsort((at, draws[at]))][most:]


def _share(flags: Bools, among: Bools) -> float | None:
    return round(float(flags[among].mean()), 4) if among.any() else None
