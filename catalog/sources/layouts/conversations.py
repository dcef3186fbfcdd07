"""Two full conversations to a common prompt and two endings, and texts to messages."""

from __future__ import annotations

import polars as pl

from catalog.sources.layouts.base import Rule, detail
from prefactory.tables import MESSAGES, message_keys

_SIDES = ("chosen", "rejected")
TAG = "<extra_id_1>"
"""What stands before each turn but the first in the flattened prompts of HelpSteer2."""


def split_common(frame: pl.DataFrame) -> pl.DataFrame:
    """Cut two full conversations into the prompt they share and the messages that remain.

    The prompt is the common turns, cut back so that it ends with a user turn and leaves both sides
    a message.

    Args:
        frame: `chosen` and `rejected` hold full conversations.

    Returns:
        The frame with `prompt` (null where no user turn is shared) and both sides replaced, and
        `_differ`: whether more than the last turn of each side differs.
    """
    lengths = [pl.col(s).list.len().fill_null(0).cast(pl.Int64) for s in _SIDES]
    frame = frame.with_columns(_n=pl.min_horizontal(lengths), _i=pl.int_range(pl.len()))
    turns = frame.filter(pl.col("_n") > 0).select(
        "_i",
        pl.int_ranges(0, "_n").alias("k"),
        *[compared(pl.col(s), frame.schema[s]).list.head(pl.col("_n")).alias(s) for s in _SIDES],
        n="_n",
    )
    turns = turns.explode("k", *_SIDES).select(
        "_i",
        "k",
        "n",
        same=pl.col("chosen") == pl.col("rejected"),
        user=pl.col("chosen").struct.field("role") == "user",
    )
    first = turns.filter(~pl.col("same")).group_by("_i").agg(first=pl.col("k").min())
    turns = turns.join(first, on="_i", how="left", maintain_order="left")
    turns = turns.with_columns(pl.col("first").fill_null(pl.col("n")))
    common = pl.col("user") & (pl.col("k") < pl.col("first")) & (pl.col("k") < pl.col("n") - 1)
    cuts = turns.group_by("_i").agg(
        _shared=pl.col("first").first(), _cut=(pl.col("k").filter(common).max() + 1)
    )
    frame = frame.join(cuts, on="_i", how="left", maintain_order="left")
    last_only = (pl.col("chosen").list.len() == pl.col("rejected").list.len()) & (
        pl.col("_shared") >= pl.col("_n") - 1
    )
    return frame.with_columns(
        pl.when(pl.col("_cut").is_not_null())
        .then(pl.col("chosen").list.head(pl.col("_cut")))
        .alias("prompt"),
        *[pl.col(s).list.slice(pl.col("_cut").fill_null(0)).alias(s) for s in _SIDES],
        _differ=~last_only.fill_null(value=True),
    ).drop("_n", "_i", "_shared", "_cut")


