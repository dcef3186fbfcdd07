"""Pairs labelled both ways, and preferences that go round in a circle."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from audit.check import Check, Need
from audit.finding import Report, flagged
from audit.stats import share
from audit.subject import Subject

MOST_PATHS = 20_000_000
"""Prompts are left out of the search for circles from the one on that brings more two-step paths
than this."""


def run(subject: Subject) -> Report:
    """Find A over B beside B over A for a prompt, and A over B over C over A."""
    edges = subject.keys.select(
        "prompt", "chosen", "rejected", row=pl.int_range(pl.len())
    ).with_columns(
        low=pl.min_horizontal("chosen", "rejected"), high=pl.max_horizontal("chosen", "rejected")
    )
    edges = edges.filter(pl.col("chosen") != pl.col("rejected"))
    forward = pl.col("chosen") == pl.col("low")
    both = (forward.any() & ~forward.all()).over("prompt", "low", "high")
    edges = edges.with_columns(both=both)
    swapped = np.zeros(subject.height, dtype=bool)
    swapped[edges.filter("both")["row"].to_numpy()] = True
    circle, asked = _circles(edges, subject.height)
    distinct = edges.unique(["prompt", "low", "high"], keep="any").sort("row")
    metrics = {
        "pairs": share(distinct["both"].to_numpy(), subject.prompts[distinct["row"].to_numpy()])
    }
    if asked.any():
        metrics["cycles"] = share(circle[asked], subject.prompts[asked])
    first = pl.col("row").min().over("prompt", "low", "high").alias("first")
    groups = edges.filter("both").with_columns(first).sort("first", "row")["row"].to_numpy()
    rows = np.concatenate([groups, np.flatnonzero(circle & ~swapped)])
    said = ["labelled the other way round elsewhere"] * groups.size
    said += ["part of a circle of three preferences"] * (rows.size - groups.size)
    n, of = int(distinct["both"].sum()), distinct.height
    headline = "no pair of answers is there with both labels"
    if n:
        headline = (
            f"{n:,} of {of:,} distinct pairs of answers are there with both labels, in "
            f"{int(swapped.sum()):,} of {subject.height:,} rows"
        )
    rounds = f"; {int(circle.sum()):,} rows lie on a circle of three" if asked.any() else ""
    return Report(
        headline=headline + rounds,
        metrics=metrics,
        rows=flagged(rows, said),
        notes=(
            "The unit is the pair of answers to a prompt, not the row: labels that were drawn "
            "several times for one pair (by raters, or by a judge that is asked again) count once.",
        ),
        unmeasured={} if asked.any() else {"cycles": "no prompt has three answers to compare"},
    )


def _circles(edges: pl.DataFrame, height: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Rows that lie on a circle of three, and rows of prompts that could have one."""
    circle, asked = np.zeros(height, dtype=bool), np.zeros(height, dtype=bool)
    plain = edges.filter(~pl.col("both")).select("prompt", "chosen", "rejected", "row")
    steps = plain.unique(["prompt", "chosen", "rejected"], keep="any").drop("row")
    steps = steps.filter(pl.len().over("prompt") >= 3)
    degree = steps.group_by("prompt", key="rejected").len("ins")
    degree = degree.join(
        steps.group_by("prompt", key="chosen").len("outs"), on=["prompt", "key"], how="inner"
    )
    paths = degree.group_by("prompt").agg(paths=(pl.col("ins") * pl.col("outs")).sum())
    paths = paths.sort("paths", "prompt").filter(pl.col("paths").cum_sum() <= MOST_PATHS)
    asked[plain.join(steps.select("prompt").unique(), on="prompt", how="semi")["row"]] = True
    steps = steps.join(paths.select("prompt"), on="prompt", how="semi")
    second = steps.rename({"chosen": "rejected", "rejected": "third"})
    two = steps.join(second, on=["prompt", "rejected"])
    back = steps.rename({"chosen": "third", "rejected": "chosen"})
    three = two.join(back, on=["prompt", "third", "chosen"], how="semi")
    on_it = plain.join(three, on=["prompt", "chosen", "rejected"], how="semi")
    circle[on_it["row"].to_numpy()] = True
    return circle, asked


CHECK = Check(
    name="contradictions",
    title="Contradictory labels",
    why="A pair that stands there with both labels pulls both ways: at best it cancels out, at "
    "worst it is the visible part of a noisy or swapped labelling.",
    metrics={
        "pairs": "share of distinct pairs of answers that are there with both labels",
        "cycles": "share of pairs on a circle of three, among prompts with three pairs or more",
    },
    run=run,
    faulty_rows=True,
    need=Need.PAIRS,
    mends=('- filters.ExactDuplicates: {"on": row, on_contradiction: drop_both}',),
)
