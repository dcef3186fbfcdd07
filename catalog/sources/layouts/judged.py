"""Layouts that hold two answers in given places and a verdict: which of the two is better."""

from __future__ import annotations

import polars as pl

from catalog.sources.fields import Field, Kind
from catalog.sources.layouts.base import (
    FIRST_BETTER,
    Draft,
    Layout,
    Rule,
    Surroundings,
    detail,
    message,
    ordered,
    with_input,
)
from prefactory.tables import Shape

_INPUT = Field("input", names=("input",), required=False)


def _verdict_rules(verdict: pl.Expr, tie: pl.Expr) -> tuple[Rule, ...]:
    return (
        (verdict.is_null(), "missing_label", detail("there is no verdict")),
        (tie, "tie", pl.format("the verdict is {}", verdict)),
    )


def _answers(a: str, b: str, models: bool = True) -> tuple[Field, ...]:
    """Fields of two answers and of their models."""
    names = {"a": a, "b": b}
    answers = tuple(
        Field(f"response_{side}", Kind.ANSWER, (*text.split("|"), f"response_{side}"))
        for side, text in names.items()
    )
    number = {"a": "1", "b": "2"}
    return answers + tuple(
        Field(f"model_{side}", names=(f"model_{side}", f"generator_{number[side]}"), required=False)
        for side in names
        if models
    )


def _helpsteer3(frame: pl.DataFrame, around: Surroundings) -> Draft:
    """-3 (the first is much better) to 3 (the second is much better)."""
    verdict = pl.col("verdict")
    frame = ordered(frame, verdict < 0).with_columns(margin=verdict.abs())
    return Draft(frame, _verdict_rules(verdict, verdict == 0))


def _between_one_and_two(frame: pl.DataFrame, around: Surroundings) -> Draft:
    """1 (the first is better) to 2 (the second is better), fractions for a weighted judge."""
    verdict = pl.col("verdict")
    frame = ordered(frame, verdict < 1.5).with_columns(
        prompt=message("user", with_input(pl.col("instruction"), pl.col("input"))),
        margin=(verdict - 1.5).abs() * 2,
    )
    odd: Rule = (
        ~verdict.is_between(1, 2) & (verdict != 0),
        "wrong_type",
        pl.format("the verdict is {}, not between 1 and 2", verdict),
    )
    return Draft(frame, (odd, *_verdict_rules(verdict, (verdict == 1.5) | (verdict == 0))))


def _pandalm(frame: pl.DataFrame, around: Surroundings) -> Draft:
    """The majority of the annotators; 0 is a tie, 1 and 2 name the better answer."""
    votes = [pl.col(f"annotator{i}") for i in (1, 2, 3)]
    count = pl.sum_horizontal(v.is_not_null() for v in votes)
    first, second = (
        pl.sum_horizontal((v == n).fill_null(value=False) for v in votes) for n in (1, 2)
    )
    frame = frame.with_columns(_n=count, _first=first, _second=second)
    frame = ordered(frame, pl.col("_first") > pl.col("_second")).with_columns(
        prompt=message("user", with_input(pl.col("instruction"), pl.col("input"))),
        margin=(pl.col("_first").cast(pl.Float64) - pl.col("_second")).abs() / pl.col("_n"),
    )
    frame = frame.with_columns(_votes(votes))
    ties = pl.col("_n") - pl.col("_first") - pl.col("_second")
    votes_for = pl.max_horizontal("_first", "_second")
    undecided = (pl.col("_first") == pl.col("_second")) | (ties > votes_for)
    rules: tuple[Rule, ...] = (
        (pl.col("_n") == 0, "missing_label", detail("no annotator voted")),
        (undecided, "tie", pl.format("votes for the first, second: {}, {}", "_first", "_second")),
    )
    return Draft(frame, rules)


def _votes(votes: list[pl.Expr]) -> list[pl.Expr]:
    """The columns of `DRAWS`: how many annotators chose each side or neither, and which."""
    best = pl.when(FIRST_BETTER).then(pl.lit(1.0)).otherwise(pl.lit(2.0))
    columns = [
        pl.sum_horizontal((v == 0).fill_null(value=False) for v in votes).alias("tied_draws")
    ]
    for side, wanted in (("chosen", best), ("rejected", 3 - best)):
        mine = [(v == wanted).fill_null(value=False) for v in votes]
        who = [pl.when(m).then(pl.lit(f"annotator{i}")) for i, m in enumerate(mine, 1)]
        columns.append(pl.sum_horizontal(mine).alias(f"{side}_draws"))
        columns.append(pl.concat_list(who).list.drop_nulls().alias(f"{side}_annotators"))
    return columns


