"""Pairs that exist already, judged again: does a judge who sees both orders prefer the chosen?"""

from __future__ import annotations

from typing import Any, ClassVar

import polars as pl

from labelers.judges import questions as about
from labelers.judges.poll import NOT_TRUSTED, Judging
from labelers.judges.votes import TIE, nested
from prefactory.context import Context
from prefactory.measures.judge_report import judge_report, votes_of
from prefactory.step import Asks, Labeler, Scope, State
from prefactory.tables import Shape

LOW, HIGH = (
    pl.min_horizontal("chosen_id", "rejected_id"),
    pl.max_horizontal("chosen_id", "rejected_id"),
)
"""Ids of a pair's answers in the order in which votes number them."""


class JudgePairs(Judging, Labeler):
    """Let one or several judges compare the two answers of each pair, in both orders.

    The judges know neither label nor origin; see `labelers.Judge` for how votes are taken and
    counted. The same two answers of a prompt are asked about once, however often they are paired.
    `labelers.Relabel` drops or turns the pairs that the judges contradict.

    New columns, prefixed by `name`:

    - `prefers` (String): `chosen`, `rejected`, `tie`, or null if the votes decide nothing.
    - `reason` (String): why `prefers` is null: `same_text` (nothing to compare; not asked),
      `not_trusted` (outside `trusted_on`; not asked), `abstained`, `no_valid_vote`, or the engine's
      failure if every vote failed so.
    - `agreement` (Float64): share of the valid votes, by weight, for what has most of them; null
      without any.
    - `question`, `answers`, `asked`, `valid`, `votes`: as in `labelers.Judge`; `answers` is 2.

    Statistics over all pairs (`prefactory.measures.judge_report`: place bias, self-consistency,
    agreement of the judges and with the label) are in the manifest and the report, whatever later
    steps drop. For all of them to count every order, set `early_stop: false` (with one judge and
    `rounds: 1` it changes nothing).

    Example:
        - labelers.JudgePairs:
            judge: {engine: server, base_url: 'http://localhost:8000/v1', model: judge}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PAIRS,)
    scope: ClassVar[Scope] = "dataset"

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """Verdict, reason and votes."""
        names = {f"{self.name}_prefers": pl.String(), f"{self.name}_reason": pl.String()}
        return {**names, **about.columns(self.name)}

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """Both orders of every pair before every judge."""
        return self.asks_for(rows, 2)

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Ask the judges about a shard of PAIRS.

        Returns:
            `pair_id`, `prompt_id`, `ids` of both answers (sorted), `gold` (0 or 1, the better one
            of them where that is known) and the new columns.
        """
        known = table.select(
            "pair_id", "prompt_id", ids=pl.concat_list(LOW, HIGH), gold=self._gold()
        )
        return known.hstack(self._judged(table, ctx))

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Keep the judgements, and compute their statistics over all pairs.

        Returns:
            State with the table `judged` (the rows of `fit_shard`), and as `info` the judges'
            `models`, the `name` of the columns, and what `prefactory.measures.judge_report` says
            of them.
        """
        info: dict[str, Any] = {"models": self.models(), "name": self.name}
        info |= judge_report(parts, self.name)
        asked = parts.filter(pl.col(f"{self.name}_asked") > 0).select(
            "prompt_id", "ids", "gold", question=f"{self.name}_question"
        )
        asked = asked.unique("question", keep="first").sort("question")
        votes = votes_of(parts, self.name).join(asked, on="question", how="left")
        info["watch"] = self.watched(votes, asked)
        info["cost"] = self.cost(votes)
        self.warn_of_bias(info)
        return State({"judged": parts}, info)

    def label(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Give the pairs of a table their judgements.

        Args:
            table: PAIRS.
            ctx: holds the judgements.

        Returns:
            The columns of `adds`, same height and order.
        """
        judged = ctx.fitted.tables["judged"].select("pair_id", *self.adds(Shape.PAIRS))
        ids = table.select("pair_id")
        joined = ids.join(judged, on="pair_id", how="left", maintain_order="left")
        return joined.drop("pair_id")

    def _gold(self) -> pl.Expr:
        """Which answer by id order is known to be the better one: that of a gold pair's chosen."""
        marked = pl.lit(value=False) if self.gold is None else pl.col(self.gold)
        return pl.when(marked).then((pl.col("chosen_id") > pl.col("rejected_id")).cast(pl.Int64))

    def _judged(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """The columns of `adds` for a table, asked for now."""
        asked = table.select(
            "prompt_id",
            "prompt",
            "chosen_id",
            "rejected_id",
            gold=self._gold(),
            low=LOW,
            high=HIGH,
            same=about.folded(pl.col("chosen")) == about.folded(pl.col("rejected")),
            trusted=self.trusted(table),
            texts=pl.when(pl.col("chosen_id") <= pl.col("rejected_id"))
            .then(pl.concat_list(pl.struct(m="chosen"), pl.struct(m="rejected")))
            .otherwise(pl.concat_list(pl.struct(m="rejected"), pl.struct(m="chosen"))),
        )
        names = about.pair_question(asked["prompt_id"], asked["low"], asked["high"])
        asked = asked.with_columns(names)
        questions = (
            asked.filter(~pl.col("same") & pl.col("trusted"))
            .unique("question", keep="first", maintain_order=True)
            .sort("question")
            .select(
                "question",
                "prompt",
                "gold",
                ids=pl.concat_list("low", "high"),
                texts=pl.col("texts").list.eval(pl.element().struct.field("m")),
            )
        )
        votes = self.poll(questions, ctx)
        asked_about = questions.select("question", answers=pl.lit(2, dtype=pl.Int64))
        decided = self.decided(votes, asked_about).join(nested(votes), on="question", how="left")
        joined = asked.join(decided, on="question", how="left", maintain_order="left")
        return self._columns(joined)

    def _columns(self, joined: pl.DataFrame) -> pl.DataFrame:
        """The new columns from questions joined with their outcomes."""
        winner = pl.col("winner")
        winner_id = pl.when(winner == 0).then("low").when(winner == 1).then("high")
        prefers = (
            pl.when(winner == TIE)
            .then(pl.lit("tie"))
            .when(winner_id == pl.col("chosen_id"))
            .then(pl.lit("chosen"))
            .when(winner_id == pl.col("rejected_id"))
            .then(pl.lit("rejected"))
        )
        reason = (
            pl.when("same")
            .then(pl.lit("same_text"))
            .when(~pl.col("trusted"))
            .then(pl.lit(NOT_TRUSTED))
            .when(winner.is_null())
            .then(pl.col("reason"))
        )
        columns = {
            "prefers": prefers,
            "reason": reason,
            "question": pl.col("question"),
            "answers": pl.lit(2, dtype=pl.Int64),
            "agreement": pl.col("agreement"),
            "asked": pl.col("asked").fill_null(0),
            "valid": pl.col("valid").fill_null(0),
            "votes": pl.col("votes").fill_null(pl.lit([], dtype=_votes(self.name))),
        }
        return joined.select(expr.alias(f"{self.name}_{n}") for n, expr in columns.items())


def _votes(name: str) -> pl.DataType:
    return about.columns(name)[f"{name}_votes"]
