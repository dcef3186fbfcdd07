"""Rows leave that repeat another row's text, and pairs whose labels contradict each other."""

from __future__ import annotations

from typing import ClassVar, Literal

import polars as pl
from pydantic import Field

from filters.rules.margin import score_columns
from prefactory import tables
from prefactory.context import Context
from prefactory.errors import ConfigError
from prefactory.step import FittedFilter, State
from prefactory.step.exchange import Exchanged, of_digests
from prefactory.tables import (
    OF_PROMPT,
    ROW_ID,
    SIDES,
    Shape,
    digests,
    message_keys,
    shape_of,
    text_of,
)

OTHER_SPACE = r"\s\s+|[\s--\x20]"
"""White space that is not one space already (five times as fast as every run of it)."""


def normalised(text: pl.Expr, nfc: bool, casefold: bool, whitespace: bool) -> pl.Expr:
    """Bring a String expression to the form in which equal texts are duplicates.

    Args:
        text: the texts; null stays null.
        nfc: compose characters (Unicode normalisation form C).
        casefold: lower case, with the two full foldings that occur in running text (German sharp s
            to ss, Greek final sigma to sigma).
        whitespace: every run of white space is one space, and outer white space goes.
    """
    if nfc:
        text = tables.nfc(text)
    if casefold:
        text = text.str.to_lowercase().str.replace_many(["\u00df", "\u03c2"], ["ss", "\u03c3"])
    if whitespace:
        text = text.str.replace_all(OTHER_SPACE, " ").str.strip_chars()
    return text


