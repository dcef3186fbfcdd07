"""A system message put before a prompt: which prompts can take one, and what rows come of it."""

from __future__ import annotations

from typing import Literal

import polars as pl

from prefactory.errors import DataError
from prefactory.step import Generated, verdict
from prefactory.tables import MESSAGES, Shape, canonical_order, is_messages, text_of, with_prompt_id

Existing = Literal["drop", "replace"]
"""What happens to a prompt that has a system message: it leaves, or gets the new one instead."""

SYSTEM_SOURCES = ("domain", "default", "persona", "value")

ADDS: dict[str, pl.DataType] = {
    "source_prompt_id": pl.String(),
    "system_source": pl.String(),
    "value_system": pl.String(),
    "value_ids": pl.List(pl.String()),
}
"""Columns of every prompt with a made system message.

- `source_prompt_id`: the prompt without it; rows of one source prompt differ in their message only.
- `system_source`: `domain`, `default`, `persona` or `value`.
- `value_system`, `value_ids`: what the message asks for, `system:node` each; null if nothing.
"""

ROLE_TEXT = (
    r"(?i)^\W{0,3}(?:"
    r"(?:from now on,? |in this \w+,? |please )?you(?:'re| are| will be| act) (?:now )?"
    r"(?:an? |the |my |going to (?:be|act) )"
    r"|(?:please |i want you to |can you |could you )*"
    r"(?:act|pretend|role-?play|behave) (?:as|to be|like|you are)\b"
    r"|imagine (?:that )?you(?:'re| are)\b"
    r"|assume the role of|take (?:on )?the role of|your role is )"
)
"""How a first user message begins that gives the assistant a role of its own (our choice)."""


def judged(table: pl.DataFrame, existing: Existing, roles: bool) -> pl.DataFrame:
    """Tell which prompts can't take a system message.

    Args:
        table: PROMPTS.
        existing: see `Existing`.
        roles: also refuse prompts whose first user message gives the assistant a role.

    Returns:
        `reason` (`has_system`, `has_role`, `no_user_message`) and `detail`, same height and order;
        null reason where it can.
    """
    role = pl.element().struct.field("role")
    users = pl.col("prompt").list.eval(
        pl.element().filter(role == "user").struct.field("content").fill_null("")
    )
    facts = table.select(
        system=pl.col("prompt").list.eval(role == "system").list.any(),
        first=users.list.first(),
    )
    opening = pl.col("first").str.slice(0, 200)
    given = opening.str.extract(f"({ROLE_TEXT})", 1)
    return verdict(
        facts,
        (pl.col("first").is_null(), "no_user_message", pl.lit("nobody asks anything")),
        (pl.col("system") & (existing == "drop"), "has_system", pl.lit("it has a system message")),
        (given.is_not_null() & roles, "has_role", pl.format("it begins: {}", given)),
    )


def placed(rows: pl.DataFrame, dropped: pl.DataFrame) -> Generated:
    """Make prompts of rows and their messages.

    Args:
        rows: PROMPTS with `system` (String) and `ADDS` but for `source_prompt_id`; a prompt may be
            there several times.
        dropped: `row_id`, `reason`, `detail` of the prompts that are not.

    Returns:
        PROMPTS in canonical order, the message first, older system messages gone. Two rows that
        are the same prompt then (the same message twice) are one.
    """
    role = pl.element().struct.field("role")
    message = pl.struct(role=pl.lit("system"), content=pl.col("system"))
    rest = pl.col("prompt").list.eval(pl.element().filter(role != "system"))
    rows = rows.with_columns(
        source_prompt_id=pl.col("prompt_id"),
        prompt=pl.concat_list(pl.concat_list(message).cast(MESSAGES), rest),
    ).drop("system")
    rows = with_prompt_id(rows).unique("prompt_id", keep="first", maintain_order=True)
    own = [c for c in rows.columns if c not in ADDS]
    return Generated(canonical_order(rows.select(*own, *ADDS), Shape.PROMPTS), dropped)


# -- answers that a message gives away -----


def answer_text(table: pl.DataFrame, columns: tuple[str, ...]) -> pl.Series:
    """The answers of a table, those columns that are there joined: String[n], null without any.

    Raises:
        DataError: a column holds neither text, numbers, a list of texts, nor messages.
    """
    there = [c for c in columns if c in table.columns]
    parts = []
    for name in there:
        dtype = table.schema[name]
        if is_messages(dtype):
            parts.append(text_of(pl.col(name)))
        elif dtype == pl.List(pl.String):
            parts.append(pl.col(name).list.join("\n", ignore_nulls=True))
        elif dtype == pl.String or dtype.is_numeric() or dtype == pl.Boolean:
            parts.append(pl.col(name).cast(pl.String))
        else:
            raise DataError(
                f"column {name!r} is {dtype}; an answer is text, a number, a list of texts, or "
                "messages: name other columns in `answers`"
            )
    if not parts:
        return pl.Series("answer", [None] * table.height, dtype=pl.String)
    both = pl.concat_str(parts, separator="\n", ignore_nulls=True)
    known = pl.any_horizontal(pl.col(c).is_not_null() for c in there)
    return table.select(answer=pl.when(known).then(both)).to_series()


def leaked(messages: pl.Series, answers: pl.Series, prompts: pl.Series, words: int) -> pl.Series:
    """Find what a system message gives away of the answer.

    It does if it shares a run of `words` words with the answer which is not in the prompt. A
    shorter answer counts as a whole, unless it is one word of fewer than four letters without a
    digit ("yes"), which a message may hold by chance.

    Args:
        messages: String[n].
        answers: String[n], null where none is known.
        prompts: String[n], what the user wrote.
        words: length of the run, at least 2.

    Returns:
        String[n]: the first run that is given away, null where none is.
    """
    names = ("message", "answer", "prompt")
    frame = pl.DataFrame(
        [s.alias(n) for s, n in zip((messages, answers, prompts), names, strict=True)]
    )
    at = frame["answer"].is_not_null().arg_true()
    out = pl.Series("leak", [None] * frame.height, dtype=pl.String)
    if at.len() == 0:
        return out
    known = frame[at].select(pl.all().str.to_lowercase().str.extract_all(r"[\w']+"))
    runs = known.select(
        (pl.col(n).list.eval(_runs(words)).list.drop_nulls()).alias(n) for n in names
    )
    shared = pl.col("answer").list.set_intersection("message").list.set_difference("prompt")
    whole = known.select(pl.all().list.join(" "), length=pl.col("answer").list.len())
    short = (pl.col("length") < words) & (pl.col("length") > 0)
    trivial = (pl.col("length") == 1) & ~pl.col("answer").str.contains(r"\d|\w{4}")
    padded = pl.format(" {} ", "answer")
    inside = [
        pl.format(" {} ", name).str.contains(padded, literal=True) for name in ("message", "prompt")
    ]
    given = pl.when(short & ~trivial & inside[0] & ~inside[1]).then("answer")
    runs = runs.select(first=shared.list.sort().list.first())
    leaks = whole.hstack(runs).select(pl.coalesce(given, "first")).to_series()
    return out.scatter(at, leaks)


def _runs(words: int) -> pl.Expr:
    """Runs of words of a list, null at its end."""
    return pl.concat_str([pl.element().shift(-i) for i in range(words)], separator=" ")
