"""Run the quick benchmarks, keep their figures, and say what got slower: `make bench`.

    python -m benchmarks.record [--only chain,files,audit,dedup,embedding,selection,engine]
        [--sizes 10000,50000] [--data FOLDER]
        [--peers PYTHON] [--selection-peers PYTHON] [--distilabel PYTHON] [--limit SECONDS]

`chain` is a run beside plain Polars and, in their environments (`benchmarks.dedup` says which; of
distilabel: distilabel, requests, pillow), beside datatrove, data-juicer and distilabel; one that
takes longer than `--limit` is ended, and that is what is kept of it. `files` are
import, publish and export beside `datasets`, `embedding` is beside sentence-transformers. `dedup`
and `selection` are beside the peers of an environment of theirs, without one alone.

Each writes `benchmarks/results/NAME-DATE-COMMIT.json` with the machine, the commit and its figures,
and compares each with its last value on the same processor and number of cores: a figure that is
worse by more than a quarter is printed. Figures are CPU seconds, memory and ratios within one run,
which other work on the machine changes least; wall seconds and calls a second are kept beside them
and not compared. A benchmark whose data are not there is left out, loudly.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import audit, chain, dedup, embedding, engine_overhead, files, selection

RESULTS = Path(__file__).parent / "results"
PEERS = Path(__file__).parent / "peers"
WORSE = 1.25
"""A figure that is this many times the last one is said to be slower."""

Figures = dict[str, float]


def run_chain(
    sizes: Sequence[int],
    peers: Path | None = None,
    distilabel: Path | None = None,
    limit: float = math.inf,
) -> tuple[Figures, Figures]:
    """The light chain beside plain Polars, with near copies of each prompt and with none.

    Beside that of near copies, the light chains of other projects (`benchmarks/peers/chain.py`).
    """
    others = {"datatrove": peers, "data-juicer": peers, "distilabel": distilabel}
    compared, beside = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for rows, distinct in ((r, d) for r in sizes for d in (False, True)):
            name = f"{rows} pairs{', distinct prompts' if distinct else ''}"
            path = chain.make_data(Path(folder), rows, distinct)
            ours, plain, own = (chain.child(kind, path) for kind in ("chain", "polars", "steps"))
            compared[f"{name}, CPU s"] = ours["cpu_s"]
            compared[f"{name}, times plain Polars' CPU"] = ours["cpu_s"] / plain["cpu_s"]
            compared[f"{name}, times the steps' own CPU"] = ours["cpu_s"] / own["cpu_s"]
            compared[f"{name}, peak MB"] = ours["peak_mb"]
            beside[f"{name}, the steps alone, wall s"] = own["seconds"]
            beside[f"{name}, wall s"] = ours["seconds"]
            beside[f"{name}, plain Polars, wall s"] = plain["seconds"]
            beside[f"{name}, plain Polars, peak MB"] = plain["peak_mb"]
            beside |= {f"{name}, {stage}, wall s": s for stage, s in ours["stages"].items()}
            for peer, python in others.items():
                if python is not None and not distinct:
                    seconds, peak = peer_chain(peer, python, path, limit)
                    beside[f"{name}, {peer}, peak MB"] = peak
                    if seconds is None:
                        beside[f"{name}, {peer}, not ended after s"] = limit
                        continue
                    compared[f"{name}, times {peer}'s time"] = ours["seconds"] / seconds
                    beside[f"{name}, {peer}, wall s"] = seconds
    return compared, beside


def peer_chain(
    peer: str, python: Path, path: Path, limit: float = math.inf
) -> tuple[float | None, float]:
    """Wall seconds of another project's chain from its import on, and peak memory in MB.

    No seconds if it had not ended after so many.
    """
    script = "chain_distilabel.py" if peer == "distilabel" else "chain.py"
    name = [] if peer == "distilabel" else [peer]
    with tempfile.TemporaryDirectory() as out:
        log = Path(out) / "log"
        command = [str(python), str(PEERS / script), *name, str(path), out]
        took, peak = dedup.measure(command, log, limit)
        if took >= limit:
            return None, peak
        told = [line for line in log.read_text().splitlines() if line.startswith('{"seconds"')]
        return float(json.loads(told[-1])["seconds"]), peak


def run_audit(sizes: Sequence[int]) -> tuple[Figures, Figures]:
    """The audit without embeddings."""
    compared, beside = {}, {}
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = audit.make_data(Path(folder), rows, copies=False)
            command = [sys.executable, "-m", "benchmarks.audit", "--one", str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        found, name = json.loads(done.stdout), f"{rows} pairs"
        compared |= {f"{name}, CPU s": found["cpu_s"], f"{name}, peak MB": found["peak_mb"]}
        beside |= {f"{name}, {key}": found[key] for key in ("read_s", "audit_s", "page_s")}
        beside |= {f"{name}, check {check}, s": s for check, s in found["slowest"]}
    return compared, beside


def run_engine(_: Sequence[int]) -> tuple[Figures, Figures]:
    """Calls to a mock server with 100 ms latency, with the journal."""
    compared, beside = {}, {}
    with engine_overhead.mock_server() as url:
        for width in (8, 64, 256):
            config = engine_overhead.Server(base_url=url, model="m", max_concurrency=width)
            found = engine_overhead.measure(config, 3.0, journal=True)
            compared[f"{width} in flight, CPU ms a call"] = found["cpu_ms"]
            ideal = width / engine_overhead.LATENCY_S
            beside[f"{width} in flight, warm share of the ideal"] = found["warm"] / ideal
    return compared, beside


def run_files(sizes: Sequence[int]) -> tuple[Figures, Figures]:
    """Import, publish and export beside `datasets`."""
    compared, beside = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for rows in sizes:
            path = chain.make_data(Path(folder), rows, distinct=True)
            for contest in files.CONTESTS:
                ours, theirs = (
                    files.child(f"{side} {contest}", path, "benchmarks.files")
                    for side in ("ours", "theirs")
                )
                name = f"{contest} of {rows} pairs"
                compared[f"{name}, CPU s"] = ours["cpu_s"]
                compared[f"{name}, times the CPU of datasets"] = ours["cpu_s"] / theirs["cpu_s"]
                compared[f"{name}, peak MB"] = ours["peak_mb"]
                beside[f"{name}, wall s"] = ours["seconds"]
                beside[f"{name}, datasets, wall s"] = theirs["seconds"]
                beside[f"{name}, datasets, peak MB"] = theirs["peak_mb"]
    return compared, beside


def run_dedup(sizes: Sequence[int], peers: Path | None = None) -> tuple[Figures, Figures]:
    """Near-duplicates beside rensa and datatrove."""
    compared, beside = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for rows in sizes:
            planted = dedup.make_data(Path(folder), rows)
            ours = dedup.once(planted, "ours", None)
            compared[f"{rows} rows, peak MB"] = ours[1]
            beside[f"{rows} rows, wall s"] = ours[0]
            for peer in ("rensa", "datatrove") if peers else ():
                theirs = dedup.once(planted, peer, peers)
                compared[f"{rows} rows, times {peer}'s time"] = ours[0] / theirs[0]
                beside[f"{rows} rows, {peer}, wall s"] = theirs[0]
    return compared, beside


def run_embedding(_: Sequence[int]) -> tuple[Figures, Figures]:
    """Sentence vectors of 300 dialogues beside sentence-transformers."""
    seconds, peaks = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name in embedding.CONTENDERS:
            told = embedding.child(name, chain.SHARED, 300, Path(folder) / "out.npz")
            seconds[name], peaks[name] = float(told["seconds"]), float(told["peak"])
    theirs, *ours = embedding.CONTENDERS
    compared = {f"{name}, times {theirs}'s time": seconds[name] / seconds[theirs] for name in ours}
    compared |= {f"{name}, peak MB": peaks[name] for name in ours}
    return compared, {f"{name}, wall s": took for name, took in seconds.items()}


def run_selection(_: Sequence[int], peers: Path | None = None) -> tuple[Figures, Figures]:
    """A tenth of 10,000 vectors, by methods that are done in seconds, beside the usual library."""
    compared, beside = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        selection.make(path, 10_000)
        for name in SELECTIONS:
            ours = selection.child("ours", name, path, "")
            compared[f"{name}, peak MB"] = ours["peak"]
            beside[f"{name}, wall s"] = ours["seconds"]
            for peer in selection.CONTESTS[name] if peers else ():
                theirs = selection.child(peer, name, path, str(peers))
                if "seconds" in theirs:
                    compared[f"{name}, times {peer}'s time"] = ours["seconds"] / theirs["seconds"]
                    beside[f"{name}, {peer}, wall s"] = theirs["seconds"]
    return compared, beside


SELECTIONS = ("facility, all", "k_center", "d_optimal", "deita", "instag", "match_target", "heads")

QUICK: dict[str, Callable[..., tuple[Figures, Figures]]] = {
    "chain": run_chain,
    "files": run_files,
    "audit": run_audit,
    "dedup": run_dedup,
    "embedding": run_embedding,
    "selection": run_selection,
    "engine": run_engine,
}
NO_DATA = ("engine", "selection")
"""Benchmarks that need no real data."""


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }


def last(name: str, here: dict[str, Any], folder: Path = RESULTS) -> dict[str, Any] | None:
    """The newest result of a benchmark on such a machine, with the last value of every figure.

    Runs of other sizes have other figures: each is compared with the last run that had it.
    """
    results = [json.loads(path.read_text("utf-8")) for path in folder.glob(f"{name}-*.json")]
    same = [r for r in results if all(r["machine"][k] == here[k] for k in ("processor", "cores"))]
    same.sort(key=lambda result: str(result["time"]))
    figures = {key: value for result in same for key, value in result["figures"].items()}
    return {**same[-1], "figures": figures} if same else None


def slower(before: Figures, now: Figures) -> list[str]:
    """What is worse than it was by more than `WORSE`, the worst first."""
    ratios = {key: now[key] / before[key] for key in now if before.get(key)}
    worst = sorted((k for k in ratios if ratios[k] > WORSE), key=lambda k: -ratios[k])
    return [f"{k}: {before[k]:.3g} -> {now[k]:.3g} ({ratios[k] - 1:+.0%})" for k in worst]


def record(name: str, run: Callable[[], tuple[Figures, Figures]]) -> None:
    """Run one benchmark, compare it with its last result, and keep it."""
    here = machine()
    compared, beside = run()
    before = last(name, here)
    git = ["git", "-C", str(RESULTS.parent)]
    commit = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], text=True).strip()
    clean = not subprocess.check_output([*git, "status", "--porcelain", "-uno"], text=True)
    moment = datetime.now(UTC)
    result = {
        "name": name,
        "time": moment.isoformat(timespec="seconds"),
        "commit": commit if clean else f"{commit} and changes",
        "machine": here,
        "figures": compared,
        "beside": beside,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{moment:%Y-%m-%d}-{commit}.json"
    path.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(f"\n{name} (load {here['load']}) -> {path.relative_to(RESULTS.parents[1])}")
    for key, value in (compared | beside).items():
        print(f"  {key:<44} {value:10.3f}")
    if before is None or not set(before["figures"]) & set(compared):
        print("  no earlier result of such a machine and size to compare with")
        return
    worse = slower(before["figures"], compared)
    print(f"  beside {before['commit']} of {before['time']} (load {before['machine']['load']}):")
    print("".join(f"    SLOWER {line}\n" for line in worse) or "    nothing is slower", end="\n")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(QUICK))
    parser.add_argument("--sizes", default="10000,50000", help="pairs of chain and audit")
    parser.add_argument("--data", type=Path, help="folder of real data [../shared/data]")
    parser.add_argument("--peers", type=Path, help="Python of an environment with dedup's peers")
    parser.add_argument("--distilabel", type=Path, help="Python of one with distilabel")
    parser.add_argument("--selection-peers", type=Path, help="the same of selection's peers")
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds of a peer's chain")
    options = parser.parse_args()
    if options.data:
        chain.SHARED = audit.SHARED = dedup.SHARED = options.data.resolve()
        os.environ["PREFACTORY_SHARED_DATA"] = str(chain.SHARED)  # of the processes that measure
    sizes = [int(rows) for rows in options.sizes.split(",")]
    for name in options.only.split(","):
        if name not in NO_DATA and not chain.SHARED.is_dir():
            print(f"\n{name} is LEFT OUT: its data are not in {chain.SHARED} (--data)")
            continue
        more: dict[str, dict[str, Any]] = {
            "chain": {
                "peers": options.peers,
                "distilabel": options.distilabel,
                "limit": options.limit,
            },
            "dedup": {"peers": options.peers},
            "selection": {"peers": options.selection_peers},
        }
        record(name, partial(QUICK[name], sizes, **more.get(name, {})))


if __name__ == "__main__":
    main()
