"""Schema and layout: how the data was read, what could not be, and conversations out of order."""

from __future__ import annotations

import polars as pl

from audit.check import Check
from audit.finding import Chart, Example, Metric, Report, flagged
from audit.stats import share
from audit.subject import EXAMPLES, Rows, Subject
from catalog.sources.account import account_lines
from prefactory.preferences.damage.marks import PROMPT_CUE
from prefactory.preferences.draws import COUNTED
from prefactory.tables import ROLES

ELSEWHERE = ("empty_answer", "equal_answers", "tie", COUNTED)
"""Reasons of the reader that other checks count."""


def run(subject: Subject) -> Report:
    """Count what the reader left out, and prompts whose turns are out of order."""
    intake = subject.intake
    refused = intake.rejected.filter(~pl.col("reason").is_in(list(ELSEWHERE)))
    records = intake.records or subject.height + intake.rejected.height
    turns = _turns(subject)
    rows = {name: turns[name].arg_true().to_numpy() for name in turns.columns}
    metrics = {
        "rows": Metric(subject.height, unit="count"),
        "prompts": Metric(subject.n_prompts, unit="count"),
        "rejected": Metric(refused.height / max(records, 1), n=records, unit="share"),
        **{name: share(turns[name].to_numpy(), subject.prompts) for name in turns.columns},
    }
    told = [f"{subject.height:,} {subject.shape.value} of {subject.n_prompts:,} prompts"]
    if intake.layout:
        told.append(f"read as {intake.layout}")
    told.append(_told(refused))
    unread = [name for columns in intake.columns.values() for name in columns["not_read"]]
    if unread:
        told.append(f"columns not read: {', '.join(unread[:6])}{', ...' * (len(unread) > 6)}")
    return Report(
        headline="; ".join(told),
        metrics=metrics,
        examples=_examples(subject, rows, refused),
        rows=pl.concat([flagged(rows[name], note) for name, note in SAID.items()]),
        left_out=intake.named(*refused["reason"].unique()),
        recipe=_recipe(metrics),
        charts=_charts(subject),
        notes=_notes(subject),
    )


def _turns(subject: Subject) -> pl.DataFrame:
    """Per row: `odd_turns`, `not_user_last`, `empty_prompts` and `trailing_cue` (Boolean)."""
    roles = pl.col("prompt").list.eval(pl.element().struct.field("role"))
    talk = subject.table.select(roles=roles, text=subject.prompt_text.str.strip_chars())
    role = pl.element()
    talk = talk.with_columns(
        unknown=pl.col("roles").list.eval(~role.is_in(list(ROLES)) | role.is_null()).list.any(),
        late=pl.col("roles").list.slice(1).list.contains("system"),
        turns=pl.col("roles").list.eval(role.filter(role.is_in(["user", "assistant"]))),
    )
    twice = pl.col("turns").list.eval(role == role.shift(1)).list.any()
    odd = pl.col("unknown") | pl.col("late") | twice
    empty = pl.col("text") == ""
    last = pl.col("roles").list.last()
    return talk.select(
        odd_turns=odd.fill_null(value=False),
        not_user_last=(~empty & ~last.is_in(["user", "tool"])).fill_null(value=False),
        empty_prompts=empty,
        trailing_cue=subject.question.str.tail(40).str.contains(PROMPT_CUE),
    )


def _told(refused: pl.DataFrame) -> str:
    if not refused.height:
        return "every record could be read"
    counts = refused["reason"].value_counts().sort("count", "reason", descending=[True, False])
    listed = ", ".join(f"{reason} {n:,}" for reason, n in counts.head(4).iter_rows())
    return f"{refused.height:,} records could not be used: {listed}"


def _recipe(metrics: dict[str, Metric]) -> tuple[str, ...]:
    """A filter for empty prompts; turns and records are a matter of how the data is read."""
    if metrics["empty_prompts"].value:
        return ("- filters.Length: {prompt_min_words: 1}",)
    return (
        "# no step mends how records are read: name the columns where the data is read",
        "# source: {path: ..., layout: ..., mapping: {prompt: their.column}}",
    )


SAID = {
    "odd_turns": "roles are unknown, repeat, or a system message comes late",
    "not_user_last": "the prompt does not end with the user",
    "empty_prompts": "the prompt is empty",
    "trailing_cue": "the prompt ends in a cue of another turn, such as `Assistant:`",
}


def _examples(
    subject: Subject, rows: dict[str, Rows], refused: pl.DataFrame
) -> tuple[Example, ...]:
    found: list[Example] = []
    for name, note in SAID.items():
        found += subject.examples(rows[name], [note] * EXAMPLES, 2)
    for row_id, reason, detail in refused.sort("row_id").head(EXAMPLES).iter_rows():
        found.append(Example(row_id, row_id, f"left out by the reader, {reason}: {detail}"))
    return tuple(found[:EXAMPLES])


def _charts(subject: Subject) -> tuple[Chart, ...]:
    turns = pl.col("prompt").list.len().alias("turns")
    counts = subject.table.select(turns)["turns"].value_counts().sort("turns")
    shown = [(f"{n} message{'s' * (n != 1)}", k) for n, k in counts.head(6).iter_rows()]
    more = int(counts.slice(6)["count"].sum())
    if more:
        shown.append(("more", more))
    rows = tuple((label, (float(k),)) for label, k in shown)
    return (Chart("bars", "Messages in the prompt", rows, unit="count"),)


def _notes(subject: Subject) -> tuple[str, ...]:
    intake = subject.intake
    notes = [
        f"Columns of {name}: {'; '.join(line.strip() for line in account_lines(columns))}."
        for name, columns in intake.columns.items()
    ]
    if intake.notes.height:
        counts = intake.notes["reason"].value_counts().sort("reason").iter_rows()
        listed = ", ".join(f"{reason} {n:,}" for reason, n in counts)
        notes.append(f"Kept by the reader, but odd: {listed}.")
    if intake.total is not None and intake.total > subject.height:
        notes.append(
            f"{subject.height:,} of {intake.total:,} rows were drawn; counts of duplicates and "
            "leaks between prompts that were not drawn are too low."
        )
    return tuple(notes)


CHECK = Check(
    name="schema",
    title="Schema and layout",
    why="A record that a trainer reads otherwise than it was meant teaches something else: an "
    "assistant turn taken for the question, an answer that belongs to an earlier turn.",
    metrics={
        "rows": "rows in the table",
        "prompts": "distinct prompts",
        "rejected": "share of records that could not be read as rows",
        "odd_turns": "share of prompts with unknown or repeated roles, or a late system message",
        "not_user_last": "share of prompts that do not end with the user",
        "empty_prompts": "share of prompts without text",
        "trailing_cue": "share of prompts that end in a cue of another turn",
    },
    run=run,
    faulty_rows=True,
)
