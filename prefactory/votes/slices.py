"""Declared slices of pairs: columns whose values a judge is measured by, and trusted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from prefactory.errors import ConfigError
from prefactory.measures.languages import languages
from prefactory.tables import last_user_text, text_of

LENGTHS = (400, 1600)
"""Characters of the longer answer up to which a pair is `short`, or `medium` (our choice)."""
DERIVED = ("length_bucket", "language")
"""Slices that are computed where a table has no column of the name."""
NONE = "(none)"

Rule = Mapping[str, Sequence[str]]
"""Column -> values on which a judge may label; every column must have one of its values."""


def slice_of(table: pl.DataFrame, name: str) -> pl.Series:
    """The slice that each row is in, String[n]; `NONE` where the column is null.

    Args:
        table: PAIRS or RESPONSES.
        name: a column, or one of `DERIVED`: `length_bucket` (`short`, `medium`, `long` by the
            longer answer), `language` (of the last user message).

    Raises:
        ConfigError: there is no such column.
    """
    if name in table.columns:
        dtype = table.schema[name]
        if dtype.is_nested():
            raise ConfigError(
                f"column {name!r} is {dtype}: rows can be sliced by plain values only"
            )
        return table[name].cast(pl.String).fill_null(NONE)
    if name == "length_bucket":
        sides = [c for c in ("chosen", "rejected", "response") if c in table.columns]
        size = pl.max_horizontal(text_of(pl.col(c)).str.len_chars().fill_null(0) for c in sides)
        short, medium = (size <= limit for limit in LENGTHS)
        bucket = pl.when(short).then(pl.lit("short")).when(medium).then(pl.lit("medium"))
        return table.select(bucket.otherwise(pl.lit("long")).alias(name)).to_series()
    if name == "language":
        return languages(table.select(last_user_text(pl.col("prompt"))).to_series()).fill_null(NONE)
    plain = [c for c, d in table.schema.items() if not d.is_nested()]
    raise ConfigError(
        f"no column {name!r} to slice by; there are {', '.join([*DERIVED, *plain][:30])}"
    )


def within(table: pl.DataFrame, rule: Rule) -> pl.Series:
    """Which rows a rule allows, Bool[n]; all without a rule.

    Raises:
        ConfigError: a column is not there.
    """
    allowed = pl.repeat(True, table.height, dtype=pl.Boolean, eager=True)
    for name, values in rule.items():
        allowed = allowed & slice_of(table, name).is_in(list(values))
    return allowed
