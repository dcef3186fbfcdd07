"""Diversity of prompts and of chosen answers."""

from __future__ import annotations

import math

import numpy as np
import polars as pl

from audit.check import Check
from audit.finding import Metric, Report
from audit.subject import Subject
from prefactory.measures import diversity

TEXTS = 400
"""Texts that the measures of words see: the same number for every dataset, so that they compare."""
CHARS = 2000
"""Characters of a text that they see."""


def run(subject: Subject) -> Report:
    """Measure a sample of distinct prompts, and one of the chosen (or only) answers."""
    samples = {"prompts": _prompts(subject)}
    if subject.sides:
        side = subject.sides[0]
        at = np.searchsorted(side.rows, subject.sample(side.rows, TEXTS, "texts"))
        samples["answers"] = side.text.gather(pl.Series(at))
    metrics: dict[str, Metric] = {}
    for name, texts in samples.items():
        metrics |= _measures(subject, name, texts)
    unmeasured = {}
    if not subject.options.embeddings:
        why = "embeddings were switched off (--no-embeddings)"
        unmeasured = dict.fromkeys(("vendi", "uniformity"), why)
    return Report(
        headline=_told(metrics, samples),
        metrics=metrics,
        notes=(
            f"On {TEXTS} distinct prompts and {TEXTS} answers at most, drawn by id, "
            f"{CHARS:,} characters of each: numbers of samples of one size compare, others do not. "
            "There is no healthy value; compare with another dataset or version.",
        ),
        unmeasured=unmeasured,
    )


def _prompts(subject: Subject) -> pl.Series:
    """A sample of the distinct last user messages."""
    first = subject.keys.select("prompt", row=pl.int_range(pl.len())).unique("prompt", keep="first")
    rows = np.sort(first["row"].to_numpy())
    return subject.question.gather(pl.Series(subject.sample(rows, TEXTS, "texts")))


def _measures(subject: Subject, name: str, texts: pl.Series) -> dict[str, Metric]:
    n = texts.len()
    cut = texts.str.head(CHARS).to_list()
    found = diversity.of_texts(cut, sample=TEXTS)
    metrics = {
        f"{key}:{name}": Metric(float(value), n=n)
        for key, value in found.items()
        if key not in ("texts", "distinct_texts")
    }
    metrics[f"distinct:{name}"] = Metric(found["distinct_texts"] / max(n, 1), n=n, unit="share")
    if subject.options.embeddings and n >= 2:
        vectors = subject.embed(texts).astype(np.float64)
        vectors = vectors[np.linalg.norm(vectors, axis=1) > 0]
        vendi, spread = diversity.vendi_of(vectors), diversity.uniformity(vectors)
        metrics[f"vendi:{name}"] = Metric(vendi, n=n)
        if math.isfinite(spread):
            metrics[f"uniformity:{name}"] = Metric(spread, n=n)
    return metrics


def _told(metrics: dict[str, Metric], samples: dict[str, pl.Series]) -> str:
    parts = []
    for name, texts in samples.items():
        ratio, bleu = metrics.get(f"compression_ratio:{name}"), metrics.get(f"self_bleu:{name}")
        told = f"{name}: {texts.len()} texts"
        if ratio is not None:
            told += f", compression {ratio.value:.2f}"
        if bleu is not None:
            told += f", self-BLEU {bleu.value:.3f}"
        vendi = metrics.get(f"vendi:{name}")
        if vendi is not None:
            told += f", Vendi {vendi.value:.0f}"
        parts.append(told)
    return "; ".join(parts)


CHECK = Check(
    name="diversity",
    title="Diversity",
    why="Many rows that say the same in other words are few rows: a model tuned on them answers in "
    "one voice.",
    metrics={
        "vendi": "Vendi score, the effective number of different texts (vendi:prompts, :answers)",
        "uniformity": "log mean Gaussian potential of embeddings, lower is more spread",
        "self_bleu": "mean BLEU of a text against the others, 1 if all are the same",
        "rouge_l": "mean ROUGE-L of two texts",
        "distinct_2": "distinct word pairs by word pairs",
        "compression_ratio": "bytes by compressed bytes, higher is more repeated",
        "distinct": "share of the sample that is distinct",
    },
    run=run,
    slow=True,
)
