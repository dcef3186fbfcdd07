"""Layouts whose records are answers: scored, rated, plain, instruction data, chats."""

from __future__ import annotations

import polars as pl

from catalog.sources.fields import Field, Kind
from catalog.sources.layouts.base import (
    Draft,
    Layout,
    Rule,
    Surroundings,
    detail,
    message,
    with_input,
)
from catalog.sources.layouts.conversations import tagged_prompts, transcript_prompts
from prefactory.tables import Shape

MODEL = Field("model", names=("model", "model_name", "generator"), required=False)
HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
ULTRAFEEDBACK = ("helpfulness", "honesty", "instruction_following", "truthfulness")


def _plain(frame: pl.DataFrame, around: Surroundings) -> Draft:
    prompt, changed = transcript_prompts(tagged_prompts(frame["prompt"]))
    frame = frame.with_columns(prompt.alias("prompt"), changed.alias("_transcript"))
    note: Rule = (
        pl.col("_transcript"),
        "transcript_prompt",
        detail("the prompt is a transcript in one text; its turns became messages"),
    )
    return Draft(frame, notes=(note,))


def _instruction(frame: pl.DataFrame, around: Surroundings) -> Draft:
    prompt = message("user", with_input(pl.col("instruction"), pl.col("input")))
    return Draft(frame.with_columns(prompt=prompt))


def _kto(frame: pl.DataFrame, around: Surroundings) -> Draft:
    draft = _plain(frame, around)
    missing: Rule = (pl.col("score_label").is_null(), "missing_label", detail("label is null"))
    return Draft(draft.frame, (missing,), draft.notes)


def _chat(frame: pl.DataFrame, around: Surroundings) -> Draft:
    """The last message is the answer, all before it the prompt."""
    messages = pl.col("messages")
    frame = frame.with_columns(
        prompt=messages.list.slice(0, (messages.list.len().cast(pl.Int64) - 1).clip(0)),
        response=messages.list.tail(1),
    )
    return Draft(frame)


def _ultrafeedback(frame: pl.DataFrame, around: Surroundings) -> Draft:
    """One row per completion; `_row` gets "#k", k counted from 1, and a rating "N/A" is null.

    A completion's own system prompt is left out: with it, the answers of one instruction would
    answer different prompts.
    """
    some = pl.col("completions").list.len().fill_null(0) > 0
    counted = frame.with_columns(
        k=pl.when(some).then(pl.int_ranges(1, pl.col("completions").list.len().cast(pl.Int64) + 1))
    )
    frame = counted.explode("completions", "k", empty_as_null=True)
    done = pl.col("completions").struct
    ratings = [
        done.field("annotations")
        .struct.field(a)
        .struct.field("Rating")
        .cast(pl.Float64, strict=False)
        .alias(f"score_{a}")
        for a in ULTRAFEEDBACK
    ]
    frame = frame.with_columns(
        pl.concat_str("_row", pl.format("#{}", "k").fill_null("")).alias("_row"),
        message("user", pl.col("instruction")).alias("prompt"),
        message("assistant", done.field("response")).alias("response"),
        done.field("model").alias("model"),
        done.field("overall_score").alias("score_overall"),
        *ratings,
    )
    none: Rule = (
        pl.col("response").is_null(),
        "missing_field",
        detail("there is no completion, or it has no response"),
    )
    return Draft(frame, (none,))


def _prompt_response(prompt: tuple[str, ...], response: tuple[str, ...]) -> tuple[Field, ...]:
    return (
        Field("prompt", Kind.PROMPT, prompt),
        Field("response", Kind.ANSWER, response),
        MODEL,
    )


HELPSTEER2 = Layout(
    name="helpsteer2",
    shape=Shape.RESPONSES,
    fields=(
        *_prompt_response(("prompt",), ("response",)),
        Field(
            "score_helpfulness", Kind.NUMBER, ("score_helpfulness", "helpfulness"), nullable=True
        ),
        *[Field(f"score_{a}", Kind.NUMBER, (f"score_{a}", a), False) for a in HELPSTEER[1:]],
    ),
    build=_plain,
    example={"prompt": "Why?", "response": "Because.", "helpfulness": 4, "correctness": 3},
    about="prompt, response and grades: helpfulness, correctness, coherence, ...",
)
ULTRAFEEDBACK_RAW = Layout(
    name="ultrafeedback",
    shape=Shape.RESPONSES,
    fields=(Field("instruction"), Field("completions", Kind.COMPLETIONS)),
    build=_ultrafeedback,
    example={
        "instruction": "Why?",
        "completions": [
            {
                "model": "m",
                "response": "Because.",
                "overall_score": 8.0,
                "annotations": {"helpfulness": {"Rating": "5"}},
            }
        ],
    },
    about="instruction and completions with annotations; one row for each completion",
    makes=(*(f"score_{a}" for a in ULTRAFEEDBACK), "score_overall"),
    label_source="judge",
)
ALPACA_EVAL = Layout(
    name="alpaca-eval",
    shape=Shape.RESPONSES,
    fields=(
        Field("instruction"),
        Field("input", required=False),
        Field("response", Kind.ANSWER, ("output",)),
        Field("model", names=("generator",)),
    ),
    build=_instruction,
    example={"instruction": "Why?", "output": "Because.", "generator": "m"},
    about="a model's outputs for AlpacaEval: instruction, output, generator",
)
ALPACA = Layout(
    name="alpaca",
    shape=Shape.RESPONSES,
    fields=(
        Field("instruction"),
        Field("input", names=("input", "context"), required=False),
        Field("response", Kind.ANSWER, ("output", "response")),
        MODEL,
    ),
    build=_instruction,
    example={"instruction": "Why?", "input": "", "output": "Because."},
    about="instruction, input, output (Alpaca, Dolly)",
)
KTO = Layout(
    name="kto",
    shape=Shape.RESPONSES,
    fields=(
        *_prompt_response(("prompt",), ("completion",)),
        Field("score_label", Kind.FLAG, ("label",), nullable=True),
    ),
    build=_kto,
    example={"prompt": "Why?", "completion": "Because.", "label": True},
    about="prompt, completion and label, true or false",
)
RESPONSES = Layout(
    name="responses",
    shape=Shape.RESPONSES,
    fields=(
        *_prompt_response(
            ("prompt", "question", "query", "input"),
            ("response", "completion", "answer", "output", "generated"),
        ),
    ),
    build=_plain,
    example={"prompt": "Why?", "response": "Because."},
    about="prompt and response",
)
FEEDBACK = Layout(
    name="feedback-collection",
    shape=Shape.RESPONSES,
    fields=(
        *_prompt_response(("orig_instruction",), ("orig_response",)),
        Field("score_overall", Kind.NUMBER, ("orig_score",)),
    ),
    build=_plain,
    about="orig_instruction, orig_response and orig_score (Prometheus' Feedback Collection)",
    example={"orig_instruction": "Why?", "orig_response": "Because.", "orig_score": "4"},
)
MESSAGES = Layout(
    name="messages",
    shape=Shape.RESPONSES,
    fields=(
        Field("messages", Kind.MESSAGES, ("messages", "conversations", "conversation")),
        MODEL,
    ),
    build=_chat,
    example={
        "messages": [
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "Because."},
        ]
    },
    about="a chat whose last message, the assistant's, is the response",
)
