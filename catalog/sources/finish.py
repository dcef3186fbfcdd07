"""From a draft to rows: checks that every layout needs, ids, the ledger of rejects and notes."""

from __future__ import annotations

import numpy as np
import polars as pl

from catalog.sources.columns import ABSENT, LOST, REPAIR, ROW, WRONG
from catalog.sources.layouts.base import Draft, Rule, detail
from catalog.sources.spec import LEDGER, Block
from prefactory.step import verdict
from prefactory.tables import ROLES, Shape, cast_to, message_keys, with_ids

_ANSWERS = {
    Shape.PROMPTS: (),
    Shape.RESPONSES: ("response",),
    Shape.PAIRS: ("chosen", "rejected"),
}
_ROLES = ", ".join(ROLES)
SILENT = "_silent_"
"""Before the name of a column of messages: which of them say nothing, List(Boolean)."""
_EQUAL: Rule = (
    pl.col("chosen_id") == pl.col("rejected_id"),
    "equal_answers",
    detail("chosen and rejected are the same"),
)


def finish(
    draft: Draft, shape: Shape, schema: dict[str, pl.DataType], keep_side_ids: bool
) -> Block:
    """Check a draft, make its ids, and part it into rows, rejects and notes.

    Args:
        draft: with `source`, `source_id` and every other column of `schema` but the ids.
        shape: of the rows.
        schema: columns of the rows.
        keep_side_ids: `chosen_id` and `rejected_id` are there and stay.
    """
    answers = _ANSWERS[shape]
    frame = _with_silence(draft.frame, ("prompt", *answers))
    rules = (
        (pl.col(WRONG).is_not_null(), "wrong_type", pl.col(WRONG)),
        (pl.col(ABSENT).is_not_null(), "missing_field", pl.col(ABSENT) + " is missing"),
        *draft.rejects,
        *_prompt_rules(frame),
        *[rule for side in answers for rule in _answer_rules(frame, side)],
        *_margin_rules(schema),
    )
    judged = verdict(frame, *rules)
    stays = judged["reason"].is_null()
    rejected = _ledger(frame.filter(~stays), judged.filter(~stays))
    kept = with_ids(frame.filter(stays), shape, keep_side_ids=keep_side_ids)
    if shape == Shape.PAIRS:
        judged = verdict(kept, _EQUAL)
        stays = judged["reason"].is_null()
        rejected = pl.concat([rejected, _ledger(kept.filter(~stays), judged.filter(~stays))])
        kept = kept.filter(stays)
    notes = (*draft.notes, *_general_notes(kept, answers))
    return Block(
        rows=cast_to(kept, schema),
        rejected=rejected,
        notes=_notes(kept, notes),
        n_records=frame.height,
    )


def _ledger(frame: pl.DataFrame, judged: pl.DataFrame) -> pl.DataFrame:
    ids = frame.select(pl.col(ROW).alias("row_id"))
    return pl.concat([ids, judged], how="horizontal").select(
        pl.col(c).cast(d) for c, d in LEDGER.items()
    )


def _flat(messages: pl.Series) -> pl.Series:
    return messages.explode(empty_as_null=False, keep_nulls=False)


def _with_silence(frame: pl.DataFrame, columns: tuple[str, ...]) -> pl.DataFrame:
    """Add which messages of some columns say nothing: each text is looked at once."""
    return frame.with_columns(
        pl.col(c).list.eval(_silent(pl.element(), frame.schema[c])).alias(SILENT + c)
        for c in columns
    )


