"""Pairs after a judgement: what the judges contradict is dropped, turned round, or kept."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field

from prefactory.context import Context
from prefactory.step import Generated, Generator, Scope, verdict
from prefactory.tables import Shape, canonical_order
from prefactory.turned import turned
from prefactory.votes.slices import DERIVED, within

Fate = Literal["drop", "flip", "keep"]


class Relabel(Generator):
    """Act on what `labelers.JudgePairs` found: drop or turn the pairs that the judges contradict.

    In a pair that is turned every column that depends on the sides turns with them (`turning` in
    `prefactory.turned`), so that `<name>_prefers` becomes `chosen`, and its `label_source` becomes
    `judge`. If the same two answers are there in the turned order already, that pair stays and the
    turned one leaves.

    New columns: `relabelled_from` (the pair's id before) and `relabelled` (Boolean, it was turned).

    Reasons: `judge_disagrees`, `judge_tie`, and for undecided pairs the reason of the judgement
    (`abstained`, `no_valid_vote`, `same_text`, `http_500`, ...; `weak_agreement` below
    `min_agreement`); `turned_copy`.

    Attributes:
        on_disagree: pairs whose rejected answer the judges prefer.
        on_tie: pairs that the judges find equal.
        on_undecided: pairs on which the votes decide nothing.
        min_agreement: a preference of less agreement counts as undecided.
        name: prefix of the judgement's columns.
        trusted_on: where the judges may label, column -> values (`prefactory.votes.slices`); other
            pairs stay as they are. `{length_bucket: []}` trusts them nowhere yet: `prefactory votes
            round` fills in the values that people's votes bear out. None: everywhere.
        keep_human: labels of people (`label_source: human`) stand, whatever the judges say.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PAIRS,)
    scope: ClassVar[Scope] = "prompt"
    parents: ClassVar[tuple[str, ...]] = ("relabelled_from",)
    version: ClassVar[int] = 2

    on_disagree: Fate = "drop"
    on_tie: Literal["drop", "keep"] = "drop"
    on_undecided: Literal["drop", "keep"] = "drop"
    min_agreement: float = Field(default=0.0, ge=0, le=1)
    name: str = Field(default="judge", min_length=1)
    trusted_on: dict[str, tuple[str, ...]] | None = None
    keep_human: bool = False

    def identity(self) -> dict[str, Any]:
        """As of any step; what is not used is no part of it."""
        found = super().identity()
        unused = {"trusted_on": self.trusted_on is None, "keep_human": not self.keep_human}
        kept = {k: v for k, v in found["fields"].items() if not unused.get(k)}
        return {**found, "fields": kept}

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """Verdict, its reason and its agreement, and the columns that say where it is trusted."""
        types = {"prefers": pl.String(), "reason": pl.String(), "agreement": pl.Float64()}
        named = [column for column in self.trusted_on or () if column not in DERIVED]
        return {
            **{f"{self.name}_{column}": dtype for column, dtype in types.items()},
            **{column: pl.String() for column in named},
        }

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Where the pair comes from, and whether it was turned."""
        return {"relabelled_from": pl.String(), "relabelled": pl.Boolean()}

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Relabel the pairs of a table.

        Args:
            table: PAIRS with a judgement; all pairs of a prompt are in it.
            ctx: not used.

        Returns:
            PAIRS in canonical order, and the pairs left out.
        """
        prefers, reason, agreement = (
            pl.col(f"{self.name}_{c}") for c in ("prefers", "reason", "agreement")
        )
        alone = pl.lit(self._left_alone(table))
        weak = ~alone & prefers.is_in(["chosen", "rejected"]) & (agreement < self.min_agreement)
        against = (~alone & (prefers == "rejected") & ~weak).fill_null(value=False)
        shown = pl.format("{}% of the votes", (100 * agreement).round().cast(pl.Int64))
        undecided = pl.lit(self.on_undecided == "drop")
        judged = verdict(
            table,
            (against & (self.on_disagree == "drop"), "judge_disagrees", shown),
            (~alone & (prefers == "tie") & (self.on_tie == "drop"), "judge_tie", shown),
            (weak & undecided, "weak_agreement", shown),
            (
                ~alone & prefers.is_null() & undecided,
                "undecided",
                pl.lit("the votes decide nothing"),
            ),
        )
        reasons = table.select(row_id="pair_id", said=reason, turn=against)
        fate = reasons.hstack(judged).with_columns(
            reason=pl.when(pl.col("reason") == "undecided")
            .then(pl.coalesce("said", "reason"))
            .otherwise("reason")
        )
        stays = fate["reason"].is_null()
        turn = fate["turn"] if self.on_disagree == "flip" else fate["turn"] & False
        rows = self._turned(table.filter(stays), turn.filter(stays))
        first = pl.col("pair_id").is_first_distinct()
        late = rows.filter(~first).select(
            row_id="relabelled_from",
            reason=pl.lit("turned_copy"),
            detail=pl.format("turned round it is {}", "pair_id"),
        )
        dropped = pl.concat([fate.filter(~stays).select("row_id", "reason", "detail"), late])
        return Generated(canonical_order(rows.filter(first), Shape.PAIRS), dropped)

    def _left_alone(self, table: pl.DataFrame) -> pl.Series:
        """The pairs that the judges may not touch, Bool[n]."""
        rule = self.trusted_on
        alone = ~within(table, rule) if rule is not None else pl.repeat(
            value=False, n=table.height, dtype=pl.Boolean, eager=True
        )  # fmt: skip
        if self.keep_human:
            alone = alone | (table["label_source"] == "human").fill_null(value=False)
        return alone

    def _turned(self, table: pl.DataFrame, turn: pl.Series) -> pl.DataFrame:
        """The pairs with some turned round, after those with the same id that were not."""
        rows = turned(table, turn, "judge", "relabelled_from")
        rows = rows.with_columns(turn.alias("relabelled"))
        return rows.sort("pair_id", "relabelled", "relabelled_from")
