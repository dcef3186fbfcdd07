"""Layouts whose records are pairs already: explicit, implicit, mixed, and plain texts."""

from __future__ import annotations

from typing import Any

import polars as pl

from catalog.sources.fields import Field, Kind, accepts, spoken
from catalog.sources.layouts.base import (
    Draft,
    Layout,
    Rule,
    Surroundings,
    counted,
    detail,
    message,
    with_input,
)
from catalog.sources.layouts.conversations import (
    NO_COMMON_PROMPT,
    PREFIXES_DIFFER,
    compared,
    split_common,
    transcript_prompts,
)
from catalog.sources.layouts.names import CHATS, CHOSEN, INSIDE, PROMPT, REJECTED, TASK
from catalog.sources.messages import ROLE_NAMES
from prefactory.tables import Shape, same_messages, text_of

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
                f"{side}_reward",
                f"reward_{side}",
                f"{side}_rm_score",
            ),
            required=False,
        )
        for side in ("chosen", "rejected")
    ],
)
"""Models and scores that pair data often carries beside its answers."""

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
    longer = [(pl.col(s).list.len() > n) & (n > 0) for s in ("chosen", "rejected")]
    if not frame.select((longer[0] & longer[1]).any()).item():
        return Draft(frame, notes=(_EQUAL_SCORES, _TRANSCRIPT))
    dtype = frame.schema["prompt"]
    asked, *said = (compared(pl.col(c), dtype) for c in ("prompt", "chosen", "rejected"))
    repeats = [more & (s.list.head(n) == asked) for s, more in zip(said, longer, strict=True)]
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
    notes = (PREFIXES_DIFFER, _EQUAL_SCORES, _OTHER_PROMPT)
    return Draft(split_common(frame), (NO_COMMON_PROMPT,), notes)


_OTHER_PROMPT: Rule = (
    ~text_of(pl.col("prompt")).str.contains(
        text_of(pl.col("_text")).str.strip_chars(), literal=True
    ),
    "prompt_differs",
    detail("the prompt's text is not in the conversation, whose own turns are the prompt"),
)


def _mostly_messages(records: list[dict[str, Any]], columns: set[str]) -> bool:
    """Whether at least half of the answers of both sides are messages."""
    return all(
        sum(accepts(Kind.MESSAGES, spoken(r.get(side))) for r in records) * 2
        >= sum(r.get(side) is not None for r in records)
        for side in ("chosen", "rejected")
    )


def _answered(frame: pl.DataFrame, around: Surroundings) -> Draft:
    """Put the prompt before a rejected answer that stands alone, and cut both conversations."""
    chosen, rejected = pl.col("chosen"), pl.col("rejected")
    frame = same_messages(frame)
    alone = rejected.list.first().struct.field("role") == "assistant"
    before = chosen.list.head(chosen.list.len().cast(pl.Int64) - 1)
    whole = pl.when(alone).then(pl.concat_list(before, rejected)).otherwise(rejected)
    frame = split_common(frame.with_columns(rejected=whole))
    return Draft(frame, (NO_COMMON_PROMPT,), (PREFIXES_DIFFER,))


def _is_answered(records: list[dict[str, Any]], columns: set[str]) -> bool:
    """Whether most chats end with an answer, and nothing else is called the chosen one."""
    named = {c.lower() for c in columns} & {*CHOSEN}
    chats = [spoken(r.get("chosen")) for r in records]
    return not named and _most([isinstance(c, list) and not _asks(c) for c in chats])


def _lists(frame: pl.DataFrame, around: Surroundings) -> Draft:
    """Each of the chosen with each of the rejected; `_row` gets "#c.r" where there are several."""
    frame = counted(counted(frame, "chosen", "_c"), "rejected", "_r")
    several = (pl.col("_c").max().over("_row") > 1) | (pl.col("_r").max().over("_row") > 1)
    number = pl.when(several).then(pl.format("#{}.{}", "_c", "_r")).otherwise(pl.lit(""))
    frame = frame.with_columns(pl.concat_str("_row", number).alias("_row"))
    return _explicit(frame.with_columns(_same_scores(frame)), around)


