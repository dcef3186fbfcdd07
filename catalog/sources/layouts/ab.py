"""Two answers and a verdict, under any names and with any values; and the public sets of that kind.

The general layout `ab` is never taken unasked: what a verdict means is a guess until somebody has
said it (`values`), and a wrong guess turns every pair. The public sets below are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import polars as pl

from catalog.sources.fields import Field, Kind, plain_of
from catalog.sources.layouts.base import (
    Draft,
    Layout,
    Made,
    Rule,
    Surroundings,
    detail,
    ordered,
)
from catalog.sources.layouts.conversations import transcript_prompts
from catalog.sources.layouts.names import CHATS, TASK
from prefactory.tables import Shape

A, B, TIE = "a", "b", "tie"
MEANINGS = (A, B, TIE)
"""What a value of a verdict can mean: the first answer is better, the second, neither."""
_SCORES = tuple(
    Made(f"{side}_score_overall", of=f"grade_{ab}")
    for side, ab in (("chosen", "a"), ("rejected", "b"))
)
_ARENA = {
    "model_a": A,
    "model_b": B,
    "tie": TIE,
    "tie (bothbad)": TIE,
    "both_bad": TIE,
    "bothbad": TIE,
}


def folded(value: object) -> str:
    """A value of a verdict as it is compared: `1.0` is `1`, case and outer space don't matter."""
    text = (plain_of(value) or "").strip().lower()
    return text.removesuffix(".0")


def _meaning(column: str, values: Mapping[str, str]) -> pl.Expr:
    """`a`, `b` or `tie` by a verdict; null where it has another value."""
    known = {folded(value): meaning for value, meaning in values.items()}
    verdict = pl.col(column).str.to_lowercase().str.strip_chars().str.strip_suffix(".0")
    return verdict.replace_strict(known, default=None, return_dtype=pl.String)


def _by_verdict(values: Mapping[str, str], frame: pl.DataFrame, around: Surroundings) -> Draft:
    """Order the answers by the verdict's meaning; scores go with their answers."""
    meant = around.values or values
    better, verdict = pl.col("_better"), pl.col("verdict")
    draft = _sided(frame.with_columns(_better=_meaning("verdict", meant)), better == A)
    known = ", ".join(meant)
    column = around.names.get("verdict", "the verdict")
    rules: tuple[Rule, ...] = (
        (verdict.is_null(), "missing_label", detail(f"{column} is null")),
        (
            better.is_null(),
            "wrong_type",
            pl.format(
                "{} is '{}', none of {}", pl.lit(column), verdict.str.slice(0, 60), pl.lit(known)
            ),
        ),
        (better == TIE, "tie", pl.format("the verdict is {}", verdict)),
    )
    return Draft(draft.frame, rules, draft.notes)


def _sided(frame: pl.DataFrame, first_better: pl.Expr) -> Draft:
    """Chosen and rejected of `response_a` and `response_b`, with their models and scores."""
    prompt, changed = transcript_prompts(frame["prompt"])
    frame = ordered(
        frame.with_columns(prompt.alias("prompt"), changed.alias("_transcript")), first_better
    )
    first = first_better.fill_null(value=False)
    frame = frame.with_columns(
        pl.when(first).then("grade_a").otherwise("grade_b").alias("chosen_score_overall"),
        pl.when(first).then("grade_b").otherwise("grade_a").alias("rejected_score_overall"),
    )
    note: Rule = (
        pl.col("_transcript"),
        "transcript_prompt",
        detail("the prompt is a transcript in one text; its turns became messages"),
    )
    return Draft(frame, notes=(note,))


def _by_scores(frame: pl.DataFrame, around: Surroundings) -> Draft:
    """The higher score is better, equal scores are a tie."""
    a, b = pl.col("grade_a"), pl.col("grade_b")
    draft = _sided(frame, a > b)
    return Draft(
        draft.frame.with_columns(margin=(a - b).abs()),
        (
            (a.is_null() | b.is_null(), "missing_label", detail("a score is null")),
            (a == b, "tie", pl.format("both score {}", a)),
        ),
        draft.notes,
    )


