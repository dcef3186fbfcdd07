"""Rows per second of each step and of the whole chain, and peak memory, as the data grows.

    python -m benchmarks.chain [--sizes 10000,50000,160000] [--distinct] [--embeddings]

Pairs of ../shared/data (hh-rlhf) are repeated with a counter in the first message up to each size,
so that at 160,000 each prompt has 64 near copies; `--distinct` gives every repeated row a first
message of its own, of sentences drawn from all of them. Each size runs in a process of its own,
beside plain Polars doing the same light work (read, filter, write parquet), and beside the steps'
own expressions on the same rows in one process: what the factory adds is the overhead. What a
selection pays is worked out on at most 5,000 rows beside the writing of tables: its time is part
of publishing, and shown too.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHARED = Path(os.environ.get("PREFACTORY_SHARED_DATA", "../shared/data")).resolve()
FILES = ("hh_helpful_base.jsonl.gz", "hh_harmless_base.jsonl.gz")
LIGHT = """
name: bench
seed: 1
source: {path: PATH, layout: hh, name: hh}
steps:
  - filters.Length: {min_words: 1}
  - filters.Quality: {}
  - filters.ExactDuplicates: {"on": row}
  - labelers.R3: {objectives: [length, repetition]}
  - labelers.Combine: {name: reward, method: linear, weights: {length: 1, repetition: 1}}
  - labelers.Margin: {objective: reward}
  - filters.RandomSubsample: {fraction: 0.5}
publish: {test_fraction: 0.1}
"""
EMBEDDED = """
  - labelers.R3: {}
  - filters.ISA: {fraction: 0.5}
"""


def make_data(folder: Path, rows: int, distinct: bool = False) -> Path:
    """Write `rows` pairs: the shared ones, then again with another first message."""
    lines = []
    for name in FILES:
        with gzip.open(SHARED / "preference_human" / name, "rt", encoding="utf-8") as file:
            lines += [json.loads(line) for line in file]
    path = folder / f"pairs-{rows}{'-distinct' if distinct else ''}.jsonl.gz"
    mixed = _mixtures(lines)
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=1) as file:
        for i in range(rows):
            pair, again = lines[i % len(lines)], i // len(lines)
            if again and distinct:
                first = next(mixed)
                pair = {k: FIRST.sub(lambda _, first=first: first, v) for k, v in pair.items()}
            elif again:
                opening = f"\n\nHuman: (case {again}) "
                pair = {k: v.replace("\n\nHuman: ", opening, 1) for k, v in pair.items()}
            file.write(json.dumps(pair) + "\n")
    return path


FIRST = re.compile(r"(?s)(?<=\A\n\nHuman: ).*?(?=\n\nAssistant:)")
"""The first message of a dialogue."""


def _mixtures(lines: list[dict[str, str]]) -> Iterator[str]:
    """First messages of as many sentences as real ones, each sentence drawn from all of them."""
    rng = random.Random(7)
    firsts = [FIRST.search(line["chosen"]) for line in lines]
    cut = [re.split(r"(?<=[.!?])\s+", first.group()) for first in firsts if first is not None]
    pool = sorted({sentence for sentences in cut for sentence in sentences if len(sentence) >= 20})
    while True:
        yield " ".join(rng.sample(pool, max(2, len(rng.choice(cut)))))


def peak_mb() -> float:
    """Highest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_chain(path: Path, home: Path, embeddings: bool) -> dict[str, object]:
    """Run the chain in this process; seconds per stage."""
    import yaml

    from pipelines.build import build, check_recipe
    from pipelines.settings import Settings
    from prefactory.stages import thread_mapper

    data = yaml.safe_load(LIGHT.replace("PATH", str(path)))
    if embeddings:
        data["steps"][3:4] = yaml.safe_load(EMBEDDED)
        data["steps"] = data["steps"][:5]
    recipe_path = home / "bench.yaml"
    recipe_path.write_text(yaml.safe_dump(data), "utf-8")
    settings = Settings(home)
    started = time.monotonic()
    recipe, sources, _ = check_recipe(recipe_path, [])
    outcome = build(recipe, sources, settings, thread_mapper(settings.workers))
    seconds = time.monotonic() - started
    stages = {s.label: round(s.seconds, 3) for s in outcome.stages}
    stages["publish and report"] = round(seconds - sum(stages.values()), 3)
    told = json.loads((outcome.published.version.path / "provenance.json").read_text("utf-8"))
    stages["of which, beside: does it pay"] = told["publishing"]["pays"]
    cpu_s = time.process_time()
    return {"seconds": seconds, "cpu_s": cpu_s, "peak_mb": peak_mb(), "stages": stages}


