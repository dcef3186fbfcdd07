"""What a run would take on many machines: measured seconds a shard, and a simulation of the rest.

    python -m benchmarks.scaling [--result FILE] [--page docs/scaling.md]

Seconds of each step on a shard come from the last kept result of `benchmarks.chain` with 160,000
distinct prompts. The simulation hands shards to workers as a run does: a step begins when the one
before it has ended on all shards. A shard takes lognormal time about its mean; some straggle; a
worker dies now and then, which is noticed after a while, and its shard is done again. What the
driver does alone (publishing) is added as measured, and not divided. What a dataset-wide step's fit
takes, by one order and cut by key, comes from the last kept result of `benchmarks.exchange`.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).with_name("results")
ROWS = 160_000
PREFIX = f"{ROWS} pairs, distinct prompts, "
SHARD_ROWS = 16_384
DRIVER = "publish and report"
"""What the driver does alone. What a selection pays is worked out beside it, on 5,000 rows."""
SIZES = (1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
WORKERS = (2, 16, 128, 1024)
NEAR_ROWS = 327_680
RIDGE_ROWS = 131_072
FIT_ROWS = 1 << 20
"""Rows from which on a fit is cut by key, and of a range."""
ORDER_BYTES = 1_500
"""What the driver keeps of an order and its record, about (`pickle` of both)."""


@dataclass(frozen=True)
class Weather:
    """What befalls workers.

    Attributes:
        spread: sigma of the logarithm of a shard's time.
        stragglers: share of shards that take `slower` times as long.
        deaths: of a worker, an hour.
        noticed: seconds until a death is noticed and a worker stands in.
    """

    spread: float = 0.3
    stragglers: float = 0.01
    slower: float = 5.0
    deaths: float = 0.01
    noticed: float = 15.0


CALM = Weather(0.0, 0.0, 1.0, 0.0, 0.0)


def newest(name: str = "chain", figure: str = f"{PREFIX}CPU s") -> Path:
    """The last kept result of a benchmark with a figure: of the chain with distinct prompts."""
    found = [
        path
        for path in sorted(RESULTS.glob(f"{name}-*.json"))
        if figure in json.loads(path.read_text("utf-8"))["figures"]
    ]
    if not found:
        raise SystemExit(f"no result of benchmarks.{name} is kept that has {figure!r}")
    return max(found, key=lambda path: json.loads(path.read_text("utf-8"))["time"])


@dataclass(frozen=True)
class Fitted:
    """What the fits of the chain take of a row.

    Attributes:
        steps: how many there are.
        cut: those of them that are cut by key.
        whole_mb, whole_s: of one order for all rows, of those that are cut: MB of the largest, CPU
            seconds of all.
        cut_s: of the orders by ranges of keys: CPU seconds of all.
        uncut_mb, uncut_s: the same as `whole_mb` and `whole_s` of the others.
    """

    steps: int
    cut: int
    whole_mb: float
    whole_s: float
    cut_s: float
    uncut_mb: float
    uncut_s: float


def of_fits(result: Mapping[str, Any]) -> Fitted:
    """Read it from a result of `benchmarks.exchange`."""
    told = [(*name.split(", "), value) for name, value in result["figures"].items()]
    (rows,) = {int(of.split()[0]) for _, of, *_ in told}
    every = {step for step, *_ in told}
    cut = {step for step, _, kind, *_ in told if kind != "fit"}

    def values(unit: str, steps: set[str], *, whole: bool) -> list[float]:
        return [
            value / rows
            for step, _, kind, own, value in told
            if own == unit and step in steps and (kind == "fit") == whole
        ]

    return Fitted(
        len(every), len(cut), max(values("MB", cut, whole=True)),
        sum(values("CPU s", cut, whole=True)), sum(values("CPU s", cut, whole=False)),
        max(values("MB", every - cut, whole=True), default=0.0),
        sum(values("CPU s", every - cut, whole=True)),
    )  # fmt: skip


def measured(result: Mapping[str, Any]) -> tuple[dict[str, float], float]:
    """Seconds of one worker for a shard, by step; and of the driver for a row."""
    beside, cores = result["beside"], result["machine"]["cores"]
    shards = math.ceil(ROWS / SHARD_ROWS)
    steps = {}
    for name, seconds in beside.items():
        label = name.removeprefix(PREFIX).removesuffix(", wall s")
        if not name.startswith(PREFIX) or not name.endswith(", wall s") or label == "wall s":
            continue
        if label == "source" or "." in label:
            steps[label] = seconds * cores / shards
    return steps, beside[f"{PREFIX}{DRIVER}, wall s"] / ROWS


def simulated(
    steps: Mapping[str, float], shards: int, workers: int, weather: Weather, seed: int = 0
) -> float:
    """Seconds until all steps are done on all shards."""
    rng = np.random.default_rng(seed)
    clock = 0.0
    for mean in steps.values():
        times = mean * rng.lognormal(-(weather.spread**2) / 2, weather.spread, shards)
        times = np.where(rng.random(shards) < weather.stragglers, times * weather.slower, times)
        dies = rng.random(shards) < 1 - np.exp(-weather.deaths * times / 3600)
        lost = np.where(dies, rng.random(shards) * times + weather.noticed, 0.0)
        free = [0.0] * min(workers, shards)
        for seconds in (times + lost).tolist():
            heapq.heapreplace(free, free[0] + seconds)
        clock += max(free)
    return clock


def span(seconds: float) -> str:
    """A time in the unit that fits it."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def orders_table(figures: Mapping[str, float]) -> list[str]:
    """What each kind of order of `benchmarks.exchange` took."""
    lines = ["| orders | MB, at most | CPU s, all |", "|---|--:|--:|"]
    for name, value in figures.items():
        if name.endswith(", MB"):
            order = name.removesuffix(", MB")
            step, of, kind = order.split(", ")
            shown = "all rows in one" if kind == "fit" else f"{kind}, of {of.split()[-1]} runs"
            lines.append(f"| `{step}`: {shown} | {value:.0f} | {figures[f'{order}, CPU s']:.2f} |")
    return lines


