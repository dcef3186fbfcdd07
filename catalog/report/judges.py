"""What is known of judges: from their stage, or from the votes that pairs have kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from catalog.arrow_folder import Table
from catalog.report.stages import Stage
from prefactory.measures.judge_report import judge_report
from prefactory.pages.wording import EN_DASH, count, percent, plain, two
from prefactory.tables import Shape

VOTES = "_votes"
_NEEDED = ("_question", "_answers", VOTES)
_TOLD = {"name", "questions", "votes", "position", "self_consistency"}
"""Facts of a stage that judged."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One set of votes.

    Attributes:
        name: prefix of its columns.
        everything: whether all questions count; if not, those of the published pairs.
        facts: what is known of all judges together, each with its words.
        judges: of several judges, the facts of each: (name, values in the order of `columns`).
        columns: heads of the table of judges.
        pairs: of every two judges (names, agreement, kappa).
    """

    name: str
    everything: bool
    facts: tuple[tuple[str, str], ...]
    judges: tuple[tuple[str, tuple[str, ...]], ...]
    columns: tuple[str, ...]
    pairs: tuple[tuple[str, str, str], ...]


def read(saved: Table, stages: Sequence[Stage] = ()) -> list[Judged]:
    """Report on every stage that judged, and on other sets of votes among the columns of pairs."""
    told = {str(s.info.get("name")): s.info for s in stages if set(s.info) >= _TOLD}
    found = [_judged(name, info, everything=True) for name, info in told.items()]
    if saved.shape != Shape.PAIRS:
        return found
    names = [c.removesuffix(VOTES) for c in saved.columns if c.endswith(VOTES)]
    names = [n for n in names if all(f"{n}{c}" in saved.columns for c in _NEEDED)]
    left = [n for n in names if n not in told]
    return found + [_judged(n, _of_columns(saved, n), everything=False) for n in left]


def _of_columns(saved: Table, name: str) -> Mapping[str, Any]:
    wanted = ["prompt_id", f"{name}_prefers", *(f"{name}{c}" for c in _NEEDED)]
    columns = [c for c in wanted if c in saved.columns]
    parts = list(saved.batches(columns))
    return judge_report(pl.concat(parts), name) if parts else {}


def _judged(name: str, found: Mapping[str, Any], everything: bool) -> Judged:
    heads, _ = zip(*_row(found), strict=True) if found else ((), ())
    models = [f", {plain(str(model), 60)}" for model in found.get("models", ())]
    judges = tuple(
        (
            f"judge {one['judge']}{''.join(models[one['judge'] : one['judge'] + 1])}",
            tuple(value for _, value in _row(one)),
        )
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
    return Judged(name, everything, tuple(_facts(found)), judges, tuple(heads), pairs)


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