class ExactDuplicates(Exchanged, FittedFilter):
    """Keep one of the rows whose normalised text is the same; take out contradictory pairs.

    What is compared is set by `on`:

    - `row`: prompt and answer; of pairs the prompt and the unordered two answers, so that the same
      pair with the opposite label is a contradiction.
    - `prompt`: of pairs one row per prompt stays. Of responses the rows of one `prompt_id` stay
      among prompts that are the same when normalised; all answers to that prompt stay.
    - `response`: the answer alone; of pairs the unordered two answers, whatever the prompt.
    - `chosen`, `rejected`: of pairs that answer alone, whatever the prompt: an answer that is given
      to many prompts stays once.

    The copy that stays has the best score of `keep_best` (of pairs the widest margin, chosen minus
    rejected; of prompts the best answer); equal or missing scores leave it to the lowest id.

    Reasons: `duplicate` (detail `kept <id>`: a row id, or the `prompt_id` for responses on
    `prompt`) and `contradiction` (detail `kept <id>`, or `against <id>` when both labels go).

    Attributes:
        on: the text that is compared.
        shortest: texts of fewer characters (yes, 42, B) are no duplicates; of pairs and rows the
            texts that are compared, joined.
        keep_best: objective whose score chooses the copy that stays.
        on_contradiction: `drop_both` takes out every copy of a pair that is labelled both ways;
            `keep_first` keeps the copy chosen as above, and its label.
        nfc: compare in Unicode form NFC.
        casefold: compare without case.
        whitespace: compare with every run of white space as one space.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.RESPONSES, Shape.PAIRS)

    on: Literal["row", "prompt", "response", "chosen", "rejected"] = "row"
    shortest: int = Field(default=0, ge=0)
    keep_best: str | None = Field(default=None, min_length=1)
    on_contradiction: Literal["drop_both", "keep_first"] = "drop_both"
    nfc: bool = True
    casefold: bool = True
    whitespace: bool = True

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """The scores of `keep_best` (Float64), if it is set.

        Raises:
            ConfigError: `on` names an answer of pairs and the rows are none.
        """
        if self.on in SIDES and shape != Shape.PAIRS:
            raise ConfigError(f"on: {self.on}: these rows are no pairs; say on: response")
        return score_columns(self.keep_best, shape)

    def fit_shard(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Reduce a shard to 128-bit keys.

        Args:
            table: RESPONSES or PAIRS.
            ctx: not used.

        Returns:
            Row id; `unit` (String: the id that stays or goes, of the row or of its prompt); `key`
            (String: hex digest, the same on duplicates); `forward` (Boolean: of pairs on `row`
            whether the chosen text has the lower digest; null if the two are the same text, and
            otherwise); `score` (Float64, null if unknown).
        """
        shape = shape_of(table)
        sides = ["response"] if shape == Shape.RESPONSES else list(SIDES)
        compared = {"row": ["prompt", *sides], "prompt": ["prompt"], "response": sides}.get(
            self.on, [self.on]
        )
        keys = pl.DataFrame([self._digests(table, name) for name in compared])
        forward = pl.lit(None, dtype=pl.Boolean)
        parts = [pl.col(name) for name in compared]
        if shape == Shape.PAIRS and self.on in ("row", "response"):
            chosen, rejected = parts[-2:]
            parts[-2:] = [pl.min_horizontal(chosen, rejected), pl.max_horizontal(chosen, rejected)]
            if self.on == "row":
                forward = pl.when(chosen != rejected).then(chosen < rejected)
        keys = keys.select(key=pl.concat_str(parts), forward=forward)
        if self.shortest:
            sizes = [text_of(pl.col(c)).fill_null("").str.len_chars() for c in compared]
            short = table.select(s=pl.sum_horizontal(sizes) < self.shortest)["s"]
            alone = pl.when(short).then(pl.concat_str(pl.lit("alone "), table[ROW_ID[shape]]))
            keys = keys.with_columns(key=alone.otherwise("key"))
        return table.select(
            ROW_ID[shape], unit=pl.col(self.unit(shape)), score=self._score(shape)
        ).with_columns(digests(keys["key"]), keys["forward"])

    def _digests(self, table: pl.DataFrame, column: str) -> pl.Series:
        message = pl.element().struct
        content = normalised(message.field("content"), self.nfc, self.casefold, self.whitespace)
        keys = [k for k in message_keys(table.schema[column]) if k != "tool_call_id"]
        more = [
            _without_id(message.field(k)) if k == "tool_calls" else message.field(k) for k in keys
        ]
        messages = pl.struct(content.alias("content"), message.field("role"), *more)
        text = pl.struct(m=pl.col(column).list.eval(messages)).struct.json_encode()
        of_prompt = [c for c in OF_PROMPT if c in table.columns and column == "prompt"]
        for name in of_prompt:
            text = pl.concat_str(text, pl.col(name).fill_null(""), separator="\n")
        return digests(table.select(text.alias(column)).to_series())

    def unit(self, shape: Shape) -> str:
        """Prompts stay or go with all their rows if `on` is `prompt`."""
        whole_prompts = shape == Shape.RESPONSES and self.on == "prompt"
        return "prompt_id" if whole_prompts else ROW_ID[shape]

    def _score(self, shape: Shape) -> pl.Expr:
        columns = [pl.col(c).fill_nan(None) for c in self.needs(shape)]
        if not columns:
            return pl.lit(None, dtype=pl.Float64)
        return columns[0] if len(columns) == 1 else (columns[0] - columns[1]).fill_nan(None)

    def fit(self, parts: pl.DataFrame, ctx: Context) -> State:
        """Choose which copies go.

        Args:
            parts: the rows of `fit_shard`, in any order.
            ctx: not used.

        Returns:
            State with the table `dropped` (`unit`, `reason`, `other`, all String) and the counts
            `groups`, `duplicate`, `contradiction` (of units, not of rows).
        """
        units = parts.group_by("unit").agg(
            pl.col("key").first(), pl.col("forward").first(), pl.col("score").max()
        )
        order = {"key": False, "score": True, "unit": False}
        ranked = units.sort(list(order), descending=list(order.values()), nulls_last=True)
        ranked = ranked.filter(pl.len().over("key") > 1)
        unit, forward = pl.col("unit"), pl.col("forward")
        ranked = ranked.with_columns(
            kept=unit.first().over("key"),
            kept_forward=forward.first().over("key"),
            ahead=unit.filter(forward).first().over("key"),
            behind=unit.filter(~forward).first().over("key"),
        )
        opposed = pl.col("ahead").is_not_null() & pl.col("behind").is_not_null()
        if self.on_contradiction == "drop_both":
            loses, contradicts = opposed | (unit != pl.col("kept")), opposed
            opposite = pl.when(forward).then("behind").otherwise("ahead")
            other = pl.when(opposed).then(opposite).otherwise("kept")
        else:
            loses, contradicts = unit != pl.col("kept"), forward != pl.col("kept_forward")
            other = pl.col("kept")
        contradicts = contradicts.fill_null(value=False)
        reason = pl.when(contradicts).then(pl.lit("contradiction")).otherwise(pl.lit("duplicate"))
        dropped = ranked.filter(loses).select("unit", reason=reason, other=other).sort("unit")
        counts = {r: dropped.filter(reason=r).height for r in ("duplicate", "contradiction")}
        return State({"dropped": dropped}, {"groups": ranked["key"].n_unique(), **counts})

    def keys(self, parts: pl.DataFrame, ctx: Context) -> pl.Series:
        """Copies have one key, whatever rows are beside them."""
        return of_digests(parts["key"])

    def detail(self) -> pl.Expr:
        """The copy that stays, or the one that says the opposite."""
        both_go = (pl.col("reason") == "contradiction") & (self.on_contradiction == "drop_both")
        word = pl.when(both_go).then(pl.lit("against ")).otherwise(pl.lit("kept "))
        return pl.concat_str(word, "other")


def _without_id(calls: pl.Expr) -> pl.Expr:
    call = pl.element().struct.field
    return calls.list.eval(pl.struct(call("name"), call("arguments"))).alias("tool_calls")
