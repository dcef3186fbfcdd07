"""Memory and CPU of fits by one worker, beside cut by key into ranges, or linked run by run.

    python -m benchmarks.exchange [--rows 1000000] [--ranges 1,4,16] [--keep]
    python -m benchmarks.exchange --steps filters.NearDuplicates --rows 320000 --ranges 1,4 [--keep]
    python -m benchmarks.exchange --steps labelers.RidgeHeads --rows 131072 --ranges 1,4 [--keep]

What the map of each step leaves of so many made pairs (ids, keys, draws, scores; no texts) lies in
a store in shards of 16,384 rows; `labelers.Combine`, which is not cut, has two answers of each.
`filters.NearDuplicates` has hashes of made prompts of 40 words by a Zipf law, half of them in
threes that differ in two words. `labelers.RidgeHeads` has random features of 768 numbers.
Each kind of order then does all its orders, one after the other, in a process of its own: its peak
is that of the largest order, with the pages of the store that it maps (Linux only). `--keep` writes
the figures to `benchmarks/results`, from where `benchmarks.scaling` reads them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

SHARD_ROWS = 16_384
NEAR = "filters.NearDuplicates"
RIDGE = "labelers.RidgeHeads"
STEPS: dict[str, dict[str, Any]] = {
    "filters.ExactDuplicates": {},
    "filters.RandomSubsample": {"fraction": 0.5},
    "labelers.Combine": {"name": "reward", "weights": {"length": 1, "repetition": 1}},
    NEAR: {"on": "prompt"},
    RIDGE: {"objectives": ["made"]},
}
KINDS = ("cut", "survey", "range", "hand back")


def site_of(step: str, folder: Path) -> Any:  # noqa: ANN401 - imports are counted apart
    """The site of a recipe with one step, over a store in a folder."""
    from pydantic import BaseModel, ConfigDict

    from prefactory.orders import Site
    from prefactory.recipe import Sections, parse
    from prefactory.store import Store

    class Spec(BaseModel):
        model_config = ConfigDict(frozen=True)
        path: str

    data = {"name": "made", "source": {"path": "memory"}, "steps": [{step: STEPS[step]}]}
    recipe = parse(data, Path("made.yaml"), [], Sections(source=Spec, train={}))
    return Site(recipe, [], Store(folder))


def make_parts(step: str, rows: int, folder: Path) -> None:
    """Write what the map leaves of made pairs: half of them alike in threes, the rest alone."""
    import polars as pl

    from prefactory.tables import digests

    site = site_of(step, folder)
    for i, first in enumerate(range(0, rows, SHARD_ROWS)):
        numbers = pl.int_range(first, min(first + SHARD_ROWS, rows), eager=True).alias("n")
        ids = digests(numbers.cast(pl.String)).alias("pair_id")
        if step == NEAR:
            table = made_prompts(numbers, rows)
            part = site.step(step).fit_shard(table, site.context(step))  # type: ignore[attr-defined]
        elif step == RIDGE:
            part = made_features(numbers)
        elif step == "labelers.Combine":
            both = pl.concat([numbers, numbers]).sort().to_frame().with_row_index("answer")
            number = (pl.col("answer") * 7919 % 1000).cast(pl.Float64)
            part = both.select(
                response_id=digests((both["n"] * 2 + both["answer"] % 2).cast(pl.String)),
                prompt_id=pl.col("n").cast(pl.String).str.zfill(32),
                score_length=number, score_repetition=number / 7,
            )  # fmt: skip
        elif step == "filters.RandomSubsample":
            part = pl.DataFrame([ids]).with_columns(group=pl.lit(None, dtype=pl.String))
        else:
            every = rows // 6 * 2
            same = pl.when(pl.col("n") % 2 == 0).then(pl.col("n") % every).otherwise("n")
            keys = digests(numbers.to_frame().select(same.cast(pl.String)).to_series())
            part = pl.DataFrame([ids]).with_columns(
                unit="pair_id", score=pl.lit(None, dtype=pl.Float64), key=keys,
                forward=pl.lit(None, dtype=pl.Boolean),
            )  # fmt: skip
        with site.store.write(f"part{i:028d}") as writer:
            writer.table("part", part)


def made_prompts(numbers: pl.Series, rows: int) -> pl.DataFrame:
    """Prompts (PROMPTS) of 40 words by a Zipf law; half of them differ in two words in threes."""
    import numpy as np
    import polars as pl

    from prefactory.near.shingles import finalise
    from prefactory.tables import digests

    n = numbers.to_numpy().astype(np.uint64)
    even = n % 2 == 0
    seeds = np.where(even, n % np.uint64(rows // 6 * 2), n)
    words = seeds[:, None] * np.uint64(40) + np.arange(40, dtype=np.uint64)
    words[:, :2] = np.where(even, n * np.uint64(7) + np.uint64(2**40), words[:, 0])[:, None]
    draw = (finalise(words) >> np.uint64(11)).astype(np.float64) / 2**53
    ranks = np.floor((1 - draw) ** (-1 / 0.2)).clip(max=1e6).astype(np.int64)  # exponent 1.2
    text = pl.Series(ranks).cast(pl.List(pl.Int64)).list.eval("w" + pl.element().cast(pl.String))
    made = pl.DataFrame({"n": numbers, "content": text.list.join(" ")})
    message = pl.struct(role=pl.lit("user"), content="content")
    return made.select(
        prompt_id=digests(numbers.cast(pl.String)), prompt=pl.concat_list(message),
        source=pl.lit("made"), source_id=pl.lit("made"),
    )  # fmt: skip


def made_features(numbers: pl.Series) -> pl.DataFrame:
    """What `labelers.RidgeHeads` keeps of answers: 768 random numbers, the first is the target."""
    import numpy as np
    import polars as pl

    from prefactory.tables import digests

    x = np.random.default_rng(int(numbers[0])).normal(size=(numbers.len(), 768)).astype(np.float32)
    return pl.DataFrame(
        {
            "row_id": digests(numbers.cast(pl.String)),
            "prompt_id": numbers.cast(pl.String).str.zfill(32),
            "features": pl.Series(x, dtype=pl.Array(pl.Float32, 768)),
            "target_made": x[:, 0].astype(np.float64),
        }
    )


def orders_of(step: str, rows: int, ranges: int) -> dict[str, list[Any]]:
    """The orders of a fit by kind; of one range the order that holds all rows."""
    from prefactory.orders import Fit
    from prefactory.orders.ranges import Cut, FitRange, HandBack, Survey

    shards = -(-rows // SHARD_ROWS)
    parts = [f"part{i:028d}" for i in range(shards)]
    if ranges == 1:
        return {"fit": [Fit("fit-1", step, parts)]}
    if step == "labelers.Combine":
        return {}
    edges = [i * shards // ranges for i in range(ranges + 1)]
    if step == NEAR:
        return links_of(step, [parts[a:b] for a, b in pairwise(edges)])
    if step == RIDGE:
        return rounds_of(step, [parts[a:b] for a, b in pairwise(edges)])
    keys = {k: [f"{k[:3]}-{ranges}-{i}" for i in range(ranges)] for k in KINDS}
    asked = keys["survey"] if step == "filters.RandomSubsample" else []
    cuts, every = keys["cut"], range(ranges)
    made: dict[str, list[Any]] = {
        "cut": [Cut(cuts[i], step, parts[edges[i] : edges[i + 1]]) for i in every],
        "survey": [Survey(k, step, cuts, i) for i, k in enumerate(asked)],
        "range": [FitRange(k, step, cuts, i, asked) for i, k in enumerate(keys["range"])],
        "hand back": [HandBack(keys["hand back"][i], step, keys["range"], i) for i in every],
    }
    return {kind: orders for kind, orders in made.items() if orders}


def rounds_of(step: str, runs: Sequence[Sequence[str]]) -> dict[str, list[Any]]:
    """The orders of a fit in two rounds over runs of rows."""
    from prefactory.orders.rounds import Conclude, Look

    n, made, known = len(runs), dict[str, list[Any]](), ""
    for look, state in (("survey", "plan"), ("sums", "heads")):
        keys = [f"{look}-{n}-{i}" for i in range(n)]
        made[look] = [Look(k, step, run, known) for k, run in zip(keys, runs, strict=True)]
        made[state] = [Conclude(f"{state}-{n}", step, keys, known)]
        known = f"{state}-{n}"
    return made


def links_of(step: str, runs: Sequence[Sequence[str]]) -> dict[str, list[Any]]:
    """The orders of a fit that is linked run by run."""
    from prefactory.orders.links import Choose, Settle, linked_in
    from prefactory.step.exchange import Linking

    filter_ = site_of(step, Path()).step(step)
    how = Linking(filter_.banding, filter_.rule)  # type: ignore[attr-defined]  # a `Shingled`
    plan = linked_in(step, how, runs)
    choice = f"choice-{len(runs)}"
    settle = [
        Settle(f"state-{len(runs)}-{i}", step, plan.runs, choice, i) for i in range(len(runs))
    ]
    ask = Choose(choice, step, how, plan.runs, plan.places, plan.links)
    return {**dict(plan.batches), "choice": [ask], "state": settle}


def memory_mb(what: str) -> float:
    """`VmRSS` (resident now) or `VmHWM` (at most since it was reset) of this process, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def child(step: str, rows: int, ranges: int, kind: str, folder: Path) -> None:
    """Do the orders of a kind; print the memory that rows take at the peak, and the CPU seconds."""
    from prefactory.orders import do

    with tempfile.TemporaryDirectory() as other:  # libraries load their code and make their pools
        few = 3 * SHARD_ROWS
        make_parts(step, few, Path(other))
        for n in (1, 3):
            for warm in (o for each in orders_of(step, few, n).values() for o in each):
                do(warm, site_of(step, Path(other)))
    orders = orders_of(step, rows, ranges)[kind]
    site = site_of(step, folder)
    Path("/proc/self/clear_refs").write_text("5")
    before, began = memory_mb("VmRSS"), time.process_time()
    for order in orders:
        do(order, site)
    figures = {"mb": memory_mb("VmHWM") - before, "cpu_s": time.process_time() - began}
    print(json.dumps(figures))


