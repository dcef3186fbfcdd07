"""Reports of votes: of people, of labels, of judges; as plain data, lines and pages."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from pipelines.votes.page import Section
from prefactory.errors import DataError
from prefactory.measures.agreement import plain, share
from prefactory.tables import text_of
from prefactory.votes import answers, judged
from prefactory.votes.ballots import ballots
from prefactory.votes.consensus import Consensus, consensus
from prefactory.votes.estimate import WrongLabels, wrong_labels
from prefactory.votes.people import Agreement, agreement, kappas, report
from prefactory.votes.slices import slice_of
from prefactory.votes.verdicts import SURE, VERDICTS, verdicts

DRAWS = 100
MOST_PAIRS = 60
"""Pairs of people that a table shows, those with most rows; JSON has all."""


@dataclass(frozen=True)
class Labels:
    """What votes come to, and what they say of the labels as they were.

    Attributes:
        found: of `prefactory.votes.verdicts.verdicts`.
        wrong: share of wrong labels, from the random part.
    """

    found: pl.DataFrame
    wrong: WrongLabels

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        counts = dict.fromkeys(VERDICTS, 0) | dict(self.found["verdict"].value_counts().iter_rows())
        return {"rows": self.found.height, "verdicts": counts, "wrong_labels": self.wrong.as_dict()}

    def lines(self) -> list[str]:
        """The same in words."""
        counts = self.as_dict()["verdicts"]
        words = {
            "first": "label confirmed", "second": "label turned round", "tie": "equal",
            "bad": "both bad", "contested": "contested: for an adjudicator",
            "open": "open: more votes are needed",
        }  # fmt: skip
        lines = [f"{self.found.height:,} pairs with votes"]
        lines += [f"{counts[v]:>9,}  {said}" for v, said in words.items() if counts[v]]
        share = self.wrong.share
        if share is None:
            return [*lines, f"share of wrong labels: not known, {self.wrong.why}"]
        return [
            *lines,
            f"share of wrong labels: {share.value:.1%} ({share.low:.1%} to {share.high:.1%}), from "
            f"{self.wrong.checked:,} rows drawn at random",
        ]


def labels(
    votes: pl.DataFrame, population: Mapping[str, int] | None = None, sure: float = SURE
) -> Labels:
    """Verdicts on all pairs with votes, and the share of wrong labels."""
    found = verdicts(votes, sure=sure, draws=DRAWS)
    return Labels(found, wrong_labels(votes, found, population))


@dataclass(frozen=True)
class Reviewers:
    """People's report."""

    agreement: Agreement
    people: pl.DataFrame
    consensus: Consensus
    kappas: pl.DataFrame

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "agreement": self.agreement.as_dict(),
            "people": self.people.to_dicts(),
            "kappas": self.kappas.to_dicts(),
        }

    def sections(self) -> list[Section]:
        """Tables for a page or the terminal."""
        alpha, pairwise = self.agreement.alpha, self.agreement.pairwise
        said = self.agreement.why or (
            f"Krippendorff's alpha {_interval(alpha.value, alpha.low, alpha.high)}; two votes on a "
            f"pair are equal in {_interval(pairwise.value, pairwise.low, pairwise.high)}."
        )
        rows = tuple(
            (
                r["person"],
                f"{r['votes']:,}",
                _share(r["agreement"], r["agreement_low"], r["agreement_high"]),
                _number(r["skill"]),
                _share(r["first"], r["first_low"], r["first_high"]),
                _share(r["longer"], r["longer_low"], r["longer_high"]),
                f"{r['gold_right']}/{r['gold']}" if r["gold"] else "-",
                _number(r["seconds"], 1),
                "; ".join(r["remarks"]),
            )
            for r in self.people.to_dicts()
        )
        head = (
            "person", "votes", "agrees with the others", "skill", "for what is shown first",
            "for the longer, against others", "gold", "seconds", "remarks",
        )  # fmt: skip
        two = tuple(
            (
                f"{r['one']}, {r['two']}", f"{r['n']:,}", _percent(r["agreement"]),
                "nothing varies" if r["kappa"] is None
                else _interval(r["kappa"], *(math.nan if v is None else v
                                             for v in (r["low"], r["high"]))),
            )
            for r in self.kappas.head(MOST_PAIRS).to_dicts()
        )  # fmt: skip
        sections = [Section("People", (said,), head, rows)]
        if two:
            names = ("two people", "rows of both", "equal votes", "Cohen's kappa")
            sections.append(Section("Every two people", (), names, two))
        return sections


