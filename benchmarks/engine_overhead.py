"""What an engine call costs: against a server with 100 ms latency, at 8, 64 and 256 in flight.

    python benchmarks/engine_overhead.py [--seconds 4] [--turns 1] [--compare]
        [--curator PYTHON] [--distilabel PYTHON]

The ideal is concurrency / latency. "warm" leaves out the first second, in which connections are
made and tried; "journal" looks up, writes and fsyncs every answer. `--compare` runs the engine on
aiohttp too (`pip install aiohttp`), by `--turns` turns, and prints medians and the median
difference.
`--curator` and `--distilabel` name the Python of an environment that has `bespokelabs-curator`, or
`distilabel[openai] requests`, and let them make as many calls as the ideal makes in those seconds,
start-up of their pipeline included. The server is another process of this machine; the last column
is what it takes of the cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from statistics import median

from prefactory.engines import serving
from prefactory.engines.base import Engine, Request, Result, Sampling
from prefactory.engines.server import Server
from prefactory.engines.session import Session

LATENCY_S = 0.1
MOCK = Path(__file__).parents[1] / "tests" / "prefactory" / "engines" / "mock_server.py"
PEERS = Path(__file__).parent / "peers"
SAMPLING = Sampling(seed=1, max_tokens=64)


def conversation(i: int) -> list[dict[str, str]]:
    """A prompt of about 60 words."""
    return [{"role": "user", "content": f"Question {i}: " + "what do you think of it? " * 10}]


def measure(width: int, seconds: float, journal: bool) -> dict[str, float]:
    """Calls per second, in all and without the first second, and CPU milliseconds per call."""
    marks: list[float] = []

    def requests() -> Iterator[Request]:
        for i in count():
            if time.monotonic() - started > seconds:
                return
            yield Request(conversation(i), SAMPLING)

    def done(place: int, result: Result) -> None:
        marks.append(time.monotonic())

    with mock_server() as (url, pid), contextlib.ExitStack() as opened:
        config = Server(base_url=url, model="m", max_concurrency=width)
        if journal:
            folder = opened.enter_context(tempfile.TemporaryDirectory())
            engine: Engine = opened.enter_context(Session(Path(folder))).engine(config)
        else:
            engine = opened.enter_context(config.open())
        started, cpu, its = time.monotonic(), time.process_time(), _cpu_s(pid)
        engine.run(requests(), done)
        ended, cpu, its = time.monotonic(), time.process_time() - cpu, _cpu_s(pid) - its
    warm = [mark for mark in marks if mark - started >= 1.0]
    return {
        "rate": len(marks) / (ended - started),
        "warm": (len(warm) - 1) / (marks[-1] - warm[0]),
        "cpu_ms": 1000 * cpu / len(marks),
        "server_ms": 1000 * its / len(marks),
    }


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process; NaN where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def on_aiohttp() -> Iterator[None]:
    """Let engines use aiohttp instead of the client of our own."""
    from benchmarks.peers.aiohttp_client import AiohttpClient

    ours, serving.Client = serving.Client, AiohttpClient  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        serving.Client = ours  # type: ignore[misc]


def by_turns(width: int, seconds: float, turns: int) -> dict[str, dict[str, float]]:
    """Medians of our client and of aiohttp, and of their differences turn by turn."""
    pairs = []
    for turn in range(turns):
        found: dict[str, dict[str, float]] = {}
        for name in ("ours", "aiohttp") if turn % 2 == 0 else ("aiohttp", "ours"):
            with on_aiohttp() if name == "aiohttp" else contextlib.nullcontext():
                found[name] = measure(width, seconds, journal=False)
        pairs.append(found)
    keys = pairs[0]["ours"]
    return {
        "engine": {k: median(p["ours"][k] for p in pairs) for k in keys},
        "  on aiohttp": {k: median(p["aiohttp"][k] for p in pairs) for k in keys},
        "  difference": {k: median(p["aiohttp"][k] - p["ours"][k] for p in pairs) for k in keys},
    }


def peer(python: str, script: str, url: str, width: int, seconds: float) -> dict[str, float]:
    """What another library makes of the calls that the ideal makes in these seconds."""
    calls = max(width, int(width / LATENCY_S * seconds))
    words = [python, str(PEERS / script), url, str(width), str(calls)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=900)
    if done.returncode:
        raise SystemExit(f"{script} failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return {"rate": found["rate"], "warm": found["rate"], "cpu_ms": found["cpu_ms"]}


@contextlib.contextmanager
def mock_server() -> Iterator[tuple[str, int]]:
    """Address of the mock server, a process of its own, and the process's number."""
    command = [sys.executable, str(MOCK), str(LATENCY_S)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}/v1", server.pid
        server.terminate()


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--curator", metavar="PYTHON")
    parser.add_argument("--distilabel", metavar="PYTHON")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()}")
    print("client            in flight   calls/s   of ideal   warm   CPU ms/call   of the server")
    for width in (8, 64, 256):
        if options.compare:
            rows = by_turns(width, options.seconds, options.turns)
        else:
            rows = {"engine": measure(width, options.seconds, journal=False)}
        rows["engine + journal"] = measure(width, options.seconds, journal=True)
        for name in ("curator", "distilabel"):
            if python := getattr(options, name):
                with mock_server() as (url, _):
                    rows[name] = peer(python, f"calls_{name}.py", url, width, options.seconds)
        ideal = width / LATENCY_S
        for name, found in rows.items():
            print(
                f"{name:<17} {width:>9} {found['rate']:>9.0f} {found['rate'] / ideal:>10.1%} "
                f"{found['warm'] / ideal:>6.1%} {found['cpu_ms']:>13.3f} "
                f"{found.get('server_ms', float('nan')):>15.3f}"
            )


if __name__ == "__main__":
    main()
