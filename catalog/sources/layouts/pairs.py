"""Layouts whose records are pairs already: explicit, implicit, mixed, and plain texts."""

from __future__ import annotations

from typing import Any

import polars as pl

from catalog.sources.fields import Field, Kind, accepts, spoken
from catalog.sources.layouts.base import Draft, Layout, Rule, Surroundings, detail
from catalog.sources.layouts.conversations import (
    NO_COMMON_PROMPT,
    PREFIXES_DIFFER,
    compared,
    split_common,
    transcript_prompts,
)
from prefactory.tables import Shape, same_messages

SIDES = (
    Field("chosen_model", names=("chosen_model", "chosen-model"), required=False),
    Field("rejected_model", names=("rejected_model", "rejected-model"), required=False),
    *[
        Field(
            f"{side}_score_overall",
            Kind.NUMBER,
            (
                f"{side}_score_overall",
                f"score_{side}",
                f"{side}_rating",
                f"{side}-rating",
                f"{side}_score",
                f"metadata.score_{side}",
                f"metadata.{side}_score",
                f"metadata.{side}_rating",
            ),
            required=False,
        )
        for side in ("chosen", "rejected")
    ],
)
"""Models and scores that pair data often carries beside its answers."""

PROMPT = ("prompt", "question", "instruction", "query", "input")
_EQUAL_SCORES: Rule = (
    pl.col("chosen_score_overall") == pl.col("rejected_score_overall"),
    "equal_scores",
    pl.format("both score {} although one is called chosen", "chosen_score_overall"),
)
_TRANSCRIPT: Rule = (
    pl.col("_transcript"),
    "transcript_prompt",
    detail("the prompt is a transcript in one text; its turns became messages"),
)


def _explicit(frame: pl.DataFrame, around: Surroundings) -> Draft:
    """Prompt and answers stand apart; answers that repeat the prompt lose it."""
    prompt, changed = transcript_prompts(frame["prompt"])
    frame = frame.with_columns(prompt.alias("prompt"), changed.alias("_transcript"))
    frame = same_messages(frame)
    n = pl.col("prompt").list.len()
    dtype = frame.schema["prompt"]
    asked, *said = (compared(pl.col(c), dtype) for c in ("prompt", "chosen", "rejected"))
    repeats = [(s.list.len() > n) & (n > 0) & (s.list.head(n) == asked) for s in said]
    both = (repeats[0] & repeats[1]).fill_null(value=False)
    frame = frame.with_columns(
        pl.when(both).then(pl.col(s).list.slice(n)).otherwise(s).alias(s)
        for s in ("chosen", "rejected")
    )
    return Draft(frame, notes=(_EQUAL_SCORES, _TRANSCRIPT))


def _implicit(frame: pl.DataFrame, around: Surroundings) -> Draft:
    return Draft(split_common(frame), (NO_COMMON_PROMPT,), (PREFIXES_DIFFER, _EQUAL_SCORES))


def _mixed(frame: pl.DataFrame, around: Surroundings) -> Draft:
    """The conversations hold the prompt; where they start with the answer, the text is it."""
    bare = pl.all_horizontal(
        pl.col(s).list.first().struct.field("role") == "assistant" for s in ("chosen", "rejected")
    ).fill_null(value=False)
    frame = frame.rename({"prompt": "_text"}).with_columns(_bare=bare)
    frame = frame.with_columns(
        pl.when("_bare").then(pl.concat_list("_text", s)).otherwise(s).alias(s)
        for s in ("chosen", "rejected")
    )
    return Draft(split_common(frame), (NO_COMMON_PROMPT,), (PREFIXES_DIFFER, _EQUAL_SCORES))


def _mostly_messages(records: list[dict[str, Any]], columns: set[str]) -> bool:
    """Whether at least half of the answers of both sides are messages."""
    return all(
        sum(accepts(Kind.MESSAGES, spoken(r.get(side))) for r in records) * 2
        >= sum(r.get(side) is not None for r in records)
        for side in ("chosen", "rejected")
    )


EXPLICIT = Layout(
    name="pairs",
    shape=Shape.PAIRS,
    fields=(
        Field("prompt", Kind.MESSAGES, PROMPT),
        Field("chosen", Kind.ANSWER),
        Field("rejected", Kind.ANSWER),
        *SIDES,
    ),
    build=_explicit,
    about="prompt, chosen and rejected are messages; the answers don't repeat the prompt",
)
IMPLICIT = Layout(
    name="pairs-implicit",
    shape=Shape.PAIRS,
    fields=(Field("chosen", Kind.MESSAGES), Field("rejected", Kind.MESSAGES), *SIDES),
    build=_implicit,
    about="chosen and rejected are full conversations (reward models, OpenRLHF, open-instruct)",
)
MIXED = Layout(
    name="pairs-mixed",
    shape=Shape.PAIRS,
    fields=(
        Field("prompt", Kind.PROMPT, PROMPT),
        Field("chosen", Kind.ANSWER),
        Field("rejected", Kind.ANSWER),
        *SIDES,
    ),
    build=_mixed,
    when=_mostly_messages,
    about="prompt is a text, chosen and rejected are full conversations (UltraFeedback, Tulu 3)",
)
TEXT = Layout(
    name="pairs-text",
    shape=Shape.PAIRS,
    fields=(
        Field("prompt", Kind.PROMPT, PROMPT),
        Field("chosen", Kind.ANSWER),
        Field("rejected", Kind.ANSWER),
        *SIDES,
    ),
    build=_explicit,
    about="prompt, chosen and rejected are texts",
)
