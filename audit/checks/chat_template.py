"""What a tokenizer's chat template leaves out of pairs, or refuses."""

from __future__ import annotations

import numpy as np

from audit.check import Check, Need
from audit.finding import Metric, Report, flagged
from audit.stats import share
from audit.subject import Subject
from prefactory.chat_template import effect


def run(subject: Subject) -> Report:
    """Render every pair and compare the sides."""
    template = subject.options.template
    if template is None:
        return Report(skipped="no tokenizer was named (--tokenizer FOLDER|ID)")
    result = effect(template, [subject.table])
    lost = dict(result.lost.select("pair_id", "detail").iter_rows())
    at = np.flatnonzero(subject.row_ids.is_in(list(lost)).to_numpy())
    hit = np.zeros(subject.height, dtype=bool)
    hit[at] = True
    refusal = (result.refusal,) if result.refusal else ()
    summary = f"{len(lost):,} of {subject.height:,} pairs can't be used with it"
    return Report(
        headline=result.refusal or f"{template.name}: {summary}",
        metrics={
            "lost": share(hit, subject.prompts),
            "refused": Metric(float(bool(refusal)), unit="count"),
            "remarks": Metric(len(result.notes), unit="count"),
        },
        rows=flagged(at, [lost[i] for i in subject.row_ids.gather(at)]),
        notes=(*refusal, *result.notes),
    )


CHECK = Check(
    name="chat_template",
    title="What the chat template leaves out",
    why="A model reads the rendered text. A template that skips system messages or strips thoughts "
    "makes different answers equal, and pairs each other's opposites; one that refuses a role ends "
    "the training.",
    metrics={
        "lost": "share of pairs that the template refuses or writes alike on both sides",
        "refused": "1 if the data must not be trained on with this template",
        "remarks": "things about the template that a reader should know",
    },
    run=run,
    need=Need.PAIRS,
)
