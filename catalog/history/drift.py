"""How the rows of a version differ in distribution from those of the version before it.

Numbers (scores, margins, trust, agreement of judges, lengths) are compared by the distance of
Kolmogorov and Smirnov, words (tags, sources, models, label sources) by the total variation of their
shares, and what the manifests say of judges by its difference. All are between 0 (the same) and 1.
A difference is called drift where it is both large (`LARGE`) and more than chance would make (one
in a thousand such columns without any).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from catalog.arrow_folder import Table
from catalog.manifest import Manifest
from catalog.versions import Catalog, Version, version_key
from prefactory.sharing.sealed import unseal
from prefactory.tables import COLUMNS, TEXTS, text_of

LARGE = 0.1
"""Distance from which a difference is worth a look (our choice)."""
CHANCE = math.sqrt(-0.5 * math.log(0.001 / 2))
"""Of the distance of two samples: of n and m rows it exceeds this times sqrt((n + m) / (n m)) in
one of a thousand cases where both come from one distribution (Smirnov 1948)."""
ERRORS = 3.29
"""Standard errors that a difference exceeds in one of a thousand cases by chance."""
MOST_WORDS = 100
"""Distinct values of a column of words; one with more, or with one for every second row, is no
tag."""
JUDGED = {
    "agreement between judges (alpha)": ("between_judges", "alpha"),
    "agreement with the label": ("label", "agreement"),
    "same vote in each order": ("self_consistency",),
    "votes for the first place": ("position", "first"),
}
"""Where a stage's `info` has what `prefactory.measures.judge_report` measured: value, se, n."""
MAIN = ("pairs", "responses", "prompts")


@dataclass(frozen=True)
class Shift:
    """One column in both versions.

    Attributes:
        column: its name; `characters in X` for the length of a text; `STEP: WHAT` of judges.
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
            return [f"{head}, no drift in {len(self.shifts)} comparisons"]
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


def read(folder: Path) -> Drift | None:
    """What was found when a version was published; None if nothing was, or it can't be read."""
    try:
        told = unseal((folder / "drift.json").read_bytes(), None)
        shifts = [Shift(**s | {"most": s["most"] and tuple(s["most"])}) for s in told["shifts"]]
        rows = (int(told["rows"][0]), int(told["rows"][1]))
        return Drift(told["parent"], told["child"], told["table"], rows, shifts)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def parent_of(manifest: Manifest, catalog: Catalog) -> Version | None:
    """The newest version of a dataset that is older than one, by its number; None: there is none.

    Args:
        manifest: of the version, which may not be in the catalog yet.
        catalog: where the others are.
    """
    own = version_key(manifest.version)
    versions = catalog.versions(manifest.name)
    older = [v for v in versions if version_key(v.manifest.version) < own]
    return older[-1] if older else None


def drift(parent: Version, child: Version) -> Drift | None:
    """Compare two versions; None if they have no table in common.

    Raises:
        CatalogError: a file of a version is damaged.
    """
    both = [n for n in MAIN if n in parent.manifest.tables and n in child.manifest.tables]
    if not both:
        return None
    before, after = parent.table(both[0]), child.table(both[0])
    every = [*_shifts(before, after), *_judges(parent.manifest, child.manifest)]
    shifts = sorted(every, key=lambda s: (-s.distance, s.column))
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


def _judges(before: Manifest, after: Manifest) -> Iterator[Shift]:
    """What is measured of the judges of each step that both have."""
    stages = {s.label: s.info for s in before.stages}
    for stage in after.stages:
        for what, path in JUDGED.items():
            infos = stages.get(stage.label, {}), stage.info
            (a, before_se), (b, after_se) = (_measured(info, path) for info in infos)
            if a is None and b is None:
                continue
            distance = 0.0 if a is None or b is None else min(1.0, abs(b - a))
            error = ERRORS * math.hypot(before_se, after_se)
            found = distance >= LARGE and distance > error
            missing = float(a is None), float(b is None)
            name = f"{stage.label}: {what}"
            yield Shift(name, round(distance, 6), a, b, *missing, drift=found)


def _measured(info: Any, path: tuple[str, ...]) -> tuple[float | None, float]:  # noqa: ANN401
    """A value and its standard error, of plain JSON data; None: it was not measured."""
    for key in path:
        info = info.get(key) if isinstance(info, dict) else None
    told = info if isinstance(info, dict) else {}
    return told.get("value"), float(told.get("se") or 0.0)


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
    if not words or len(words) > MOST_WORDS or 2 * len(words) > before.len() + after.len():
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
