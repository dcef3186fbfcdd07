"""Pairs whose better answer is known, which a judge is asked about before all others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import polars as pl
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from labelers.judges.questions import pair_question
from prefactory.tables import MESSAGES, Shape, canonical_order, unpair, with_ids


class _Turn(BaseModel):
    """A message."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: str
    content: str


def _said_by(role: str) -> BeforeValidator:
    """A text as the one message of a role."""

    def as_turns(value: object) -> object:
        return [{"role": role, "content": value}] if isinstance(value, str) else value

    return BeforeValidator(as_turns)


_Prompt = Annotated[tuple[_Turn, ...], _said_by("user"), Field(min_length=1)]
_Answer = Annotated[tuple[_Turn, ...], _said_by("assistant"), Field(min_length=1)]


class GoldPair(BaseModel):
    """A pair whose better answer is known; what else stands in its line is not read.

    Attributes:
        prompt: the conversation: a text, or messages of `role` and `content`.
        chosen, rejected: the answers, as well.
    """

    model_config = ConfigDict(frozen=True)

    prompt: _Prompt
    chosen: _Answer
    rejected: _Answer


def _read(value: object) -> object:
    """The pairs of a file of JSON lines.

    Raises:
        ValueError: the file can't be read, or a line is no JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        lines = Path(value).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the gold pairs {value} can't be read: {error}") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        try:
            pairs += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise ValueError(f"{value}, line {number} is no JSON: {error}") from error
    return tuple(pairs)


GoldPairs = Annotated[tuple[GoldPair, ...], BeforeValidator(_read)]
"""Pairs, or a file of JSON lines of `prompt`, `chosen` and `rejected`, whose content counts."""


def table_of(gold: tuple[GoldPair, ...]) -> pl.DataFrame:
    """PAIRS without origin, in canonical order; of equal pairs the first."""
    rows = [pair.model_dump(mode="json") for pair in gold]
    schema = dict.fromkeys(("prompt", "chosen", "rejected"), MESSAGES)
    table = with_ids(pl.DataFrame(rows, schema=schema), Shape.PAIRS)
    return canonical_order(table.unique("pair_id", keep="first"), Shape.PAIRS)


def questions(gold: tuple[GoldPair, ...]) -> pl.DataFrame:
    """Gold pairs as questions to a jury; of the same two answers of a prompt the first pair.

    Returns:
        `question`, `prompt_id`, `prompt`, `ids` and `texts` (of both answers, by id), `gold`
        (Int64, number of the better one), `answers` (Int64, 2), sorted by question.
    """
    ids = ("chosen_id", "rejected_id")
    asked = table_of(gold).with_columns(low=pl.min_horizontal(ids), high=pl.max_horizontal(ids))
    names = pair_question(asked["prompt_id"], asked["low"], asked["high"])
    first = pl.col("chosen_id") == pl.col("low")
    both = pl.concat_list(pl.struct(m="chosen"), pl.struct(m="rejected"))
    texts = pl.when(first).then(both).otherwise(both.list.reverse())
    rows = asked.select(
        names,
        "prompt_id",
        "prompt",
        ids=pl.concat_list("low", "high"),
        texts=texts.list.eval(pl.element().struct.field("m")),
        gold=pl.when(first).then(0).otherwise(1).cast(pl.Int64),
        answers=pl.lit(2, dtype=pl.Int64),
    )
    return rows.unique("question", keep="first", maintain_order=True).sort("question")


def answers(pairs: pl.DataFrame) -> pl.DataFrame:
    """Both answers of gold pairs as RESPONSES without origin.

    Args:
        pairs: of `table_of`.
    """
    nobody = ("source", "source_id", "chosen_model", "rejected_model")
    return unpair(pairs.with_columns(pl.lit(None, pl.String).alias(name) for name in nobody))
