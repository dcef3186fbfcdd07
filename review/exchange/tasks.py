"""Pairs as blind tasks: a left and a right answer, and the way back to sides as stored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import polars as pl

from prefactory.errors import DataError
from prefactory.tables import COLUMNS, Shape, text_of
from prefactory.votes.ballots import BAD, SKIP, TIE

LEFT, RIGHT = "left", "right"
OTHERS = (TIE, BAD, SKIP)
CHOICES = (LEFT, RIGHT, *OTHERS)
SAID = {
    LEFT: "The left answer is better", RIGHT: "The right answer is better", TIE: "Equally good",
    BAD: "Both are bad", SKIP: "I can't judge",
}  # fmt: skip
"""What people read; results may hold either."""
_BACK = {said.casefold(): choice for choice, said in SAID.items()} | {c: c for c in CHOICES}
FIELDS = ("pair_id", "prompt", LEFT, RIGHT)


def first_left(row_id: str, seed: int) -> bool:
    """Whether the chosen side of a pair stands on the left: a fair coin of seed and id."""
    text = f"exchange|{seed}|{row_id}".encode()
    return bool(hashlib.blake2b(text, digest_size=8).digest()[0] & 1)


def tasks(pairs: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """Blind tasks of pairs, in random order: the columns `FIELDS`, all text.

    Nothing tells label, model or score, in values or in order. The same seed brings results back.

    Args:
        pairs: PAIRS.
        seed: of sides and order.
    """
    left = pl.Series([first_left(row, seed) for row in pairs["pair_id"]], dtype=pl.Boolean)
    text = {c: text_of(pl.col(c)).fill_null("") for c in ("prompt", "chosen", "rejected")}
    keys = [
        hashlib.blake2b(f"order|{seed}|{row}".encode(), digest_size=8).hexdigest()
        for row in pairs["pair_id"]
    ]
    made = pairs.with_columns(left.alias("_left"), pl.Series("_key", keys, dtype=pl.String))
    return made.sort("_key").select(
        "pair_id",
        prompt=text["prompt"],
        left=pl.when("_left").then(text["chosen"]).otherwise(text["rejected"]),
        right=pl.when("_left").then(text["rejected"]).otherwise(text["chosen"]),
    )


def choice_of(said: object) -> str:
    """One of `CHOICES`, from a word or what people read.

    Raises:
        DataError: it is none of them.
    """
    word = _BACK.get(str(said).strip().casefold())
    if word is None:
        raise DataError(f"{said!r} is no choice; it is one of {', '.join(CHOICES)}")
    return word


def as_annotations(
    results: Iterable[Mapping[str, Any]], seed: int, tool: str, names: bool = False
) -> pl.DataFrame:
    """Results as a table of ANNOTATIONS, sorted by time.

    Of several results of a person on a pair the last one counts.

    Args:
        results: `row_id`, `person`, `choice` (of `CHOICES`); where known `at` (datetime), `ms`,
            `comment`.
        seed: of the tasks that were exported.
        tool: where they come from; becomes `review`.
        names: keep people's names; else a pseudonym stands for each.
    """
    rows: list[dict[str, Any]] = []
    for i, result in enumerate(results):
        row, person = str(result["row_id"]), str(result["person"])
        left = first_left(row, seed)
        choice = choice_of(result["choice"])
        vote = choice if choice in OTHERS else _side(choice == LEFT, left)
        at = result.get("at") or datetime(1970, 1, 1, tzinfo=UTC)
        rows.append(
            {
                "vote_id": f"{tool}-{_short(f'{row}|{person}|{i}')}", "review": tool,
                "task": "pair", "row_id": row,
                "person": person if names else f"person-{_short(person)}",
                "role": "annotator", "vote": vote, "strength": int(choice in (LEFT, RIGHT)) * 2,
                "first_shown": left, "at": at, "ms": result.get("ms"), "guideline": 0,
                "counts": True, "informed": False, "purpose": "work", "queue": "all",
                "reasons": [], "comment": result.get("comment") or None,
            }
        )  # fmt: skip
    schema = COLUMNS[Shape.ANNOTATIONS]
    table = pl.DataFrame(rows, schema=schema) if rows else pl.DataFrame(schema=schema)
    table = table.with_row_index("_n").sort("at", "_n")
    whose = ["row_id", "person"]
    return table.with_columns(
        revision=pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over(whose),
        counts=pl.int_range(pl.len()).over(whose) == pl.len().over(whose) - 1,
    ).select(list(schema))


def _side(left_better: bool, first_left: bool) -> str:
    return "first" if left_better == first_left else "second"


def _short(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=5).hexdigest()


def time_of(text: object) -> datetime | None:
    """A time as other tools write it; None for what is none."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def unknown(table: pl.DataFrame, pairs: pl.DataFrame) -> int:
    """Results on rows that are not among some pairs."""
    return table.filter(~pl.col("row_id").is_in(pairs["pair_id"].implode())).height
