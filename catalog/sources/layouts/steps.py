"""Solutions whose steps are labelled one by one: the rows carry the steps and their labels."""

from __future__ import annotations

from typing import Any

import polars as pl

from catalog.sources.fields import Field, Kind
from catalog.sources.layouts.base import Draft, Layout, Made, Rule, Surroundings, detail, message
from catalog.sources.layouts.responses import MODEL
from prefactory.tables import Shape

STEP_LABELS = pl.List(pl.Float64())
_CARRIES = (Made("steps", pl.List(pl.String())), Made("step_labels", STEP_LABELS))
_QUESTION = ("prompt", "problem", "question", "instruction", "query")
_MARK = "ки"
"""What stands behind each step of Math-Shepherd's inputs, where its labels have + or -."""


def _solution(frame: pl.DataFrame, joiner: str = "\n") -> pl.DataFrame:
    """The steps as one response; `score_steps` is the label of the worst step."""
    labels = pl.col("step_labels")
    whole = labels.list.len() == labels.list.drop_nulls().list.len()
    return frame.with_columns(
        response=message("assistant", pl.col("steps").list.join(joiner, ignore_nulls=True)),
        score_steps=pl.when(whole).then(labels.list.min()),
    )


_UNEVEN: Rule = (
    pl.col("steps").list.len() != pl.col("step_labels").list.len(),
    "wrong_type",
    detail("there are not as many labels as steps"),
)
_NO_STEP: Rule = (pl.col("steps").list.len() == 0, "empty_answer", detail("there is no step"))


def _labelled(frame: pl.DataFrame, around: Surroundings) -> Draft:
    return Draft(_solution(frame), (_UNEVEN, _NO_STEP))


def _shepherd(frame: pl.DataFrame, around: Surroundings) -> Draft:
    """`input` has a mark behind each step, `label` the same text with + or - in its place."""
    first = r"(?s)^(.*?)\s*(Step 1:.*)$"
    asked = pl.col("input").str.extract_groups(first).struct
    texts = asked.field("2").str.split(_MARK).list.eval(pl.element().str.strip_chars())
    steps = texts.list.eval(pl.element().filter(pl.element() != ""))
    signs = (
        pl.col("label")
        .str.extract_all(r"[+-]\s*(?:\n|$)")
        .list.eval(pl.when(pl.element().str.starts_with("+")).then(1.0).otherwise(0.0))
    )
    frame = frame.with_columns(
        prompt=message("user", asked.field("1")), steps=steps, step_labels=signs
    )
    unread: Rule = (
        pl.col("prompt").is_null() & pl.col("input").is_not_null(),
        "wrong_type",
        detail("input has no 'Step 1:'"),
    )
    return Draft(_solution(frame), (unread, _UNEVEN, _NO_STEP))


def _is_shepherd(records: list[dict[str, Any]], columns: set[str]) -> bool:
    return any(_MARK in str(r.get("input")) for r in records)


def _first_error(frame: pl.DataFrame, around: Surroundings) -> Draft:
    """`label` is the place of the first wrong step, from 0; -1 if there is none."""
    at = pl.when(pl.col("label") >= 0).then("label")
    place = at.cast(pl.Int64, strict=False)
    length = pl.col("steps").list.len().cast(pl.Int64)
    right = pl.min_horizontal(place.fill_null(length), length)
    labels = pl.concat_list(
        pl.lit(1.0).repeat_by(right), pl.lit(0.0).repeat_by(pl.min_horizontal(length - right, 1))
    )
    beyond: Rule = (
        pl.col("label") >= length,
        "wrong_type",
        pl.format("the label is {}, there are {} steps", "label", length),
    )
    null: Rule = (pl.col("label").is_null(), "missing_label", detail("there is no label"))
    frame = frame.with_columns(
        step_labels=pl.when((pl.col("label") < length) & (length > 0)).then(labels)
    )
    # steps behind the first error are not labelled: they stay in the response, without a label
    return Draft(
        _solution(frame).with_columns(score_steps=(pl.col("label") < 0).cast(pl.Float64)),
        (null, beyond, _NO_STEP),
    )


_COMPLETION = pl.Struct({"text": pl.String, "rating": pl.Float64})
_PRM_STEPS = pl.List(
    pl.Struct(
        {
            "completions": pl.List(_COMPLETION),
            "human_completion": _COMPLETION,
            "chosen_completion": pl.Int64,
        }
    )
)


def _prm800k(frame: pl.DataFrame, around: Surroundings) -> Draft:
    """The solution that was followed, and each other completion of a step after the steps before.

    `_row` gets "#0" for the followed solution, "#s.c" for completion c of step s, from 1. A step
    that none was chosen for ends the solution: its first completion is taken (in PRM800K the one
    with the error); a completion written by a person is right.
    """
    frame = frame.with_columns(_at=pl.int_range(pl.len()))
    table = _completions(frame)
    taken = table.filter(pl.col("_c") == pl.col("_taken")).sort("_at", "_s")
    followed = taken.group_by("_at", maintain_order=True).agg(steps="text", step_labels="rating")
    others = table.filter(pl.col("_c") != pl.col("_taken")).sort("_at", "_s", "_c")
    others = others.join(followed, on="_at", how="left", maintain_order="left")
    ahead = pl.col("_s") - 1
    others = others.select(
        "_at",
        pl.concat_list(pl.col("steps").list.head(ahead), pl.concat_list("text")).alias("steps"),
        pl.concat_list(pl.col("step_labels").list.head(ahead), pl.concat_list("rating")).alias(
            "step_labels"
        ),
        _n=pl.format("#{}.{}", "_s", "_c"),
    )
    rows = pl.concat([followed.with_columns(_n=pl.lit("#0")), others])
    frame = frame.join(rows, on="_at", how="left", maintain_order="left")
    frame = frame.with_columns(
        pl.concat_str("_row", pl.col("_n").fill_null("")).alias("_row"),
        prompt=message("user", pl.col("problem")),
    )
    return Draft(_solution(frame), (_NO_STEP,))


