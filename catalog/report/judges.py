"""What the votes of judges on pairs say of the judges, where a version has kept them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from catalog.judge_report import judge_report
from catalog.report.read import Saved
from catalog.report.wording import EN_DASH, count, percent, two
from prefactory.tables import Shape

VOTES = "_votes"
_NEEDED = ("_question", "_answers", VOTES)


@dataclass(frozen=True, slots=True)
class Judged:
    """One set of votes.

    Attributes:
        name: prefix of its columns.
        facts: what is known of all judges together, each with its words.
        judges: of several judges, the facts of each: (name, values in the order of `columns`).
        columns: heads of the table of judges.
        pairs: of every two judges (names, agreement, kappa).
    """

    name: str
    facts: tuple[tuple[str, str], ...]
    judges: tuple[tuple[str, tuple[str, ...]], ...]
    columns: tuple[str, ...]
    pairs: tuple[tuple[str, str, str], ...]


def read(saved: Saved) -> list[Judged]:
    """Report on every set of votes among the columns of pairs, in column order."""
    names = [c.removesuffix(VOTES) for c in saved.columns if c.endswith(VOTES)]
    names = [n for n in names if all(f"{n}{c}" in saved.columns for c in _NEEDED)]
    if saved.shape != Shape.PAIRS:
        return []
    return [_judged(saved, name) for name in names]


def _judged(saved: Saved, name: str) -> Judged:
    wanted = ["prompt_id", f"{name}_prefers", *(f"{name}{c}" for c in _NEEDED)]
    columns = [c for c in wanted if c in saved.columns]
    parts = list(saved.batches(columns))
    found = judge_report(pl.concat(parts), name) if parts else {}
    heads, _ = zip(*_row(found), strict=True) if found else ((), ())
    judges = tuple(
        (f"judge {one['judge']}", tuple(value for _, value in _row(one)))
        for one in found.get("judges", ())
    )
    between = found.get("between_judges") or {"pairs": []}
    pairs = tuple(
        (
            f"judges {two_of['one']} and {two_of['other']}",
            _share(two_of["agreement"]),
            _kappa(two_of["kappa"]),
        )
        for two_of in between["pairs"]
    )
    return Judged(name, tuple(_facts(found)), judges, tuple(heads), pairs)


def _facts(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if not found:
        return
    yield from _row(found)
    if faults := found["faults"]:
        yield "why votes are invalid", ", ".join(f"{why} {count(n)}" for why, n in faults.items())
    if between := found.get("between_judges"):
        yield "Krippendorff's alpha between judges", _kappa(between["alpha"])
    if label := found.get("label"):
        yield "agree with the label where they decide", _share(label["agreement"])
        undecided = f"{count(label['tie'])} ties, {count(label['undecided'])} undecided"
        yield "pairs without a decision", f"{undecided} of {count(label['pairs'])}"


def _row(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is told of all judges and of each."""
    place = found["position"]
    yield "questions", count(found["questions"])
    yield "valid votes", f"{count(found['valid'])} of {count(found['votes'])}"
    yield "ties", count(found["ties"])
    expected = percent(place["first_expected"])
    yield "for the first place", f"{_share(place['first'])}, unbiased {expected}"
    yield "self-consistency", _share(found["self_consistency"])


def _share(estimate: Mapping[str, Any]) -> str:
    if estimate["value"] is None:
        return EN_DASH
    low, high = percent(estimate["low"]), percent(estimate["high"])
    around = "" if estimate["low"] is None else f" ({low} to {high})"
    return f"{percent(estimate['value'])}{around}"


def _kappa(estimate: Mapping[str, Any]) -> str:
    if estimate["value"] is None:
        return EN_DASH
    low, high = two(estimate["low"]), two(estimate["high"])
    around = "" if estimate["low"] is None else f" ({low} to {high})"
    return f"{two(estimate['value'])}{around}"
