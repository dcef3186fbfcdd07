"""Mode collapse: one answer to many prompts, one opening to most."""

from __future__ import annotations

import polars as pl

from audit.check import Check, Need
from audit.finding import Chart, Metric, Report, flagged
from audit.stats import share
from audit.subject import Side, Subject, fold

OPENING = 5
"""Words of an opening."""
LEAST_CHARS = 12
"""Answers under this many characters (yes, 42, B) may well repeat."""
LEAST_PROMPTS = 50
SHOWN = 8


def run(subject: Subject) -> Report:
    """Count repeated answers and openings, on the chosen (or only) side first of all."""
    metrics: dict[str, Metric] = {}
    unmeasured: dict[str, str] = {}
    counted = [_counted(subject, number) for number in range(len(subject.sides))]
    opened = [_openings(side) for side in subject.sides]
    for side, frame, openings in zip(subject.sides, counted, opened, strict=True):
        repeated = ((frame["prompts"] > 1) & frame["counts"]).to_numpy()
        metrics[f"repeated_answers:{side.name}"] = share(repeated, side.prompts)
        if openings.height and frame["prompt"].n_unique() >= LEAST_PROMPTS:
            n = side.rows.size
            metrics[f"top_opening:{side.name}"] = Metric(
                openings["count"][0] / n, n=n, unit="share"
            )
            metrics[f"openings:{side.name}"] = Metric(openings.height / n, n=n, unit="share")
        else:
            why = f"fewer than {LEAST_PROMPTS} prompts have answers of {OPENING} words"
            unmeasured |= {f"{name}:{side.name}": why for name in ("top_opening", "openings")}
    side, openings = subject.sides[0], opened[0]
    bars = tuple(
        (f"{text} \N{HORIZONTAL ELLIPSIS}", (n / side.rows.size,))
        for text, n in openings.head(SHOWN).iter_rows()
    )
    value = metrics[f"repeated_answers:{side.name}"]
    whose = "the" if side.name == "response" else side.name
    told = f"{100 * (value.value or 0):.1f}% of {whose} answers also answer another prompt"
    if bars:
        told += f"; {100 * bars[0][1][0]:.1f}% open with '{openings['opening'][0]}'"
    return Report(
        headline=told,
        metrics=metrics,
        rows=_named(side, counted[0]),
        recipe=(),
        choices=_recipe(subject, metrics),
        charts=(Chart("bars", f"Most frequent openings of {side.name} answers", bars),),
        notes=(
            f"Answers under {LEAST_CHARS} characters may repeat. Openings are {OPENING} words.",
        ),
        unmeasured=unmeasured,
    )


def _recipe(subject: Subject, metrics: dict[str, Metric]) -> tuple[str, ...]:
    """Of each answer that is given to many prompts one row stays."""
    names = [side.name for side in subject.sides] if subject.paired else ["response"]
    found = {s.name for s in subject.sides if metrics[f"repeated_answers:{s.name}"].value}
    lines = [
        f'- filters.ExactDuplicates: {{"on": {name}, shortest: {LEAST_CHARS}}}'
        for name in names
        if name in found or not subject.paired
    ]
    return tuple(lines)


def _counted(subject: Subject, number: int) -> pl.DataFrame:
    """Per answer of a side: `row`, `key` of its text, `prompts` that have it, if it `counts`."""
    side = subject.sides[number]
    key = subject.keys[side.name if subject.paired else "response"]
    frame = pl.DataFrame(
        {"row": side.rows, "key": key.gather(pl.Series(side.rows)), "prompt": side.prompts}
    )
    counts = subject.features[number]["chars"] >= LEAST_CHARS
    return frame.with_columns(prompts=pl.col("prompt").n_unique().over("key"), counts=counts)


def _openings(side: Side) -> pl.DataFrame:
    """Openings of the answers that have so many words, most frequent first: `opening`, `count`."""
    head = fold(side.text.str.strip_chars().str.head(200))
    words = head.rename("o").to_frame().select(w=pl.col("o").str.extract_all(r"\S+"))
    words = words.filter(pl.col("w").list.len() >= OPENING)
    openings = words.select(opening=pl.col("w").list.head(OPENING).list.join(" "))["opening"]
    return openings.value_counts().sort("count", "opening", descending=[True, False])


def _named(side: Side, frame: pl.DataFrame) -> pl.DataFrame:
    """All rows with a repeated answer: first one of each answer, those there most often before."""
    frame = frame.filter((pl.col("prompts") > 1) & pl.col("counts")).sort("row")
    rank = pl.int_range(pl.len()).over("key")
    order = frame.with_columns(again=rank > 0).sort(
        "again", "prompts", "row", descending=[False, True, False]
    )
    note = order.select(pl.format(f"this {side.name} answer is given to {{}} prompts", "prompts"))
    return flagged(order["row"], note.to_series())


CHECK = Check(
    name="collapse",
    title="Mode collapse",
    why="An answer that is right for hundreds of prompts says nothing about any of them; a model "
    "tuned on it learns to say it always.",
    metrics={
        "repeated_answers": "share of answers that are also given to another prompt (…:<side>)",
        "top_opening": f"share of answers with the most frequent {OPENING} first words (…:<side>)",
        "openings": "distinct openings by answers (openings:<side>)",
    },
    run=run,
    need=Need.ANSWERS,
)
