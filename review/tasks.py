"""Rows as questions: what the page may show before the vote, and apart from it what it may not."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
import polars as pl

from labelers.annotators.answers import split
from prefactory.errors import DataError
from prefactory.tables import ROW_ID, SCORE, SIDES, shape_of
from review.queues import shape_for
from review.settings import Settings

MOST_ANSWERS = 9
"""Answers that one person ranks."""
MOST_FACTS = 40
_SHOWN = ("prompt_id", "chosen_id", "rejected_id", "response_id", "pair_id", "row_id", "tools")


def questions(table: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    """One row for each question that a task can ask, with `row_id` and all columns.

    Raises:
        DataError: the table is of another shape, or holds nothing of the kind.
    """
    shape = shape_of(table)
    allowed = shape_for(settings.task)
    if shape not in allowed:
        raise DataError(
            f"task {settings.task!r} is about {' or '.join(allowed)}, and these rows are {shape}"
            + ("; review another table of the version by --table" if shape else "")
        )
    if settings.task == "rank":
        rows = _ranked(table)
    elif settings.task == "tags":
        rows = table.unique("prompt_id", keep="first", maintain_order=True)
        rows = rows.with_columns(row_id="prompt_id")
    elif settings.task == "rationale":
        rows = _reasoned(table, settings.judge)
    else:
        rows = table.with_columns(row_id=pl.col(ROW_ID[shape]))
    if not rows.height:
        raise DataError(f"these rows hold nothing for the task {settings.task!r}")
    return rows


def _ranked(table: pl.DataFrame) -> pl.DataFrame:
    """Prompts with 2 to `MOST_ANSWERS` distinct answers."""
    whole = table.sort("prompt_id", "response_id")
    answers = pl.struct(id="response_id", messages="response").alias("answers")
    first = [c for c in ("prompt", "tools", "source", "split") if c in table.columns]
    grouped = whole.group_by("prompt_id", maintain_order=True).agg(
        *[pl.col(c).first() for c in first], answers
    )
    size = pl.col("answers").list.len()
    return grouped.filter(size.is_between(2, MOST_ANSWERS)).with_columns(row_id="prompt_id")


def _reasoned(table: pl.DataFrame, judge: str) -> pl.DataFrame:
    """Pairs with the first reason that a judge gave for preferring one of the two."""
    votes, answers = f"{judge}_votes", f"{judge}_answers"
    dtype = table.schema.get(votes)
    fields = [f.name for f in dtype.inner.fields] if _is_votes(dtype) else []  # type: ignore[union-attr]
    if "rationale" not in fields:
        raise DataError(
            f"no column {votes!r} with reasons: let the judge give them "
            f"(`labelers.JudgePairs: {{judge: ..., rationale: true}}`), or name it by judge="
        )
    field = pl.element().struct.field
    said = field("rationale").is_not_null() & field("place").is_not_null() & (field("answer") >= 0)
    kept = table.with_columns(_said=pl.col(votes).list.eval(pl.element().filter(said)).list.first())
    kept = kept.filter(pl.col("_said").is_not_null())
    if answers in kept.columns:
        kept = kept.filter(pl.col(answers) == 2)
    vote = pl.col("_said").struct.field
    chosen_low = pl.col("chosen_id") <= pl.col("rejected_id")
    # the preferred answer is number `answer` by id, and was shown at `place`
    prefers_chosen = (vote("answer") == 0) == chosen_low
    return kept.with_columns(
        row_id="pair_id",
        _reason=vote("rationale"),
        _a_is_chosen=prefers_chosen == (vote("place") == 0),
        _says=pl.when(vote("place") == 0).then(pl.lit("A")).otherwise(pl.lit("B")),
    ).drop("_said")


def _is_votes(dtype: pl.DataType | None) -> bool:
    return isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.Struct)


def packed(value: object) -> bytes:
    """A value as compressed JSON."""
    return zlib.compress(orjson.dumps(value, default=str), 1)


def unpacked(data: bytes) -> Any:  # noqa: ANN401 - any JSON
    """The value of `packed`.

    Raises:
        DataError: it is damaged.
    """
    try:
        return orjson.loads(zlib.decompress(data))
    except (zlib.error, ValueError) as error:
        raise DataError(
            f"a question of the review is damaged ({error}): put a copy of its database in its "
            "place"
        ) from error


def payloads(rows: pl.DataFrame, settings: Settings) -> Iterator[tuple[str, bytes, bytes]]:
    """Of each question: row id; what is shown before the vote; what only after it.

    The first holds no column of the data but texts, tools and marks of pictures. Of a pair, `first`
    is the chosen side as stored; which side is shown first is decided for each person.
    """
    facts = [c for c in rows.columns if _is_fact(c, rows.schema[c])][:MOST_FACTS]
    for part in rows.iter_slices(2000):
        told = part.select(facts).to_dicts()
        shown = part.select(pl.exclude([c for c in facts if c not in _SHOWN])).to_dicts()
        for row, fact in zip(shown, told, strict=True):
            yield row["row_id"], packed(_payload(row, settings)), packed(fact)


def _is_fact(column: str, dtype: pl.DataType) -> bool:
    plain = dtype.is_numeric() or dtype in (pl.String, pl.Boolean)
    return plain and not column.startswith("_") and column not in _SHOWN


def _payload(row: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    payload: dict[str, Any] = {"prompt": row["prompt"], "tools": row.get("tools")}
    if settings.task == "pair":
        payload |= {"first": row["chosen"], "second": row["rejected"]}
    elif settings.task == "rate":
        payload |= {"answer": row["response"]}
    elif settings.task == "rank":
        payload |= {"answers": row["answers"]}
    elif settings.task == "rationale":
        a, b = SIDES if row["_a_is_chosen"] else SIDES[::-1]
        payload |= {"a": row[a], "b": row[b], "reason": row["_reason"], "says": row["_says"]}
    elif settings.task == "steps":
        payload |= {"steps": steps_of(row["response"], settings.splitter)}
    return payload


def steps_of(answer: list[dict[str, Any]], splitter: str) -> list[str]:
    """The steps of an answer's text, none of them empty."""
    return split("\n\n".join(m["content"] or "" for m in answer), splitter)


def score_columns(facts: Mapping[str, Any]) -> list[str]:
    """Names of the facts that are scores, for the page after the vote."""
    return [name for name in facts if SCORE in name]