_TWO_SCORES = r"^\s*[\[(]*\s*(-?\d+(?:\.\d+)?)\s*(?:[,;/]\s*|\s+)(-?\d+(?:\.\d+)?)\s*[\])]*\s*$"
"""A first line that is two numbers and nothing else."""


def _by_review(frame: pl.DataFrame, around: Surroundings) -> Draft:
    """The first line of a review holds two scores; -1 says that the reviewer could not tell."""
    line = pl.col("review").str.strip_chars_start().str.split("\n").list.first()
    numbers = line.str.extract_groups(_TWO_SCORES).struct
    scores = [numbers.field(n).cast(pl.Float64) for n in ("1", "2")]
    read = (scores[0] >= 0) & (scores[1] >= 0)
    frame = frame.with_columns(
        pl.when(read).then(score).alias(name)
        for name, score in zip(("grade_a", "grade_b"), scores, strict=True)
    )
    draft = _by_scores(frame, around)
    none: Rule = (
        pl.col("grade_a").is_null(),
        "missing_label",
        pl.format("the review does not begin with two scores, but with {}", line.str.slice(0, 60)),
    )
    return Draft(draft.frame, (none, *draft.rejects), draft.notes)


def _says(values: Mapping[str, str], records: list[dict[str, Any]], columns: set[str]) -> bool:
    """Whether the verdicts of the first records are among the values."""
    known = {folded(value) for value in values}
    seen = {folded(v) for r in records if (v := r.get("verdict")) is not None}
    return bool(seen) and seen <= known


def _begins_with_scores(records: list[dict[str, Any]], columns: set[str]) -> bool:
    reviews = [str(r.get("review") or "").lstrip() for r in records]
    lines = pl.Series([r.split("\n", 1)[0] for r in reviews], dtype=pl.String)
    return bool(lines.str.contains(_TWO_SCORES).sum() * 2 > len(lines))


def _ab(frame: pl.DataFrame, around: Surroundings) -> Draft:
    sides = frame.rename({"a": "response_a", "b": "response_b"})
    return _by_verdict({meaning: meaning for meaning in MEANINGS}, sides, around)


def _never(records: list[dict[str, Any]], columns: set[str]) -> bool:
    return False


def fields_of(
    prompt: tuple[str, ...] = TASK,
    a: tuple[str, ...] = (),
    b: tuple[str, ...] = (),
    verdict: tuple[str, ...] = (),
    scores: tuple[tuple[str, ...], tuple[str, ...]] = ((), ()),
) -> tuple[Field, ...]:
    """Fields of two answers, of their models and scores, and of the verdict if there is one."""
    judged = (Field("verdict", Kind.PLAIN, verdict, nullable=True),) if verdict else ()
    return (
        Field("prompt", Kind.PROMPT, prompt),
        Field("response_a", Kind.ANSWER, a),
        Field("response_b", Kind.ANSWER, b),
        Field("model_a", names=_MODELS[0], required=False),
        Field("model_b", names=_MODELS[1], required=False),
        Field("grade_a", Kind.NUMBER, scores[0] or ("score_a",), required=False),
        Field("grade_b", Kind.NUMBER, scores[1] or ("score_b",), required=False),
        *judged,
    )


_MODELS = (
    ("model_a", "model_1", "model_0", "generator_1", "response_0_source", "summaries.0.policy"),
    ("model_b", "model_2", "model_1", "generator_2", "response_1_source", "summaries.1.policy"),
)
"""What the models of two answers are called, at the same place of both."""
_ANSWER_NAMES = ("response", "answer", "output", "completion", "text", "candidate", "summary")
_ENDS = (("a", "b"), ("0", "1"), ("1", "2"))


def _pairs(*patterns: str, whats: tuple[str, ...] = _ANSWER_NAMES) -> list[tuple[str, str]]:
    """Names of a first and a second: `{what}` and `{x}` of each pattern filled in."""
    return [
        (pattern.format(what=what, x=x), pattern.format(what=what, x=y))
        for pattern in patterns
        for what in whats
        for x, y in _ENDS
    ]