def reviewers(votes: pl.DataFrame, pairs: pl.DataFrame | None = None) -> Reviewers:
    """The people behind some votes.

    Args:
        votes: annotations.
        pairs: that they are about, for prompts, lengths and gold rows; None where not known.
    """
    facts = None if pairs is None else _facts(votes, pairs)
    clusters = None if facts is None else facts.select("row_id", "cluster")
    found = consensus(ballots(votes), draws=0)
    told = agreement(votes, clusters), report(votes, found, facts), found
    return Reviewers(*told, kappas(votes, clusters))


def _facts(votes: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    sizes = [text_of(pl.col(c)).str.len_chars().cast(pl.Int64) for c in ("chosen", "rejected")]
    gold = votes.filter(pl.col("purpose") == "gold")["row_id"].unique()
    return pairs.select(
        row_id="pair_id",
        cluster="prompt_id",
        longer=(sizes[0] - sizes[1]).sign().cast(pl.Float64),
        gold=pl.when(pl.col("pair_id").is_in(gold.implode())).then(pl.lit("first")),
    )


@dataclass(frozen=True)
class Judges:
    """Judges held against people."""

    measured: pl.DataFrame
    position: pl.DataFrame
    calibration: pl.DataFrame

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with the rule of each judge."""
        names = self.measured["judge"].unique(maintain_order=True).to_list()
        return {
            "judges": self.measured.to_dicts(),
            "position": self.position.to_dicts(),
            "calibration": self.calibration.to_dicts(),
            "trusted_on": {name: judged.rules(self.measured, name) for name in names},
        }

    def lines(self) -> list[str]:
        """For each judge where it may label, as a sentence and as a rule of a recipe."""
        lines = []
        for name in self.measured["judge"].unique(maintain_order=True):
            rules = judged.rules(self.measured, name)
            for column, told in rules.items():
                may = ", ".join(told["trusted"]) or "nothing"
                lines.append(f"{name} may label, by {column}: {may}; not: {_or(told['not'])}")
                if told["trusted"]:
                    values = ", ".join(_yaml(v) for v in told["trusted"])
                    lines.append(f"  trusted_on: {{{_yaml(column)}: [{values}]}}")
            if not rules:
                row = self.measured.filter(judge=name).row(0, named=True)
                lines.append(
                    f"{name} may label" if row["trusted"] else f"{name} may not label: {row['why']}"
                )
        return lines

    def sections(self) -> list[Section]:
        """Tables for a page or the terminal."""
        rows = tuple(
            (
                r["judge"],
                "all" if r["slice"] == judged.ALL else f"{r['slice']}: {r['value']}",
                f"{r['n']:,}",
                _share(r["agreement"], r["low"], r["high"]),
                _percent(r["people"]),
                _percent(r["bar"]),
                _percent(r["consistent"]),
                "-" if r["more"] is None else f"{100 * r['more']:.1f} points",
                "yes" if r["trusted"] else r["why"],
            )
            for r in self.measured.to_dicts()
        )
        head = (
            "judge", "rows", "n", "agreement with people", "two people agree", "needed",
            "same in both orders", "100 more would narrow by", "may label",
        )  # fmt: skip
        place = tuple(
            (r["judge"], r["place"], f"{r['n']:,}", _share(r["agreement"], r["low"], r["high"]))
            for r in self.position.to_dicts()
        )
        sure = tuple(
            (r["judge"], f"{r['n']:,}", *(_number(r[c]) for c in ("slope", "ece", "unscaled")))
            for r in self.calibration.to_dicts()
        )
        sections = [Section("Judges against people", tuple(self.lines()), head, rows)]
        if place:
            by_place = ("judge", "the better answer stood", "votes", "agreement")
            sections.append(Section("By position", (), by_place, place))
        fit = ("judge", "n", "slope to log odds", "calibration error at it", "as it is")
        return [*sections, Section("Calibration", (), fit, sure)]


@dataclass(frozen=True)
class Reasons:
    """How right people find a judge's reasons: `slice`, `value`, `n`, `right`, `low`, `high`."""

    judge: str
    measured: pl.DataFrame

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"judge": self.judge, "reasons": self.measured.to_dicts()}

    def sections(self) -> list[Section]:
        """A table for a page or the terminal."""
        rows = tuple(
            (
                "all" if r["slice"] == judged.ALL else f"{r['slice']}: {r['value']}",
                f"{r['n']:,}", _share(r["right"], r["low"], r["high"]),
            )
            for r in self.measured.to_dicts()
        )  # fmt: skip
        head = ("rows", "n", "how right people find its reasons")
        said = "Right counts 1, partly right a half, wrong 0."
        return [Section(f"Reasons of {self.judge}", (said,), head, rows)]


