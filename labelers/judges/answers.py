"""Answers become pairs by the votes of judges who see them in every order."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import polars as pl
from pydantic import model_validator

from labelers.judges import questions as about
from labelers.judges.poll import MOST_ANSWERS, NOT_TRUSTED, Judging
from labelers.judges.votes import BESIDE, VOTES, nested
from prefactory.context import Context
from prefactory.measures.judge_report import vote_report
from prefactory.step import Asks, Generated, Generator, Scope, State
from prefactory.tables import Shape, canonical_order, with_ids

_PART: dict[str, pl.DataType] = {
    "prompt_id": pl.String(),
    "answers": pl.Int64(),
    "gold": pl.Int64(),
    "ids": pl.List(pl.String()),
    **VOTES,
    **BESIDE,
}


class Judge(Judging, Generator):
    """Let one or several judges choose among the answers of each prompt, and pair by their votes.

    Modes:

    - `listwise`: one question shows all answers of a prompt (26 at most) and asks for the best; the
      winner is paired with each other answer. Each judge is asked `rounds` x k times.
    - `pairwise`: one question for every two answers, in both orders; each decided question is a
      pair. `keep: winner` keeps the pairs of the answer that beat most others. Pairs on a cycle (A
      beats B beats C beats A) leave unless `on_cycle: keep`.

    A vote counts for the text that stood under the letter, never for the letter. What wins needs
    `agreement` of the valid votes and must have won in two places at least, so a judge that always
    says A decides nothing. Equal texts (NFC, without outer white space) are shown once.

    New columns, prefixed by `name`: `question` (id of what was asked; pairs of one listwise
    question share it), `answers` (how many were shown), `agreement` (the winner's share of the
    valid votes that were taken), `asked` and `valid` (votes) and `votes` (list of structs: judge,
    round, place of the preferred answer, answer by the order of ids, weight, fault, rationale).
    `label_source` is `judge`. Scores, models and ids of both answers come along, as in
    `labelers.Pairs`.

    Statistics over all questions, also those that made no pair, are in the manifest and the report
    (`prefactory.measures.judge_report`): position bias, self-consistency, agreement of the judges.

    Reasons for answers in no pair: `same_text`, `one_answer` (no other usable answer),
    `too_many_answers`, `no_valid_vote`, the engine's failure (`http_500`, `timeout`, ...) if every
    vote failed so, `tie` (ties have the votes), `abstained` (no answer has them), `cycle`,
    `no_single_winner`, `not_selected`, `not_trusted` (outside `trusted_on`; not asked).

    Attributes:
        mode: see above.
        keep: which pairs of a prompt `pairwise` keeps.
        on_cycle: what becomes of decided pairs that contradict each other.

    Example:
        - labelers.Judge:
            judge: {engine: server, base_url: 'http://localhost:8000/v1', model: judge}
            mode: pairwise
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    scope: ClassVar[Scope] = "dataset"
    parents: ClassVar[tuple[str, ...]] = ("chosen_id", "rejected_id")

    mode: about.Mode = "listwise"
    keep: Literal["all", "winner"] = "all"
    on_cycle: Literal["drop", "keep"] = "drop"

    @model_validator(mode="after")
    def _validate_mode(self) -> Self:
        if self.mode == "listwise" and self.strength:
            raise ValueError("strength compares two answers: it needs mode: pairwise")
        if self.mode == "listwise" and self.keep == "winner":
            raise ValueError("keep: winner needs mode: pairwise; listwise pairs are the winner's")
        return self

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """What the pairs keep of the votes; the score columns of both sides are carried over."""
        return about.columns(self.name)

    def out_shape(self, shape: Shape) -> Shape:
        """PAIRS."""
        return Shape.PAIRS

    def asks(self, rows: int, prompts: int) -> list[Asks]:
        """Every answer in every place before every judge, as if no votes were settled early."""
        answers = rows / max(prompts, 1)
        if self.mode == "listwise":
            return self.asks_for(prompts, answers)
        return self.asks_for(round(prompts * answers * max(answers - 1, 0) / 2), 2)

    def grows(self, rows: int, prompts: int) -> tuple[int, int]:
        """A pair for each answer but one, or for every two."""
        answers = rows / max(prompts, 1)
        pairs = answers * (answers - 1) / 2 if self.mode == "pairwise" else answers - 1
        return round(prompts * max(pairs, 0)), prompts

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Ask the judges about a shard of RESPONSES: one row for each vote."""
        table = table.filter(self.trusted(table))
        _, distinct = about.usable(table)
        asked = about.questions_about(distinct, self.mode, MOST_ANSWERS)
        gold = pl.lit(None, dtype=pl.Boolean) if self.gold is None else pl.col(self.gold)
        texts = table.select("response", gold=gold, row=pl.int_range(pl.len(), dtype=pl.UInt32))
        shown = (
            asked.select("question", "rows")
            .explode("rows")
            .join(texts, left_on="rows", right_on="row", how="left", maintain_order="left")
            .group_by("question", maintain_order=True)
            .agg(texts="response", gold=_only_gold())
        )
        prompts = table.select("prompt_id", "prompt").unique("prompt_id", maintain_order=True)
        questions = asked.join(shown, on="question", how="left", maintain_order="left")
        questions = questions.join(prompts, on="prompt_id", how="left", maintain_order="left")
        votes = self.poll(questions, ctx)
        facts = questions.select("question", "prompt_id", "ids", "gold", answers=_size())
        joined = votes.join(facts, on="question", how="left", maintain_order="left")
        return joined.select(list(_PART)).sort("prompt_id", "question", "judge", "round")

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Keep the votes, and compute their statistics over all questions.

        Args:
            parts: the votes, sorted by prompt.
            ctx: not used.

        Returns:
            State with the table `votes`, and as `info` what `prefactory.measures.judge_report`
            says of them.
        """
        info: dict[str, Any] = {"models": self.models(), "name": self.name}
        info |= vote_report(parts)
        info["cost"] = self.cost(parts)
        pairwise = self.mode == "pairwise"
        asked = parts.select("question", "prompt_id", "ids").unique("question", keep="first")
        info["watch"] = self.watched(parts, asked.sort("question") if pairwise else None)
        self.warn_of_bias(info)
        return State({"votes": parts}, info)

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Count the votes, and pair the answers of a table.

        Args:
            table: RESPONSES; all answers of a prompt are in it.
            ctx: holds the votes.

        Returns:
            PAIRS in canonical order, and the answers that are in none of them.
        """
        trusted = self.trusted(table)
        outside = table.filter(~trusted).select(
            row_id="response_id", reason=pl.lit(NOT_TRUSTED), detail=pl.lit(None, pl.String)
        )
        table = table.filter(trusted)
        every, distinct = about.usable(table)
        asked = about.questions_about(distinct, self.mode, MOST_ANSWERS)
        asked = asked.with_columns(answers=_size())
        votes = _within(ctx.fitted.tables["votes"], table["prompt_id"])
        outcome = self.decided(votes, asked)
        decided = asked.join(outcome, on="question", how="left", maintain_order="left")
        beats, decided = self._paired(decided)
        used = pl.concat([beats["chosen_id"], beats["rejected_id"]]).unique()
        most = MOST_ANSWERS if self.mode == "listwise" else None
        left = about.reasons_left_out(every, distinct, decided, most)
        dropped = left.filter(~pl.col("row_id").is_in(used.implode()))
        dropped = pl.concat([dropped, outside.select(dropped.columns)], how="vertical_relaxed")
        return Generated(self._rows(table, beats, decided, votes), dropped)

    def _paired(self, decided: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The pairs that are made, and the questions with the reasons why others are not."""
        beats = about.edges(decided)
        left_out = beats.select("question").head(0).with_columns(left=pl.lit(None, dtype=pl.String))
        if self.mode == "pairwise" and self.on_cycle == "drop":
            cyclic = about.in_cycles(beats)
            left = beats.filter(cyclic).select("question", left=pl.lit("cycle"))
            beats, left_out = beats.filter(~cyclic), pl.concat([left_out, left])
        if self.keep == "winner":
            top = about.champions(beats)
            lost = beats.filter(~top)
            single = lost["prompt_id"].is_in(beats.filter(top)["prompt_id"].implode())
            code = (
                pl.when(single).then(pl.lit("not_selected")).otherwise(pl.lit("no_single_winner"))
            )
            left = lost.select("question", left=code)
            beats, left_out = beats.filter(top), pl.concat([left_out, left])
        decided = decided.join(left_out, on="question", how="left", maintain_order="left")
        rank = {"cycle": 0, "no_single_winner": 1, "abstained": 2, "tie": 3, "not_selected": 5}
        reason = pl.coalesce("left", "reason")
        detail = (
            pl.when(pl.col("left") == "cycle")
            .then(pl.lit("decided pairs of this prompt contradict each other"))
            .when(pl.col("left") == "no_single_winner")
            .then(pl.lit("several answers beat equally many others"))
            .when(pl.col("left") == "not_selected")
            .then(pl.lit("not the winner's pair"))
            .otherwise("detail")
        )
        ranks = reason.replace_strict(rank, default=4, return_dtype=pl.Int64)
        return beats, decided.with_columns(reason=reason, detail=detail, rank=ranks)

    def _rows(
        self, table: pl.DataFrame, beats: pl.DataFrame, decided: pl.DataFrame, votes: pl.DataFrame
    ) -> pl.DataFrame:
        kept = votes.join(beats.select("question").unique(), on="question", how="semi")
        facts = decided.select("question", "answers", "agreement", "asked", "valid")
        facts = facts.join(nested(kept), on="question", how="left")
        joined = beats.join(facts, on="question", how="left", maintain_order="left")
        adds = about.columns(self.name)
        joined = joined.rename({c.removeprefix(f"{self.name}_"): c for c in adds})
        rows = about.pair_rows(table, joined, list(adds)).with_columns(label_source=pl.lit("judge"))
        return canonical_order(with_ids(rows, Shape.PAIRS, keep_side_ids=True), Shape.PAIRS)


def _only_gold() -> pl.Expr:
    """Number of the one answer that is marked as the best; null where none is, or several are."""
    marked = pl.col("gold").fill_null(value=False)
    return pl.when(marked.sum() == 1).then(marked.arg_max().cast(pl.Int64))


def _size() -> pl.Expr:
    return pl.col("ids").list.len().cast(pl.Int64)


def _within(votes: pl.DataFrame, prompts: pl.Series) -> pl.DataFrame:
    """The votes of a shard's prompts, which are a range."""
    if prompts.is_empty():
        return votes.clear()
    ids = votes["prompt_id"]
    start = int(ids.search_sorted(str(prompts.min()), side="left"))
    stop = int(ids.search_sorted(str(prompts.max()), side="right"))
    return votes.slice(start, stop - start).filter(ids[start:stop].is_in(prompts.implode()))