_GRADES = {
    "a-is-better": 2.0,
    "a-is-slightly-better": 1.0,
    "tie": 0.0,
    "b-is-slightly-better": -1.0,
    "b-is-better": -2.0,
}


def _tulu_human(frame: pl.DataFrame, around: Surroundings) -> Draft:
    grade = pl.col("verdict").replace_strict(_GRADES, default=None, return_dtype=pl.Float64)
    frame = frame.with_columns(_grade=grade)
    frame = ordered(frame, pl.col("_grade") > 0).with_columns(margin=pl.col("_grade").abs())
    unknown: Rule = (
        pl.col("_grade").is_null() & pl.col("verdict").is_not_null(),
        "wrong_type",
        pl.format("unknown verdict {}", "verdict"),
    )
    return Draft(frame, (unknown, *_verdict_rules(pl.col("verdict"), pl.col("_grade") == 0)))


HELPSTEER3 = Layout(
    name="helpsteer3",
    shape=Shape.PAIRS,
    label_source="human",
    fields=(
        Field("prompt", Kind.PROMPT, ("context", "prompt")),
        *_answers("response1|response_1", "response2|response_2"),
        Field("verdict", Kind.NUMBER, ("overall_preference", "preference_strength"), nullable=True),
    ),
    build=_helpsteer3,
    example={
        "context": [{"role": "user", "content": "Why?"}],
        "response1": "Because.",
        "response2": "No.",
        "overall_preference": -2,
    },
    about="context, response1, response2, overall_preference -3..3 (negative: the first is better)",
    makes=("margin",),
)
_ONE_TWO = (
    Field("instruction", names=("instruction", "prompt", "input")),
    _INPUT,
    *_answers("output_1", "output_2"),
)
ALPACA_EVAL_ANNOTATIONS = Layout(
    name="alpaca-eval-annotations",
    shape=Shape.PAIRS,
    fields=(*_ONE_TWO, Field("verdict", Kind.NUMBER, ("preference",), nullable=True)),
    build=_between_one_and_two,
    example={
        "instruction": "Why?",
        "output_1": "Because.",
        "output_2": "No.",
        "generator_1": "m",
        "generator_2": "n",
        "preference": 1.0,
    },
    about="instruction, output_1, output_2, generators and a judge's preference 1..2",
    makes=("margin",),
    label_source="judge",
)
LLMBAR = Layout(
    name="llmbar",
    shape=Shape.PAIRS,
    label_source="human",
    fields=(
        Field("instruction", names=("input", "instruction")),
        Field("input", names=("extra_input",), required=False),
        *_answers("output_1", "output_2"),
        Field("verdict", Kind.NUMBER, ("label",), nullable=True),
    ),
    build=_between_one_and_two,
    example={"input": "Why?", "output_1": "Because.", "output_2": "No.", "label": 1},
    about="input, output_1, output_2 and label, 1 or 2 for the better one",
    makes=("margin",),
)
PANDALM = Layout(
    name="pandalm",
    shape=Shape.PAIRS,
    label_source="human",
    fields=(
        Field("instruction"),
        _INPUT,
        *_answers("response1", "response2"),
        Field("annotator1", Kind.NUMBER, nullable=True),
        Field("annotator2", Kind.NUMBER, required=False),
        Field("annotator3", Kind.NUMBER, required=False),
    ),
    build=_pandalm,
    example={
        "instruction": "Why?",
        "input": "",
        "response1": "Because.",
        "response2": "No.",
        "annotator1": 1,
        "annotator2": 1,
        "annotator3": 0,
    },
    about="instruction, response1, response2 and the votes of up to three annotators (0 a tie)",
    makes=("margin",),
    draws=True,
)
TULU_HUMAN_EVAL = Layout(
    name="tulu-human-eval",
    shape=Shape.PAIRS,
    label_source="human",
    fields=(
        Field("prompt", Kind.PROMPT),
        *_answers("completion_a", "completion_b"),
        Field("verdict", names=("preference",), nullable=True),
    ),
    build=_tulu_human,
    example={
        "prompt": "Why?",
        "completion_a": "Because.",
        "completion_b": "No.",
        "preference": "a-is-better",
    },
    about="prompt, completion_a, completion_b, models, and a preference in five grades",
    makes=("margin",),
)
