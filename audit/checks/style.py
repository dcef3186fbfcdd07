"""Sycophancy and style markers by side."""

from __future__ import annotations

import json
from statistics import NormalDist

import numpy as np
import polars as pl
from numpy.typing import NDArray

from audit.check import Check, Need
from audit.finding import Chart, Metric, Report, Severity
from audit.limits import LIMITS
from audit.stats import Z, difference, share
from audit.subject import Rows, Subject
from filters.content.style import COUNTS, FLAGS, first_words

MARKERS = (*(f for f in FLAGS if f != "refusal"), *COUNTS)
FREQUENT, LEAST = 0.04, 20
"""An opening counts that is on this share of the answers of a side, and on so many in all."""
Hits = NDArray[np.bool_]
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
    widened = {m: _widened(metrics[f"gap:{m}"], len(MARKERS)) for m in MARKERS}
    worst = max(MARKERS, key=lambda m: _size(widened[m]))
    metrics["largest_gap"] = widened[worst]
    gap = 100 * (metrics[f"gap:{worst}"].value or 0.0)
    where = "chosen" if gap > 0 else "rejected"
    at = _only(subject, [table[worst].to_numpy() for table in marked], where)
    said = f"{WORDS[worst]} on the {where} side only"
    opening = _opening(subject)
    if opening is not None and _size(opening[1]) > _size(widened[worst]):
        where_opened = "chosen" if (opening[1].value or 0.0) > 0 else "rejected"
        at = _only(subject, _begins(subject, opening[0]), where_opened)
        said = f"only the {where_opened} answer begins with '{opening[0]}'"
    unmeasured = {}
    if opening is None:
        unmeasured["opening_gap"] = f"no opening is on {100 * FREQUENT:g}% of a side's answers"
    else:
        metrics["opening_gap"] = opening[1]
    off = [m for m in MARKERS if _off("largest_gap", widened[m])]
    cures = [f"- filters.Balance: {{mark: {marker}}}" for marker in off]
    if opening is not None and _off("opening_gap", opening[1]):
        cures.append(f"- filters.Balance: {{opening: {json.dumps(opening[0])}}}")
    return Report(
        headline=f"'{WORDS[worst]}' is on {abs(gap):.1f} points more of the {where} answers, the "
        f"surest of {len(MARKERS)} differences{_opened(opening)}",
        metrics=metrics,
        examples=subject.examples(at, [said] * at.size),
        charts=(Chart("sides", "Share of answers with the marker", tuple(rows)),),
        notes=(
            "English phrases; openings within 240 characters. Longer answers hold more of most "
            "markers, so read this beside the length rule. The interval of the largest gap is "
            f"widened for {len(MARKERS)} looks. Openings are the first word and the first three, "
            "whatever they are: they show a mark that is in no list of phrases.",
        ),
        choices=tuple(cures) if subject.paired else (),
        unmeasured=unmeasured,
    )


def _off(name: str, metric: Metric) -> bool:
    return LIMITS[f"style.{name}"].severity(metric) > Severity.OK


def _widened(gap: Metric, looks: int) -> Metric:
    """The interval of the largest of so many gaps (Bonferroni)."""
    if gap.value is None or gap.low is None:
        return gap
    half = (gap.value - gap.low) * NormalDist().inv_cdf(1 - 0.025 / looks) / Z
    return Metric(gap.value, gap.value - half, gap.value + half, gap.n, "share")


def _opening(subject: Subject) -> tuple[str, Metric] | None:
    """The first word or first three words with the surest gap, and the gap; None without any.

    Other words are not looked at: longer answers hold more of all of them, and begin no otherwise.
    """
    sides = [first_words(side.text) for side in subject.sides]
    chosen, rejected = subject.sides
    found: dict[str, Metric] = {}
    for column in ("one", "three"):
        counts = [words[column].drop_nulls().value_counts(name="n") for words in sides]
        sizes = pl.concat(
            c.with_columns(share=pl.col("n") / max(words.height, 1))
            for c, words in zip(counts, sides, strict=True)
        )
        named = sizes.group_by(column).agg(pl.col("n").sum(), pl.col("share").max())
        often = named.filter((pl.col("n") >= LEAST) & (pl.col("share") >= FREQUENT))
        for opening in often[column].sort():
            hits = [(words[column] == opening).fill_null(value=False) for words in sides]
            first, second = (h.to_numpy() for h in hits)
            found[opening] = difference(first, second, chosen.prompts, rejected.prompts)
    if not found:
        return None
    widened = {opening: _widened(gap, len(found)) for opening, gap in found.items()}
    worst = max(sorted(widened), key=lambda o: _size(widened[o]))
    return worst, widened[worst]


def _opened(opening: tuple[str, Metric] | None) -> str:
    if opening is None or not opening[1].value:
        return ""
    gap = 100 * opening[1].value
    return f"; '{opening[0]}' opens {abs(gap):.1f} points more of the " + (
        "chosen" if gap > 0 else "rejected"
    )


def _size(gap: Metric) -> tuple[float, float]:
    """How large a gap surely is, then how large it seems.

    A frequent mark differs by several points by chance: by its value alone it would hide a rare one
    whose smaller gap is sure.
    """
    value, low, high = gap.value or 0.0, gap.low, gap.high
    if low is None or high is None:
        return 0.0, abs(value)
    return max(low, -high, 0.0), abs(value)


def _begins(subject: Subject, opening: str) -> list[Hits]:
    """Which answers of each side begin with an opening."""
    column = "one" if " " not in opening else "three"
    words = [first_words(side.text)[column] for side in subject.sides]
    return [(w == opening).fill_null(value=False).to_numpy() for w in words]


def _only(subject: Subject, marked: list[Hits], where: str) -> Rows:
    """Rows that are marked on one side and not on the other (unpaired: that are marked)."""
    mine, other = (0, 1) if where == "chosen" else (1, 0)
    hits = marked[mine]
    if subject.paired:
        hits = hits & ~marked[other]
    return np.asarray(subject.sides[mine].rows[hits])


CHECK = Check(
    name="style",
    title="Sycophancy and style by side",
    why="Compliments, agreement, bold type and emojis are cheap to imitate. Where they mark one "
    "side, a model learns them in place of what made the answer better.",
    metrics={
        "largest_gap": "the difference of the sides that is surely largest among all markers",
        "opening_gap": "the same among the most frequent first words and first three words",
        "chosen": "share of chosen answers with a marker (chosen:<marker>)",
        "rejected": "share of rejected answers with a marker (rejected:<marker>)",
        "gap": "chosen minus rejected (gap:<marker>)",
    },
    run=run,
    need=Need.SIDES,
)
