"""Visibly damaged answers: loops, runs of one character, control characters, the question again."""

from __future__ import annotations

import polars as pl

from audit.check import Check, Need
from audit.finding import Chart, Metric, Report, flagged
from audit.stats import share
from audit.subject import Side, Subject
from filters.rules.quality import Quality
from prefactory.context import Context
from prefactory.tables import in_parts

MANY = 0.05
"""Share of damaged rejected answers above which they go too."""


def run(subject: Subject) -> Report:
    """Judge the answers of each side by `filters.Quality`, and look for loops."""
    metrics: dict[str, Metric] = {}
    named = [flagged([], "")]
    bars: dict[str, list[float]] = {}
    for number, side in enumerate(subject.sides):
        reasons = _reasons(subject, side)
        bad = reasons.is_not_null().to_numpy()
        metrics[side.name] = share(bad, side.prompts)
        counts = reasons.drop_nulls().value_counts().sort("reason")
        for reason, n in counts.iter_rows():
            metrics[f"{reason}:{side.name}"] = Metric(
                n / reasons.len(), n=reasons.len(), unit="share"
            )
            bars.setdefault(reason, [0.0] * len(subject.sides))[number] = n / reasons.len()
        named.append(flagged(side.rows[bad], f"{side.name}: " + reasons.drop_nulls()))
    kind = "sides" if subject.two_sided else "bars"
    shown = tuple((reason, tuple(values)) for reason, values in sorted(bars.items()))
    told = ", ".join(
        f"{100 * (metrics[s.name].value or 0):.1f}% of {s.name}" for s in subject.sides
    )
    return Report(
        headline=f"{told} answers are damaged".replace("of response", "of the"),
        metrics=metrics,
        rows=pl.concat(named),
        charts=(Chart(kind, "Damaged answers", shown),) if shown else (),  # type: ignore[arg-type]
        notes=(
            "By the rules of filters.Quality (control characters, runs, hardly a letter, repeated "
            "lines, prompt echo) and by the rule `loop` of filters.Damage.",
        ),
        recipe=_recipe(pl.concat(named), metrics.get("rejected")),
    )


def _recipe(named: pl.DataFrame, rejected: Metric | None) -> tuple[str, ...]:
    """The rules that fire, and no others; a rejected answer may have been rejected for its loop."""
    looping = named["note"].str.ends_with(": loop")
    many = rejected is not None and (rejected.value or 0.0) > MANY
    lines = []
    if (looping & (many | ~named["note"].str.starts_with("rejected"))).any():
        both = ", rejected: true" if many else ""
        lines.append(f"- filters.Damage: {{rules: [loop]{both}}}")
    if not looping.all():
        lines.append("- filters.Quality: {no_text: false, max_repeated_trigrams: null}")
    return tuple(lines)


def _reasons(subject: Subject, side: Side) -> pl.Series:
    """The reason of each damaged answer, null where it is fine."""
    at = pl.Series(side.rows)
    column = side.name if subject.paired else "response"
    table = subject.table.select("prompt", response=column)[at]
    found = in_parts(_judged, table.with_columns(side.text.rename("text")))["reason"]
    looping = pl.Series(side.rows).is_in(subject.hits(side, "loop")["row"].implode())
    return found.set(looping, "loop")


def _judged(table: pl.DataFrame) -> pl.DataFrame:
    step, text = Quality(no_text=False, max_repeated_trigrams=None), pl.col("text")
    blank = table.select(blank=text.str.strip_chars() == "")
    judged = step.keep(table.drop("text"), Context()).select("reason").hstack(blank)
    return judged.select(reason=pl.when(~pl.col("blank")).then("reason"))


CHECK = Check(
    name="damaged",
    title="Damaged answers",
    why="A loop, a run of one character or the question again is imitated when it was chosen, and "
    "too easy to beat when it was rejected.",
    metrics={
        "chosen": "share of chosen answers that are damaged",
        "rejected": "share of rejected answers that are damaged",
        "response": "share of answers that are damaged",
        "loop": "share that say one sentence, or few words, again and again (loop:<side>)",
        "control_characters": "share with control or replacement characters",
        "long_run": "share with one character many times in a row",
        "low_alphanumeric": "share with hardly a letter or digit",
        "duplicate_lines": "share with mostly repeated lines",
        "prompt_echo": "share that begin with the whole question",
    },
    run=run,
    faulty_rows=True,
    need=Need.ANSWERS,
)
