"""Public sets with a form of their own: wrapped prompts, rewards, solutions, judgments."""

from __future__ import annotations

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
    message,
)
from catalog.sources.layouts.conversations import transcript_prompts
from catalog.sources.layouts.mt_bench import asked_until, with_questions
from catalog.sources.layouts.pairs import LISTS
from catalog.sources.layouts.responses import MODEL
from prefactory.tables import Shape

_PARTS = {
    "instruction": r"###The instruction to evaluate:",
    "response": r"###Response to evaluate:",
    "reference": r"###Reference Answer(?: \(Score 5\))?:",
    "rubric": r"###Score Rubrics?:",
}
_NEXT = r"(?s)\s*(.*?)\s*(?:\n###(?:Response|Reference|Score|Feedback)|\z)"


def _prometheus(frame: pl.DataFrame, around: Surroundings) -> Draft:
    """Instruction, answer, reference and rubric stand in one judge's prompt; scores are draws."""
    text = pl.col("wrapped")
    part = {name: text.str.extract(start + _NEXT) for name, start in _PARTS.items()}
    frame = frame.with_columns(
        prompt=message("user", part["instruction"]),
        response=message("assistant", part["response"]),
        reference_answer=part["reference"],
        rubric=part["rubric"],
        score_overall=pl.col("scores").list.mean(),
    )
    unread: Rule = (
        text.is_not_null() & (pl.col("prompt").is_null() | pl.col("response").is_null()),
        "malformed",
        detail(
            "instruction has no '###The instruction to evaluate:' and '###Response to evaluate:'"
        ),
    )
    return Draft(frame, (unread,))


def _is_wrapped(records: list[dict[str, Any]], columns: set[str]) -> bool:
    texts = [str(r.get("wrapped")) for r in records]
    return sum("###Response to evaluate:" in t for t in texts) * 2 > len(texts)


_REWARDS = (
    "humor", "harmless", "helpful", "gpt2-helpful", "gpt2-harmless", "perplexity", "coherence",
    "diversity",
)  # fmt: skip


def _map(frame: pl.DataFrame, around: Surroundings) -> Draft:
    """The generated text begins with the prompt, which is cut off."""
    prompt, generated = pl.col("prompt"), pl.col("generated")
    begins = generated.str.starts_with(prompt).fill_null(value=False)
    rest = generated.str.slice(prompt.str.len_chars()).str.strip_chars_start()
    cut = pl.when(begins).then(rest).otherwise(generated)
    turns, changed = transcript_prompts(frame.select(message("user", prompt)).to_series())
    frame = frame.with_columns(
        turns.alias("prompt"), changed.alias("_transcript"), response=message("assistant", cut)
    )
    return Draft(frame)


def _has_rewards(records: list[dict[str, Any]], columns: set[str]) -> bool:
    return bool(columns & {*_REWARDS})


_KEYS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def _solutions(frame: pl.DataFrame, around: Surroundings) -> Draft:
    """One row per model's solution."""
    frame = frame.with_columns(
        prompt=message("user", pl.col("question")),
        response=pl.concat_list(f"{key}_solution" for key in _KEYS),
        score_correct=pl.concat_list(f"{key}_correct" for key in _KEYS),
        model=pl.lit(list(_KEYS)),
    )
    frame = counted(frame, "response", "_k", "score_correct", "model")
    frame = frame.with_columns(
        pl.format("{}#{}", "_row", "_k").alias("_row"),
        message("assistant", pl.col("response")).alias("response"),
    )
    return Draft(frame)


