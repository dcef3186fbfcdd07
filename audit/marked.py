"""What checks of damage rules share: the hits of each side, counted and named."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from audit.finding import Chart, Metric, Report, flagged
from audit.stats import share
from audit.subject import Side, Subject
from prefactory.preferences.damage import ON_BOTH


def report(
    subject: Subject, rules: Sequence[str], headline: str, notes: Sequence[str] = ()
) -> Report:
    """Count the hits of some rules by side, name their rows, and write the rules that fire.

    Args:
        subject: the data.
        rules: of `prefactory.preferences.damage`.
        headline: what is true of the answers, after "12 chosen and 3 rejected answers".
        notes: what a reader must know.
    """
    metrics: dict[str, Metric] = {}
    named, counts = [flagged([], "")], []
    bars: dict[str, tuple[float | None, ...]] = dict.fromkeys(rules, ())
    fired: set[str] = set()
    for side in subject.sides:
        hits = subject.hits(side, *rules)
        metrics[side.name] = _share(side, hits)
        for rule in rules:
            part = hits.filter(pl.col("rule") == rule)
            metrics[f"{rule}:{side.name}"] = _share(side, part)
            bars[rule] = (*bars[rule], metrics[f"{rule}:{side.name}"].value)
        first = hits.unique("row", keep="first", maintain_order=True)
        note = first.select(pl.format(f"{side.name}: {{}}: {{}}", "rule", "detail")).to_series()
        named.append(flagged(first["row"], note))
        counts.append(f"{first.height:,} {side.name}".removesuffix(" response"))
        if side.name != "rejected":
            fired |= set(hits["rule"])
        else:
            fired |= set(hits.filter(pl.col("rule").is_in(ON_BOTH))["rule"])
    shown = tuple((rule.replace("_", " "), values) for rule, values in bars.items())
    kind = "sides" if subject.two_sided else "bars"
    lines = ", ".join(rule for rule in rules if rule in fired)
    return Report(
        headline=f"{' and '.join(counts)} answers {headline}",
        metrics=metrics,
        rows=pl.concat(named),
        charts=(Chart(kind, "Answers that the rules hit", shown),),  # type: ignore[arg-type]
        notes=tuple(notes),
        recipe=(f"- filters.Damage: {{rules: [{lines}]}}",) if lines else (),
    )


def _share(side: Side, hits: pl.DataFrame) -> Metric:
    return share(pl.Series(side.rows).is_in(hits["row"].implode()).to_numpy(), side.prompts)
