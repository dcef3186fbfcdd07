"""Selection of a tenth of 50,000 x 384, each method beside the obvious library, in one run.

    python -m venv /tmp/peers_sel/venv
    /tmp/peers_sel/venv/bin/pip install numpy scikit-learn POT apricot-select dppy submodlib-py
    python -m benchmarks.selection --peers /tmp/peers_sel/venv/bin/python [--rows 50000]
        [--only "facility, all;k_center"] [--limit 900] [--threads 2]

Vectors are synthetic: 200 clusters of unequal size with a decaying spectrum, as sentence vectors
have. Each contender is a process of its own that loads the same file, so that its peak memory is
its own (the vectors and its libraries with it). Ours are the functions of `filters.selection` that
the steps call, without the baseline of random selections. What a selection is worth is measured
here, for both sides alike, on the same exact objective.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

DIMS = 384
RIDGE = 0.01
MEMORY = 10 << 30
PEERS = Path(__file__).parent / "peers" / "selection.py"

CONTESTS: dict[str, list[str]] = {
    "facility, 128 neighbours": ["apricot_sparse", "submodlib_sparse"],
    "facility, all": ["apricot_dense"],
    "k_center": ["numpy_k_center"],
    "dpp, rank": ["numpy_dpp", "dppy_sample"],
    "dpp, jitter": ["numpy_dpp_jitter"],
    "d_optimal": ["numpy_d_optimal"],
    "deita": ["numpy_deita"],
    "instag": ["python_instag"],
    "match_target": ["numpy_match"],
    "transport": ["pot_sinkhorn"],
    "heads": ["sklearn_heads"],
    "isa": ["sklearn_isa"],
    "self_repellent": ["numpy_self_repellent"],
    "dual margin": ["numpy_margin"],
}
"""Ours, and the peers that do the same."""


def make(path: Path, n: int) -> None:
    """Write vectors, scores, tags and a target."""
    rng = np.random.default_rng(7)
    spectrum = 1.0 / np.sqrt(1.0 + np.arange(DIMS) / 12.0)
    centres = rng.normal(size=(200, DIMS)) * spectrum
    of = rng.choice(200, size=n, p=rng.dirichlet(np.full(200, 0.5)))
    vectors = centres[of] + 0.8 * rng.normal(size=(n, DIMS)) * spectrum
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    few = min(2000, n)
    target = centres[rng.integers(200, size=few)] + 0.8 * rng.normal(size=(few, DIMS)) * spectrum
    counts = rng.poisson(4, size=n)
    owner = np.repeat(np.arange(n), counts)
    tag = np.minimum(rng.zipf(1.4, size=owner.size), 6000) - 1
    owner_tag = np.unique(np.stack([owner, tag], axis=1), axis=0)
    np.savez(
        path,
        vectors=vectors.astype(np.float32),
        target=(target / np.linalg.norm(target, axis=1, keepdims=True)).astype(np.float32),
        score=rng.normal(size=n),
        second=rng.normal(size=n),
        draws=rng.poisson(1.0, size=(n, 8)).astype(np.float64),
        owner=owner_tag[:, 0],
        tag=owner_tag[:, 1],
    )


def ours(name: str, data: Any, k: int) -> dict[str, Any]:  # noqa: ANN401
    """Run one of our methods."""
    from prefactory.near.vectors import one_thread

    vectors = data["vectors"]
    with one_thread():
        return OURS[name](data, vectors, k)


def _places(n: int, k: int) -> Any:  # noqa: ANN401
    from filters.selection.places import Places

    return Places.of(k, np.ones(n, dtype=np.int64))


def _facility(data: Any, vectors: np.ndarray, k: int, t: int | None) -> dict[str, Any]:  # noqa: ANN401
    from filters.selection.facility import facility_location
    from filters.selection.grid import Grid

    return {"rows": facility_location(Grid.of(vectors), _places(len(vectors), k), t).rows}


def _k_center(data: Any, vectors: np.ndarray, k: int) -> dict[str, Any]:  # noqa: ANN401
    from filters.selection.grid import Grid
    from filters.selection.k_center import k_center

    return {"rows": k_center(Grid.of(vectors), _places(len(vectors), k)).rows}


def _dpp(data: Any, vectors: np.ndarray, k: int, jitter: float) -> dict[str, Any]:  # noqa: ANN401
    from filters.selection.quadratic import dpp

    k = k if jitter else min(k, DIMS - 1)
    return {"rows": dpp(vectors, _places(len(vectors), k), jitter)[0].rows}


def _d_optimal(data: Any, vectors: np.ndarray, k: int) -> dict[str, Any]:  # noqa: ANN401
    from filters.selection.quadratic import d_optimal

    return {"rows": d_optimal(vectors, _places(len(vectors), k), RIDGE)[0].rows}


def _deita(data: Any, vectors: np.ndarray, k: int) -> dict[str, Any]:  # noqa: ANN401
    from filters.selection.grid import Grid
    from filters.selection.margins import wanted
    from filters.selection.spaced import spaced

    order = wanted(data["score"], "high")
    return {"rows": spaced(Grid.of(vectors), order, 0.9, _places(len(vectors), k))}


def _instag(data: Any, vectors: np.ndarray, k: int) -> dict[str, Any]:  # noqa: ANN401
    from filters.selection.instag import complexity_first

    n = len(vectors)
    return {"rows": complexity_first(data["owner"], data["tag"], n, _places(n, k))[0]}


def _match(data: Any, vectors: np.ndarray, k: int) -> dict[str, Any]:  # noqa: ANN401
    from filters.selection.transport import target_weights

    weights = target_weights(vectors, data["target"])
    return {"rows": np.argsort(-weights, kind="stable")[:k]}


def _transport(data: Any, vectors: np.ndarray, k: int) -> dict[str, Any]:  # noqa: ANN401
    from filters.selection.transport import transport

    _, cost = transport(vectors[:2000], data["target"][:2000], iterations=200)
    return {"rows": np.zeros(0), "value": cost}


def _heads(data: Any, vectors: np.ndarray, k: int) -> dict[str, Any]:  # noqa: ANN401
    from filters.selection.ensemble import fit_head, sigmoid, uncertainty

    p: list[np.ndarray] = []
    start = fit_head(vectors, np.ones(len(vectors)), 1e-3)
    for weights in data["draws"].T:
        head, _ = fit_head(vectors, weights, 1e-3, start)
        p.append(sigmoid(vectors.astype(np.float64) @ head))
    order = np.argsort(-uncertainty(np.stack(p).T).mutual_information, kind="stable")
    return {"rows": order[:k]}


def _isa(data: Any, vectors: np.ndarray, k: int) -> dict[str, Any]:  # noqa: ANN401
    from filters.selection.mixture import fit_mixture, project

    points, _ = project(vectors, 64)
    mixture = fit_mixture(points, 2, seed=0)
    return {"rows": np.argsort(mixture.score_samples(points), kind="stable")[:k]}


def _self_repellent(data: Any, vectors: np.ndarray, k: int) -> dict[str, Any]:  # noqa: ANN401
    from filters.selection.grid import Grid
    from filters.selection.spaced import covered, spread, visits

    grid = Grid.of(vectors)
    order = np.argsort(-visits(grid, np.random.default_rng(0)), kind="stable")
    reach = 0.3 * spread(grid)
    return {"rows": covered(grid, order, 1.0 - reach**2 / 2.0, _places(len(vectors), k))}


def _margin(data: Any, vectors: np.ndarray, k: int) -> dict[str, Any]:  # noqa: ANN401
    from filters.selection.margins import margin_probability, product_rule, wanted

    p = product_rule(margin_probability(data["score"]), margin_probability(data["second"]))
    return {"rows": wanted(p, "high")[:k]}


OURS: dict[str, Callable[[Any, np.ndarray, int], dict[str, Any]]] = {
    "facility, 128 neighbours": lambda d, v, k: _facility(d, v, k, 128),
    "facility, all": lambda d, v, k: _facility(d, v, k, None),
    "k_center": _k_center,
    "dpp, rank": lambda d, v, k: _dpp(d, v, k, 0.0),
    "dpp, jitter": lambda d, v, k: _dpp(d, v, k, 1e-3),
    "d_optimal": _d_optimal,
    "deita": _deita,
    "instag": _instag,
    "match_target": _match,
    "transport": _transport,
    "heads": _heads,
    "isa": _isa,
    "self_repellent": _self_repellent,
    "dual margin": _margin,
}


def objective(name: str, data: Any, rows: np.ndarray) -> tuple[str, float]:  # noqa: ANN401
    """What a selection is worth."""
    from filters.selection.facility import coverage
    from filters.selection.grid import Grid
    from filters.selection.k_center import radius
    from filters.selection.quadratic import log_det

    rows = np.sort(np.asarray(rows, dtype=np.int64))
    if name.startswith(("facility", "self")):
        return "coverage", coverage(Grid.of(data["vectors"]), rows)
    if name == "k_center":
        return "radius", radius(Grid.of(data["vectors"]), rows)
    if name.startswith("dpp") or name == "d_optimal":
        ridge = RIDGE if name == "d_optimal" else 1e-3
        return "log det", log_det(data["vectors"], rows, ridge)
    if name == "instag":
        return "tags", float(np.unique(data["tag"][np.isin(data["owner"], rows)]).size)
    if name == "deita":
        return "mean score", float(data["score"][rows].mean())
    return "", float("nan")


def contend(command: list[str], env: dict[str, str], limit: float) -> dict[str, Any]:
    """Run one contender in a process of its own, with no more memory than `MEMORY`."""

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    try:
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=limit, preexec_fn=bounded
        )
    except subprocess.TimeoutExpired:
        return {"took": f"over {limit:.0f}"}
    if done.returncode:
        print(done.stderr[-300:], file=sys.stderr)
        memory = "MemoryError" in done.stderr or "allocate" in done.stderr
        return {"took": f"over {MEMORY >> 30} GB" if memory else "failed"}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {**found, "took": f"{found['seconds']:.2f}"}


def child(
    contender: str, name: str, path: Path, peers: str, limit: float = 900.0, threads: int = 2
) -> dict[str, Any]:
    """Let ours or a peer do a method on the vectors of a file; the rows lie beside it."""
    out = path.with_name("rows.npy")
    out.unlink(missing_ok=True)
    command = [peers, str(PEERS), contender, str(path), str(out)]
    if contender == "ours":
        command = [sys.executable, "-m", "benchmarks.selection", "--contender", name]
        command += ["--data", str(path), "--out", str(out)]
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    return contend(command, {**os.environ, **dict.fromkeys(names, str(threads))}, limit)


def contest(name: str, path: Path, options: argparse.Namespace) -> None:
    """Print the lines of one method: ours, then its peers."""
    data = dict(np.load(path))
    out = path.with_name("rows.npy")
    first, chosen = 0.0, np.zeros(0)
    for contender in ["ours", *(CONTESTS[name] if options.peers else [])]:
        found = child(contender, name, path, options.peers, options.limit, options.threads)
        worth = []
        if found.get("value") is not None:
            worth.append(f"value {found['value']:.6g}")
        elif out.exists():
            rows = np.load(out)
            label, value = objective(name, data, rows)
            drawn = np.random.default_rng(0).permutation(options.rows)[: rows.size]
            by_chance = objective(name, data, drawn)[1]
            worth += [f"{label} {value:.4g} ({by_chance:.4g})"] if label else []
            worth += [f"{rows.size:,} rows"]
            if contender == "ours":
                first, chosen = found["seconds"], rows
            else:
                worth.append(f"{np.isin(rows, chosen).mean():.0%} the same")
        first = first or found.get("seconds", 0.0)
        ratio = f"{found['seconds'] / first:.2f}" if first and "seconds" in found else ""
        peak = f"{found['peak']:.0f} MB" if "peak" in found else ""
        line = [name, contender, found["took"], ratio, peak, ", ".join(worth)]
        print(f"| {' | '.join(line)} |", flush=True)


def main() -> None:
    """Run all contests and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--peers", default="")
    parser.add_argument("--only", default="", help="names of methods, with ; between them")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds of one contender")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--contender")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.contender:
        run_ours(options.contender, options.data, options.out)
        return
    wanted = [w.strip() for w in options.only.split(";") if w.strip()] or list(CONTESTS)
    print(
        f"{options.rows // 10:,} of {options.rows:,} x {DIMS}, {options.threads} threads; the "
        "objective of random rows in brackets\n"
    )
    print("| method | contender | seconds | ratio | peak memory | objective |")
    print("|---|---|--:|--:|--:|---|")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "data.npz"
        make(path, options.rows)
        for name in wanted:
            contest(name, path, options)


def run_ours(name: str, path: Path, out: Path) -> None:
    """Run one of our methods in this process; print its time and peak memory."""
    data = dict(np.load(path))
    few = {k: v[:64] for k, v in data.items()}
    few |= {"owner": data["owner"][:0], "tag": data["tag"][:0]}
    ours(name, few, 4)  # imports are not what is measured
    before = time.perf_counter()
    found = ours(name, data, len(data["vectors"]) // 10)
    seconds = time.perf_counter() - before
    np.save(out, np.asarray(found["rows"]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak": peak, "value": found.get("value")}))


if __name__ == "__main__":
    main()