def _same_scores(frame: pl.DataFrame) -> list[pl.Expr]:
    """A score of a list can't be told to be the score of one of its answers: none is read."""
    return [pl.lit(None, pl.Float64).alias(f"{s}_score_overall") for s in ("chosen", "rejected")]


def _some_lists(records: list[dict[str, Any]], columns: set[str]) -> bool:
    """Whether a side is a list of answers in some record, not messages."""
    values = [r.get(side) for r in records for side in ("chosen", "rejected")]
    return any(isinstance(v, list) and v and not isinstance(v[0], dict) for v in values)


def _outputs(frame: pl.DataFrame, around: Surroundings) -> Draft:
    outputs = pl.col("outputs")
    two: Rule = (outputs.list.len() != 2, "wrong_type", detail("output must hold two texts"))
    frame = frame.with_columns(
        prompt=message("user", with_input(pl.col("instruction"), pl.col("input"))),
        chosen=message("assistant", outputs.list.get(0, null_on_oob=True)),
        rejected=message("assistant", outputs.list.get(1, null_on_oob=True)),
    )
    return Draft(frame, (two,))


def _all_two(records: list[dict[str, Any]], columns: set[str]) -> bool:
    return all(len(r["outputs"]) == 2 for r in records if isinstance(r.get("outputs"), list))


def _sides(kind: Kind) -> tuple[Field, ...]:
    return (Field("chosen", kind, CHOSEN), Field("rejected", kind, REJECTED), *SIDES)


def _speaks_first(value: object) -> bool:
    """Whether an answer is a text, or messages that the assistant begins."""
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, str) or (isinstance(first, dict) and _role(first) == "assistant")


def _role(message: dict[str, Any]) -> str:
    role = str(message.get("role") or message.get("from")).lower()
    return ROLE_NAMES.get(role, role)


def _asks(messages: object) -> bool:
    """Whether messages end with what waits for an answer."""
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and _role(last) != "assistant"


def _most(values: list[bool]) -> bool:
    return sum(values) * 2 > len(values)


def _ranking(records: list[dict[str, Any]], columns: set[str]) -> bool:
    """The chat is asked, not answered; the answers answer; no text is the prompt."""
    if {c.lower() for c in columns} & {*PROMPT}:
        return False
    return _inner_ranking(records, columns)


def _inner_ranking(records: list[dict[str, Any]], columns: set[str]) -> bool:
    answers = [_speaks_first(r.get(s)) for r in records for s in ("chosen", "rejected")]
    return _most([_asks(r.get("prompt")) for r in records]) and _most(answers)