def measure(step: str, rows: int, every: Sequence[int], folder: Path) -> dict[str, float]:
    """Peak MB beyond a warm process without rows, and CPU seconds, by kind of order."""
    make_parts(step, rows, folder)
    figures: dict[str, float] = {}
    for ranges in every:
        for kind in orders_of(step, rows, ranges):
            words = ["--child", kind, "--step", step, "--rows", str(rows)]
            words += ["--ranges", str(ranges), "--store", str(folder)]
            command = [sys.executable, "-m", "benchmarks.exchange", *words]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            told = json.loads(done.stdout.splitlines()[-1])
            name = f"{step}, {rows} rows in {ranges}, {kind}"
            figures[f"{name}, MB"] = told["mb"]
            figures[f"{name}, CPU s"] = told["cpu_s"]
            print(f"{name:<60} {figures[f'{name}, MB']:8.0f} MB {told['cpu_s']:8.2f} s")
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--ranges", default="1,4,16")
    parser.add_argument("--steps", default=",".join(s for s in STEPS if s not in (NEAR, RIDGE)))
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--child")
    parser.add_argument("--step")
    parser.add_argument("--store", type=Path)
    options = parser.parse_args()
    if options.child:
        child(options.step, options.rows, int(options.ranges), options.child, options.store)
        return
    every = [int(n) for n in options.ranges.split(",")]

    def run() -> tuple[dict[str, float], dict[str, float]]:
        figures: dict[str, float] = {}
        for step in options.steps.split(","):
            with tempfile.TemporaryDirectory() as folder:
                figures |= measure(step, options.rows, every, Path(folder))
        return figures, {}

    if options.keep:
        from benchmarks.record import record

        record("exchange", run)
    else:
        run()


if __name__ == "__main__":
    main()
