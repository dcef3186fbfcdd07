"""Scores: missing, off their scale, tied, and against the label."""

from __future__ import annotations

import re

import numpy as np
import polars as pl

from audit.check import Check, Need
from audit.finding import Example, Metric, Report, Severity, flagged
from audit.limits import LIMITS
from audit.stats import share
from audit.subject import EXAMPLES, LABEL, Rows, Subject
from prefactory.measures.contradictions import OVERALL, aspects_of, contradictions
from prefactory.measures.score_columns import answers, margins, scored
from prefactory.tables import SCORE, is_score, objectives

NAME = re.compile(r"[A-Za-z]\w*")
MAIN = ("overall", "overall_score", "reward", "score", "rating", "preference", "helpfulness")
"""Scores that a label is expected to follow; so is the only score that there is."""


def run(subject: Subject) -> Report:
    """Look at every score column, and hold the main ones against the label."""
    table = subject.table
    columns = [c for c in table.columns if is_score(c) and c != LABEL]
    tied = subject.intake.refused("tie").height
    if not columns and not tied and "margin" not in table.columns:
        return Report(skipped="there are no scores")
    metrics: dict[str, Metric] = {}
    found: list[tuple[str, Rows]] = []
    for name in objectives(columns):
        metrics |= _values(subject, name, [c for c in columns if c.endswith(f"{SCORE}{name}")])
    if subject.paired:
        metrics |= _labels(subject, found)
    off, examples = _off_scale(subject)
    metrics |= off
    if tied:
        total = subject.height + tied
        metrics["left_out_ties"] = Metric(tied / total, n=total, unit="share")
    for note, rows in found:
        examples += subject.examples(rows, [note] * rows.size, EXAMPLES - len(examples))
    return Report(
        headline=_told(metrics, objectives(columns)),
        metrics=metrics,
        examples=tuple(examples[:EXAMPLES]),
        rows=pl.concat([flagged([], ""), *(flagged(rows, note) for note, rows in found)]),
        notes=(
            "Contradictions and ties are asked of the margin, of scores that mean the whole "
            f"answer ({', '.join(MAIN)}), and of a score that is alone.",
        ),
        recipe=_recipe(metrics, paired=subject.paired),
    )


def _values(subject: Subject, name: str, columns: list[str]) -> dict[str, Metric]:
    """Share of answers without a score, and of scores that are no finite number."""
    values = pl.concat([subject.table[c].rename("v") for c in columns])
    odd = (values.is_nan() | values.is_infinite()).fill_null(value=False)
    metrics = {
        f"unscored:{name}": share(values.is_null().to_numpy()),
        f"not_finite:{name}": share(odd.to_numpy()),
    }
    there = values.filter(values.is_finite()).drop_nulls()
    if there.len() and there.min() == there.max():
        metrics[f"constant:{name}"] = Metric(float(there[0]))
    return metrics


def _labels(subject: Subject, found: list[tuple[str, Rows]]) -> dict[str, Metric]:
    """Ties and contradictions of the main scores and of the margin."""
    table = subject.table
    gaps = margins(table)
    names = scored(table)
    main = [name for name in names if name in MAIN or len(names) == 1]
    columns = {name: gaps[name] for name in main}
    if "margin" in table.columns and table["margin"].null_count() < table.height:
        columns["margin"] = table["margin"]
    metrics = {}
    for name, gap in columns.items():
        there = gap.is_not_null() & gap.is_finite().fill_null(value=False)
        rows = np.flatnonzero(there.to_numpy())
        values = gap.filter(there).to_numpy()
        metrics[f"contradictions:{name}"] = share(values < 0, subject.prompts[rows])
        metrics[f"ties:{name}"] = share(values == 0, subject.prompts[rows])
        worst = rows[np.argsort(values, kind="stable")]
        against = worst[: int((values < 0).sum())]
        found.append((f"{name} puts the rejected answer higher", against))
        found.append((f"{name} is the same for both answers", rows[values == 0]))
    if "margin" in columns and len(main) == 1:
        off = (table["margin"] - gaps[main[0]]).abs() > 1e-6 * (1 + table["margin"].abs())
        known = off.drop_nulls()
        if known.len():
            metrics[f"margin_off:{main[0]}"] = share(known.to_numpy())
    return metrics


