"""Seconds to combine, weigh and pair a million answers with eight scores, and to solve MAP.

    python -m benchmarks.combine [--answers 1000000] [--objectives 8]

Everything runs in this process on tables in memory: no store, no shards. Texts are a few words, as
only `Pairs` looks at them. The second part is MAP on 2,312 answers with 6 rewards, the size of the
pilot data of its paper.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from labelers import MAP, Combine, DynamicBeta, Pairs, Signs, SteerWeights, Weigh
from labelers.combine.palette import quantile_palette, solve
from prefactory.context import Context
from prefactory.step import Step
from prefactory.tables import MESSAGES

EACH = 8
"""Answers to a prompt."""


def answers(n: int, k: int) -> pl.DataFrame:
    """RESPONSES with k scores, 8 answers to a prompt."""
    rng = np.random.default_rng(0)
    number = np.arange(n)
    ids = pl.DataFrame({"p": number // EACH, "r": number}).with_columns(
        prompt_id=pl.col("p").hash(1).cast(pl.String).str.zfill(32),
        response_id=pl.col("r").hash(2).cast(pl.String).str.zfill(32),
        question=pl.format("question {}", "p"),
        answer=pl.format("answer {} of some words", "r"),
    )
    scores = rng.normal(size=(n, k)) + rng.normal(size=(n, 1))
    table = ids.select(
        "prompt_id",
        prompt=said("user", "question"),
        source=pl.lit("bench"),
        source_id=pl.col("response_id"),
        response_id="response_id",
        response=said("assistant", "answer"),
        model=pl.format("model {}", pl.col("r") % 4),
        origin=pl.lit("self"),
    )
    table = table.with_columns(pl.Series(f"score_o{i}", scores[:, i]) for i in range(k))
    return table.sort("prompt_id", "response_id")


def said(role: str, column: str) -> pl.Expr:
    """A conversation of one message."""
    return pl.concat_list(pl.struct(role=pl.lit(role), content=column)).cast(MESSAGES)


def applied(step: Any, table: pl.DataFrame) -> pl.DataFrame:  # noqa: ANN401 - any step
    """Fit a step if it needs it, and label or generate."""
    ctx = Context(seed=1)
    if step.scope == "dataset":
        parts = step.fit_shard(table, ctx)
        ctx = Context(seed=1, state=step.fit(parts.sort(parts.columns[0]), ctx))
    made = step.label(table, ctx) if hasattr(step, "label") else step.generate(table, ctx).rows
    return pl.DataFrame(made)


def timed(name: str, work: Callable[[], pl.DataFrame]) -> pl.DataFrame:
    """Run and print the seconds, the rows and the peak memory so far."""
    start = time.perf_counter()
    found = work()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name:44} {seconds:7.2f} s  {found.height:>10,} rows  peak {peak:4.1f} GB")
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=1_000_000)
    parser.add_argument("--objectives", type=int, default=8)
    args = parser.parse_args()
    table = timed("(make the table)", lambda: answers(args.answers, args.objectives))
    names = [f"o{i}" for i in range(args.objectives)]
    weights = dict.fromkeys(names, 1.0)
    linear: dict[str, Any] = {"name": "sum", "weights": weights}
    steps: list[tuple[str, Step]] = [
        ("Combine linear", Combine(**linear)),
        ("Combine linear, z-scores", Combine(**linear, normalise="zscore")),
        ("Combine log-sigmoid", Combine(**linear, method="logsigmoid")),
        ("MAP", MAP(name="map", objectives=tuple(names), quantiles=0.51)),
        *(
            (f"Weigh {m}", Weigh(name="w", objectives=tuple(names), method=m))
            for m in ("tri_factor", "soft_min", "pareto")
        ),
        ("SteerWeights", SteerWeights(target=dict.fromkeys(names, 1.0))),
        ("Pairs best-worst", Pairs(objective="o0")),
        ("Pairs best-random-lower", Pairs(objective="o0", strategy="best_random_lower")),
        ("Pairs top-2 bottom-2", Pairs(objective="o0", strategy="top_bottom_k", k=2)),
        ("Pairs each, best-worst", Pairs(objectives=tuple(names), order="each")),
        ("Pairs Pareto, all", Pairs(objectives=tuple(names), order="pareto", strategy="all")),
        ("Pairs all", Pairs(objective="o0", strategy="all")),
    ]
    pairs = pl.DataFrame()
    for name, step in steps:
        pairs = timed(name, lambda s=step: applied(s, table))  # type: ignore[misc]
    timed("Signs of them", lambda: applied(Signs(objectives=tuple(names)), pairs))
    timed("DynamicBeta of them", lambda: applied(DynamicBeta(scale="median"), pairs))
    rewards = np.random.default_rng(0).normal(size=(2312, 6))
    palette = quantile_palette(rewards, 0.6)
    start = time.perf_counter()
    found = solve(rewards, palette)
    seconds = time.perf_counter() - start
    print(f"MAP of 2,312 x 6: {seconds:.3f} s; {found.message}")


if __name__ == "__main__":
    main()
