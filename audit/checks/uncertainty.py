"""Uncertainty: disagreement of sampled answers, semantic entropy, hedging against correctness."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from audit.check import Check, Need
from audit.finding import Metric, Report, flagged
from audit.stats import Z, difference, share
from audit.subject import LABEL, Rows, Subject, fold
from filters.content.style import HEDGE
from labelers.rules.verifiable import MARKER, numbers
from prefactory.measures.score_columns import scored
from prefactory.near.vectors import unit
from prefactory.tables import SCORE, Shape

SAME = 0.9
"""Cosine from which two answers to one prompt mean the same (ours)."""
UNSURE = 0.8
"""Semantic entropy from which a prompt's rows are named (ours)."""


def run(subject: Subject) -> Report:
    """Compare the answers that one model gave to one prompt, and hedges with correctness."""
    metrics, notes = {}, []
    named, parts = flagged([], ""), []
    groups = sampled(subject) if subject.shape == Shape.RESPONSES else None
    if groups is not None and groups.height:
        groups = clustered(subject, groups)
        by_prompt = entropies(groups)
        prompts = subject.prompts[by_prompt["first"].to_numpy()]
        differ = (by_prompt["meanings"] > 1).to_numpy()
        disagree = (by_prompt["texts"] > 1).to_numpy()
        numeric = by_prompt["numeric"].to_numpy()
        metrics["disagreement"] = share(disagree, prompts)
        metrics["entropy"] = _mean(by_prompt["entropy"].to_numpy())
        if numeric.any():
            metrics["numbers"] = share(differ[numeric], prompts[numeric])
            metrics["entropy_numbers"] = _mean(by_prompt["entropy"].to_numpy()[numeric])
        named = _named(groups, by_prompt)
        notes += _notes(subject, groups, by_prompt)
        parts.append(
            f"answers of one model differ on {100 * disagree.mean():.0f}% of "
            f"{by_prompt.height:,} prompts, semantic entropy "
            f"{metrics['entropy'].value or 0.0:.2f} of 1"
        )
    for name, metric in hedging(subject).items():
        metrics[f"hedging:{name}"] = metric
        parts.append(f"wrong answers by {name} hedge {100 * (metric.value or 0.0):+.1f} points "
                     "more often than right ones")  # fmt: skip
    if not metrics:
        return Report(
            skipped="no prompt has several answers of one model, and no score says right or wrong "
            "(0 or 1) of the answers"
        )
    return Report(
        headline="; ".join(parts),
        metrics=metrics,
        rows=named,
        notes=tuple(notes),
        unmeasured={} if "entropy" in metrics else {
            "entropy": "no prompt has several answers of one model"
        },
    )  # fmt: skip


