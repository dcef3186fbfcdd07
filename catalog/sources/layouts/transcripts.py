"""Transcript layouts: `hh` (Anthropic's two columns) and `hh-text-score` (text pair and scores)."""

from __future__ import annotations

import re
from typing import Any

import polars as pl

from catalog.sources.fields import Field, Kind
from catalog.sources.layouts.base import Draft, Layout, Rule, Surroundings, detail
from catalog.sources.layouts.conversations import (
    NO_COMMON_PROMPT,
    PREFIXES_DIFFER,
    split_common,
    transcripts,
)
from catalog.sources.layouts.names import TASK
from prefactory.tables import Shape

_MARK = re.compile(r"(?:^|\n[^\S\n]*+\n)(?:## )?Human:")
_BEGINS = re.compile(r"\s*(?:## )?(?:Human|Assistant):")
_TURNS = "a transcript needs turns that start with a blank line and 'Human:' or 'Assistant:'"
MODELS = (Field("chosen_model", required=False), Field("rejected_model", required=False))


def _parse(frame: pl.DataFrame) -> Draft:
    """Parse transcripts in `chosen` and `rejected`, and cut them into prompt and answers."""
    sides = {side: transcripts(frame[side]) for side in ("chosen", "rejected")}
    frame = frame.with_columns(
        *[parsed["messages"].alias(side) for side, parsed in sides.items()],
        *[parsed["preamble"].alias(f"_{side}_before") for side, parsed in sides.items()],
        *[parsed["messages"].list.len().alias(f"_{side}_turns") for side, parsed in sides.items()],
    )
    rejects: list[Rule] = []
    for side in sides:
        before = pl.col(f"_{side}_before")
        unmarked = before.is_not_null() & pl.col(f"_{side}_turns").is_null()
        rejects += [
            (unmarked, "malformed", detail(f"{side}: {_TURNS}")),
            (before != "", "malformed", detail(f"{side}: text before the first turn")),
        ]
    return Draft(split_common(frame), (*rejects, NO_COMMON_PROMPT), (PREFIXES_DIFFER,))


def _hh(frame: pl.DataFrame, around: Surroundings) -> Draft:
    return _parse(frame)


def _text_score(frame: pl.DataFrame, around: Surroundings) -> Draft:
    """`text` holds two transcripts, `score` says which is better; equal scores are ties."""
    text, score = pl.col("text"), pl.col("score")
    first = pl.col("_a") > pl.col("_b")
    frame = frame.with_columns(
        _a=score.list.get(0, null_on_oob=True), _b=score.list.get(1, null_on_oob=True)
    ).with_columns(
        chosen=text.list.get(pl.when(first).then(0).otherwise(1), null_on_oob=True),
        rejected=text.list.get(pl.when(first).then(1).otherwise(0), null_on_oob=True),
        margin=(pl.col("_a") - pl.col("_b")).abs(),
    )
    draft = _parse(frame)
    two = (text.list.len() != 2) | (score.list.len() != 2)
    rules: tuple[Rule, ...] = (
        (two, "wrong_type", detail("text and score must hold two values each")),
        (pl.col("margin").is_null(), "missing_label", detail("a score is null")),
        (pl.col("margin") == 0, "tie", pl.format("both score {}", "_a")),
    )
    return Draft(draft.frame, (*rules, *draft.rejects), draft.notes)


def _has_markers(records: list[dict[str, Any]], columns: set[str]) -> bool:
    """Whether turns of a human are marked in half of the texts.

    Beside a prompt of its own that may be a leak of the model's: there, half of the texts of each
    side must begin with a turn, as a transcript does.
    """
    sides = [[t for t in texts if isinstance(t, str)] for texts in _sides(records)]
    if {c.lower() for c in columns} & {*TASK}:
        return all(_half([bool(_BEGINS.match(t)) for t in texts]) for texts in sides)
    return _half([bool(_MARK.search(t)) for t in sides[0]])


def _sides(records: list[dict[str, Any]]) -> list[list[Any]]:
    if records and "text" in records[0]:
        return [[t for r in records if isinstance(r["text"], list) for t in r["text"]]]
    return [[r.get(side) for r in records] for side in ("chosen", "rejected")]


def _half(values: list[bool]) -> bool:
    return bool(values) and sum(values) * 2 >= len(values)


HH = Layout(
    name="hh",
    shape=Shape.PAIRS,
    label_source="human",
    fields=(Field("chosen"), Field("rejected"), *MODELS),
    build=_hh,
    example={
        "chosen": "\n\nHuman: Why?\n\nAssistant: Because.",
        "rejected": "\n\nHuman: Why?\n\nAssistant: No.",
    },
    about="chosen and rejected are transcripts, a blank line and 'Human:' before a user turn",
    when=_has_markers,
)
HH_TEXT_SCORE = Layout(
    name="hh-text-score",
    shape=Shape.PAIRS,
    label_source="human",
    fields=(Field("text", Kind.TEXTS), Field("score", Kind.NUMBERS)),
    build=_text_score,
    example={
        "text": ["\n\nHuman: Why?\n\nAssistant: Because.", "\n\nHuman: Why?\n\nAssistant: No."],
        "score": [2.0, 1.0],
    },
    about="text holds two transcripts, score their grades (DSP, WebGPT); equal grades are ties",
    when=_has_markers,
    makes=("margin",),
)