APART = {
    f"filters.NearDuplicates, {NEAR_ROWS} rows in 1, fit, MB": (
        "## Near-duplicates",
        f"`filters.NearDuplicates` on {NEAR_ROWS:,} made prompts of 40 words",
        "by one order, and linked two runs of rows at a time:",
    ),
    f"labelers.RidgeHeads, {RIDGE_ROWS} rows in 1, fit, MB": (
        "## Heads",
        f"`labelers.RidgeHeads` on {RIDGE_ROWS:,} answers of 768 features (0.4 GB)",
        "by one order, and in rounds over runs of rows, whose sums have the same bits:",
    ),
}
"""What is measured apart: the figure that tells its result; heading, what it was, and how."""


def apart_table(figure: str, result: Mapping[str, Any]) -> list[str]:
    """The part of the page on a step that is measured apart."""
    machine = result["machine"]
    heading, what, how = APART[figure]
    return [
        "",
        heading,
        "",
        f"{what} ({result['time'][:10]}, commit {result['commit']}, {machine['cores']} cores of "
        f"{machine['processor']}, load {machine['load']}), {how}",
        "",
        *orders_table(result["figures"]),
    ]


def fits_table(result: Mapping[str, Any]) -> list[str]:
    """The part of the page on dataset-wide steps."""
    fits, machine = of_fits(result), result["machine"]
    lines = [
        "## Dataset-wide steps",
        "",
        "Three steps of the chain look at all rows. Measured by "
        f"`benchmarks.exchange` ({result['time'][:10]}, commit {result['commit']}, "
        f"{machine['cores']} cores of {machine['processor']}, load {machine['load']}) on a million "
        "rows, memory with the pages that are mapped:",
        "",
        *orders_table(result["figures"]),
        "",
        f"Those that are cut, in ranges of {FIT_ROWS:,} rows, by simulation, and the one that "
        "reads shard by shard and keeps its numbers:",
        "",
        "| rows | ranges | one order would hold | and take | a range holds, about "
        + "".join(f"| {n:,} workers " for n in WORKERS)
        + "| the one that is not cut |",
        "|--:|--:|--:|--:|--:" + "|--:" * len(WORKERS) + "|--:|",
    ]
    for rows in SIZES:
        ranges = math.ceil(rows / FIT_ROWS)
        held = f"{min(rows, FIT_ROWS) * fits.whole_mb / 1000:.1f} GB"
        cells = [
            f"{rows:,}", f"{ranges:,}", f"{rows * fits.whole_mb / 1000:.1f} GB",
            span(rows * fits.whole_s), held,
        ]  # fmt: skip
        each = {"cut": fits.cut_s * rows / ranges}
        cells += [
            span(simulated(each, ranges, n, Weather())) if ranges > 1 else "" for n in WORKERS
        ]
        cells.append(f"{rows * fits.uncut_mb / 1000:.1f} GB, {span(rows * fits.uncut_s)}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def page(
    result: Mapping[str, Any],
    exchanged: Mapping[str, Any],
    apart: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """The page of docs.

    Args:
        result: of `benchmarks.chain`.
        exchanged: of `benchmarks.exchange`.
        apart: the same, of steps that are measured apart, by the figures of `APART`.
    """
    steps, alone = measured(result)
    fits = of_fits(exchanged)
    weather, machine = Weather(), result["machine"]
    lines = [
        "# What a run would take on many machines",
        "",
        "Made by `python -m benchmarks.scaling`: measured seconds a shard, and a simulation. Only "
        "the first table was measured; no cluster of this size has been run.",
        "",
        f"Measured by `benchmarks.chain` ({result['time'][:10]}, commit {result['commit']}, "
        f"{machine['cores']} cores of {machine['processor']}, load {machine['load']}) on {ROWS:,} "
        f"pairs in shards of {SHARD_ROWS:,} rows:",
        "",
        "| step | a core's seconds for a shard |",
        "|---|--:|",
        *(f"| `{name}` | {seconds:.2f} |" for name, seconds in steps.items()),
        f"| all steps | {sum(steps.values()):.2f} |",
        f"| {DRIVER}, by the driver | {alone * SHARD_ROWS:.2f} |",
        "",
        "The same chain with more rows and workers of one core each: time of the steps, without "
        "and with bad weather "
        f"(times spread by {weather.spread:g} in the logarithm, {weather.stragglers:.0%} of the "
        f"shards {weather.slower:g} times as slow, a death in {1 / weather.deaths:.0f} "
        f"worker hours noticed after {weather.noticed:.0f} s), and what the driver does alone. "
        "A source counts as many files as shards; one file is read by one worker.",
        "",
        "| rows | shards | workers | steps, calm | steps, bad weather | efficiency | driver alone "
        "| driver keeps |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for rows in SIZES:
        shards = math.ceil(rows / SHARD_ROWS)
        ideal = sum(steps.values()) * shards
        driver = alone * rows
        for workers in WORKERS:
            if workers > 2 * shards:
                continue
            calm = simulated(steps, shards, workers, CALM)
            bad = simulated(steps, shards, workers, weather)
            orders = shards * (len(steps) + 1 + fits.steps)  # a source is read, then exchanged
            orders += 4 * fits.cut * (math.ceil(rows / FIT_ROWS) if rows > FIT_ROWS else 0)
            kept = ORDER_BYTES * orders / 1e6
            lines.append(
                f"| {rows:,} | {shards:,} | {workers:,} | {span(calm)} | {span(bad)} | "
                f"{ideal / workers / bad:.2f} | {span(driver)} | {kept:.1f} MB |"
            )
    lines += ["", *fits_table(exchanged)]
    for figure, found in (apart or {}).items():
        lines += apart_table(figure, found)
    lines += [
        "",
        "## What this says",
        "",
        "Steps divide, and of those that look at all rows the ones that are cut by key, linked or "
        "summed in rounds: no worker holds more than a range or two runs of rows and a few numbers "
        "of each other one, the driver an order and a record of each (about "
        f"{ORDER_BYTES / 1000:.1f} kB). `labelers.Combine` has one worker with the scores of all "
        "answers, and no ids. Publishing does not divide: from some tens of workers on "
        "the driver decides, because splits, digests and the files of a version are made on one "
        "machine, in passes over the rows. Its memory is bounded by the column that it looks at "
        "(see [performance.md](performance.md)), which a billion rows pass; near copies of prompts "
        "are looked for by the workers, as by `filters.NearDuplicates`. Publish such "
        "a run in parts (a version for each source or month).",
        "",
        "What else does not divide: the other dataset-wide steps ([cluster.md](how-to/cluster.md) "
        "says which, and what a row takes there). A source is exchanged in one round, each shard "
        "reading its rows from all parts: that divides, but the reads are the square of the "
        "shards, 37 million at 100,000,000 rows and 3.7 thousand million at ten times as many.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--result", type=Path, default=None)
    parser.add_argument("--page", type=Path, default=None)
    args = parser.parse_args()
    exchanged = newest("exchange", "filters.ExactDuplicates, 1000000 rows in 1, fit, MB")
    apart = {}
    for figure in APART:
        with suppress(SystemExit):  # it is perhaps not measured yet
            apart[figure] = json.loads(newest("exchange", figure).read_text("utf-8"))
    paths = args.result or newest(), exchanged
    text = page(*(json.loads(path.read_text("utf-8")) for path in paths), apart)
    if args.page is None:
        print(text)
    else:
        args.page.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
