"""Answers become pairs: within each prompt, a better answer is chosen over a worse one."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import numpy as np
import polars as pl
from pydantic import AfterValidator, Field, model_validator

from labelers.combine.scoring import Ints
from labelers.pairs import rules as pairing
from prefactory.context import Context
from prefactory.step import Generated, Generator, Scope
from prefactory.tables import (
    LABEL_SOURCES,
    SCORE,
    SIDES,
    Shape,
    canonical_order,
    digests,
    nfc,
    text_of,
)

Name = Annotated[str, Field(min_length=1)]


def _known_source(value: str) -> str:
    if value not in LABEL_SOURCES:
        raise ValueError(f"{value!r} is none of {', '.join(LABEL_SOURCES)}")
    return value


LabelSource = Annotated[str, AfterValidator(_known_source)]
_LEVELS = (
    *("null_score", "same_text", "null_in_prompt", "all_high", "small_spread", "tied_best"),
    *("single_response", "tie", "incomparable", "small_margin", "large_margin", "conflict"),
    *("no_model", "same_model", "other_model", "off_policy", "not_selected"),
)
"""Reasons, those of answers that got furthest last."""
_USABLE = _LEVELS.index("tie")
"""Level of the first fate; without any pair the fate is -1."""


class _View(NamedTuple):
    """Answers under the scores that order them.

    Attributes:
        pairs: `chosen` and `rejected`, places of answers, and `margin`.
        facts: of each answer: `level` (place in `_LEVELS` of the reason that would hold if it were
            in no pair), and what the details name.
    """

    pairs: pl.DataFrame
    facts: pl.DataFrame


class Pairs(Generator):
    """Pair the answers of each prompt by their scores, as often as wanted, without a model call.

    What makes an answer better is set by `order`:

    - `score`: the score of `objective`.
    - `each`: the scores of `objectives`, one after the other: one set of pairs for each, told apart
      by `dimension` (Int64, the place in `objectives`) and `objective` (String), as MAH-DPO takes
      them (arXiv:2510.01167). The same two answers may be in several sets, also turned round;
      `pair_id` then covers the objective too.
    - `pareto`: all `objectives` at once: nowhere lower and somewhere higher. The margin is the mean
      gap, so bring them to one scale first (`labelers.Normalise`).

    Rules say which pairs may be made; a pair that breaks one is as if it were not there. Equal
    scores never make a pair (of equal answers the order is by id, a hash that favours none), and
    neither do equal texts: of answers with one text only the first by id takes part.

    `strategy` says which of them are made:

    - `best_worst`: the best answer that has a pair, with its worst.
    - `best_random_lower`: the best answer that has a pair, with one drawn uniformly from those that
      it may be paired with (Tulu 3, arXiv:2411.15124).
    - `best_random`: the best answer with one drawn uniformly from all others; a draw that breaks a
      rule makes no pair (UltraFeedback binarised, arXiv:2310.16944, which keeps the ties).
    - `all`: every pair, n (n - 1) / 2 of n answers.
    - `top_bottom_k`: each of the `k` best with each of the `k` worst that it may be paired with.

    New columns are `margin` (Float64, chosen minus rejected, always above 0) and all score columns
    of both answers; `source` and `source_id` are those of the chosen answer.

    Reasons for answers in no pair: `null_score` (null, NaN or infinite), `same_text`; of their
    prompt: `null_in_prompt`, `all_high`, `small_spread`, `tied_best`, `single_response` (no other
    usable answer); and, of the pairs that they could be in, the rule that the last of them to fail
    failed: `tie`, `incomparable`, `small_margin`, `large_margin`, `conflict`, `no_model`,
    `same_model`, `other_model`, `off_policy`; `not_selected` (by strategy or `max_pairs`).

    Attributes:
        objective: for `score`.
        objectives: for `each` and `pareto`.
        order: see above.
        strategy: see above.
        k: size of both ends, for `top_bottom_k` only.
        min_margin: least margin of a pair, in units of the scores, inclusive.
        max_margin: greatest margin, inclusive; null for no limit.
        agree: objectives that may not put the rejected answer higher (`conflict`); one that lacks a
            score has no opinion.
        models: `same` pairs answers of one model only, `different` of two only.
        on_policy_model: name of the policy's model, for `on_policy`.
        on_policy: which side the policy must have written.
        on_tie: `drop`: no pair of equal scores; `drop_prompt`: also no pair of a prompt whose best
            score several answers share (not for `pareto`).
        on_null: `drop`: an answer without score is in no pair; `drop_prompt`: nor are the other
            answers to its prompt.
        min_spread: least difference of best and worst answer of a prompt.
        worst_below: a prompt whose worst answer is not below this has nothing to reject (Baichuan,
            arXiv:2410.14940, drops prompts whose answers are all high or nearly equal).
        same_text: texts are equal `folded` (form NFC, without case, white space as one space), or
            `exact` (form NFC, without outer white space), for code.
        max_pairs: most pairs of one prompt (and dimension), greatest margin first; null for all.
        label_source: who ordered the answers, see `prefactory.tables.LABEL_SOURCES`.

    Example:
        - labelers.Pairs: {objective: reward}
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES,)
    scope: ClassVar[Scope] = "prompt"
    parents: ClassVar[tuple[str, ...]] = ("chosen_id", "rejected_id")
    version: ClassVar[int] = 2

    objective: Name | None = None
    objectives: tuple[Name, ...] = ()
    order: Literal["score", "each", "pareto"] = "score"
    strategy: pairing.Strategy = "best_worst"
    k: int | None = Field(default=None, ge=1)
    min_margin: float = Field(default=0.0, ge=0)
    max_margin: float | None = Field(default=None, gt=0)
    agree: tuple[Name, ...] = ()
    models: pairing.Models = "any"
    on_policy_model: Name | None = None
    on_policy: pairing.OnPolicy | None = None
    on_tie: Literal["drop", "drop_prompt"] = "drop"
    on_null: Literal["drop", "drop_prompt"] = "drop"
    min_spread: float = Field(default=0.0, ge=0)
    worst_below: float | None = None
    same_text: Literal["folded", "exact"] = "folded"
    max_pairs: int | None = Field(default=None, ge=1)
    label_source: LabelSource = "reward_model"

    @model_validator(mode="after")
    def _validate_strategy(self) -> Self:
        if (self.strategy == "top_bottom_k") != (self.k is not None):
            raise ValueError("the strategy top_bottom_k needs k, and no other strategy takes it")
        if (self.on_policy is None) != (self.on_policy_model is None):
            raise ValueError("on_policy and on_policy_model go together: the side, and whose it is")
        if self.max_margin is not None and self.max_margin < self.min_margin:
            raise ValueError(f"min_margin ({self.min_margin}) is above max_margin")
        return self

    @model_validator(mode="after")
    def _validate_order(self) -> Self:
        if self.order == "score":
            if self.objective is None or self.objectives:
                raise ValueError("order: score needs one objective, and no objectives")
        elif self.objective is not None or not self.objectives:
            raise ValueError(f"order: {self.order} needs objectives, and no objective")
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError("objectives: name each once")
        if self.order == "pareto" and self.on_tie != "drop":
            raise ValueError("on_tie: drop_prompt is not for pareto, which has no one best answer")
        return self

    def _ordering(self) -> list[tuple[str, ...]]:
        """Objectives that order the answers together, one tuple for each set of pairs."""
        if self.order == "each":
            return [(objective,) for objective in self.objectives]
        return [self.objectives or (self.objective or "",)]

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The scores of all objectives that are named (Float64)."""
        names = [o for ordering in self._ordering() for o in ordering]
        return {f"{SCORE}{o}": pl.Float64() for o in (*names, *self.agree)}

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`margin` (Float64), and for `each` `dimension` (Int64) and `objective` (String).

        The score columns of both sides are carried over.
        """
        each = {"dimension": pl.Int64(), "objective": pl.String()} if self.order == "each" else {}
        return {"margin": pl.Float64(), **each}

    def out_shape(self, shape: Shape) -> Shape:
        """PAIRS."""
        return Shape.PAIRS

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Make the pairs of all prompts of a table.

        Args:
            table: RESPONSES with the scores of `needs`; all answers of a prompt are in it.
            ctx: draws the rejected answers of the random strategies, by response id.

        Returns:
            PAIRS in canonical order, and the answers that are in none of them.
        """
        answers = self._answers(table, ctx)
        views = [self._view(answers, ordering) for ordering in self._ordering()]
        picked = pl.concat(
            [view.pairs.with_columns(dimension=pl.lit(d)) for d, view in enumerate(views)]
        )
        alone = np.ones(answers.height, bool)
        for side in SIDES:
            alone[picked[side].to_numpy()] = False
        furthest = np.stack([view.facts["level"].to_numpy() for view in views]).argmax(axis=0)
        dropped = [
            self._dropped(answers, view.facts, np.flatnonzero(alone & (furthest == v)))
            for v, view in enumerate(views)
        ]
        return Generated(self._rows(table, answers, picked), pl.concat(dropped))

    def _answers(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """All answers by id, with their row in the table.

        Prompts (`prompt`), texts of a prompt (`text`) and models (`writer`) are numbers; scores
        that are not finite are null.
        """
        columns = list(self.needs(Shape.RESPONSES))
        finite = [pl.when(pl.col(c).is_finite()).then(pl.col(c)).alias(c) for c in columns]
        text = folded(text_of(pl.col("response")).fill_null(""), self.same_text == "folded")
        answers = (
            table.with_row_index("row")
            .select("row", "prompt_id", "response_id", "model", *finite, text=text)
            .sort("prompt_id", "response_id")
            .with_columns(prompt=pl.col("prompt_id").rle_id(), place=pl.int_range(pl.len()))
            .with_columns(
                text=pl.col("place").first().over("prompt", "text"),
                writer=pl.when(pl.col("model").is_not_null()).then(
                    pl.col("place").first().over("model")
                ),
            )
        )
        random = self.strategy in ("best_random", "best_random_lower")
        draws = ctx.uniform(answers["response_id"]) if random else pl.lit(0.0)
        return answers.with_columns(draw=draws)

    def _view(self, answers: pl.DataFrame, ordering: tuple[str, ...]) -> _View:
        """Pairs and facts under one ordering."""
        columns = [f"{SCORE}{o}" for o in ordering]
        facts = self._facts(answers, columns)
        usable = answers.hstack(facts.select("mean")).filter(facts["level"].is_null())
        keys = ["prompt", *(["mean"] if len(columns) > 1 else []), *columns, "place"]
        ranked = usable.sort(keys, descending=[k not in ("prompt", "place") for k in keys])
        agree = [pl.col(f"{SCORE}{o}").fill_null(float("nan")) for o in self.agree]
        numbers = pairing.Answers(
            ranked["prompt"].cast(pl.Int64).to_numpy(),
            ranked.select(columns).to_numpy(),
            ranked.select(agree).to_numpy() if agree else np.zeros((ranked.height, 0)),
            ranked["writer"].fill_null(-1).to_numpy(),
            (ranked["model"] == (self.on_policy_model or "")).fill_null(value=False).to_numpy(),
        )
        rules = pairing.Rules(
            self.order == "pareto",
            self.min_margin,
            np.inf if self.max_margin is None else self.max_margin,
            self.models,
            self.on_policy,
        )
        draws = ranked["draw"].to_numpy()
        paired = pairing.make(numbers, rules, self.strategy, draws, self.k or 1)
        position = ranked["place"].to_numpy()
        sides = {side: position[rows] for side, rows in zip(SIDES, paired[:2], strict=True)}
        pairs = pl.DataFrame({**sides, "margin": paired.margin})
        level, reach = facts["level"].fill_null(0).to_numpy().copy(), np.zeros(facts.height)
        level[position], reach[position] = _USABLE + paired.fate, paired.reach
        facts = facts.with_columns(level=level, reach=reach)
        return _View(self._limited(pairs, answers), facts)

    def _facts(self, answers: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
        """What decides whether an answer may be in a pair; `level` is null where it may."""
        missing = pl.any_horizontal(pl.col(c).is_null() for c in columns)
        mean = pl.sum_horizontal(pl.col(columns)) / len(columns)
        facts = answers.select("prompt", "place", "text", missing=missing, mean=mean).with_columns(
            mean=pl.when(~pl.col("missing")).then("mean"),
            twin=pl.col("place").first().over("prompt", "missing", "text"),
        )
        once = pl.when(pl.col("place") == pl.col("twin")).then("mean")
        of_prompt = facts.group_by("prompt", maintain_order=True).agg(
            unscored=pl.col("missing").any(),
            least=once.min(),
            spread=once.max() - once.min(),
            leaders=(once == once.max()).sum(),
        )
        facts = facts.hstack(of_prompt.drop("prompt").select(pl.all().gather(facts["prompt"])))
        rules = {
            "null_score": pl.col("missing"),
            "same_text": pl.col("place") != pl.col("twin"),
            "null_in_prompt": pl.col("unscored") & (self.on_null == "drop_prompt"),
            "all_high": pl.col("least") >= self.worst_below
            if self.worst_below is not None
            else pl.lit(value=False),
            "small_spread": pl.col("spread") < self.min_spread,
            "tied_best": (pl.col("leaders") > 1) & (self.on_tie == "drop_prompt"),
        }
        codes = [pl.when(rule).then(_LEVELS.index(reason)) for reason, rule in rules.items()]
        return facts.with_columns(level=pl.coalesce(codes).cast(pl.Int64))

    def _dropped(self, answers: pl.DataFrame, facts: pl.DataFrame, rows: Ints) -> pl.DataFrame:
        """Ledger rows of answers that are in no pair."""
        lost = facts.select(pl.all().gather(rows)).with_columns(
            row_id=answers["response_id"].gather(rows),
            model=answers["model"].gather(rows),
            reason=pl.Series(_LEVELS).gather(facts["level"].gather(rows)),
        )
        twin = answers["response_id"].gather(lost["twin"]).alias("twin")
        margin = pl.format("greatest margin {}", pl.col("reach").round_sig_figs(6))
        details = {
            "null_score": pl.lit("no finite score"),
            "same_text": pl.format("same text as {}", pl.col("twin")),
            "null_in_prompt": pl.lit("another answer has no finite score"),
            "all_high": pl.format("worst answer {}", pl.col("least").round_sig_figs(6)),
            "small_spread": pl.format("best minus worst {}", pl.col("spread").round_sig_figs(6)),
            "tied_best": pl.format("{} best answers", pl.col("leaders")),
            "single_response": pl.lit("no other usable answer"),
            "tie": pl.format("all other answers score {} too", pl.col("mean")),
            "incomparable": pl.lit("no answer is higher or lower in all"),
            "small_margin": margin,
            "large_margin": margin,
            "conflict": pl.lit(f"against {', '.join(self.agree)}"),
            "not_selected": pl.lit(self.strategy),
        }
        detail: pl.Expr = pl.format("model {}", pl.col("model").fill_null("unknown"))
        for reason, text in details.items():
            detail = pl.when(pl.col("reason") == reason).then(text).otherwise(detail)
        return lost.with_columns(twin).select("row_id", "reason", detail=detail)

    def _limited(self, pairs: pl.DataFrame, answers: pl.DataFrame) -> pl.DataFrame:
        """The `max_pairs` of greatest margin of each prompt."""
        if self.max_pairs is None:
            return pairs
        prompt = answers["prompt"].gather(pairs["chosen"])
        order = ["prompt", "margin", *SIDES]
        ordered = pairs.with_columns(prompt).sort(order, descending=[False, True, False, False])
        return ordered.group_by("prompt", maintain_order=True).head(self.max_pairs).drop("prompt")

    def _rows(
        self, table: pl.DataFrame, answers: pl.DataFrame, picked: pl.DataFrame
    ) -> pl.DataFrame:
        """PAIRS rows of the picked answers."""
        scores = [c for c in table.columns if c.startswith(SCORE)]
        at = {side: answers["row"].gather(picked[side]) for side in SIDES}
        shared = table.select("prompt_id", "prompt", "source", "source_id")
        parts = [shared.select(pl.all().gather(at["chosen"]))]
        for side in SIDES:
            columns = table.select(
                pl.col("response").alias(side),
                pl.col("response_id").alias(f"{side}_id"),
                pl.col("model").alias(f"{side}_model"),
                *(pl.col(c).alias(f"{side}_{c}") for c in scores),
            )
            parts.append(columns.select(pl.all().gather(at[side])))
        rows = pl.concat(parts, how="horizontal").with_columns(
            picked["margin"], label_source=pl.lit(self.label_source)
        )
        if self.order == "each":
            names = pl.Series(self.objectives, dtype=pl.String).gather(picked["dimension"])
            dimension = picked["dimension"].cast(pl.Int64)
            rows = rows.with_columns(dimension, names.alias("objective"))
        return canonical_order(rows.with_columns(pair_ids(rows)), Shape.PAIRS)


def folded(text: pl.Expr, fully: bool = True) -> pl.Expr:
    """Bring texts to the form in which equal ones are the same answer.

    Args:
        text: String.
        fully: without case and with white space as one space, too; not for code.
    """
    text = nfc(text)
    if fully:
        text = text.str.to_lowercase().str.replace_all(r"\s\s+|[\s--\x20]", " ")
    return text.str.strip_chars()


def pair_ids(rows: pl.DataFrame) -> pl.Series:
    """`pair_id` from `prompt_id`, `chosen_id` and `rejected_id`, as `prefactory.tables` makes it.

    Rows with `dimension` and `objective` are pairs for one objective: their ids cover that too.
    """
    parts = pl.concat_str("prompt_id", "chosen_id", "rejected_id", separator="\n")
    ids = digests(rows.select(parts.alias("pair_id")).to_series())
    if not {"dimension", "objective"} <= set(rows.columns):
        return ids
    of_each = rows.select(pl.concat_str(ids, "objective", separator="\n").alias("pair_id"))
    return digests(of_each.to_series())