def _judgments(frame: pl.DataFrame, around: Surroundings) -> Draft:
    """The answer that a judge scored, found by question and model, up to the judged turn."""
    answers = pl.DataFrame(
        [(question, model, turns) for (question, model), turns in around.answers.items()],
        schema={"question_id": pl.String, "model": pl.String, "_all": pl.List(pl.String)},
        orient="row",
    )
    frame = with_questions(frame, around)
    frame = frame.join(answers, on=["question_id", "model"], how="left", maintain_order="left")
    frame = frame.with_columns(t=pl.col("turn").fill_null(1).cast(pl.Int64, strict=False))
    frame = frame.with_columns(
        asked_until(frame["t"]).alias("prompt"),
        message("assistant", pl.col("_all").list.get(pl.col("t") - 1, null_on_oob=True)).alias(
            "response"
        ),
    )
    unasked: Rule = (
        pl.col("prompt").is_null(),
        "missing_field",
        pl.format("question {} is in no questions file", pl.col("question_id").fill_null("null")),
    )
    unanswered: Rule = (
        pl.col("response").is_null(),
        "missing_field",
        pl.format(
            "{} has no answer to question {} in an answers file",
            pl.col("model").fill_null("null"),
            pl.col("question_id").fill_null("null"),
        ),
    )
    unread: Rule = (
        pl.col("score_overall").is_null() | (pl.col("score_overall") < 0),
        "missing_label",
        detail("there is no score"),
    )
    return Draft(frame, (unasked, unanswered, unread))


def _turns(frame: pl.DataFrame, around: Surroundings) -> Draft:
    """The first turn is the prompt; later ones, which follow on its answer, are carried."""
    turns = pl.col("turns")
    none: Rule = (turns.list.len() == 0, "empty_prompt", detail("there is no turn"))
    first = message("user", turns.list.first())
    return Draft(frame.with_columns(prompt=first, later_turns=turns.list.slice(1)), (none,))


def _only_asked(records: list[dict[str, Any]], columns: set[str]) -> bool:
    return not columns & {"choices", "answer_id", "model_id", "model", "response", "completion"}


def _bpo(frame: pl.DataFrame, around: Surroundings) -> Draft:
    return Draft(frame)


_STYLES = ("concise", "detailed", "markdown")


def _rm_bench(frame: pl.DataFrame, around: Surroundings) -> Draft:
    """Each chosen answer with each rejected one; their places tell their styles."""
    draft = LISTS.build(frame, around)
    styled = draft.frame.with_columns(
        pl.lit(pl.Series(_STYLES)).gather(pl.col(place) - 1).alias(f"{side}_style")
        for side, place in (("chosen", "_c"), ("rejected", "_r"))
    )
    return Draft(styled, draft.rejects, draft.notes)


def _is_rm_bench(records: list[dict[str, Any]], columns: set[str]) -> bool:
    """Whether every record has three texts on both sides and a domain of RM-Bench."""
    return all(
        str(r.get("domain")).startswith(("chat", "math", "code", "safety"))
        and all(
            isinstance(r.get(side), list) and [*map(type, r[side])] == [str] * len(_STYLES)
            for side in ("chosen", "rejected")
        )
        for r in records
    )