def compared(messages: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Conversations without the ids of calls: two that differ in these only are the same."""
    keys = message_keys(dtype)
    if "tool_calls" not in keys and "tool_call_id" not in keys:
        return messages
    field = pl.element().struct.field
    changed: dict[str, pl.Expr] = {}
    if "tool_calls" in keys:
        without = pl.element().struct.with_fields(id=pl.lit(None, dtype=pl.String))
        changed["tool_calls"] = field("tool_calls").list.eval(without)
    if "tool_call_id" in keys:
        changed["tool_call_id"] = pl.lit(None, dtype=pl.String)
    return messages.list.eval(pl.element().struct.with_fields(**changed))


NO_COMMON_PROMPT: Rule = (
    pl.col("prompt").is_null(),
    "no_common_prompt",
    detail("chosen and rejected share no user turn before their answers"),
)
PREFIXES_DIFFER: Rule = (
    pl.col("_differ"),
    "prefixes_differ",
    detail("chosen and rejected differ before the last turn; the prompt is what they share"),
)


def transcripts(texts: pl.Series) -> pl.DataFrame:
    """Parse transcripts ("Human: ... Assistant: ...", a blank line before each turn).

    Contents are stripped. "## Human:" and the line ends of Windows are read, too.

    Args:
        texts: String, one transcript a row.

    Returns:
        `messages` (null where no turn is marked) and `preamble` (text before the first turn).
    """
    text = pl.lit("\n\n") + pl.col("t")
    table = texts.alias("t").to_frame().with_columns(i=pl.int_range(pl.len()))
    if texts.str.contains("## Human:", literal=True).any():
        text = text.str.replace_all(r"\n\s*\n## (Human|Assistant):", "\n\n$1:")
    if texts.str.contains("\r\n", literal=True).any():
        text = text.str.replace_all(r"(?:\r?\n){2}(Human|Assistant):", "\n\n$1:")
    parts = _split(table.with_columns(text.alias("t")), "\n\nHuman:", "h")
    parts = _split(parts, "\n\nAssistant:", "a").with_columns(pl.col("t").str.strip_chars())
    turns = parts.filter((pl.col("h") > 0) | (pl.col("a") > 0)).select(
        "i",
        m=pl.struct(
            role=pl.when(pl.col("a") > 0).then(pl.lit("assistant")).otherwise(pl.lit("user")),
            content="t",
        ),
    )
    messages = turns.group_by("i", maintain_order=True).agg(messages=pl.col("m"))
    before = parts.filter((pl.col("h") == 0) & (pl.col("a") == 0)).select("i", preamble="t")
    out = table.select("i").join(messages, on="i", how="left", maintain_order="left")
    out = out.join(before, on="i", how="left", maintain_order="left")
    return out.select(pl.col("messages").cast(MESSAGES), "preamble")


def _split(table: pl.DataFrame, marker: str, rank: str) -> pl.DataFrame:
    """One row per part between markers, `rank` telling the part's place (0 = before the first)."""
    table = table.filter(pl.col("t").is_not_null()).with_columns(pl.col("t").str.split(marker))
    return table.with_columns(pl.int_ranges(0, pl.col("t").list.len()).alias(rank)).explode(
        "t", rank
    )


def _single_texts(prompt: pl.Series) -> pl.DataFrame:
    """The prompts as `p`, and as `t` the text of those that are one user message."""
    only = pl.col("p").list.first().struct
    single = (pl.col("p").list.len() == 1) & (only.field("role") == "user")
    return prompt.alias("p").to_frame().with_columns(t=pl.when(single).then(only.field("content")))


def transcript_prompts(prompt: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Turn prompts that are one text in transcript form into the conversation that they are.

    Only a prompt of one user message that starts with "Human:" and ends with a user turn (or an
    empty assistant turn, the cue to answer) changes.

    Args:
        prompt: `MESSAGES`.

    Returns:
        The prompts, and a boolean series of which changed.
    """
    table = _single_texts(prompt)
    table = table.with_columns(
        hit=pl.col("t").str.contains(r"^\s*(?:## )?Human:").fill_null(value=False)
    )
    if not table["hit"].any():
        return prompt, table["hit"]
    parsed = transcripts(table.select(pl.when("hit").then("t")).to_series())["messages"]
    last = pl.col("m").list.last().struct
    cue = (last.field("role") == "assistant") & (last.field("content") == "")
    table = table.with_columns(m=parsed).with_columns(
        m=pl.when(cue).then(pl.col("m").list.head(pl.col("m").list.len() - 1)).otherwise("m")
    )
    fits = pl.col("hit") & (pl.col("m").list.last().struct.field("role") == "user")
    table = table.with_columns(hit=fits.fill_null(value=False))
    return table.select(pl.when("hit").then("m").otherwise("p")).to_series(), table["hit"]


def tagged_prompts(prompt: pl.Series) -> pl.Series:
    """Split prompts flattened with `<extra_id_1>User` / `<extra_id_1>Assistant` into messages.

    Args:
        prompt: `MESSAGES`; a prompt of one message with such tags is split, others stay.
    """
    table = _single_texts(prompt)
    hit = pl.col("t").str.contains(TAG, literal=True).fill_null(value=False)
    if not table.select(hit.any()).item():
        return prompt
    part = pl.element()
    said_by = pl.when(part.str.starts_with("Assistant\n")).then(pl.lit("assistant"))
    content = part.str.strip_prefix("Assistant\n").str.strip_prefix("User\n").str.strip_suffix("\n")
    split = (pl.lit("User\n") + pl.col("t")).str.split(TAG)
    messages = split.list.eval(pl.struct(role=said_by.otherwise(pl.lit("user")), content=content))
    return table.select(pl.when(hit).then(messages.cast(MESSAGES)).otherwise("p")).to_series()
