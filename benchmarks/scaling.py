"""What a run would take on many machines: measured seconds a shard, and a simulation of the rest.

    python -m benchmarks.scaling [--result FILE] [--page docs/scaling.md]

Seconds of each step on a shard come from the last kept result of `benchmarks.chain` with 160,000
distinct prompts. The simulation hands shards to workers as a run does: a step begins when the one
before it has ended on all shards. A shard takes lognormal time about its mean; some straggle; a
worker dies now and then, which is noticed after a while, and its shard is done again. What the
driver does alone (publishing) is added as measured, and not divided.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
from collections.abc import Mapping
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


def newest() -> Path:
    """The last kept result of the chain with distinct prompts at 160,000 pairs."""
    found = [
        path
        for path in sorted(RESULTS.glob("chain-*.json"))
        if f"{PREFIX}CPU s" in json.loads(path.read_text("utf-8"))["figures"]
    ]
    if not found:
        raise SystemExit("no result is kept: python -m benchmarks.chain --sizes 160000 --distinct")
    return max(found, key=lambda path: json.loads(path.read_text("utf-8"))["time"])


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


def page(result: Mapping[str, Any]) -> str:
    """The page of docs."""
    steps, alone = measured(result)
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
            kept = ORDER_BYTES * shards * len(steps) / 1e6
            lines.append(
                f"| {rows:,} | {shards:,} | {workers:,} | {span(calm)} | {span(bad)} | "
                f"{ideal / workers / bad:.2f} | {span(driver)} | {kept:.1f} MB |"
            )
    lines += [
        "",
        "**What this says.** Steps divide; publishing does not. From some tens of workers on the "
        "driver decides: splits, digests and the files of a version are made on one machine, in "
        "passes over the rows. Its memory is bounded by the column that it looks at (see "
        "[performance.md](performance.md)), which a billion rows pass. Publish such a run in parts "
        "(a version for each source or month), or wait for a driver that hands these passes out as "
        "orders, too: that is not built. Dataset-wide steps (`fit`) have one order that reads what "
        "their map left of all shards; the light chain has one (`filters.ExactDuplicates`).",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--result", type=Path, default=None)
    parser.add_argument("--page", type=Path, default=None)
    args = parser.parse_args()
    text = page(json.loads((args.result or newest()).read_text("utf-8")))
    if args.page is None:
        print(text)
    else:
        args.page.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
