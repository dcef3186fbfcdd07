"""MT-bench: model answers, whose prompts lie in a questions file, and pairwise judgments."""

from __future__ import annotations

from typing import Any

import polars as pl

from catalog.sources.fields import Field, Kind
from catalog.sources.layouts.base import (
    Draft,
    Layout,
    Rule,
    Surroundings,
    counted,
    detail,
    message,
    ordered,
)
from catalog.sources.layouts.conversations import NO_COMMON_PROMPT, PREFIXES_DIFFER, split_common
from prefactory.tables import MESSAGES, Shape

_ID = Field("question_id", Kind.KEY)


def _answers(frame: pl.DataFrame, around: Surroundings) -> Draft:
    """One row per choice and turn: the conversation up to the question, and the answer to it."""
    single = pl.concat_list(pl.struct(turns="turns"))
    frame = frame.with_columns(
        pl.when(pl.col("choices").is_null() & pl.col("turns").is_not_null())
        .then(single)
        .otherwise("choices")
        .alias("choices")
    ).drop("turns")
    frame = counted(frame, "choices", "c").with_columns(
        pl.col("choices").struct.field("turns").alias("turns")
    )
    frame = with_questions(frame, around)
    frame = frame.with_columns(_all=pl.col("turns"))
    frame = counted(frame, "turns", "t").with_columns(
        response=message("assistant", pl.col("turns"))
    )
    frame = frame.with_columns(prompt=asked_until(frame["t"]))
    several = (pl.col("t").max().over("_row") > 1) | (pl.col("c").max().over("_row") > 1)
    number = pl.format("#{}.{}", "c", "t")
    frame = frame.with_columns(
        pl.concat_str("_row", pl.when(several).then(number).otherwise(pl.lit(""))).alias("_row")
    )
    unknown: Rule = (
        pl.col("asked").is_null(),
        "missing_field",
        pl.format("question {} is in no questions file", pl.col("question_id").fill_null("null")),
    )
    none: Rule = (pl.col("response").is_null(), "missing_field", detail("there is no answer"))
    unasked: Rule = (
        pl.col("prompt").is_null(),
        "missing_field",
        pl.format("question {} has no turn {}", "question_id", "t"),
    )
    return Draft(frame, (unknown, none, unasked))


MAX_TURNS = 50


def with_questions(frame: pl.DataFrame, around: Surroundings) -> pl.DataFrame:
    """Add `asked`, the turns of the user, by `question_id`; null for a question nobody knows."""
    questions = pl.DataFrame(
        {"question_id": list(around.questions), "asked": list(around.questions.values())},
        schema={"question_id": pl.String, "asked": pl.List(pl.String)},
    )
    return frame.join(questions, on="question_id", how="left", maintain_order="left")


def asked_until(turns: pl.Series) -> pl.Expr:
    """The conversation before an answer, of `asked`, `_all` (the answers) and the turn `t`.

    Null for a turn beyond `MAX_TURNS`, which is a mistake of the record.
    """
    most = turns.max()
    prompt = pl.lit(None, dtype=MESSAGES)
    for turn in range(1, min(most if isinstance(most, int) else 0, MAX_TURNS) + 1):
        prompt = pl.when(pl.col("t") == turn).then(_until(turn)).otherwise(prompt)
    return prompt


def _until(turn: int) -> pl.Expr:
    """Questions and answers before a turn, and the question of the turn."""
    parts = []
    for i in range(turn):
        parts.append(message("user", pl.col("asked").list.get(i, null_on_oob=True)))
        if i < turn - 1:
            parts.append(message("assistant", pl.col("_all").list.get(i, null_on_oob=True)))
    return pl.concat_list(parts)


def _judgments(frame: pl.DataFrame, around: Surroundings) -> Draft:
    """The conversation up to the judged turn; a judge that is a model makes the label a judge's."""
    turns = pl.col("turn").cast(pl.Int64, strict=False) * 2
    frame = frame.with_columns(
        pl.when(turns > 0).then(pl.col(c).list.head(turns)).otherwise(c).alias(c)
        for c in ("response_a", "response_b")
    )
    winner = pl.col("winner")
    frame = ordered(frame, winner == "model_a").with_columns(
        label_source=pl.when(pl.col("judge").str.contains("(?i)gpt|claude|llama")).then(
            pl.lit("judge")
        )
    )
    decided = winner.is_in(["model_a", "model_b"])
    rules: tuple[Rule, ...] = (
        (winner.is_null(), "missing_label", detail("there is no winner")),
        (winner.str.starts_with("tie"), "tie", winner),
        (~decided, "wrong_type", pl.format("unknown winner {}", winner)),
        NO_COMMON_PROMPT,
    )
    return Draft(split_common(frame), rules, (PREFIXES_DIFFER,))


def _has_turns(records: list[dict[str, Any]], columns: set[str]) -> bool:
    return bool(columns & {"choices", "turns"})


ANSWERS = Layout(
    name="mt-bench-answers",
    shape=Shape.RESPONSES,
    fields=(
        _ID,
        Field("model", names=("model_id", "model")),
        Field("choices", Kind.CHOICES, required=False),
        Field("turns", Kind.TEXTS, required=False),
    ),
    build=_answers,
    example={"question_id": 81, "model_id": "m", "choices": [{"turns": ["Because."]}]},
    about="model answers of MT-bench or Arena; the prompts come from a *question* file nearby",
    when=_has_turns,
    wants_questions=True,
)
JUDGMENTS = Layout(
    name="mt-bench-judgments",
    shape=Shape.PAIRS,
    label_source="human",
    fields=(
        Field("response_a", Kind.MESSAGES, ("conversation_a",)),
        Field("response_b", Kind.MESSAGES, ("conversation_b",)),
        Field("model_a"),
        Field("model_b"),
        Field("winner", nullable=True),
        Field("turn", Kind.NUMBER, required=False),
        Field("judge", required=False),
    ),
    build=_judgments,
    example={
        "conversation_a": [
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "Because."},
        ],
        "conversation_b": [
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "No."},
        ],
        "model_a": "m",
        "model_b": "n",
        "winner": "model_a",
        "turn": 1,
    },
    about="two conversations, their models and the winner (MT-bench, Chatbot Arena)",
)