def reasons(votes: pl.DataFrame, pairs: pl.DataFrame, by: Sequence[str]) -> Reasons:
    """Hold a judge's reasons against people, on all rows and by declared slices.

    Raises:
        DataError: nobody has checked a reason of these pairs.
    """
    rows = pairs.with_row_index("_at").join(
        answers.reasons(votes), left_on="pair_id", right_on="row_id", maintain_order="left"
    )
    if not rows.height:
        raise DataError("nobody has checked a reason of these pairs; name them by --data")
    named = [c.removesuffix("_votes") for c in pairs.columns if c.endswith("_votes")]
    named = [n for n in named if f"{n}_prefers" in pairs.columns] or named
    found: list[tuple[str, str, int, float | None, float | None, float | None]] = []
    slices = {judged.ALL: pl.repeat(judged.ALL, rows.height, eager=True)}
    slices |= {name: slice_of(rows, name) for name in by}
    for name, values in slices.items():
        for value in values.unique().sort():
            part = rows.filter(values == value)
            told = share(part["human_rationale"], part["prompt_id"])
            ends = (plain(v) for v in (told.value, told.low, told.high))
            found.append((name, value, part.height, *ends))
    kinds = dict.fromkeys(("right", "low", "high"), pl.Float64)
    schema = {"slice": pl.String, "value": pl.String, "n": pl.Int64, **kinds}
    judge = named[0] if len(named) == 1 else "the judge"
    return Reasons(judge, pl.DataFrame(found, schema=schema, orient="row"))


def judges(
    votes: pl.DataFrame, pairs: pl.DataFrame, by: Sequence[str], sure: float = SURE
) -> Judges:
    """Hold all judges of some pairs against people.

    Raises:
        DataError: the pairs have no judge's columns, or none of them was voted on.
    """
    heard = judged.opinions(pairs)
    if not heard:
        raise DataError(
            "these pairs carry no judge's opinion: run a recipe on them with labelers.JudgePairs, "
            "labelers.RewardModel or labelers.PreferenceStack, and give its version by --data"
        )
    people = judged.People.of(pairs, verdicts(votes, sure=sure, draws=0), votes)
    return Judges(
        judged.measure(pairs, people, by, heard),
        judged.by_position(pairs, people),
        judged.calibration(heard, people),
    )


def _yaml(text: str) -> str:
    return text if text.replace("_", "").isalnum() and not text.isdigit() else json.dumps(text)


def _or(values: Sequence[str]) -> str:
    return ", ".join(values) or "-"


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _share(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "-"
    ends = "" if low is None or high is None else f" ({low:.0%} to {high:.0%})"
    return f"{value:.0%}{ends}"


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.2f}" if low != low else f"{value:.2f} ({low:.2f} to {high:.2f})"
