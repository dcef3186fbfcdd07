"""Refusals by side."""

from __future__ import annotations

import math

import polars as pl

from audit.check import Check, Need
from audit.finding import Chart, Metric, Report, flagged
from audit.stats import difference, share
from audit.subject import Subject


def run(subject: Subject) -> Report:
    """Count answers that refuse, on each side."""
    hits = [f["refusal"].to_numpy() for f in subject.features]
    metrics = {
        side.name: share(mask, side.prompts) for side, mask in zip(subject.sides, hits, strict=True)
    }
    told = ", ".join(f"{100 * (m.value or 0):.1f}% of {name}" for name, m in metrics.items())
    if subject.two_sided:
        chosen, rejected = subject.sides
        metrics["gap"] = difference(hits[0], hits[1], chosen.prompts, rejected.prompts)
    rows = [side.rows[mask] for side, mask in zip(subject.sides, hits, strict=True)]
    named = [
        flagged(at, f"the {side.name} answer refuses")
        for side, at in zip(subject.sides, rows, strict=True)
    ]
    bars = tuple((name, (m.value, m.low, m.high)) for name, m in metrics.items() if name != "gap")
    return Report(
        headline=f"{told} answers refuse".replace("of response", "of the"),
        metrics=metrics,
        rows=pl.concat(named),
        charts=(Chart("shares", "Answers that refuse", bars),),
        recipe=_recipe(metrics),
        notes=("By lists of phrases in seventeen languages, as filters.Refusals has them.",),
    )


def _recipe(metrics: dict[str, Metric]) -> tuple[str, ...]:
    """Bring the side that refuses more to the share of the other."""
    exempt = "   # rows of safety data are exempt if named: safety, harmful"
    gap = metrics.get("gap")
    if gap is None or (gap.value or 0.0) > 0:
        return (f"- filters.Refusals: {{}}{exempt}",)
    most = math.ceil(100 * (metrics["chosen"].value or 0.0)) / 100
    return (f"- filters.Refusals: {{max_share: {{rejected: {most:g}}}}}{exempt}",)


CHECK = Check(
    name="refusals",
    title="Refusals by side",
    why="Refusals on one side only teach a reflex: on the chosen side to refuse what is harmless, "
    "on the rejected side to comply with anything.",
    metrics={
        "chosen": "share of chosen answers that refuse",
        "rejected": "share of rejected answers that refuse",
        "response": "share of answers that refuse",
        "gap": "chosen minus rejected",
    },
    run=run,
    need=Need.ANSWERS,
)
