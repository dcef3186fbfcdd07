"""Chosen answers that fit other prompts as well as their own."""

from __future__ import annotations

import json

import numpy as np
import polars as pl

from audit.check import Check, Need
from audit.finding import Metric, Report, flagged
from audit.stats import share
from audit.subject import Subject
from prefactory.engines.encoder import BUNDLED
from prefactory.preferences.damage import EVASIVE, texts_of_meaning
from prefactory.preferences.damage.relevance import CLUSTERS, evasive


def run(subject: Subject) -> Report:
    """Hold the relevance of each chosen (or only) answer against that to other prompts."""
    if not subject.options.embeddings:
        return Report(skipped="embeddings were switched off (--no-embeddings)")
    side = subject.sides[0]
    rows, found = subject.relevance
    if found is None:
        return Report(skipped=f"fewer than {CLUSTERS} different prompts make no comparison")
    hits = {rule: found[rule].to_numpy() for rule in ("off_topic", "strict")}
    by = subject.prompts[rows]
    strict = share(hits["strict"], by)
    # many answers that fit no prompt are no accident: they are short or evasive
    words = texts_of_meaning(subject.table[rows])[0].str.count_matches(r"\S+")
    many = evasive(found, words)
    rule = "strict" if many else "off_topic"
    order = np.flatnonzero(hits[rule])
    order = order[np.argsort(-found["fit"].to_numpy()[order], kind="stable")]
    note = found[order].select(
        pl.format(
            "cosine {} with its own prompt; {}% of other prompts fit as well",
            pl.col("own").round(2),
            (100 * pl.col("fit")).round(0).cast(pl.Int64),
        )
    )
    what = (
        "are short or evasive and fit no prompt" if many else "fit other prompts better than theirs"
    )
    whose = "" if side.name == "response" else f"{side.name} "
    named = {"evasive" if many else "off_topic": share(hits[rule], by)}
    return Report(
        headline=f"{order.size:,} of {rows.size:,} {whose}answers {what}",
        metrics={
            **named,
            "strict": strict,
            "median": Metric(float(np.median(found["own"].to_numpy())), n=rows.size),
        },
        rows=flagged(rows[order], note.to_series()),
        notes=(_note(rows.size, side.rows.size, many=many),),
        recipe=() if many else (_cure(subject.options.encoder),),
    )


def _cure(encoder: str) -> str:
    """The rule, with the encoder that found it where it is not the one that ships."""
    other = "" if encoder == BUNDLED else f", encoder: {{model: {json.dumps(encoder)}}}"
    return f"- filters.Damage: {{rules: [off_topic]{other}}}   # by sentence vectors"


def _note(sampled: int, of: int, *, many: bool) -> str:
    drawn = f"{sampled:,} of {of:,} answers, drawn by row id. " if sampled < of else ""
    told = (
        f"{drawn}Cosine of an answer with its last user message or the end of the conversation, "
        "against that with 300 other prompts."
    )
    if many:
        told += (
            f" Over {100 * EVASIVE:.0f}% of the answers fit no prompt and are short: "
            "'I don't understand what you mean' is no answer to another question, so only those "
            "that over 20% of the other prompts fit as well are counted, and no rule drops them."
        )
    return told


CHECK = Check(
    name="off_topic",
    title="Off-topic answers",
    why="A chosen answer that belongs to another prompt teaches to ignore the question; a few "
    "percent of them outweigh much of what the right labels teach.",
    metrics={
        "off_topic": "share of answers under the 95th percentile of the relevance to others, that "
        "over 5 % of other prompts fit as well",
        "strict": "the same, over 20 % of other prompts",
        "evasive": "`strict`, where too many short answers fit no prompt for `off_topic` to count",
        "median": "median cosine of an answer with its own prompt",
    },
    run=run,
    faulty_rows=True,
    need=Need.ANSWERS,
)
