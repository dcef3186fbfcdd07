"""How the rows of a version differ in distribution from those of the version before it.

Numbers (scores, margins, trust, agreement of judges, lengths) are compared by the distance of
Kolmogorov and Smirnov, words (tags, sources, models, label sources) by the total variation of their
shares. Both are between 0 (the same) and 1. A difference is called drift where it is both large
(`LARGE`) and more than chance would make (one in a thousand such columns without any).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from catalog.arrow_folder import Table
from catalog.versions import Catalog, Version, version_key
from prefactory.errors import CatalogError
from prefactory.tables import COLUMNS, TEXTS, text_of

LARGE = 0.1
"""Distance from which a difference is worth a look (our choice)."""
CHANCE = math.sqrt(-0.5 * math.log(0.001 / 2))
"""Of the distance of two samples: of n and m rows it exceeds this times sqrt((n + m) / (n m)) in
one of a thousand cases where both come from one distribution (Smirnov 1948)."""
MOST_WORDS = 100
"""Distinct values of a column of words; one with more is no tag."""
MAIN = ("pairs", "responses", "prompts")


@dataclass(frozen=True)
class Shift:
    """One column in both versions.

    Attributes:
        column: its name; `characters in X` for the length of a text.
        distance: 0 to 1.
        before, after: means of numbers; None of words.
        missing_before, missing_after: shares of rows without a value.
        drift: whether the difference is large and no chance.
        most: of words the one whose share changed most: (word, share before, share after).
    """

    column: str
    distance: float
    before: float | None
    after: float | None
    missing_before: float
    missing_after: float
    drift: bool
    most: tuple[str, float, float] | None = None


@dataclass(frozen=True)
class Drift:
    """A version beside its parent.

    Attributes:
        parent, child: refs.
        table: which is compared.
        rows: of the parent and of the child.
        shifts: of all columns that both have, the largest first.
    """

    parent: str
    child: str
    table: str
    rows: tuple[int, int]
    shifts: list[Shift]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON data."""
        return asdict(self)

    def lines(self) -> list[str]:
        """It in words: what drifted, or that nothing did."""
        head = (
            f"{self.child} beside {self.parent}: {self.table} {self.rows[0]:,} -> {self.rows[1]:,}"
        )
        moved = [s for s in self.shifts if s.drift]
        if not moved:
            return [f"{head}, no drift in {len(self.shifts)} columns"]
        return [head, *(f"  {_told(shift)}" for shift in moved)]


def _told(shift: Shift) -> str:
    if shift.most is not None:
        word, before, after = shift.most
        how = f"{word!r} {before:.0%} -> {after:.0%}"
    else:
        how = f"mean {_number(shift.before)} -> {_number(shift.after)}"
    return f"{shift.column}: {how} (distance {shift.distance:.2f})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def parent_of(version: Version, catalog: Catalog) -> Version:
    """The newest version of a dataset that is older than a version.

    Raises:
        CatalogError: there is none.
    """
    own = version_key(version.manifest.version)
    older = [
        v for v in catalog.versions(version.manifest.name) if version_key(v.manifest.version) < own
    ]
    if not older:
        raise CatalogError(f"{version.ref} has no version before it; name one to compare with")
    return older[-1]


def drift(parent: Version, child: Version) -> Drift | None:
    """Compare two versions; None if they have no table in common.

    Raises:
        CatalogError: a file of a version is damaged.
    """
    both = [n for n in MAIN if n in parent.manifest.tables and n in child.manifest.tables]
    if not both:
        return None
    before, after = parent.table(both[0]), child.table(both[0])
    shifts = sorted(_shifts(before, after), key=lambda s: (-s.distance, s.column))
    rows = [sum(v.manifest.tables[both[0]].splits.values()) for v in (parent, child)]
    return Drift(parent.ref, child.ref, both[0], (rows[0], rows[1]), shifts)


def _shifts(before: Table, after: Table) -> Iterator[Shift]:
    own = COLUMNS[after.shape]
    for name, dtype in after.schema.items():
        if before.schema.get(name) != dtype:
            continue
        if name in TEXTS[after.shape]:
            yield _numbers(f"characters in {name}", *(_length(t, name) for t in (before, after)))
        elif dtype.is_numeric() or dtype == pl.Boolean:
            yield _numbers(name, *(_column(t, name).cast(pl.Float64) for t in (before, after)))
        elif name.endswith("_id") or (name in own and name not in _TAGS):
            continue
        elif dtype in (pl.String, pl.List(pl.String)):
            shift = _words_shift(name, _column(before, name), _column(after, name))
            if shift is not None:
                yield shift


_TAGS = ("source", "label_source", "model", "origin", "chosen_model", "rejected_model")


def _column(table: Table, name: str) -> pl.Series:
    return table.frame().select(name).collect()[name]


def _length(table: Table, name: str) -> pl.Series:
    """Characters of each text; read batch by batch."""
    counts = [
        batch.select(text_of(pl.col(name)).str.len_chars().cast(pl.Float64)).to_series()
        for batch in table.batches([name])
    ]
    return pl.concat(counts) if counts else pl.Series([], dtype=pl.Float64)


def _numbers(name: str, before: pl.Series, after: pl.Series) -> Shift:
    missing = _missing(before), _missing(after)
    a, b = (np.sort(s.drop_nulls().drop_nans().to_numpy()) for s in (before, after))
    distance = 0.0
    if a.size and b.size:
        at = np.concatenate([a, b])
        below = [np.searchsorted(x, at, side="right") / x.size for x in (a, b)]
        distance = float(np.abs(below[0] - below[1]).max())
    means = [float(x.mean()) if x.size else None for x in (a, b)]
    found = _is_drift(distance, a.size, b.size) or abs(missing[0] - missing[1]) >= LARGE
    return Shift(name, round(distance, 6), means[0], means[1], *missing, drift=found)


def _words_shift(name: str, before: pl.Series, after: pl.Series) -> Shift | None:
    missing = _missing(before), _missing(after)
    shares = []
    for values in (before, after):
        flat = values.explode() if isinstance(values.dtype, pl.List) else values
        counts = flat.drop_nulls().value_counts()
        shares.append(dict(counts.select(pl.nth(0), pl.nth(1) / max(1, values.len())).rows()))
    words = sorted({*shares[0], *shares[1]})
    if not words or len(words) > MOST_WORDS:
        return None
    moved = {w: shares[1].get(w, 0.0) - shares[0].get(w, 0.0) for w in words}
    distance = min(1.0, sum(map(abs, moved.values())) / 2)
    most = max(words, key=lambda w: (abs(moved[w]), w))
    found = _is_drift(distance, before.len(), after.len())
    told = (most, shares[0].get(most, 0.0), shares[1].get(most, 0.0))
    return Shift(name, round(distance, 6), None, None, *missing, drift=found, most=told)


def _missing(values: pl.Series) -> float:
    return values.null_count() / max(1, values.len())


def _is_drift(distance: float, n: int, m: int) -> bool:
    chance = CHANCE * math.sqrt((n + m) / (n * m)) if n and m else math.inf
    return distance >= LARGE and distance > chance