def _off_scale(subject: Subject) -> tuple[dict[str, Metric], list[Example]]:
    """Overall scores that their aspects do not bear out (UltraFeedback's tens)."""
    flat = answers(subject.table) if subject.sides else subject.table
    names = [o for o in objectives(flat.columns) if f"{SCORE}{o}" in flat.columns]
    overall = next((o for o in OVERALL if o in names), None)
    aspects = aspects_of(subject.table, overall) if overall else []
    if overall is None or len(aspects) < 2:
        return {}, []
    doubt = contradictions(subject.table, overall, aspects)
    value = doubt.rows.height / max(doubt.checked, 1)
    metric = Metric(value, n=doubt.checked, unit="share")
    return {f"off_scale:{overall}": metric}, _off_examples(subject, doubt.rows, overall)


def _off_examples(subject: Subject, wrong: pl.DataFrame, overall: str) -> list[Example]:
    if "response_id" not in wrong.columns:
        return []
    first = wrong.sort(pl.col("gap").abs(), "response_id", descending=[True, False]).head(2)
    found: list[Example] = []
    for row in first.iter_rows(named=True):
        note = (
            f"{overall} is {row['overall']:g} where its aspects average "
            f"{100 * row['aspects_unit']:.0f}% of their scale"
        )
        for side in subject.sides:
            at = (side.ids == row["response_id"]).arg_true()
            if at.len():
                found += subject.examples([int(side.rows[at[0]])], [note])
                break
    return found


def _told(metrics: dict[str, Metric], names: list[str]) -> str:
    parts = (
        [f"{len(names)} score{'s' * (len(names) != 1)}: {', '.join(names[:5])}"] if names else []
    )
    for kind, words in (
        ("off_scale", "contradict their aspects"),
        ("contradictions", "go against the label"),
        ("ties", "are ties"),
        ("unscored", "are missing"),
    ):
        family = {n: m for n, m in metrics.items() if n.startswith(f"{kind}:") and m.value}
        if family:
            worst = max(family, key=lambda n: family[n].value or 0.0)
            value = 100 * (family[worst].value or 0.0)
            parts.append(f"{value:.1f}% of {worst.split(':', 1)[1]} {words}")
    if "left_out_ties" in metrics:
        parts.append(f"the reader left out {100 * (metrics['left_out_ties'].value or 0):.1f}% ties")
    return "; ".join(parts) or "margins only"


POLICIES = {
    "ties": "on_tie",
    "contradictions": "on_conflict",
    "unscored": "on_null",
    "not_finite": "on_null",
}
"""What a metric is of -> the policy of `filters.Margin` that takes it out."""


def _recipe(metrics: dict[str, Metric], *, paired: bool) -> tuple[str, ...]:
    """For each score the rule that takes out what is over its limit, and nothing else."""
    off: dict[str, dict[str, None]] = {}
    for metric, value in metrics.items():
        kind, _, name = metric.partition(":")
        limit = LIMITS.get(f"scores.{kind}")
        if limit is not None and name != "margin" and limit.severity(value) > Severity.OK:
            off.setdefault(name, {})[kind] = None
    lines = [_line(name, list(kinds), paired=paired) for name, kinds in off.items()]
    return tuple(line for line in lines if line)


def _line(name: str, kinds: list[str], *, paired: bool) -> str:
    if not NAME.fullmatch(name):
        return ""
    if not paired:
        gone = set(kinds) & {"unscored", "not_finite"}
        return f"- filters.Score: {{objective: {name}}}" if gone else ""
    drop = {POLICIES[kind] for kind in kinds if kind in POLICIES}
    if not drop:
        what = "the margin" if kinds == ["margin_off"] else name
        return f"# look at the rows, then leave {what} out or mend it at its source"
    fields = [f"{p}: keep" for p in ("on_tie", "on_conflict", "on_null") if p not in drop]
    return f"- filters.Margin: {{{', '.join([f'objective: {name}', *fields])}}}"


CHECK = Check(
    name="scores",
    title="Scores and ties",
    why="A score that says the opposite of the label, or an overall mark that its aspects do not "
    "bear out, is a fault in one of them: UltraFeedback holds 2,628 tens of which many were ones.",
    metrics={
        "unscored": "share of answers without the score (unscored:<score>)",
        "not_finite": "share of scores that are NaN or infinite (not_finite:<score>)",
        "constant": "the one value that a score has everywhere (constant:<score>)",
        "contradictions": "share of pairs whose rejected answer scores higher (…:<score>)",
        "ties": "share of pairs whose answers score the same (ties:<score>)",
        "margin_off": "share of pairs whose margin is not the difference of the scores",
        "off_scale": "share of answers whose overall score contradicts the mean of its aspects",
        "left_out_ties": "share of records that the reader left out as ties",
    },
    run=run,
    need=Need.ANSWERS,
)
