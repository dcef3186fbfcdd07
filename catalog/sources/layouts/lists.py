"""Layouts whose records hold several answers: with grades, ranks, labels, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import polars as pl

from catalog.sources.fields import Field, Kind
from catalog.sources.layouts.base import (
    Draft,
    Layout,
    Made,
    Rule,
    Surroundings,
    counted,
    detail,
)
from catalog.sources.layouts.conversations import transcript_prompts
from catalog.sources.layouts.names import CHATS, INSIDE, MANY, MANY_ANSWERS, TASK, inside
from prefactory.tables import Shape

_PROMPTS = Field("prompt", Kind.PROMPT, (*TASK, *CHATS, *INSIDE))
_ANSWERS = Field("answers", Kind.ANSWERS, MANY_ANSWERS)
_MODELS = Field(
    "models",
    Kind.TEXTS,
    inside(
        ("generation_models", "generation_model", "models", "model_names", "generators"), ("model",)
    ),
    required=False,
)
_NO_ANSWER: Rule = (
    pl.col("response").is_null(),
    "missing_field",
    detail("there is no answer at this place of the list"),
)


def each_answer(frame: pl.DataFrame, *others: str) -> Draft:
    """One row per answer; `_row` gets "#k", k counted from 1; lists beside it go along.

    Args:
        frame: has `prompt`, `answers` and the other lists.
        others: lists with a value for each answer.
    """
    prompt, changed = transcript_prompts(frame["prompt"])
    frame = frame.with_columns(prompt.alias("prompt"), changed.alias("_transcript"))
    for other in others:
        length = pl.col(other).list.len()
        uneven = (length != pl.col("answers").list.len()).fill_null(value=False)
        frame = frame.with_columns(uneven.alias(f"_uneven_{other}"))
    frame = counted(frame, "answers", "_k", *others)
    number = pl.format("#{}", "_k").fill_null("")
    frame = frame.with_columns(pl.concat_str("_row", number).alias("_row"))
    rules = tuple(
        (
            pl.col(f"_uneven_{other}"),
            "wrong_type",
            detail(f"there are not as many {other} as answers"),
        )
        for other in others
    )
    note: Rule = (
        pl.col("_transcript"),
        "transcript_prompt",
        detail("the prompt is a transcript in one text; its turns became messages"),
    )
    return Draft(frame.rename({"answers": "response"}), (*rules, _NO_ANSWER), (note,))


def _graded(frame: pl.DataFrame, around: Surroundings) -> Draft:
    draft = each_answer(frame, "grades", "models")
    return _renamed(draft, pl.col("grades").alias("score_overall"))


def _ranked(frame: pl.DataFrame, around: Surroundings) -> Draft:
    """Rank 1 (or 0) is the best; a score must be higher for the better, so it is the negative."""
    draft = each_answer(frame, "ranks", "models")
    return _renamed(draft, -pl.col("ranks").alias("score_rank"))


def _plain(frame: pl.DataFrame, around: Surroundings) -> Draft:
    return _renamed(each_answer(frame, "models"))


def _by_key(frame: pl.DataFrame, around: Surroundings) -> Draft:
    draft = each_answer(frame, "keys")
    return Draft(draft.frame.rename({"keys": "response_key"}), draft.rejects, draft.notes)


def _renamed(draft: Draft, *scores: pl.Expr) -> Draft:
    frame = draft.frame.with_columns(pl.col("models").alias("model"), *scores)
    return Draft(frame, draft.rejects, draft.notes)


def _choices(frame: pl.DataFrame, around: Surroundings) -> Draft:
    """Each right answer with each wrong one; `_row` gets "#c.r"."""
    right = pl.col("labels") > 0
    frame = frame.with_columns(
        _n=pl.col("answers").list.len(), _m=pl.col("labels").list.len(), _at=pl.int_range(pl.len())
    )
    parts = frame.select("_at", "answers", "labels").filter(
        pl.col("answers").list.len() == pl.col("labels").list.len()
    )
    parts = parts.explode("answers", "labels")
    sides = parts.group_by("_at", maintain_order=True).agg(
        chosen=pl.col("answers").filter(right), rejected=pl.col("answers").filter(~right)
    )
    frame = frame.join(sides, on="_at", how="left", maintain_order="left")
    frame = counted(counted(frame, "chosen", "_c"), "rejected", "_r")
    number = pl.format("#{}.{}", "_c", "_r").fill_null("")
    frame = frame.with_columns(pl.concat_str("_row", number).alias("_row"))
    rules: tuple[Rule, ...] = (
        (
            pl.col("_n") != pl.col("_m"),
            "wrong_type",
            detail("there are not as many labels as choices"),
        ),
        (pl.col("chosen").is_null(), "missing_label", detail("no choice is labelled as right")),
        (pl.col("rejected").is_null(), "tie", detail("no choice is labelled as wrong")),
    )
    return Draft(frame, rules)


_PAIRS = ((1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4))
"""Predictions that the six codes of QA-Feedback compare, in their order."""


def _qa_feedback(frame: pl.DataFrame, around: Surroundings) -> Draft:
    """One row per code: 0 is a tie, 1 and 2 name the better prediction of the two."""
    code = pl.col("codes")
    frame = counted(frame, "codes", "_k")
    first, second = (_prediction(i) for i in (0, 1))
    names = [f"{a}.{b}" for a, b in _PAIRS]
    pair = pl.col("_k").replace_strict(
        dict(enumerate(names, 1)), default="", return_dtype=pl.String
    )
    frame = frame.with_columns(
        pl.concat_str("_row", pl.format("#{}", pair).fill_null("")).alias("_row"),
        pl.when(code == 1).then(first).otherwise(second).alias("chosen"),
        pl.when(code == 1).then(second).otherwise(first).alias("rejected"),
    )
    rules: tuple[Rule, ...] = (
        (code.is_null(), "missing_label", detail("there is no code for this pair of predictions")),
        (pl.col("_k") > len(_PAIRS), "wrong_type", detail("there are more than six codes")),
        (code == 0, "tie", detail("the code is 0")),
        (~code.is_in([1.0, 2.0]), "wrong_type", pl.format("the code is {}, not 0, 1 or 2", code)),
    )
    return Draft(frame, rules)


def _prediction(side: int) -> pl.Expr:
    """The prediction on one side of the pair that a code is about."""
    expression = pl.lit(None)
    for k, pair in enumerate(_PAIRS, 1):
        expression = (
            pl.when(pl.col("_k") == k).then(f"prediction_{pair[side]}").otherwise(expression)
        )
    return expression


def _two_labels(records: list[dict[str, Any]], columns: set[str]) -> bool:
    """Whether the labels are one for each choice, right and wrong."""
    rows = [(r.get("answers"), r.get("labels")) for r in records]
    return all(
        isinstance(a, list) and isinstance(n, list) and len(a) == len(n) for a, n in rows if a and n
    )


_ABOUT = (
    "a prompt and a list of answers, with ratings, scores or ranks (1 is the best) beside them "
    "or in the same objects; one row for each answer (distilabel, Nectar)"
)


def _form(
    build: Callable[[pl.DataFrame, Surroundings], Draft], *fields: Field, made: str
) -> Layout:
    return Layout(
        name="answers",
        shape=Shape.RESPONSES,
        fields=(_PROMPTS, _ANSWERS, *fields, _MODELS),
        build=build,
        about=_ABOUT,
        makes=(made,),
    )


_GRADES = Field(
    "grades",
    Kind.MARKS,
    inside(
        ("ratings", "rating", "scores", "score", "rewards", "reward", "grades"),
        ("score", "rating", "reward", "grade", "overall_score", "pm_score"),
    ),
)
_RANKS = Field("ranks", Kind.MARKS, inside(("ranks", "rank"), ("rank",)))
PLAIN = Layout(
    name="answers",
    shape=Shape.RESPONSES,
    fields=(_PROMPTS, _ANSWERS, _MODELS),
    build=_plain,
    about=_ABOUT,
    example={"prompt": "Why?", "answers": ["Because.", "No."]},
)
"""The plain form; `ANSWERS` tries those with grades and ranks first."""
ANSWERS = replace(
    _form(_graded, _GRADES, made="score_overall"),
    alternatives=(_form(_ranked, _RANKS, made="score_rank"), PLAIN),
    example={
        "instruction": "Why?",
        "generations": ["Because.", "No."],
        "generation_models": ["m", "n"],
        "ratings": [5, 2],
    },
)
BY_KEY = Layout(
    name="answers-by-key",
    shape=Shape.RESPONSES,
    fields=(
        _PROMPTS,
        Field("answers", Kind.ANSWERS, tuple(f"{many}.*" for many in MANY)),
        Field("keys", Kind.TEXTS, tuple(f"{many}.#" for many in MANY)),
    ),
    build=_by_key,
    about="a prompt and an object of answers, each under a key (a style, a model); one row for "
    "each, the key in `response_key`",
    paired=(("answers", "keys"),),
    carries=(Made("response_key", pl.String()),),
    example={"query": "Why?", "responses": {"formal": "Because.", "rude": "Eh?"}},
)
CHOICES = Layout(
    name="choices",
    shape=Shape.PAIRS,
    fields=(
        Field("prompt", Kind.PROMPT, TASK),
        Field(
            "answers",
            Kind.ANSWERS,
            ("targets.choices", "mc1_targets.choices", "choices", "target_scores.#"),
        ),
        Field(
            "labels",
            Kind.NUMBERS,
            ("targets.labels", "mc1_targets.labels", "labels", "target_scores.*"),
        ),
    ),
    build=_choices,
    about="a question, choices, and 1 or 0 for each; a row for each right one with each wrong one "
    "(HHH alignment, TruthfulQA)",
    paired=(("answers", "labels"),),
    when=_two_labels,
    example={"input": "Why?", "targets": {"choices": ["Because.", "No."], "labels": [1, 0]}},
)
QA_FEEDBACK = Layout(
    name="qa-feedback",
    shape=Shape.PAIRS,
    fields=(
        Field("prompt", Kind.PROMPT, ("question",)),
        *(Field(f"prediction_{i}", Kind.ANSWER) for i in (1, 2, 3, 4)),
        Field("codes", Kind.NUMBERS, ("preference",)),
    ),
    build=_qa_feedback,
    about="question, four predictions and six codes, one for each two of them (QA-Feedback)",
    label_source="human",
    example={
        "question": "Why?",
        "prediction 1": "Because.",
        "prediction 2": "No.",
        "prediction 3": "Maybe.",
        "prediction 4": "Eh?",
        "preference": [1, 1, 1, 0, 1, 2],
    },
)
