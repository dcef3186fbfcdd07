"""Personal data: rows with it leave, or it is masked."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import polars as pl
from pydantic import Field, model_validator

from filters.content.personal_data.hide import Hidden, hide
from filters.content.personal_data.presidio import Presidio
from filters.content.personal_data.rules import KINDS, Kind
from filters.content.texts import judge_sides
from prefactory.context import Context
from prefactory.errors import ConfigError, MissingPackageError
from prefactory.step import Filter, Generated, Generator, Step
from prefactory.tables import (
    ROW_ID,
    SIDES,
    Shape,
    canonical_order,
    message_keys,
    shape_of,
    with_ids,
    with_prompt_id,
)

On = Literal["prompt", "response"]
MASKED_FROM = "masked_from"
_MASKED = ("content", "reasoning", "tool_calls")


class Finder(Step, abstract=True):
    """What is looked for, and where.

    Attributes:
        kinds: what our rules look for: `secret` (keys and tokens of the common issuers, private
            keys, passwords in URLs, and values that look random behind a name such as api_key),
            `email`, `iban` and `credit_card` (with their checksums), `ip_address` (public ones),
            `phone` (international form, North American, British, French and Chinese numbers, and
            any number behind a word such as phone). What stands in manuals and films (example.com,
            555-1234, cards for tests) is nobody's.
        presidio: what Presidio looks for beside them; null for nothing.
        on: the texts that are looked at: prompt, answers, or both.
        allow: pieces that stay, in any case, such as your own address; one that begins with @
            allows all of a mail domain.
    """

    kinds: tuple[Kind, ...] = KINDS
    presidio: Presidio | None = None
    on: tuple[On, ...] = Field(default=("prompt", "response"), min_length=1)
    allow: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _validate_kinds(self) -> Self:
        if not self.kinds and self.presidio is None:
            raise ValueError("kinds is empty and there is no presidio: nothing would be found")
        return self

    def needs(self, shape: Shape) -> dict[str, pl.DataType]:
        """No columns; finds out whether Presidio, if asked for, can do what is asked of it.

        Raises:
            ConfigError: if the rows have none of the texts; if Presidio is missing or can't do it.
        """
        if shape == Shape.PROMPTS and "prompt" not in self.on:
            raise ConfigError("on: response: prompts have no answers")
        if self.presidio is not None:
            try:
                self.presidio.check()
            except MissingPackageError as error:  # one of the recipe's mistakes, like others
                raise ConfigError(str(error)) from error
        return {}

    def hidden(self, texts: pl.Series) -> Hidden:
        """The texts with marks in place of personal data."""
        hidden = hide(texts, self.kinds, self.allow)
        return hidden if self.presidio is None else self.presidio.hide(hidden)


class PersonalData(Finder, Filter):
    """Drop rows with personal data.

    Reason: the kind that was found, the first of `kinds` (then of Presidio's entities, in small
    letters). The detail counts every kind (`response: email 2, phone 1`) and shows none of it: the
    ledger is published. See `MaskPersonalData` for a step that keeps the rows.

    Attributes:
        most: pieces that a row may hold on one side.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS, Shape.RESPONSES)

    most: int = Field(default=0, ge=0)

    def keep(self, table: pl.DataFrame, ctx: Context) -> pl.DataFrame:
        """Judge rows by what is found in their texts.

        Args:
            table: PROMPTS or RESPONSES.
            ctx: not used.

        Returns:
            `reason` and `detail` (String), same height and order.
        """
        return judge_sides(table, self.on, self._judged)

    def _judged(self, texts: pl.Series, side: str) -> pl.DataFrame:
        counts = self.hidden(texts).counts()
        kinds = counts.columns
        counted = [pl.when(pl.col(k) > 0).then(pl.format(f"{k} {{}}", pl.col(k))) for k in kinds]
        first = pl.coalesce(pl.when(pl.col(k) > 0).then(pl.lit(k)) for k in kinds)
        too_many = pl.sum_horizontal(kinds) > self.most
        detail = pl.concat_str(counted, separator=", ", ignore_nulls=True)
        return counts.select(
            reason=pl.when(too_many).then(first),
            detail=pl.when(too_many).then(pl.format(f"{side}: {{}}", detail)),
        )