def _completions(frame: pl.DataFrame) -> pl.DataFrame:
    """One row per completion: `_at`, step `_s`, place `_c` (from 1), and the place `_taken`."""
    steps = frame.select("_at", "label").with_columns(
        _s=pl.int_ranges(1, pl.col("label").list.len().cast(pl.Int64) + 1)
    )
    steps = steps.explode("label", "_s").filter(pl.col("label").is_not_null())
    step = pl.col("label").struct
    written = step.field("human_completion").struct
    by_hand = step.field("chosen_completion").is_null() & written.field("text").is_not_null()
    own = pl.when(by_hand).then(
        pl.concat_list(pl.struct(text=written.field("text"), rating=pl.lit(1.0)))
    )
    steps = steps.select(
        "_at",
        "_s",
        _all=pl.concat_list(
            step.field("completions").fill_null([]), own.fill_null([]).cast(pl.List(_COMPLETION))
        ),
        _taken=pl.when(by_hand)
        .then(step.field("completions").list.len().fill_null(0).cast(pl.Int64) + 1)
        .otherwise(step.field("chosen_completion").fill_null(0) + 1),
    )
    steps = steps.with_columns(
        _c=pl.int_ranges(1, pl.col("_all").list.len().cast(pl.Int64) + 1)
    ).explode("_all", "_c")
    return steps.filter(pl.col("_all").is_not_null()).unnest("_all")


def _has_rating(records: list[dict[str, Any]], columns: set[str]) -> bool:
    steps = [s for r in records for s in r.get("label") or () if isinstance(s, dict)]
    return any("completions" in s for s in steps)


STEPWISE = Layout(
    name="steps",
    shape=Shape.RESPONSES,
    fields=(
        Field("prompt", Kind.PROMPT, _QUESTION),
        Field("steps", Kind.TEXTS, ("completions", "steps", "solution_steps")),
        Field("step_labels", Kind.MARKS, ("labels", "step_labels", "step_ratings", "label")),
        MODEL,
    ),
    build=_labelled,
    about="a prompt, the steps of one solution, and a label for each (TRL's stepwise supervision); "
    "`steps` and `step_labels` are carried, `score_steps` is the label of the worst step",
    makes=("score_steps",),
    carries=_CARRIES,
    example={"prompt": "2 + 2?", "completions": ["2 + 2 = 4.", "So 5."], "labels": [True, False]},
)
SHEPHERD = Layout(
    name="math-shepherd",
    shape=Shape.RESPONSES,
    fields=(Field("input"), Field("label")),
    build=_shepherd,
    about="input with a mark behind each step, and label with + or - in its place (Math-Shepherd)",
    when=_is_shepherd,
    makes=("score_steps",),
    carries=_CARRIES,
    example={
        "input": "2 + 2? Step 1: 2 + 2 = 4. ки\nStep 2: The answer is: 5 ки",
        "label": "2 + 2? Step 1: 2 + 2 = 4. +\nStep 2: The answer is: 5 -",
    },
)
FIRST_ERROR = Layout(
    name="first-error",
    shape=Shape.RESPONSES,
    fields=(
        Field("prompt", Kind.PROMPT, _QUESTION),
        Field("steps", Kind.TEXTS, ("steps",)),
        Field("label", Kind.NUMBER, nullable=True),
        MODEL,
    ),
    build=_first_error,
    about="a problem, steps, and label, the place of the first wrong one or -1 (ProcessBench)",
    makes=("score_steps",),
    carries=_CARRIES,
    example={"problem": "2 + 2?", "steps": ["2 + 2 = 4.", "So 5."], "label": 1},
)
PRM800K = Layout(
    name="prm800k",
    shape=Shape.RESPONSES,
    fields=(
        Field("problem", names=("question.problem",)),
        Field("label", Kind.RECORDS, ("label.steps",), dtype=_PRM_STEPS),
    ),
    build=_prm800k,
    about="question.problem and label.steps with rated completions (PRM800K); one row for the "
    "solution that was followed and one for each other completion after the steps before it",
    when=_has_rating,
    makes=("score_steps",),
    carries=_CARRIES,
    example={
        "question": {"problem": "2 + 2?"},
        "label": {
            "steps": [
                {
                    "completions": [
                        {"text": "2 + 2 = 4.", "rating": 1},
                        {"text": "2 + 2 = 5.", "rating": -1},
                    ],
                    "human_completion": None,
                    "chosen_completion": 0,
                }
            ]
        },
    },
)