def run_steps(path: Path, home: Path) -> dict[str, object]:
    """The steps' own expressions on the same rows, in one process, and nothing of the factory.

    The source is read by its reader, rows get their ids, the steps are fitted and applied to the
    whole table in memory. There is no store, ledger, journal, shard, split, digest or report.
    """
    import polars as pl
    import yaml

    from pipelines.build import check_recipe
    from prefactory.apply import apply_filter, apply_labeler, fit, fit_shard
    from prefactory.context import Context
    from prefactory.step import Filter
    from prefactory.tables import canonical_order

    data = yaml.safe_load(LIGHT.replace("PATH", str(path)))
    (home / "bench.yaml").write_text(yaml.safe_dump(data), "utf-8")
    started = time.monotonic()
    recipe, (source,), _ = check_recipe(home / "bench.yaml", [])
    stages: dict[str, float] = {}
    blocks = [block.rows for file in source.files for block in source.read(file)]
    table = canonical_order(pl.concat(blocks), source.shape)
    stages["source"] = time.monotonic() - started
    for placed in recipe.steps:
        began, step = time.monotonic(), placed.step
        ctx = Context(recipe.head.seed, placed.label)
        if step.scope == "dataset":
            part = fit_shard(step, placed.label, table, source.shape, ctx)
            state = fit(step, placed.label, part, ctx)
            ctx = Context(recipe.head.seed, placed.label, state)
        if isinstance(step, Filter):
            gone = apply_filter(step, placed.label, table, source.shape, ctx)["row_id"]
            table = table.filter(~pl.col("pair_id").is_in(gone.implode()))
        else:
            new = apply_labeler(step, placed.label, table, source.shape, ctx)
            table = table.hstack(new.drop("pair_id"))
        stages[placed.label] = time.monotonic() - began
    seconds, cpu_s = time.monotonic() - started, time.process_time()
    return {"seconds": seconds, "cpu_s": cpu_s, "peak_mb": peak_mb(), "stages": stages}


def run_polars(path: Path, out: Path) -> dict[str, object]:
    """The same light work in plain Polars, without ids, store, ledger, checksums or a report."""
    import polars as pl

    started = time.monotonic()
    with gzip.open(path, "rb") as file:
        pairs = pl.read_ndjson(file.read())
    answers = [pl.col(c).str.split("\n\nAssistant: ").list.last() for c in pairs.columns]
    pairs = pairs.with_columns(a.name.suffix("_a") for a in answers).with_columns(
        pl.col(f"{c}_a").str.count_matches(r"\w+|[^\w\s]+").alias(f"{c}_n")
        for c in ("chosen", "rejected")
    )
    pairs = pairs.filter((pl.col("chosen_n") > 0) & (pl.col("rejected_n") > 0)).unique(
        ["chosen", "rejected"], maintain_order=True
    )
    pairs = pairs.with_columns(margin=pl.col("chosen_n") - pl.col("rejected_n"))
    pairs.sample(fraction=0.5, seed=1).write_parquet(out / "pairs.parquet")
    seconds, cpu_s = time.monotonic() - started, time.process_time()
    return {"seconds": seconds, "cpu_s": cpu_s, "peak_mb": peak_mb(), "stages": {}}


def child(kind: str, path: Path, module: str = "benchmarks.chain") -> dict[str, Any]:
    """Measure in a fresh process, which runs the module as `--child`."""
    command = [sys.executable, "-m", module, "--child", kind, "--data", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="10000,50000,160000")
    parser.add_argument("--distinct", action="store_true", help="no near copies of prompts")
    parser.add_argument("--embeddings", action="store_true", help="R3 with relevance, and ISA")
    parser.add_argument("--child", choices=("chain", "embeddings", "polars", "steps"))
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    if options.child:
        with tempfile.TemporaryDirectory() as home:
            if options.child in ("polars", "steps"):
                run = run_polars if options.child == "polars" else run_steps
                found = run(options.data, Path(home))
            else:
                found = run_chain(options.data, Path(home), options.child == "embeddings")
        print(json.dumps(found))
        return
    kind = "embeddings" if options.embeddings else "chain"
    with tempfile.TemporaryDirectory() as folder:
        for rows in [int(s) for s in options.sizes.split(",")]:
            path = make_data(Path(folder), rows, options.distinct)
            ours, plain, steps = (child(k, path) for k in (kind, "polars", "steps"))
            ratio = ours["seconds"] / plain["seconds"]
            overhead = ours["seconds"] / steps["seconds"]
            print(
                f"{rows:>8,} pairs: {ours['seconds']:7.2f} s ({ours['cpu_s']:.1f} of the CPU), "
                f"{rows / ours['seconds']:9,.0f} rows/s, "
                f"peak {ours['peak_mb']:6,.0f} MB; plain Polars {plain['seconds']:6.2f} s, "
                f"peak {plain['peak_mb']:6,.0f} MB; ratio {ratio:.1f}; "
                f"the steps alone {steps['seconds']:6.2f} s, overhead {overhead:.2f}"
            )
            for label, seconds in ours["stages"].items():
                speed = rows / max(seconds, 1e-3)
                print(f"          {label:<28} {seconds:8.2f} s {speed:12,.0f} rows/s")


if __name__ == "__main__":
    main()
