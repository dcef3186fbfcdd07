"""Milliseconds of a vote with the next pair, at a size and a rate.

    python -m benchmarks.review [--pairs 160000] [--rate 50] [--people 20] [--seconds 60]
        [--home FOLDER]

A review of so many pairs is made, served by a process of its own, and so many people vote at random
moments that add up to the rate, each over a connection that stays open. What is timed is the whole
answer to a vote: it is on disk, and the next pair is in it.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import threading
import time
from pathlib import Path

from review import people
from review.settings import Settings
from review.store import create, exists, open_review
from tests.review.client import Client, process
from tests.review.conftest import free_port, some_pairs


def main() -> None:
    """Print the percentiles."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=160_000)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--home", type=Path, help="where the review is kept for the next time")
    options = parser.parse_args()
    if options.home is not None:
        options.home.mkdir(parents=True, exist_ok=True)
        measure(options.home, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options)


def measure(home: Path, options: argparse.Namespace) -> None:
    """Make, serve, vote, print."""
    started = time.perf_counter()
    name = f"bench-{options.pairs}"
    if exists(home, name):
        review = open_review(home, name)
    else:
        review = create(home, name, some_pairs(options.pairs), Settings(people=2), {})
    print(f"{options.pairs:,} pairs made or found in {time.perf_counter() - started:.1f} s")
    tokens = [people.invite(review, f"P{i}") for i in range(options.people)]
    times: list[float] = []
    port, end = free_port(), time.perf_counter() + 1e9
    with process(home, name, port):
        clients = [Client(port, in_place=True).join(token) for token in tokens]
        end = time.perf_counter() + options.seconds

        def vote(client: Client, number: int) -> None:
            draw = random.Random(number)
            pause = options.people / options.rate
            while time.perf_counter() < end:
                time.sleep(draw.uniform(0.5, 1.5) * pause)
                before = time.perf_counter()
                status, _ = client.vote(draw.choice(["a2", "tie", "b2"]))
                times.append(1000 * (time.perf_counter() - before))
                assert status == 200

        threads = [
            threading.Thread(target=vote, args=(client, number))
            for number, client in enumerate(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    review.db.close()
    cuts = statistics.quantiles(times, n=100)
    print(
        f"{len(times):,} votes, {len(times) / options.seconds:.1f} a second: "
        f"p50 {cuts[49]:.0f} ms, p95 {cuts[94]:.0f} ms, p99 {cuts[98]:.0f} ms"
    )


if __name__ == "__main__":
    main()
