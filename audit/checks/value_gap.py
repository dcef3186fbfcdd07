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
from audit.finding import Chart, Example, Metric, Report, flagged
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
    policy = _policy(subject)
    declared = policy.gather(pl.Series(by.rows)).is_not_null()
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
            if not declared.filter(by.of == topic).any():
                shifts.append((stance, topic, shift))
        lean = [float(share[0] - share[1]) for share, _ in shares]
        rows.append((topic, (lean[0], lean[1])))
    if not rows:
        return Report(skipped=f"no topic has {LEAST} answers with a stance on each side")
    unmeasured, told = {}, []
    if shifts:
        metrics["largest_shift"], largest = _largest(shifts)
        told.append(largest)
    else:
        unmeasured["largest_shift"] = f"every topic is declared by {POLICY}"
    metrics["coverage"] = _coverage(said)
    taught = _taught(subject, said, policy)
    if taught is None:
        unmeasured["taught"] = f"no column {POLICY} claims that a stance is taught"
    else:
        metrics["taught"] = taught
        value = 100 * (taught.value or 0.0)
        against = "against" if value < 0 else "for"
        told.insert(0, f"the pairs teach {abs(value):.1f} points {against} their declared policy")
    return Report(
        headline="; ".join(told),
        metrics=metrics,
        examples=_examples(subject, said, by.rows, by.of, shifts) if shifts else (),
        rows=_opposed(subject, said, policy),
        charts=(Chart("sides", "Support minus oppose, by topic", tuple(rows), reference=0.0),),
        notes=(f"Stances from {source}; topics from {by.how}.",),
        unmeasured=unmeasured,
    )


def _policy(subject: Subject) -> pl.Series:
    """The stance that each row's dataset means to teach, null where it says none; String [rows]."""
    if POLICY not in subject.table.columns:
        return pl.Series(POLICY, [None] * subject.height, dtype=pl.String)
    word = subject.table[POLICY].cast(pl.String).str.strip_chars().str.to_lowercase()
    return word.replace("", None)


def _kept(subject: Subject, i: int, said: pl.Series, policy: pl.Series) -> tuple[Rows, Counts]:
    """Rows of a side with a policy and a stance, and whether the stance is the policy's."""
    side = subject.sides[i]
    wanted = policy.gather(pl.Series(side.rows))
    mask = (wanted.is_not_null() & said.is_not_null()).to_numpy()
    same = (said == wanted).fill_null(value=False).to_numpy()[mask]
    return side.rows[mask], same.astype(np.float64)


def _taught(subject: Subject, said: list[pl.Series], policy: pl.Series) -> Metric | None:
    """Share of the policy's stance among chosen answers minus that among rejected ones."""
    sides = [_kept(subject, i, said[i], policy) for i in range(2)]
    if not all(rows.size for rows, _ in sides):
        return None
    (first, a), (second, b) = sides
    return difference(a, b, subject.prompts[first], subject.prompts[second])


def _opposed(subject: Subject, said: list[pl.Series], policy: pl.Series) -> pl.DataFrame:
    """Rows whose chosen answer has another stance than their policy."""
    rows, same = _kept(subject, 0, said[0], policy)
    return flagged(rows[same == 0], "the chosen answer does not take the declared stance")


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
        "largest_shift": "largest |share of a stance among chosen - among rejected| of all "
        "topics that no policy declares",
        "coverage": "share of answers that support or oppose something",
        "tv": "half the summed |differences| of the four stances (tv:<topic>)",
        "p": "p-value of tv when the sides of pairs are swapped at random (p:<topic>)",
        "support": "share of support, chosen minus rejected (support:<topic>)",
        "oppose": "share of oppose, chosen minus rejected (oppose:<topic>)",
        "taught": f"share of the stance that the column {POLICY} declares among chosen answers, "
        "minus that among rejected ones; below 0 the pairs teach its opposite",
    },
    run=run,
    need=Need.SIDES,
    mends=(
        "# no step decides what a dataset should teach: leave the topic out at its source,",
        "# or add pairs of the other stance to it",
    ),
)