RM_BENCH = Layout(
    name="rm-bench",
    shape=Shape.PAIRS,
    fields=(
        Field("prompt", Kind.PROMPT),
        Field("chosen", Kind.ANSWERS),
        Field("rejected", Kind.ANSWERS),
        Field("domain"),
    ),
    build=_rm_bench,
    about="domain, and three chosen and three rejected answers: concise, detailed, detailed with "
    "Markdown; a row for each of the one with each of the other (RM-Bench)",
    when=_is_rm_bench,
    carries=(
        Made("domain", pl.String()),
        Made("chosen_style", pl.String()),
        Made("rejected_style", pl.String()),
    ),
    example={
        "prompt": "Why?",
        "chosen": ["Light.", "It is the light.", "It is the **light**."],
        "rejected": ["Air.", "It is the air.", "It is the **air**."],
        "domain": "chat",
    },
)
BPO = Layout(
    name="bpo",
    shape=Shape.PAIRS,
    fields=(
        Field("prompt", Kind.PROMPT),
        Field("optimized_prompt"),
        Field("chosen", Kind.ANSWER, ("good_res",)),
        Field("rejected", Kind.ANSWER, ("bad_res",)),
    ),
    build=_bpo,
    about="prompt, good_res, bad_res and optimized_prompt, which is carried (BPO)",
    carries=(Made("optimized_prompt", pl.String()),),
    example={
        "prompt": "Why?",
        "optimized_prompt": "Why, in detail?",
        "good_res": "Because.",
        "bad_res": "No.",
    },
)
PROMETHEUS = Layout(
    name="prometheus",
    shape=Shape.RESPONSES,
    fields=(
        Field("wrapped", names=("instruction",)),
        Field("scores", Kind.NUMBERS, ("gpt4_score", "scores", "score")),
        Field("feedback", Kind.TEXTS, ("gpt4_feedback",), required=False),
        Field("model", names=("response_source", "model"), required=False),
    ),
    build=_prometheus,
    about="instruction, a judge's prompt that holds instruction, answer, reference and rubric, and "
    "a list of scores (Prometheus); `score_overall` is their mean, `scores` are carried",
    when=_is_wrapped,
    makes=("score_overall",),
    carries=(
        Made("reference_answer", pl.String()),
        Made("rubric", pl.String()),
        Made("scores", pl.List(pl.Float64())),
        Made("feedback", pl.List(pl.String()), of="feedback"),
    ),
    example={
        "instruction": "###The instruction to evaluate:\nWhy?\n\n###Response to evaluate:\nBecause."
        "\n\n###Reference Answer (Score 5):\nSo.\n\n###Score Rubrics:\n[Clear?]\n\n###Feedback: ",
        "gpt4_score": [4, 5, 4],
    },
)
MAP_REWARDS = Layout(
    name="map-rewards",
    shape=Shape.RESPONSES,
    fields=(
        Field("prompt"),
        Field("generated"),
        MODEL,
        *(
            Field(f"score_{name.replace('-', '_')}", Kind.NUMBER, (name,), required=False)
            for name in _REWARDS
        ),
    ),
    build=_map,
    about="prompt, generated text that begins with it, and rewards (MAP)",
    when=_has_rewards,
    example={"prompt": "Why?", "generated": "Why? Because.", "humor": 0.1, "harmless": 2.5},
)
SOLUTIONS = Layout(
    name="gsm8k-solutions",
    shape=Shape.RESPONSES,
    fields=(
        Field("question"),
        Field("ground_truth"),
        *(Field(f"{key}_solution", names=(f"{key}.solution",)) for key in _KEYS),
        *(Field(f"{key}_correct", Kind.FLAG, (f"{key}.is_correct",)) for key in _KEYS),
    ),
    build=_solutions,
    about="question and four models' solutions with is_correct (GSM8K's example solutions)",
    makes=("score_correct",),
    carries=(Made("ground_truth", pl.String()),),
    example={
        "question": "2 + 2?",
        "ground_truth": "4",
        **{key: {"is_correct": True, "solution": "A: 4"} for key in _KEYS},
    },
)
JUDGMENTS = Layout(
    name="scored-answers",
    shape=Shape.RESPONSES,
    fields=(
        Field("question_id", Kind.KEY),
        Field("model", names=("model", "model_id")),
        Field("score_overall", Kind.NUMBER, ("score",), nullable=True),
        Field("turn", Kind.NUMBER, required=False),
        Field("judgment", required=False),
    ),
    build=_judgments,
    about="question_id, model and a judge's score (MT-bench single, Arena); questions and answers "
    "come from *question* and *answer* files nearby",
    carries=(Made("judgment", pl.String(), of="judgment"),),
    wants_questions=True,
    wants_answers=True,
    example={"question_id": 81, "model": "m", "judgment": "Good: [[9]]", "score": 9, "turn": 1},
)
QUESTIONS = Layout(
    name="questions",
    shape=Shape.PROMPTS,
    fields=(Field("turns", Kind.TEXTS),),
    build=_turns,
    about="questions with turns (MT-bench, Arena): the first is the prompt, others are carried",
    when=_only_asked,
    carries=(Made("later_turns", pl.List(pl.String())),),
    example={"question_id": 81, "turns": ["Why?", "In one sentence?"]},
)
