"""Can chosen and rejected answers be told apart by a straight line? And by their looks alone?"""

from __future__ import annotations

import numpy as np
import polars as pl

from audit.check import ONE_MODEL, Check, Need
from audit.finding import Chart, Metric, Report
from audit.probe import FOLDS, Probe, paired, pointwise
from audit.stats import share
from audit.subject import Rows, Subject
from filters.content.looks import columns as columns_of
from filters.content.looks import looks as looks_of
from filters.rules.separability import Separability
from prefactory.preferences.probe import LEAST, PAIRED_LIMIT, POINTWISE_LIMIT, Columns


def run(subject: Subject) -> Report:
    """Probe looks on a sample, and meaning (embeddings) on a smaller one."""
    if min(side.rows.size for side in subject.sides) < LEAST:
        return Report(skipped=f"a probe needs {LEAST} answers on each side")
    probes = _probes(subject, "surface_", subject.options.probe_rows, meaning=False)
    unmeasured = {}
    if subject.options.embeddings:
        probes |= _probes(subject, "", subject.options.embed_rows, meaning=True)
    else:
        wanted = ("paired", "pointwise") if subject.paired else ("pointwise",)
        unmeasured = dict.fromkeys(wanted, "embeddings were switched off (--no-embeddings)")
    if not subject.paired:
        why = "the answers are labelled one by one, not paired"
        unmeasured |= dict.fromkeys(("paired", "surface_paired"), why)
    metrics: dict[str, Metric] = {}
    for name, (probe, _) in probes.items():
        metrics[name] = probe.accuracy
        metrics[f"{name}_auc"] = probe.area
    metrics |= _differences(subject, metrics)
    rows = tuple((TOLD[n], (m.value, m.low, m.high)) for n, m in metrics.items() if n in TOLD)
    best = "paired" if "paired" in probes else next(iter(probes))
    order, notes = _easiest(subject, *probes[best]) if subject.paired else (np.array([], int), [])
    cures = _cures(metrics) if subject.paired else ()
    return Report(
        headline=_told(metrics, best),
        metrics=metrics,
        examples=subject.examples(order, notes),
        charts=(Chart("shares", "Right answers on prompts never seen", rows, reference=0.5),),
        notes=(
            f"L2 logistic probes in {FOLDS} folds cut by prompt; the surface probe reads style "
            "counts, the first three words and hashed words, the other one sentence embeddings of "
            "the answer. High separability is no fault where the sides should differ (safe and "
            "unsafe answers); compare with pairs of one model, and with the surface probe.",
        ),
        recipe=() if cures else None,
        choices=cures,
        unmeasured=unmeasured,
    )


def _cures(metrics: dict[str, Metric]) -> tuple[str, ...]:
    """Lines that drop the most separable pairs; none where most would have to leave."""
    lines = []
    for prefix, fields in (("surface_", "{}"), ("", "{reads: meaning}")):
        limits = {f"{prefix}paired": PAIRED_LIMIT, f"{prefix}pointwise": POINTWISE_LIMIT}
        over = [
            (metrics[name].value or 0.0, limit) for name, limit in limits.items() if name in metrics
        ]
        share = max(((value - limit) / (1 - limit) for value, limit in over), default=0.0)
        if share > MOST:
            return ()
        if share > 0:
            lines.append(f"- filters.Separability: {fields}")
    return tuple(lines)


MOST = float(Separability.model_fields["most"].default)
"""Share of the pairs that the cure may take."""
TOLD = {
    "paired": "embeddings, pair by pair",
    "pointwise": "embeddings, one by one",
    "surface_paired": "looks only, pair by pair",
    "surface_pointwise": "looks only, one by one",
}