class MaskPersonalData(Finder, Generator):
    """Put masks in place of personal data, in prompts and answers; every row stays.

    Texts change, so rows with masks have new ids; `masked_from` holds the old one, on all rows.
    Scores and other columns are carried over as they are: mask before you score. Rows that become
    the same are one row (reason `duplicate_row`), and a pair whose answers become the same leaves
    (reason `equal_answers`).

    The new rows take the place of the old in all that is published, so no step before this one may
    publish rows (`labelers.Pairs` does): put it first. The source and the store of intermediate
    results keep the texts as they were.

    Attributes:
        mask: what is put in; `{kind}` and `{KIND}` stand for the kind.
    """

    shapes: ClassVar[tuple[Shape, ...]] = (Shape.PROMPTS, Shape.RESPONSES, Shape.PAIRS)
    parents: ClassVar[tuple[str, ...]] = (MASKED_FROM,)
    new_prompts: ClassVar[bool] = True
    replaces: ClassVar[bool] = True

    mask: str = Field(default="[{KIND}]", min_length=1)

    def adds(self, shape: Shape) -> dict[str, pl.DataType]:
        """`masked_from` (String)."""
        return {MASKED_FROM: pl.String()}

    def generate(self, table: pl.DataFrame, ctx: Context) -> Generated:
        """Mask.

        Args:
            table: of any shape.
            ctx: not used.

        Returns:
            The rows with masks, in canonical order, and the pairs without a difference.
        """
        shape = shape_of(table)
        answers = {Shape.RESPONSES: ("response",), Shape.PAIRS: SIDES}.get(shape, ())
        columns = ["prompt"] if "prompt" in self.on else []
        columns += answers if "response" in self.on else ()
        rows = table.with_columns(pl.col(ROW_ID[shape]).alias(MASKED_FROM))
        rows = rows.with_columns(self._masked(rows[name]) for name in columns)
        rows = with_prompt_id(rows) if shape == Shape.PROMPTS else with_ids(rows, shape)
        lost = rows.clear()
        if shape == Shape.PAIRS:
            same = pl.col("chosen_id") == pl.col("rejected_id")
            rows, lost = rows.filter(~same), rows.filter(same)
        dropped = lost.select(
            row_id=MASKED_FROM,
            reason=pl.lit("equal_answers"),
            detail=pl.lit("the answers are the same with masks"),
        )
        return Generated(canonical_order(rows, shape), dropped)

    def _masked(self, messages: pl.Series) -> pl.Series:
        """A column of conversations with masks in all contents, reasoning and arguments."""
        rows = pl.DataFrame({"row": pl.int_range(messages.len(), eager=True), "old": messages})
        flat = rows.filter(pl.col("old").list.len() > 0).explode("old").unnest("old")
        keys = message_keys(messages.dtype)
        hidden = [self._hidden_in(flat[c], c) for c in ("content", *keys) if c in _MASKED]
        if all(new.equals(flat[new.name]) for new in hidden):
            return messages
        whole = flat.with_columns(new.alias(f"_{new.name}") for new in hidden)
        differs = pl.any_horizontal(pl.col(c.name).ne_missing(f"_{c.name}") for c in hidden)
        changed = whole.filter(differs.any().over("row"))
        changed = changed.with_columns(pl.col(f"_{c.name}").alias(c.name) for c in hidden)
        message = pl.struct("role", "content", *keys)
        lists = changed.group_by("row", maintain_order=True).agg(new=message)
        rows = rows.join(lists, on="row", how="left", maintain_order="left")
        return rows.select(pl.coalesce("new", "old").alias(messages.name)).to_series()

    def _hidden_in(self, values: pl.Series, name: str) -> pl.Series:
        """Texts, or the arguments of calls, with masks."""
        if name != "tool_calls":
            return self.hidden(values).masked(self.mask).alias(name)
        rows = pl.DataFrame({"row": pl.int_range(values.len(), eager=True), "calls": values})
        flat = rows.filter(pl.col("calls").list.len() > 0).explode("calls").unnest("calls")
        flat = flat.with_columns(arguments=self.hidden(flat["arguments"]).masked(self.mask))
        lists = flat.group_by("row", maintain_order=True).agg(
            new=pl.struct("id", "name", "arguments")
        )
        rows = rows.join(lists, on="row", how="left", maintain_order="left")
        return rows.select(pl.coalesce("new", "calls").alias(name)).to_series()