def _columns(rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    return [tuple(names) for names in zip(*rows, strict=True)]


_TWO = _pairs("{what}_{x}", "{what}{x}", "{what}_{x}_text", "{x}")
ANSWERS_A, ANSWERS_B = _columns([*_TWO])
"""What two answers that stand side by side are called, at the same place of both."""
_RATED = _pairs("{what}_{x}", "{what}{x}", whats=("score", "rating", "reward", "grade"))
_SCORED = _columns(
    [
        (*answers, *scores)
        for answers in _TWO
        for scores in _RATED
        if {answers[0][-1], answers[1][-1]} == {scores[0][-1], scores[1][-1]}
    ]
)
"""Two answers and a score of each, that count from the same end."""


def _known(
    name: str,
    fields: tuple[Field, ...],
    values: Mapping[str, str],
    about: str,
    example: Mapping[str, Any],
    label_source: str | None = None,
) -> Layout:
    """A public set of two answers and a verdict, whose values are known."""
    return Layout(
        name=name,
        shape=Shape.PAIRS,
        fields=fields,
        build=partial(_by_verdict, values),
        about=about,
        label_source=label_source,
        when=partial(_says, values),
        carries=_SCORES,
        paired=(("model_a", "model_b"), ("grade_a", "grade_b")),
        example=example,
    )


AB = Layout(
    name="ab",
    shape=Shape.PAIRS,
    fields=(
        Field("prompt", Kind.PROMPT, (*TASK, *CHATS)),
        Field("a", Kind.ANSWER, ANSWERS_A),
        Field("b", Kind.ANSWER, ANSWERS_B),
        *fields_of()[3:],
        Field("verdict", Kind.PLAIN, ("verdict",), nullable=True),
    ),
    build=_ab,
    about="two answers and a verdict, any names and values: say `values`, or see what is guessed",
    when=_never,
    label_source=None,
    carries=_SCORES,
    paired=(("a", "b"), ("model_a", "model_b"), ("grade_a", "grade_b")),
    example={"prompt": "Why?", "a": "Because.", "b": "No.", "verdict": "a"},
)
_SAFE = tuple(Field(f"_safe_{i}", Kind.FLAG, (f"is_response_{i}_safe",), False) for i in (0, 1))


def _pku(frame: pl.DataFrame, around: Surroundings) -> Draft:
    """What is said of response 0 and 1 goes with the answer that it is said of."""
    draft = _by_verdict(_ZERO_ONE, frame, around)
    first = (pl.col("_better") == A).fill_null(value=False)
    safer = _meaning("_safer", _ZERO_ONE)
    chosen = pl.when(first).then(pl.lit(A)).otherwise(pl.lit(B))
    frame = draft.frame.with_columns(
        pl.when(first).then("_safe_0").otherwise("_safe_1").alias("chosen_score_safe"),
        pl.when(first).then("_safe_1").otherwise("_safe_0").alias("rejected_score_safe"),
        safety_prefers=pl.when(safer == chosen)
        .then(pl.lit("chosen"))
        .when(safer.is_not_null())
        .then(pl.lit("rejected")),
    )
    return Draft(frame, draft.rejects, draft.notes)


_ZERO_ONE = {"0": A, "1": B}
PKU = Layout(
    name="pku-saferlhf",
    shape=Shape.PAIRS,
    fields=(
        *fields_of(("prompt",), ("response_0",), ("response_1",), ("better_response_id",)),
        Field("_safer", Kind.PLAIN, ("safer_response_id",), required=False),
        *_SAFE,
    ),
    build=_pku,
    about="prompt, response_0, response_1 and better_response_id, and what is said of their safety "
    "(PKU-SafeRLHF)",
    when=partial(_says, _ZERO_ONE),
    carries=(
        *_SCORES,
        Made("chosen_score_safe", of="_safe_0"),
        Made("rejected_score_safe", of="_safe_1"),
        Made("safety_prefers", pl.String(), of="_safer"),
    ),
    paired=(("model_a", "model_b"), ("grade_a", "grade_b")),
    example={
        "prompt": "Why?",
        "response_0": "Because.",
        "response_1": "No.",
        "better_response_id": 0,
        "safer_response_id": 0,
    },
)
KNOWN = (
    PKU,
    _known(
        "shp",
        fields_of(("history",), ("human_ref_A",), ("human_ref_B",), ("labels",)),
        {"1": A, "0": B},
        "history, human_ref_A, human_ref_B and labels, 1 if A is better (SHP)",
        {"history": "Why?", "human_ref_A": "Because.", "human_ref_B": "No.", "labels": 1},
        "human",
    ),
    _known(
        "ukp-convarg",
        fields_of(("topic",), ("a1",), ("a2",), ("label",)),
        {"a1": A, "a2": B},
        "topic, two arguments a1 and a2, and the more convincing one in label (UKPConvArg1)",
        {"topic": "Ban cars?", "a1": "They kill.", "a2": "No.", "label": "a1"},
        "human",
    ),
    _known(
        "summary-comparisons",
        fields_of(
            ("info.post", "info.article"), ("summaries.0.text",), ("summaries.1.text",), ("choice",)
        ),
        {"0": A, "1": B},
        "info.post, two summaries, and choice, 0 or 1 (OpenAI's summarize_from_feedback)",
        {"info": {"post": "Long."}, "summaries": [{"text": "Short."}, {"text": "?"}], "choice": 0},
        "human",
    ),
    _known(
        "arena-texts",
        fields_of(
            ("prompt", "question", "instruction"),
            ("response_a", "answer_a"),
            ("response_b", "answer_b"),
            ("winner",),
        ),
        _ARENA,
        "prompt, response_a, response_b and winner, model_a, model_b or a tie",
        {"prompt": "Why?", "response_a": "Because.", "response_b": "No.", "winner": "model_a"},
    ),
    _known(
        "preference-collection",
        fields_of(
            ("orig_instruction",), ("orig_response_A",), ("orig_response_B",), ("orig_preference",)
        ),
        {"A": A, "B": B},
        "orig_instruction, orig_response_A, orig_response_B and orig_preference (Prometheus 2)",
        {
            "orig_instruction": "Why?",
            "orig_response_A": "Because.",
            "orig_response_B": "No.",
            "orig_preference": "A",
        },
        "judge",
    ),
)
REVIEWS = Layout(
    name="reviews",
    shape=Shape.PAIRS,
    fields=(
        *fields_of(
            ("question", "prompt", "instruction", "question_body"),
            (*ANSWERS_A, "answer1_body"),
            (*ANSWERS_B, "answer2_body"),
        )[:5],
        Field("review", names=("text", "review", "judgment", "judgement", "review_text")),
    ),
    build=_by_review,
    about="question, two answers, and a judge's text whose first line is two scores (Vicuna)",
    label_source="judge",
    when=_begins_with_scores,
    makes=("margin", "chosen_score_overall", "rejected_score_overall"),
    paired=(("response_a", "response_b"), ("model_a", "model_b")),
    example={"question": "Why?", "answer1": "Because.", "answer2": "No.", "review": "8 3\nFine."},
)
TWO_SCORES = Layout(
    name="two-scores",
    shape=Shape.PAIRS,
    fields=(
        *fields_of((*TASK, "question.full_text"), _SCORED[0], _SCORED[1])[:5],
        Field("grade_a", Kind.NUMBER, _SCORED[2], nullable=True),
        Field("grade_b", Kind.NUMBER, _SCORED[3], nullable=True),
    ),
    build=_by_scores,
    about="prompt, two answers and a score of each, the higher the better (WebGPT comparisons)",
    label_source=None,
    makes=("margin", "chosen_score_overall", "rejected_score_overall"),
    paired=(("response_a", "response_b", "grade_a", "grade_b"), ("model_a", "model_b")),
    example={
        "prompt": "Why?",
        "answer_0": "Because.",
        "answer_1": "No.",
        "score_0": 1,
        "score_1": 0,
    },
)