def _probes(
    subject: Subject, prefix: str, most: int, *, meaning: bool
) -> dict[str, tuple[Probe, Rows]]:
    """The probes on one kind of columns, and the rows that each judged."""
    folds = subject.folds(FOLDS)
    if not subject.paired:
        taken = [subject.sample(side.rows, most, "texts") for side in subject.sides]
        columns = [_columns(subject, i, rows, meaning=meaning) for i, rows in enumerate(taken)]
        found = _pointwise(subject, columns, taken, folds)
        return {f"{prefix}pointwise": (found, np.concatenate(taken))}
    keys = subject.keys
    differ = np.flatnonzero((keys["chosen"] != keys["rejected"]).to_numpy())
    rows = subject.sample(differ, most, "texts")
    columns = [_columns(subject, i, rows, meaning=meaning) for i in range(2)]
    both = paired(columns[0], columns[1], folds[rows], subject.prompts[rows])
    single = _pointwise(subject, columns, [rows, rows], folds)
    return {f"{prefix}paired": (both, rows), f"{prefix}pointwise": (single, rows)}


def _pointwise(subject: Subject, columns: list[Columns], rows: list[Rows], folds: Rows) -> Probe:
    at = np.concatenate(rows)
    label = np.arange(at.size) < rows[0].size
    both = columns[0].below(columns[1])
    return pointwise(both, label, folds[at], subject.prompts[at])


def _columns(subject: Subject, number: int, rows: Rows, *, meaning: bool) -> Columns:
    side = subject.sides[number]
    at = pl.Series(np.searchsorted(side.rows, rows))
    texts = side.text.gather(at)
    if meaning:
        return Columns(subject.embed(texts).astype(np.float64))
    return columns_of(looks_of(texts, subject.features[number][at]))


def _differences(subject: Subject, metrics: dict[str, Metric]) -> dict[str, Metric]:
    """How much meaning adds to looks, and how many pairs are of two models."""
    found = {}
    kind = "paired" if subject.paired else "pointwise"
    meaning, looks = metrics.get(kind), metrics.get(f"surface_{kind}")
    if meaning and looks and meaning.value is not None and looks.value is not None:
        found["meaning_beyond_looks"] = Metric(meaning.value - looks.value, unit="share")
    if subject.paired:
        names = subject.table.select(same=pl.col("chosen_model") == pl.col("rejected_model"))
        known = names["same"].drop_nulls()
        if known.len():
            rows = names["same"].is_not_null().to_numpy()
            found["two_models"] = share((~known).to_numpy(), subject.prompts[rows])
    return found


def _told(metrics: dict[str, Metric], best: str) -> str:
    value = metrics[best]
    told = f"a probe ({TOLD[best]}) gets {100 * (value.value or 0):.1f}% right"
    looks = metrics.get(f"surface_{best}")
    return f"{told}; looks alone {100 * (looks.value or 0):.1f}%" if looks else told


def _easiest(subject: Subject, probe: Probe, rows: Rows) -> tuple[Rows, list[str]]:
    order = np.argsort(-probe.decision, kind="stable")
    notes = [f"told apart with decision value {probe.decision[at]:.2f}" for at in order[:5]]
    return rows[order], notes


CHECK = Check(
    name="separability",
    title="Separability of chosen and rejected",
    why="Where a straight line tells chosen from rejected, DPO learns that line: the style of a "
    "stronger model rather than better content. Such data raises benchmark scores and jailbreak "
    "rates at once (arXiv 2504.02193); pairs of one model do not.",
    metrics={
        "paired": "accuracy of a linear probe on embeddings, pair by pair",
        "paired_auc": "its AUC",
        "pointwise": "accuracy of a linear probe on embeddings, answer by answer",
        "pointwise_auc": "its AUC",
        "surface_paired": "the same on looks only (style, opening, words), pair by pair",
        "surface_paired_auc": "its AUC",
        "surface_pointwise": "the same on looks only, answer by answer",
        "surface_pointwise_auc": "its AUC",
        "meaning_beyond_looks": "embedding accuracy minus surface accuracy",
        "two_models": "share of pairs whose answers are by two models",
    },
    run=run,
    slow=True,
    need=Need.SIDES,
    mends=ONE_MODEL,
)
