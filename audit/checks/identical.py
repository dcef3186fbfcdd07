"""Pairs whose two answers are the same, nearly the same, or of very different length."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from audit.check import Check, Need
from audit.finding import Metric, Report, Severity, flagged
from audit.limits import LIMITS
from audit.stats import share
from audit.subject import Subject
from prefactory.utf8 import utf8

NEARLY = 0.05
"""Share of the longer text that may differ, in one place, for a pair to be nearly identical."""
LOPSIDED = 3.0
"""Ratio of lengths beyond which a pair compares sizes rather than answers (MIA-DPO's filter)."""
_CHUNK = 20_000


def run(subject: Subject) -> Report:
    """Compare the two answers of each pair."""
    chosen, rejected = subject.sides
    keys = subject.keys
    alike = (keys["chosen"] == keys["rejected"]).to_numpy()
    same = (chosen.text.str.strip_chars() == rejected.text.str.strip_chars()).to_numpy()
    folded = alike & ~same
    nearly = ~alike & (differing(chosen.text, rejected.text) < NEARLY)
    sizes = [f["chars"].cast(pl.Float64).to_numpy() for f in subject.features]
    ratio = np.maximum(*sizes) / np.maximum(np.minimum(*sizes), 1)
    lopsided = ratio > LOPSIDED
    refused = subject.intake.refused("equal_answers").height
    total = subject.height + refused
    bad = int(same.sum()) + refused
    where = f" ({refused:,} left out by the reader)" if refused else ""
    notes = ["nothing to choose between"] * int(same.sum())
    notes += ["they differ in case, space or Unicode form only"] * int(folded.sum())
    notes += ["less than 5% differs, in one place"] * int(nearly.sum())
    rows = np.concatenate([np.flatnonzero(mask) for mask in (same, folded, nearly)])
    found = f"{bad:,} of {total:,} pairs have the same answer twice{where}"
    metrics = {
        "pairs": Metric(bad / total, n=total, unit="share"),
        "case_only": share(folded, subject.prompts),
        "nearly": share(nearly, subject.prompts),
        "lopsided": share(lopsided, subject.prompts),
    }
    return Report(
        headline=f"{found if bad else 'no pair has the same answer twice'}; "
        f"{int(nearly.sum()):,} are nearly the same",
        metrics=metrics,
        recipe=_recipe(metrics),
        choices=(f"- filters.PairSanity: {{max_ratio: {LOPSIDED:g}, min_edit: 0}}",)
        if _broken(metrics, "lopsided")
        else (),
        rows=flagged(rows, notes),
        left_out=subject.intake.named("equal_answers"),
        notes=(
            "Same: without outer white space. Nearly the same: common "
            "beginning and end leave less than 5% of the longer text, so scattered small edits "
            "are not counted.",
        ),
    )


def _broken(metrics: dict[str, Metric], name: str) -> bool:
    return LIMITS[f"identical.{name}"].severity(metrics[name]) > Severity.OK


def _recipe(metrics: dict[str, Metric]) -> tuple[str, ...]:
    """One line for each part that is out of its range."""
    lines = []
    if _broken(metrics, "case_only"):
        lines.append(
            "- filters.Damage: {rules: [identical], fold: true}   # but for case and space"
        )
    elif _broken(metrics, "pairs"):
        lines.append("- filters.Damage: {rules: [identical]}")
    if _broken(metrics, "nearly"):
        lines.append(f"- filters.PairSanity: {{max_ratio: null, min_edit: {NEARLY}}}")
    return tuple(lines)


def differing(first: pl.Series, second: pl.Series) -> NDArray[np.float64]:
    """Share of the longer of two texts that lies outside their common beginning and end.

    Where it is d, the edit distance over the longer length is at most d. Only texts whose lengths
    differ by less than `NEARLY` are compared; the others get 1.

    Args:
        first: one text of each pair, String [N], no nulls.
        second: the other.

    Returns:
        Float64 [N], 0 for equal bytes.
    """
    a, b = (t.str.len_bytes().cast(pl.Int64).to_numpy() for t in (first, second))
    longer = np.maximum(a, b)
    close = np.flatnonzero((np.abs(a - b) < NEARLY * longer) | (a == b))
    found = np.ones(first.len())
    for start in range(0, close.size, _CHUNK):
        at = close[start : start + _CHUNK]
        rows = pl.Series(at)
        found[at] = _outside(first.gather(rows), second.gather(rows))
    return found


def _outside(first: pl.Series, second: pl.Series) -> NDArray[np.float64]:
    (left, left_ends), (right, right_ends) = utf8(first), utf8(second)
    a, b = np.diff(left_ends), np.diff(right_ends)
    shorter, longer = np.minimum(a, b), np.maximum(a, b)
    starts = np.cumsum(shorter) - shorter
    step = np.arange(int(shorter.sum())) - np.repeat(starts, shorter)
    ahead = left[np.repeat(left_ends[:-1], shorter) + step]
    ahead = ahead != right[np.repeat(right_ends[:-1], shorter) + step]
    behind = left[np.repeat(left_ends[1:], shorter) - 1 - step]
    behind = behind != right[np.repeat(right_ends[1:], shorter) - 1 - step]
    prefix, suffix = (_until(mask, starts, shorter) for mask in (ahead, behind))
    common = np.minimum(prefix + suffix, shorter)
    return np.asarray((longer - common) / np.maximum(longer, 1))


def _until(
    mask: NDArray[np.bool_], starts: NDArray[np.int64], sizes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Places before the first true of each segment of a mask."""
    at = np.append(np.flatnonzero(mask), mask.size)
    first = at[np.searchsorted(at, starts)]
    return np.minimum(first - starts, sizes)


CHECK = Check(
    name="identical",
    title="Identical and lopsided pairs",
    why="A pair of equal answers has a loss but no lesson: DPO's gradient on it is zero, a reward "
    "model learns a margin of noise. Pairs of very different length teach length.",
    metrics={
        "pairs": "share of pairs with one answer on both sides, those left out by the reader too",
        "case_only": "share of pairs whose answers differ in case, space or Unicode form only",
        "nearly": "share of pairs whose answers differ by less than 5 %, in one place",
        "lopsided": "share of pairs in which one answer is over three times as long",
    },
    run=run,
    slow=True,
    faulty_rows=True,
    need=Need.PAIRS,
)
