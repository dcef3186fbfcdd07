"""The votes of a review as the table `annotations`: every revision, decisions beside them."""

from __future__ import annotations

import orjson
import polars as pl

from prefactory.tables import COLUMNS, Shape
from review.store import Review
from review.votes import DECIDED, VOTED, WITHDRAWN, body_of

SCHEMA = COLUMNS[Shape.ANNOTATIONS]
_VOTES = (
    "select v.*, t.row_id, p.name, p.pseudonym, p.role, t.purpose, t.queue, t.stratum, "
    "t.inclusion from vote v join task t on t.id = v.task join person p on p.id = v.person "
    "order by v.at, v.id"
)
_DECISIONS = (
    "select d.*, d.nonce as id, t.row_id, p.name, p.pseudonym, 'decision' as role, 0 as ms, "
    "1 as informed, t.purpose, t.queue, t.stratum, t.inclusion from decision d join task t on "
    "t.id = d.task join person p on p.id = d.person order by d.at, d.nonce"
)
_TEXT = {"comment": "", "flag": ""}


def annotations_of(review: Review, *, pseudonyms: bool = True) -> pl.DataFrame:
    """Every vote and decision of a review.

    Args:
        review: which.
        pseudonyms: name people by their pseudonyms.

    Returns:
        Table of ANNOTATIONS (see `prefactory.tables`), in the order in which the votes came.

    Raises:
        DataError: the database is damaged.
    """
    review.db.check()
    settings = review.settings
    with review.db.read() as work:
        rows = work.all(_VOTES) + work.all(_DECISIONS)
    columns: dict[str, list[object]] = {name: [] for name in SCHEMA}
    for row in rows:
        body = body_of(row, DECIDED if row["role"] == "decision" else VOTED)
        told = {
            "vote_id": row["id"],
            "review": review.name,
            "task": settings.task,
            "person": row["pseudonym"] if pseudonyms else row["name"],
            "vote": row["choice"],
            "first_shown": bool(row["first_shown"]),
            "informed": bool(row["informed"]),
            "at": round(1000 * row["at"]),
            "counts": False,
            "reasons": body.pop("reasons", []),
            **{name: body.pop(name, None) or None for name in _TEXT},
            "answer": orjson.dumps(body, option=orjson.OPT_SORT_KEYS).decode() if body else None,
        }
        for name, values in columns.items():
            values.append(told[name] if name in told else row[name])
    types = SCHEMA | {"at": pl.Int64()}
    table = pl.DataFrame(columns, schema=types).with_columns(
        pl.from_epoch("at", "ms").dt.cast_time_unit("ms").dt.replace_time_zone("UTC")
    )
    whose = pl.when(pl.col("role") != "decision").then("person")  # a row has one decision
    last = pl.col("revision") == pl.col("revision").max().over("row_id", "role", whose)
    return table.with_columns(counts=last & (pl.col("vote") != WITHDRAWN)).select(list(SCHEMA))
