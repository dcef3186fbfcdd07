"""Parts of a prompt that lie in columns of their own: system message, history, input, documents.

Any layout may have them. The system message goes in front; the history (earlier turns) comes before
the last user message; `input`, `context` and `documents` are put behind the text of that message,
each after a blank line, as Alpaca puts an instruction before its input. Several documents are
numbered: `[1] ...`. Tools stay in a column beside the prompt.
"""

from __future__ import annotations

from collections.abc import Collection

import polars as pl

from catalog.sources.fields import Field, Kind
from catalog.sources.layouts.base import Draft, Rule, detail, message

PARTS = (
    Field(
        "system",
        names=(
            "system", "system_prompt", "system_message", "system_instruction", "system_msg",
            "sys_prompt", "systemprompt",
        ),
        required=False,
    ),
    Field(
        "history",
        Kind.HISTORY,
        ("history", "chat_history", "conversation_history", "dialogue_history", "previous_turns"),
        required=False,
    ),
    Field("input", names=("input",), required=False),
    Field("context", Kind.MATERIAL, ("context", "contexts"), required=False),
    Field(
        "documents",
        Kind.MATERIAL,
        ("documents", "document", "passages", "passage", "docs", "retrieved_documents"),
        required=False,
    ),
    Field("tools", Kind.TOOLS, ("tools", "functions"), required=False),
)  # fmt: skip
"""What they are called; each is also a key of `mapping`."""
NAMES = tuple(part.name for part in PARTS)
MATERIAL = ("input", "context", "documents")


def with_parts(draft: Draft, bound: Collection[str]) -> Draft:
    """Put the parts that a source has into the prompts.

    Args:
        draft: its `frame` has `prompt` and a column for each bound part.
        bound: names of the parts that the source has, of `NAMES`.

    Returns:
        The draft with whole prompts; a row whose own system message contradicts the column is
        rejected (`system_differs`), and so is material that has no user message to join.
    """
    if not bound:
        return draft
    frame, rejects = draft.frame, draft.rejects
    material = [name for name in MATERIAL if name in bound]
    if material:
        frame, rule = _with_material(frame, material)
        rejects = (*rejects, rule)
    if "history" in bound:
        frame = frame.with_columns(prompt=_with_history())
    if "system" in bound:
        frame, rule = _with_system(frame)
        rejects = (*rejects, rule)
    return Draft(frame, rejects, draft.notes)


def _filled(column: str) -> pl.Expr:
    return (pl.col(column).str.strip_chars() != "").fill_null(value=False)


def _with_material(frame: pl.DataFrame, names: list[str]) -> tuple[pl.DataFrame, Rule]:
    given = [pl.when(_filled(name)).then(pl.col(name)) for name in names]
    frame = frame.with_columns(_material=pl.concat_str(given, separator="\n\n", ignore_nulls=True))
    some, prompt = pl.col("_material") != "", pl.col("prompt")
    last = prompt.list.last().struct
    asked = last.field("role") == "user"
    text = pl.concat_str(last.field("content"), pl.col("_material"), separator="\n\n")
    behind = prompt.list.last().struct.with_fields(content=text)
    whole = pl.concat_list(prompt.list.head(prompt.list.len() - 1), behind)
    alone: Rule = (
        some & ~asked,
        "wrong_type",
        detail(f"the prompt does not end with the user, whom {', '.join(names)} would go to"),
    )
    return frame.with_columns(prompt=pl.when(some & asked).then(whole).otherwise(prompt)), alone


def _with_history() -> pl.Expr:
    prompt, history = pl.col("prompt"), pl.col("history")
    leads = (prompt.list.first().struct.field("role") == "system").fill_null(value=False)
    head = prompt.list.head(leads.cast(pl.UInt32))
    rest = prompt.list.slice(leads.cast(pl.Int64))
    some = (history.list.len() > 0).fill_null(value=False)
    return (
        pl.when(some & prompt.is_not_null())
        .then(pl.concat_list(head, history, rest))
        .otherwise(prompt)
    )


def _with_system(frame: pl.DataFrame) -> tuple[pl.DataFrame, Rule]:
    prompt, system = pl.col("prompt"), pl.col("system")
    first = prompt.list.first().struct
    has = (first.field("role") == "system").fill_null(value=False)
    same = first.field("content").str.strip_chars() == system.str.strip_chars()
    front = pl.concat_list(message("system", system), prompt)
    wanted = _filled("system") & ~has & prompt.is_not_null()
    differs: Rule = (
        _filled("system") & has & ~same.fill_null(value=False),
        "system_differs",
        detail("the conversation has another system message than the column; ignore one of them"),
    )
    frame = frame.with_columns(prompt=pl.when(wanted).then(front).otherwise(prompt))
    return frame, differs