def sampled(subject: Subject) -> pl.DataFrame:
    """Answers of prompts that one model answered several times: `group`, `row`, `text`, `key`.

    `key` is the final number where all answers of a group state one after a marker (`numeric`),
    else the folded text. Answers without a model count as one model's.
    """
    rows = np.arange(subject.height, dtype=np.int64)
    model = subject.table["model"].fill_null("")
    frame = pl.DataFrame({"prompt": subject.prompts, "model": model, "row": rows})
    frame = frame.filter(pl.len().over("prompt", "model") > 1)
    frame = frame.with_columns(group=pl.struct("prompt", "model").rank("dense"))
    if not frame.height:
        return frame
    first = frame.group_by("group", maintain_order=True).agg(pl.col("row").first())
    most = max(1, subject.options.embed_rows * first.height // frame.height)
    drawn = subject.sample(first["row"].to_numpy(), most, "sampled answers")
    kept = first.filter(pl.col("row").is_in(pl.Series(drawn).implode()))["group"]
    frame = frame.filter(pl.col("group").is_in(kept.implode()))
    texts = pl.concat([side.text.alias("text") for side in subject.sides])
    at = pl.Series(np.concatenate([side.rows for side in subject.sides]))
    answers = pl.DataFrame({"row": at, "text": texts})
    frame = frame.join(answers, on="row", how="left", maintain_order="left")
    marked = frame["text"].str.contains(MARKER)
    number = numbers(frame["text"])
    frame = frame.with_columns(number=pl.when(marked).then(number), folded=fold(frame["text"]))
    numeric = pl.col("number").is_not_null().all().over("group")
    number_key = pl.col("number").round_sig_figs(9).cast(pl.String)
    key = pl.when(numeric).then(number_key).otherwise(pl.col("folded"))
    return frame.with_columns(numeric=numeric, key=key)


def clustered(subject: Subject, groups: pl.DataFrame) -> pl.DataFrame:
    """Add `meaning`: answers of a group with equal keys, or whose vectors have a cosine >= `SAME`.

    Nearness is passed on (single linkage), so that the order of the answers doesn't matter. Numbers
    are compared as numbers: vectors don't tell 3 from 4.
    """
    keys = groups.select(pl.struct("group", "key").rank("dense")).to_series().to_numpy() - 1
    if not subject.options.embeddings:
        return groups.with_columns(meaning=pl.Series(keys))
    texts = groups.with_row_index("at").filter(~pl.col("numeric"))
    n = groups.height
    # an answer is joined to the first with its key, and to those that are near it
    edges = [(np.arange(n), _firsts(keys))]
    if texts.height:
        vectors = unit(subject.embed(texts["text"]))
        places = texts["at"].to_numpy().astype(np.int64)
        edges += _near(vectors, places, texts["group"].to_numpy())
    one, other = (np.concatenate(ends) for ends in zip(*edges, strict=True))
    graph = coo_array((np.ones(one.size, dtype=np.int8), (one, other)), shape=(n, n))
    return groups.with_columns(meaning=pl.Series(connected_components(graph, directed=False)[1]))


def _firsts(keys: NDArray[np.int64]) -> Rows:
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return np.asarray(first[inverse], dtype=np.int64)


def _near(
    vectors: NDArray[np.floating], places: Rows, groups: NDArray[np.int64]
) -> list[tuple[Rows, Rows]]:
    """Pairs of near answers within groups, all groups of one size at once."""
    order = np.argsort(groups, kind="stable")
    _, start, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    edges = []
    for size in np.unique(sizes):
        members = order[start[sizes == size][:, None] + np.arange(size)]
        block = vectors[members]
        near = np.argwhere(np.einsum("gad,gbd->gab", block, block) >= SAME)
        edges.append((places[members[near[:, 0], near[:, 1]]],
                      places[members[near[:, 0], near[:, 2]]]))  # fmt: skip
    return edges


def entropies(groups: pl.DataFrame) -> pl.DataFrame:
    """Semantic entropy of each group: -sum p log p over its meanings, by log of its answers.

    Known answers: 0 if all mean the same, 1 if no two do, 1/2 for two and two.

    Args:
        groups: `group`, `row`, `key`, `numeric`, `meaning`.

    Returns:
        A row per group: `group`, `first` (its first row), `n`, `texts` (different keys), `numeric`,
        `meanings` and `entropy` (0 to 1).
    """
    counts = groups.group_by("group", "meaning").agg(c=pl.len())
    n = pl.col("c").sum()
    p = pl.col("c") / n
    entropy = -(p * p.log()).sort().sum() / n.cast(pl.Float64).log()
    by_meaning = counts.group_by("group").agg(meanings=pl.len(), entropy=entropy.abs())
    facts = groups.group_by("group").agg(
        first=pl.col("row").min(),
        n=pl.len(),
        texts=pl.col("key").n_unique(),
        numeric=pl.col("numeric").first(),
    )
    return facts.join(by_meaning, on="group").sort("group")


def hedging(subject: Subject) -> dict[str, Metric]:
    """Share of wrong answers that hedge minus that of right ones, by scores that are 0 or 1."""
    found: dict[str, Metric] = {}
    # the label of KTO says good or bad, not right or wrong
    names = scored(subject.table) if subject.paired else [
        c.removeprefix(SCORE) for c in subject.table.columns if c.startswith(SCORE) and c != LABEL
    ]  # fmt: skip
    for name in names:
        columns = [f"{side.name}_{SCORE}{name}" if subject.paired else f"{SCORE}{name}"
                   for side in subject.sides]  # fmt: skip
        values = [
            subject.table[column].cast(pl.Float64).gather(pl.Series(side.rows)).to_numpy()
            for column, side in zip(columns, subject.sides, strict=True)
        ]
        value = np.concatenate(values)
        right, wrong = value == 1.0, value == 0.0
        if not right.any() or not wrong.any() or (right | wrong).sum() < np.isfinite(value).sum():
            continue
        hits = np.concatenate([side.text.str.contains(HEDGE).to_numpy() for side in subject.sides])
        by = np.concatenate([side.prompts for side in subject.sides])
        found[name] = difference(hits[wrong], hits[right], by[wrong], by[right])
    return found


def _mean(values: NDArray[np.float64]) -> Metric:
    half = Z * float(values.std(ddof=1)) / values.size**0.5 if values.size > 1 else 0.0
    mean = float(values.mean())
    if values.size < 2:
        return Metric(mean, n=values.size)
    return Metric(mean, max(0.0, mean - half), min(1.0, mean + half), values.size)


def _named(groups: pl.DataFrame, by_prompt: pl.DataFrame) -> pl.DataFrame:
    unsure = by_prompt.filter(pl.col("entropy") >= UNSURE).sort(
        "entropy", "first", descending=[True, False]
    )
    rows = unsure.join(groups.select("group", "row"), on="group", maintain_order="left_right")
    note = rows.select(
        pl.format(
            "{} meanings in {} answers of its model to this prompt, entropy {}",
            "meanings", "n", pl.col("entropy").round(2),
        )
    )  # fmt: skip
    return flagged(rows["row"], note.to_series())


def _notes(subject: Subject, groups: pl.DataFrame, by_prompt: pl.DataFrame) -> list[str]:
    numeric = int(by_prompt["numeric"].sum())
    how = (
        f"a cosine of {SAME:g} or more joins two (a flip such as 'right' for 'wrong' is that near, "
        "too: semantic entropy as published, arXiv 2302.09664, asks a model of entailment)"
        if subject.options.embeddings
        else "equal but for case and space (no embeddings)"
    )
    notes = [
        f"{by_prompt.height:,} prompts with {groups.height:,} answers; a missing model name counts "
        f"as one model. {numeric:,} state a final number in every answer and are compared by it, "
        f"the others by text; meanings: {how}. Entropy is -sum p log p over them, by log n.",
    ]
    return notes


CHECK = Check(
    name="uncertainty",
    title="Uncertainty of sampled answers",
    why="Where a model's answers to one prompt differ in meaning it does not know, and a label on "
    "them is luck; and an answer that is sure and wrong teaches to be so.",
    metrics={
        "disagreement": "share of prompts whose answers of one model differ, by final number where "
        "all state one, else by text without case and space",
        "numbers": "the same of the prompts whose answers all state a final number",
        "entropy": "mean semantic entropy of a prompt's answers, 0 (one meaning) to 1 (all differ)",
        "entropy_numbers": "the same of the prompts whose answers all state a final number",
        "hedging": "share of wrong answers that hedge minus that of right ones, by a score of 0 "
        "and 1 (hedging:<score>); below 0 hedges mark right answers",
    },
    run=run,
    need=Need.ANSWERS,
    mends=("# ask again, or leave the prompts of findings.parquet out: no answer can be trusted",),
)