def _silent(message: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Whether a message of a column has neither a text nor a call of a tool."""
    silent = message.struct.field("content").str.strip_chars() == ""
    if "tool_calls" in message_keys(dtype):
        silent &= message.struct.field("tool_calls").list.len().fill_null(0) == 0
    return silent


def _message_rules(frame: pl.DataFrame, column: str) -> list[Rule]:
    """Messages need a content and a role that we know; no rule where the whole column is fine."""
    flat = _flat(frame[column]).struct
    roles, contents = flat.field("role"), flat.field("content")
    rules: list[Rule] = []
    element = pl.element().struct.field
    if contents.null_count():
        empty = pl.col(column).list.eval(element("content").is_null()).list.any()
        rules.append((empty, "missing_field", detail(f"a message of {column} has no content")))
    if roles.null_count() or not roles.is_in(ROLES).all():
        strange = ~element("role").is_in(ROLES).fill_null(value=False)
        first = pl.col(column).list.eval(element("role").filter(strange).fill_null("none"))
        said = pl.format(
            f"a message of {column} has the role {{}}: none of {_ROLES}", first.list.first()
        )
        rules.append((first.list.len() > 0, "wrong_type", said))
    return rules


def _prompt_rules(frame: pl.DataFrame) -> list[Rule]:
    prompt = pl.col("prompt")
    return [
        *_message_rules(frame, "prompt"),
        (prompt.is_null(), "missing_field", detail("prompt is missing")),
        (prompt.list.len() == 0, "empty_prompt", detail("the prompt has no message")),
        (pl.col(f"{SILENT}prompt").list.all(), "empty_prompt", detail("the prompt has no text")),
    ]


def _answer_rules(frame: pl.DataFrame, side: str) -> list[Rule]:
    messages = pl.col(side)
    role = messages.list.last().struct.field("role")
    return [
        *_message_rules(frame, side),
        (messages.is_null(), "missing_field", detail(f"{side} is missing")),
        (messages.list.len() == 0, "empty_answer", detail(f"{side} has no message")),
        (
            role != "assistant",
            "no_answer",
            pl.format(f"the last message of {side} is the {{}}'s", role),
        ),
        (pl.col(SILENT + side).list.last(), "empty_answer", detail(f"{side} has no text")),
    ]


def _margin_rules(schema: dict[str, pl.DataType]) -> list[Rule]:
    if "margin" not in schema:
        return []
    return [(pl.col("margin").is_null(), "missing_label", detail("the margin is null"))]


def _general_notes(kept: pl.DataFrame, answers: tuple[str, ...]) -> list[Rule]:
    conversations = ("prompt", *answers)
    repeats = [pl.lit(value=False), *(pl.lit(_role_repeats(kept[c])) for c in conversations)]
    ends = pl.col("prompt").list.last().struct.field("role")
    repeats += [ends == pl.col(a).list.first().struct.field("role") for a in answers]
    rules: list[Rule] = [
        (pl.col(REPAIR).is_not_null(), "", detail()),
        (pl.col(LOST).is_not_null(), "unread_value", pl.col(LOST)),
        (pl.any_horizontal(repeats), "roles_repeat", detail("the same role twice in a row")),
    ]
    if (speakers := _speakers(kept["prompt"])) is not None:
        text = detail("lines of the prompt begin with names of speakers; it is read as one turn")
        rules.append((pl.lit(speakers), "speakers_in_prompt", text))
    empty = pl.any_horizontal(pl.col(SILENT + c).list.any() for c in conversations)
    return [*rules, (empty, "empty_turn", detail("a turn has no text"))]


def _role_repeats(messages: pl.Series) -> pl.Series:
    """Whether two messages of a conversation in a row are of one role; null is false."""
    sizes = messages.list.len().fill_null(0).to_numpy().astype(np.int64)
    found = np.zeros(sizes.size, dtype=bool)
    if sizes.max(initial=0) > 1:
        roles = _flat(messages).struct.field("role")
        again = (roles == roles.shift(1)).fill_null(value=False)
        row = np.repeat(np.arange(sizes.size), sizes)
        at = again.arg_true().to_numpy()
        found[row[at[row[at] == row[at - 1]]]] = True
    return pl.Series(found)


_SPEAKERS = (
    "Assistant", "AI", "Bot", "Tutor", "Teacher", "Agent", "Doctor", "Therapist", "Model", "GPT",
    "Human", "User", "Student", "Learner", "Customer", "Patient", "Client", "Q", "A",
)  # fmt: skip
_LINE_STARTS = [f"\n{name}:" for name in _SPEAKERS]
_SPOKEN = rf"(?m)^(?:{'|'.join(_SPEAKERS)}):"


def _speakers(prompts: pl.Series) -> pl.Series | None:
    """Which prompts are one text in which two or more speakers are named; None if none is."""
    one = prompts.to_frame("p").select(
        pl.when(pl.col("p").list.len() == 1)
        .then(pl.col("p").list.first().struct.field("content"))
        .alias("t")
    )["t"]
    some = one.str.contains_any(_LINE_STARTS).fill_null(value=False)
    if not some.any():
        return None
    names = (
        one.to_frame("t")
        .with_columns(some=some)
        .select(pl.when("some").then(pl.col("t").str.extract_all(_SPOKEN).list.n_unique() > 1))
    )
    return names.to_series().fill_null(value=False)


def _notes(kept: pl.DataFrame, rules: tuple[Rule, ...]) -> pl.DataFrame:
    """Every note that applies, in reading order; the reason of a repair is the repair itself."""
    at = pl.int_range(pl.len()).alias("_at")
    fired = kept.select(
        at, *(fires.fill_null(value=False).alias(str(i)) for i, (fires, _, _) in enumerate(rules))
    )
    parts = [
        kept.with_columns(at)
        .filter(fired[str(i)])
        .select(
            "_at",
            pl.col(ROW).alias("row_id"),
            (pl.lit(reason) if reason else pl.col(REPAIR)).cast(pl.String).alias("reason"),
            text.cast(pl.String).alias("detail"),
        )
        for i, (_, reason, text) in enumerate(rules)
        if fired[str(i)].any()
    ]
    if not parts:
        return pl.DataFrame(schema=LEDGER)
    return pl.concat(parts).sort("_at", maintain_order=True).drop("_at")
