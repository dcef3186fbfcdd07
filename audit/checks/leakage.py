"""Prompts that stand in more than one split."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from audit.check import Check
from audit.finding import Metric, Report, flagged
from audit.near import near_of
from audit.stats import share
from audit.subject import EXAMPLES, SPLIT, Subject
from catalog.splits import group_key

TRAIN = "train"
Mask = NDArray[np.bool_]


def run(subject: Subject) -> Report:
    """Look the prompts of every held-out split up in the training split."""
    if SPLIT not in subject.table.columns:
        return Report(skipped="there is one split, or none is named (a column `split`)")
    splits = subject.table[SPLIT].fill_null("none")
    names = splits.unique().sort().to_list()
    if len(names) < 2:
        return Report(skipped=f"all rows are of the split {names[0]!r}")
    train = splits.str.contains(f"(?i)^{TRAIN}")
    if not train.any() or train.all():
        train = (
            splits == splits.value_counts().sort("count", SPLIT, descending=[True, False])[SPLIT][0]
        )
    held = ~train
    rows = np.flatnonzero(held.to_numpy())
    groups = subject.table.select(group=group_key(pl.col("prompt")))["group"]
    exact = subject.folded_prompt.is_in(subject.folded_prompt.filter(train).unique().implode())
    opened = groups.is_in(groups.filter(train).unique().implode())
    near, pairs = _near(subject, train.to_numpy())
    masks = {
        "prompts": exact.to_numpy()[rows],
        "openings": opened.to_numpy()[rows],
        "near": (near | exact.to_numpy())[rows],
    }
    metrics = {name: share(mask, subject.prompts[rows]) for name, mask in masks.items()}
    metrics["rows"] = Metric(rows.size, unit="count")
    told = [
        f"{int(masks['prompts'].sum()):,} of {rows.size:,} held-out rows have a training prompt"
    ]
    told.append(f"{int((masks['near'] & ~masks['prompts']).sum()):,} more have nearly one")
    order = [*rows[masks["prompts"]][:3], *(row for row, _ in pairs)]
    more = masks["near"] & ~masks["prompts"]
    named = [
        flagged(rows[masks["prompts"]], "its prompt is in the training split"),
        flagged(rows[more], "its prompt is nearly one of the training split"),
    ]
    notes = ["its prompt is in the training split"] * min(3, int(masks["prompts"].sum()))
    notes += [f"nearly the prompt of {place}" for _, place in pairs]
    return Report(
        headline=", ".join(told),
        metrics=metrics,
        examples=subject.examples([int(row) for row in order], notes),
        rows=pl.concat(named),
        notes=(
            f"Splits: {', '.join(names)}. `openings` compares first user messages, without case "
            "and punctuation, as `publish` does when it cuts splits.",
        ),
    )


def _near(subject: Subject, train: Mask) -> tuple[Mask, list[tuple[int, str]]]:
    """Held-out rows whose prompt nearly is one of training; the first of them, and their twins."""
    keys = pl.DataFrame(
        {"key": subject.keys["prompt"], "train": train, "row": np.arange(subject.height)}
    )
    one = keys.unique(["key", "train"], keep="first", maintain_order=True)
    rows = one["row"].to_numpy()
    texts = {"prompt": subject.prompt_text.gather(pl.Series(rows))}
    near = near_of(texts, one["train"].to_numpy())
    edges, kinds = near.edges, one["train"].to_numpy()
    swap = kinds[edges.left]
    held, twin = np.where(swap, edges.right, edges.left), np.where(swap, edges.left, edges.right)
    leads = np.zeros(rows.size, dtype=bool)
    leads[held] = True
    found = one.filter(pl.Series(leads[near.leader] & ~kinds)).select("key")
    leaked = keys.filter(~pl.col("train")).join(found, on="key", how="semi")
    mask = np.zeros(subject.height, dtype=bool)
    mask[leaked["row"].to_numpy()] = True
    other = one["key"].gather(held) != one["key"].gather(twin)
    first = np.flatnonzero(other.to_numpy())[:EXAMPLES]
    place = subject.table["source_id"]
    pairs = [(int(rows[held[i]]), str(place[int(rows[twin[i]])] or "")) for i in first]
    return mask, pairs


CHECK = Check(
    name="leakage",
    title="Leakage between splits",
    why="A held-out prompt that was trained on measures memory. Near-copies count: the answer to "
    "one is the answer to the other.",
    metrics={
        "rows": "rows that are held out",
        "prompts": "share of held-out rows whose prompt is in the training split",
        "openings": "share of held-out rows whose first user message opens a training row",
        "near": "share of held-out rows whose prompt is, or nearly is, a training prompt",
    },
    run=run,
    faulty_rows=True,
    mends=(
        "# publish cuts splits by groups of prompts; near-copies must go first",
        '- filters.NearDuplicates: {"on": prompt}',
    ),
)
