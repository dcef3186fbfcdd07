"""What is known of judges: from their stage, or from the votes that pairs have kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from catalog.arrow_folder import Table
from catalog.report.costs import Costs, dollars
from catalog.report.stages import Stage
from prefactory.measures.judge_report import judge_report
from prefactory.pages.wording import count, percent, plain, two, with_interval
from prefactory.tables import Shape

VOTES = "_votes"
_NEEDED = ("_question", "_answers", VOTES)
_REPORTED = {"name", "questions", "votes", "position", "self_consistency"}
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


def read(saved: Table, stages: Sequence[Stage] = (), costs: Costs | None = None) -> list[Judged]:
    """Report on every stage that judged, and on other sets of votes among the columns of pairs."""
    judged = {str(s.info.get("name")): s for s in stages if set(s.info) >= _REPORTED}
    infos = {name: _priced(stage, costs) for name, stage in judged.items()}
    reports = [_judged(name, info, everything=True) for name, info in infos.items()]
    if saved.shape != Shape.PAIRS:
        return reports
    names = [c.removesuffix(VOTES) for c in saved.columns if c.endswith(VOTES)]
    names = [n for n in names if all(f"{n}{c}" in saved.columns for c in _NEEDED)]
    left = [n for n in names if n not in infos]
    return reports + [_judged(n, _of_columns(saved, n), everything=False) for n in left]


def _priced(stage: Stage, costs: Costs | None) -> Mapping[str, Any]:
    """What a stage learned; its `cost` with `usd` and `usd_there` where prices are known."""
    own = [row for row in (costs.rows if costs else ()) if row.step == stage.label]
    if not own or "cost" not in stage.info or any(row.usd is None for row in own):
        return stage.info
    there = sum(row.usd or 0.0 for row in own if row.role == "escalate_to")
    usd = {"usd": sum(row.usd or 0.0 for row in own), "usd_there": there}
    return {**stage.info, "cost": {**stage.info["cost"], **usd}}


def _of_columns(saved: Table, name: str) -> Mapping[str, Any]:
    wanted = ["prompt_id", f"{name}_prefers", *(f"{name}{c}" for c in _NEEDED)]
    columns = [c for c in wanted if c in saved.columns]
    parts = list(saved.batches(columns))
    return judge_report(pl.concat(parts), name) if parts else {}


def _judged(name: str, facts: Mapping[str, Any], everything: bool) -> Judged:
    heads, _ = zip(*_row(facts), strict=True) if facts else ((), ())
    models = [f", {plain(str(model), 60)}" for model in facts.get("models", ())]
    judges = tuple(
        (
            f"judge {own['judge']}{''.join(models[own['judge'] : own['judge'] + 1])}",
            tuple(value for _, value in _row(own)),
        )
        for own in facts.get("judges", ())
    )
    between = facts.get("between_judges") or {"pairs": []}
    pairs = tuple(
        (
            f"judges {two_of['one']} and {two_of['other']}",
            with_interval(two_of["agreement"]),
            with_interval(two_of["kappa"], two),
        )
        for two_of in between["pairs"]
    )
    return Judged(name, everything, tuple(_facts(facts)), judges, tuple(heads), pairs)


def _facts(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if not facts:
        return
    yield from _row(facts)
    if faults := facts["faults"]:
        yield "why votes are invalid", ", ".join(f"{why} {count(n)}" for why, n in faults.items())
    if between := facts.get("between_judges"):
        yield "Krippendorff's alpha between judges", with_interval(between["alpha"], two)
    if cost := facts.get("cost"):
        yield from _cost(cost)
    if label := facts.get("label"):
        yield "agree with the label where they decide", with_interval(label["agreement"])
        undecided = f"{count(label['tie'])} ties, {count(label['undecided'])} undecided"
        yield "pairs without a decision", f"{undecided} of {count(label['pairs'])}"


def _cost(cost: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Who decided how much, with how many tokens and dollars."""
    usd, usd_there = cost.get("usd"), cost.get("usd_there", 0.0)

    def each(tokens: int, decided: int, usd: float | None) -> str:
        if not decided:
            return "none decided"
        money = "" if usd is None else f", {dollars(usd / decided)} US dollars"
        return f"{count(round(tokens / decided))}{money}"

    yield "decided", f"{count(cost['decided'])} of {count(cost['questions'])} questions"
    if "escalated" in cost:
        there = cost["decided_there"]
        jury = cost["tokens"] - cost["tokens_there"], cost["decided"] - there
        own = (None, None) if usd is None else (usd - usd_there, usd_there)
        yield "sent to the stronger judge", f"{count(cost['escalated'])}, {count(there)} decided"
        yield "tokens per question decided by the jury", each(*jury, own[0])
        decided = each(cost["tokens_there"], there, own[1])
        yield "tokens per question decided by the stronger judge", decided
    if cost["tokens"]:
        yield "tokens per decided question", each(cost["tokens"], cost["decided"], usd)


def _row(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is told of all judges and of each."""
    position = facts["position"]
    yield "questions", count(facts["questions"])
    yield "valid votes", f"{count(facts['valid'])} of {count(facts['votes'])}"
    yield "ties", count(facts["ties"])
    expected = percent(position["first_expected"])
    yield "for the first place", f"{with_interval(position['first'])}, unbiased {expected}"
    yield "self-consistency", with_interval(facts["self_consistency"])
