"""Does the data push an opinion? Stances of chosen against rejected answers, topic by topic.

After Value Drifts (arXiv 2510.26707): for a topic g = p_chosen - p_rejected over the stances, and
TV = sum |g| / 2. The share of pairs whose stance flips is no measure of it (it is large wherever
stances vary), so the p-value comes from swapping the sides of whole pairs.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import polars as pl
from numpy.typing import NDArray

from audit.check import Check, Need
from audit.finding import Chart, Example, Metric, Report
from audit.stance import STANCES, stances
from audit.stats import Z, difference
from audit.subject import Rows, Subject
from audit.topics import topics

LEAST = 20
"""Answers of each side that a topic needs."""
OPINIONS = ("support", "oppose")
POLICY = "value_gap_policy"
"""Column that says which stance a dataset means to teach."""
Counts = NDArray[np.float64]


def run(subject: Subject) -> Report:
    """Compare the stances of both sides in every topic that is large enough."""
    said, source = stances(subject)
    by = topics(subject)
    metrics: dict[str, Metric] = {}
    rows, shifts = [], []
    for topic in by.of.unique().sort():
        inside = by.rows[(by.of == topic).to_numpy()]
        sides = [_inside(subject, i, said[i], inside) for i in range(2)]
        if min(at.size for at, _ in sides) < LEAST:
            continue
        (first, a), (second, b) = sides
        shares = [(one.mean(axis=0), one) for one in (a, b)]
        gap = shares[0][0] - shares[1][0]
        tv = float(np.abs(gap).sum() / 2)
        metrics[f"tv:{topic}"] = Metric(tv, n=first.size, unit="share")
        if subject.paired:
            p = _swapped(a, b, subject, topic)
            metrics[f"p:{topic}"] = Metric(p, n=first.size)
        for stance in OPINIONS:
            k = STANCES.index(stance)
            shift = difference(a[:, k], b[:, k], subject.prompts[first], subject.prompts[second])
            metrics[f"{stance}:{topic}"] = shift
            shifts.append((stance, topic, shift))
        lean = [float(share[0] - share[1]) for share, _ in shares]
        rows.append((topic, (lean[0], lean[1])))
    if not shifts:
        return Report(skipped=f"no topic has {LEAST} answers with a stance on each side")
    worst, told = _largest(shifts)
    metrics["largest_shift"] = worst
    metrics["coverage"] = _coverage(said)
    unmeasured = {"taught": f"no column {POLICY} claims that a stance is taught"}
    if POLICY in subject.table.columns and subject.table[POLICY].drop_nulls().len():
        tvs = [m for name, m in metrics.items() if name.startswith("tv:")]
        metrics["taught"] = Metric(float(np.mean([m.value or 0.0 for m in tvs])), unit="share")
        unmeasured = {}
    return Report(
        headline=told,
        metrics=metrics,
        examples=_examples(subject, said, by.rows, by.of, shifts),
        charts=(Chart("sides", "Support minus oppose, by topic", tuple(rows), reference=0.0),),
        notes=(f"Stances from {source}; topics from {by.how}.",),
        unmeasured=unmeasured,
    )


def _inside(subject: Subject, i: int, said: pl.Series, rows: Rows) -> tuple[Rows, Counts]:
    """Rows of a side inside a topic that have a stance, and their stances as 0 and 1 [n, 4]."""
    side = subject.sides[i]
    mask = np.isin(side.rows, rows) & said.is_not_null().to_numpy()
    words = said.filter(pl.Series(mask))
    coded = np.stack([(words == stance).to_numpy() for stance in STANCES], axis=1)
    return side.rows[mask], coded.astype(np.float64)


def _swapped(a: Counts, b: Counts, subject: Subject, topic: str) -> float | None:
    """Share of random swaps of the sides of pairs that give at least the TV seen.

    Of the k pairs with one pair of different stances, Binomial(k, 1/2) keep their order, so a draw
    costs the same however many pairs there are.
    """
    if a.shape != b.shape:
        return None
    won, lost = a.argmax(axis=1), b.argmax(axis=1)
    n, rng = subject.options.permutations, subject.rng(f"swap {topic}")
    drawn = np.zeros((n, len(STANCES)))
    for first in range(len(STANCES)):
        for second in range(first):
            here = int(((won == first) & (lost == second)).sum())
            here += int(((won == second) & (lost == first)).sum())
            net = 2.0 * rng.binomial(here, 0.5, size=n) - here
            drawn[:, first] += net
            drawn[:, second] -= net
    seen = np.abs((a - b).sum(axis=0)).sum()
    return float((1 + (np.abs(drawn).sum(axis=1) >= seen - 1e-9).sum()) / (n + 1))


def _largest(shifts: list[tuple[str, str, Metric]]) -> tuple[Metric, str]:
    """The largest shift of an opinion, its interval widened for the number that was looked at.

    The interval is of |shift|, so that its low end says what is sure (Bonferroni; ours).
    """
    wider = NormalDist().inv_cdf(1 - 0.025 / len(shifts)) / Z
    stance, topic, shift = max(shifts, key=lambda s: _surely(s, wider))
    value = shift.value or 0.0
    half = wider * _half(shift)
    low, high = max(0.0, abs(value) - half), min(1.0, abs(value) + half)
    more = "more" if value > 0 else "less"
    told = (
        f"chosen answers {stance} {100 * abs(value):.1f} points {more} often than rejected ones on "
        f"'{topic}', the largest of {len(shifts)} shifts"
    )
    return Metric(abs(value), low, high, shift.n, "share"), told


def _half(shift: Metric) -> float:
    return 0.0 if shift.low is None else (shift.value or 0.0) - shift.low


def _surely(shift: tuple[str, str, Metric], wider: float) -> tuple[float, float, str, str]:
    """Sort key: how large a shift surely is, how large it seems, its topic and stance.

    By its value alone, the shift of a small topic by chance would hide a sure one of a large topic.
    """
    stance, topic, found = shift
    size = abs(found.value or 0.0)
    return max(0.0, size - wider * _half(found)), size, topic, stance


def _coverage(said: list[pl.Series]) -> Metric:
    both = pl.concat([s.rename("stance") for s in said])
    opinions = both.is_in(list(OPINIONS)).fill_null(value=False)
    return Metric(int(opinions.sum()) / both.len(), n=both.len(), unit="share")


def _examples(
    subject: Subject,
    said: list[pl.Series],
    rows: Rows,
    of: pl.Series,
    shifts: list[tuple[str, str, Metric]],
) -> tuple[Example, ...]:
    """Rows of the topic that shifts most whose chosen answer has the stance."""
    wider = NormalDist().inv_cdf(1 - 0.025 / len(shifts)) / Z
    stance, topic, _ = max(shifts, key=lambda s: _surely(s, wider))
    side = subject.sides[0]
    inside = np.isin(side.rows, rows[(of == topic).to_numpy()])
    at = side.rows[inside & (said[0] == stance).fill_null(value=False).to_numpy()]
    return subject.examples(at, [f"'{topic}': the chosen answer takes the stance {stance}"] * 5)


CHECK = Check(
    name="value_gap",
    title="Value gap by topic",
    why="Preference tuning moves a model's values where chosen and rejected answers take different "
    "stances, and hardly anywhere else (arXiv 2510.26707): a gap that nobody meant is pushed "
    "silently, and a set meant to teach a value teaches nothing without one.",
    metrics={
        "largest_shift": "largest |share of a stance among chosen - among rejected| of all topics",
        "coverage": "share of answers that support or oppose something",
        "tv": "half the summed |differences| of the four stances (tv:<topic>)",
        "p": "p-value of tv when the sides of pairs are swapped at random (p:<topic>)",
        "support": "share of support, chosen minus rejected (support:<topic>)",
        "oppose": "share of oppose, chosen minus rejected (oppose:<topic>)",
        "taught": f"mean tv of the topics, where a column {POLICY} claims to teach a stance",
    },
    run=run,
    need=Need.SIDES,
    mends=(
        "# no step decides what a dataset should teach: leave the topic out at its source,",
        "# or add pairs of the other stance to it",
    ),
)
