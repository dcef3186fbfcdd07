"""Sycophancy and style markers by side."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import polars as pl

from filters.audit.check import CONTENT_DECIDES, Check, Need
from filters.audit.features import COUNTS, FLAGS
from filters.audit.finding import Chart, Metric, Report
from filters.audit.stats import Z, difference, share
from filters.audit.subject import Rows, Subject

MARKERS = (*(f for f in FLAGS if f != "refusal"), *COUNTS)
WORDS = {
    "compliment": "opens with a compliment",
    "agreeing": "opens by agreeing",
    "eager": "opens eagerly (certainly, sure)",
    "disclosure": "calls itself an AI",
    "apology": "apologises",
    "closing_offer": "ends with an offer of help",
    "bold": "bold text",
    "headings": "headings",
    "lists": "list items",
    "code": "code blocks",
    "emojis": "emojis",
    "exclamations": "exclamation marks",
    "questions": "question marks",
    "hedges": "hedges (perhaps, might)",
}


def run(subject: Subject) -> Report:
    """Compare the share of answers with each marker on both sides."""
    chosen, rejected = subject.sides
    marked = [
        f.select((pl.col(m).cast(pl.Int64) > 0).alias(m) for m in MARKERS) for f in subject.features
    ]
    metrics: dict[str, Metric] = {}
    rows = []
    for marker in MARKERS:
        hits = [table[marker].to_numpy() for table in marked]
        sides = [share(h, s.prompts) for h, s in zip(hits, subject.sides, strict=True)]
        metrics[f"chosen:{marker}"], metrics[f"rejected:{marker}"] = sides
        metrics[f"gap:{marker}"] = difference(hits[0], hits[1], chosen.prompts, rejected.prompts)
        rows.append((WORDS[marker], (sides[0].value, sides[1].value)))
    worst = max(MARKERS, key=lambda m: abs(metrics[f"gap:{m}"].value or 0.0))
    metrics["largest_gap"] = _widened(metrics[f"gap:{worst}"])
    gap = 100 * (metrics[f"gap:{worst}"].value or 0.0)
    where = "chosen" if gap > 0 else "rejected"
    at = _only(subject, marked, worst, where)
    return Report(
        headline=f"'{WORDS[worst]}' is on {abs(gap):.1f} points more of the {where} answers, the "
        f"largest of {len(MARKERS)} differences",
        metrics=metrics,
        examples=subject.examples(at, [f"{WORDS[worst]} on the {where} side only"] * at.size),
        charts=(Chart("sides", "Share of answers with the marker", tuple(rows)),),
        notes=(
            "English phrases; openings within 240 characters. Longer answers hold more of most "
            "markers, so read this beside the length rule. The interval of the largest gap is "
            f"widened for {len(MARKERS)} looks.",
        ),
    )


def _widened(gap: Metric) -> Metric:
    """The interval of the largest of all gaps (Bonferroni)."""
    if gap.value is None or gap.low is None:
        return gap
    half = (gap.value - gap.low) * NormalDist().inv_cdf(1 - 0.025 / len(MARKERS)) / Z
    return Metric(gap.value, gap.value - half, gap.value + half, gap.n, "share")


def _only(subject: Subject, marked: list[pl.DataFrame], marker: str, where: str) -> Rows:
    """Rows that have the marker on one side and not on the other (unpaired: that have it)."""
    mine, other = (0, 1) if where == "chosen" else (1, 0)
    hits = marked[mine][marker].to_numpy()
    if subject.paired:
        hits = hits & ~marked[other][marker].to_numpy()
    return np.asarray(subject.sides[mine].rows[hits])


CHECK = Check(
    name="style",
    title="Sycophancy and style by side",
    why="Compliments, agreement, bold type and emojis are cheap to imitate. Where they mark one "
    "side, a model learns them in place of what made the answer better.",
    metrics={
        "largest_gap": "largest difference of the sides among all markers",
        "chosen": "share of chosen answers with a marker (chosen:<marker>)",
        "rejected": "share of rejected answers with a marker (rejected:<marker>)",
        "gap": "chosen minus rejected (gap:<marker>)",
    },
    run=run,
    need=Need.SIDES,
    mends=CONTENT_DECIDES,
)
