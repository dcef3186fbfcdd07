"""The numbers of the report, from numeric columns only (lengths, scores, margins).

Lengths are Unicode characters of all messages of an answer. A score that is null, NaN or infinite
counts as not scored. Intervals are 95% Wilson score intervals and take pairs as independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import polars as pl

from catalog.arrow_folder import Table
from prefactory.tables import SCORE, SIDES, Shape, message_keys, objectives, whole_text

LENGTH = "length"
STEPS = (1, 26, 51, 101, 201, 401, 801)
"""Where the groups of `by_gap` begin, in characters of length difference."""
_Z = 1.959963984540054
_IDS = {
    Shape.PAIRS: ("prompt_id", "chosen_id", "rejected_id"),
    Shape.RESPONSES: ("prompt_id", "response_id"),
    Shape.PROMPTS: (),
}


@dataclass(frozen=True, slots=True)
class Share:
    """A share of pairs with its 95% interval; `share` is None where nothing was counted."""

    wins: int
    of: int
    ties: int
    share: float | None
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Objective:
    """One objective over all answers of a table; `agrees` is there for pairs only."""

    name: str
    n: int
    null: int
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    agrees: Share | None
    with_length: float | None


@dataclass(frozen=True, slots=True)
class Bins:
    """Bins: bin `i` is [start + i * width, start + (i + 1) * width); the last closed."""

    start: float
    width: float
    n: int

    def counts(self, values: pl.Series) -> list[int]:
        """Count values per bin; values beyond the ends go to the end bins, nulls nowhere."""
        at = ((values.drop_nulls() - self.start) / self.width).floor().clip(0, self.n - 1)
        count_of = dict(at.cast(pl.Int64).value_counts().iter_rows())
        return [count_of.get(i, 0) for i in range(self.n)]

    def edge(self, i: int) -> float:
        """Return the left edge of bin `i` without the noise of repeated addition."""
        return float(f"{self.start + i * self.width:.12g}")


def share_of(wins: int, of: int, ties: int = 0) -> Share:
    """Return a share with its Wilson interval."""
    if not of:
        return Share(0, 0, ties, None, 0.0, 1.0)
    p = wins / of
    centre = (p + _Z**2 / (2 * of)) / (1 + _Z**2 / of)
    half = _Z / (1 + _Z**2 / of) * math.sqrt(p * (1 - p) / of + _Z**2 / (4 * of**2))
    return Share(wins, of, ties, p, max(0.0, centre - half), min(1.0, centre + half))


def numbers(saved: Table) -> pl.DataFrame:
    """Read the numeric columns of a table, batch by batch.

    Returns:
        For pairs `margin` (if saved) and, for both sides, `<side>_length` and `<side>_score_<o>`;
        for responses `length` and `score_<o>`; for prompts `length` of the prompt. Of pairs and
        responses also `prompt_id` and the ids of the answers, as hashes of 64 bits (UInt64).
    """
    texts = {
        Shape.PAIRS: {f"{side}_{LENGTH}": side for side in SIDES},
        Shape.RESPONSES: {LENGTH: "response"},
        Shape.PROMPTS: {LENGTH: "prompt"},
    }[saved.shape]
    scores = [c for c in saved.columns if _numeric(c, saved.shape)]
    ids = [c for c in saved.columns if c in _IDS[saved.shape]]
    wanted = [
        *(_finite(pl.col(name)) for name in scores),
        *(pl.col(name).hash() for name in ids),
    ]
    columns = [*texts.values(), *scores, *ids]
    parts = [
        batch.select(
            *(_length(column, batch.schema[column]).alias(name) for name, column in texts.items()),
            *wanted,
        )
        for batch in saved.batches(columns)
    ]
    if parts:
        return pl.concat(parts, rechunk=True)
    kinds: dict[str, pl.DataType] = {name: pl.Int64() for name in texts}
    kinds |= {name: pl.Float64() for name in scores} | {name: pl.UInt64() for name in ids}
    return pl.DataFrame(schema=kinds)


def _numeric(column: str, shape: Shape) -> bool:
    if shape == Shape.PAIRS:
        return column == "margin" or column.startswith(tuple(f"{s}_{SCORE}" for s in SIDES))
    return shape == Shape.RESPONSES and column.startswith(SCORE)


def _length(column: str, dtype: pl.DataType) -> pl.Expr:
    content = whole_text(pl.element(), message_keys(dtype)).str.len_chars().fill_null(0)
    return pl.col(column).list.eval(content).list.sum().cast(pl.Int64)


def _finite(value: pl.Expr) -> pl.Expr:
    value = value.cast(pl.Float64, strict=False)
    return pl.when(value.is_finite()).then(value).otherwise(None)


def answers(table: pl.DataFrame) -> pl.DataFrame:
    """One row per answer: `length` and `score_<o>`; of pairs, the chosen and then the rejected."""
    if f"chosen_{LENGTH}" not in table.columns:
        return table
    return pl.concat(
        [table.select(pl.col(f"^{side}_.*$").name.replace(f"^{side}_", "")) for side in SIDES],
        how="diagonal",
    )


def objective_rows(table: pl.DataFrame) -> list[Objective]:
    """Summarise every objective of a numeric table, in column order."""
    flat = answers(table)
    rows = []
    for name in objectives(table.columns):
        column = flat[f"{SCORE}{name}"]
        both = {f"{side}_{SCORE}{name}" for side in SIDES} <= set(table.columns)
        rows.append(
            Objective(
                name=name,
                n=column.len() - column.null_count(),
                null=column.null_count(),
                mean=_number(column.mean()),
                sd=_number(column.std()),
                low=_number(column.min()),
                high=_number(column.max()),
                agrees=wins(table, f"{SCORE}{name}", ties_lose=True) if both else None,
                with_length=correlation(flat, f"{SCORE}{name}", LENGTH),
            )
        )
    return rows


def wins(table: pl.DataFrame, what: str, *, ties_lose: bool) -> Share:
    """How often the chosen side has more of something (`score_<o>`, `length`) than the rejected.

    Args:
        table: numeric columns of pairs; pairs with a null on either side do not count.
        what: column without its side.
        ties_lose: count ties among the pairs (a score that does not tell the answers apart fails
            to agree); otherwise only pairs that differ count.
    """
    chosen, rejected = pl.col(f"chosen_{what}"), pl.col(f"rejected_{what}")
    more, ties, n = table.select(
        more=(chosen > rejected).sum(),
        ties=(chosen == rejected).sum(),
        n=(chosen == rejected).count(),
    ).row(0)
    return share_of(more, n if ties_lose else n - ties, ties)


def by_gap(table: pl.DataFrame) -> list[tuple[str, Share]]:
    """How often the longer answer was chosen, by how much longer it is (groups of characters)."""
    gap = pl.col(f"chosen_{LENGTH}") - pl.col(f"rejected_{LENGTH}")
    diffs = table.select(gap=gap.drop_nulls())
    groups = []
    for low, high in pairwise([*STEPS, None]):
        assert low is not None  # noqa: S101 - only the last end is open
        size = pl.col("gap").abs()
        here = diffs.filter((size >= low) & (size < high if high else pl.lit(value=True)))
        label = f"\N{LESS-THAN OR EQUAL TO}{high - 1}" if high else f">{low - 1}"
        groups.append((label, share_of(int((here["gap"] > 0).sum()), here.height)))
    return groups


def correlation(flat: pl.DataFrame, a: str, b: str) -> float | None:
    """Pearson correlation of two columns over the rows that have both; None if undefined."""
    complete = flat.select(a=a, b=b).drop_nulls()
    if any(complete[c].min() == complete[c].max() for c in complete.columns):
        return None
    return _number(complete.select(pl.corr("a", "b")).item())


def correlations(flat: pl.DataFrame, names: Sequence[str]) -> list[list[float | None]]:
    """Correlation of every two objectives and, last, of each with the length (symmetric)."""
    columns = [*(f"{SCORE}{name}" for name in names), LENGTH]
    half = {(a, b): correlation(flat, a, b) for i, a in enumerate(columns) for b in columns[:i]}
    return [
        [1.0 if a == b else half.get((a, b), half.get((b, a))) for b in columns] for a in columns
    ]


def bins(values: pl.Series, tail: float = 0.001, most: int = 28) -> Bins | None:
    """Choose readable bins for values: one per integer for ratings, else a round width.

    A share of `tail` at each end may lie beyond the bins. None if there is nothing to bin.
    """
    values = values.drop_nulls().cast(pl.Float64)
    low, high = _number(values.min()), _number(values.max())
    if low is None or high is None or not math.isfinite(high - low):
        return None
    if high - low <= 24 and (values == values.round()).all() and abs(low) < 2**52:
        return Bins(low - 0.5, 1.0, int(high - low) + 1)
    low = _number(values.quantile(tail, "lower")) or 0.0
    high = _number(values.quantile(1 - tail, "higher")) or 0.0
    width = nice((high - low) / most)
    if width is None or max(abs(low), abs(high)) > 1e12 * width:
        spread = max(abs(low), 1.0)
        return Bins(low - spread / 2, spread, 1)
    first = math.floor(low / width)
    last = max(first, math.ceil(high / width - 1e-9) - 1)
    return Bins(first * width, width, last - first + 1)


def nice(step: float) -> float | None:
    """Round a step up to 1, 2, 2.5 or 5 times a power of ten; None for zero."""
    if step <= 1e-300:
        return None
    power = 10.0 ** math.floor(math.log10(step))
    return next(k * power for k in (1, 2, 2.5, 5, 10) if k * power >= step * (1 - 1e-9))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