EXPLICIT = Layout(
    name="pairs",
    shape=Shape.PAIRS,
    fields=(Field("prompt", Kind.MESSAGES, PROMPT), *_sides(Kind.ANSWER)),
    build=_explicit,
    about="prompt, chosen and rejected are messages; the answers don't repeat the prompt",
    paired=(("chosen", "rejected"),),
    example={
        "prompt": [{"role": "user", "content": "Why?"}],
        "chosen": [{"role": "assistant", "content": "Because."}],
        "rejected": [{"role": "assistant", "content": "No."}],
    },
)
IMPLICIT = Layout(
    name="pairs-implicit",
    shape=Shape.PAIRS,
    fields=_sides(Kind.MESSAGES),
    build=_implicit,
    about="chosen and rejected are full conversations (reward models, OpenRLHF, RM-Bench)",
    paired=(("chosen", "rejected"),),
    example={
        "chosen": [
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "Because."},
        ],
        "rejected": [
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "No."},
        ],
    },
)
_CHAT = (
    "messages or conversations that wait for an answer, and one message, messages or a text for "
    "each side (LLaMA-Factory ranking, OpenAI preference)"
)
_CHATS = Layout(
    name="pairs-chat",
    shape=Shape.PAIRS,
    fields=(Field("prompt", Kind.MESSAGES, CHATS), *_sides(Kind.ANSWER)),
    build=_explicit,
    about=_CHAT,
    paired=(("chosen", "rejected"),),
    when=_ranking,
    example={
        "conversations": [{"from": "human", "value": "Why?"}],
        "chosen": {"from": "gpt", "value": "Because."},
        "rejected": {"from": "gpt", "value": "No."},
    },
)
RANKING = Layout(
    name="pairs-chat",
    shape=Shape.PAIRS,
    fields=(
        Field("prompt", Kind.MESSAGES, INSIDE),
        *_sides(Kind.ANSWER),
        Field("tools", Kind.TOOLS, ("input.tools", "prompt.tools"), required=False),
    ),
    build=_explicit,
    about=_CHAT,
    paired=(("chosen", "rejected"),),
    when=_inner_ranking,
    alternatives=(_CHATS,),
    example={
        "input": {"messages": [{"role": "user", "content": "Why?"}]},
        "preferred_output": [{"role": "assistant", "content": "Because."}],
        "non_preferred_output": [{"role": "assistant", "content": "No."}],
    },
)
ANSWERED = Layout(
    name="pairs-answered",
    shape=Shape.PAIRS,
    fields=(
        Field("chosen", Kind.MESSAGES, CHATS[:3]),
        Field(
            "rejected",
            Kind.ANSWER,
            ("rejected_response", "rejected_messages", "rejected_conversations", "rejected"),
        ),
    ),
    build=_answered,
    about="messages whose last is the chosen answer, and rejected_response or rejected_messages "
    "(ms-swift)",
    when=_is_answered,
    example={
        "messages": [
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "Because."},
        ],
        "rejected_response": "No.",
    },
)
MIXED = Layout(
    name="pairs-mixed",
    shape=Shape.PAIRS,
    fields=(Field("prompt", Kind.PROMPT, TASK), *_sides(Kind.ANSWER)),
    build=_mixed,
    when=_mostly_messages,
    about="prompt is a text, chosen and rejected are full conversations (UltraFeedback, Tulu 3)",
    paired=(("chosen", "rejected"),),
    example={
        "prompt": "Why?",
        "chosen": [
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "Because."},
        ],
        "rejected": [
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "No."},
        ],
    },
)
TEXT = Layout(
    name="pairs-text",
    shape=Shape.PAIRS,
    fields=(Field("prompt", Kind.PROMPT, TASK), *_sides(Kind.ANSWER)),
    build=_explicit,
    about="prompt, chosen and rejected are texts (many other names of the two sides are known)",
    paired=(("chosen", "rejected"),),
    example={"prompt": "Why?", "chosen": "Because.", "rejected": "No."},
)
LISTS = Layout(
    name="pairs-lists",
    shape=Shape.PAIRS,
    fields=(
        Field("prompt", Kind.PROMPT, (*TASK, *CHATS, *INSIDE)),
        Field("chosen", Kind.ANSWERS, (*CHOSEN, "correct_answers", "targets.chosen")),
        Field("rejected", Kind.ANSWERS, (*REJECTED, "incorrect_answers", "targets.rejected")),
        *SIDES[:2],
    ),
    build=_lists,
    about="chosen and rejected are lists of answers, or one is; a row for each of the one with "
    "each of the other (RewardBench 2)",
    paired=(("chosen", "rejected"),),
    when=_some_lists,
    example={"prompt": "Why?", "chosen": ["Because."], "rejected": ["No.", "Maybe."]},
)
OUTPUTS = Layout(
    name="pairs-output",
    shape=Shape.PAIRS,
    fields=(
        Field("instruction"),
        Field("input", required=False),
        Field("outputs", Kind.TEXTS, ("output",)),
    ),
    build=_outputs,
    about="instruction, input and output, a list of the better and the worse answer",
    when=_all_two,
    example={"instruction": "Why?", "input": "", "output": ["Because.", "No."]},
)
