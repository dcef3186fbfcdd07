"""Seconds and peak memory of the audit as the data grows.

    python -m benchmarks.audit [--sizes 10000,50000,160000] [--embeddings] [--copies]

Each size runs in a process of its own. Rows are the pairs of ../shared/data with most words drawn
anew from all words there, so that they have real lengths and word counts and are not copies of each
other; one in twenty is a near-copy of another. `--copies` keeps the texts and only counts them, so
that every row has dozens of near-copies: the worst case for the search for near-duplicates.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.chain import SHARED, peak_mb

FILES = (
    "preference_human/hh_helpful_base.jsonl.gz",
    "preference_human/hh_harmless_base.jsonl.gz",
    "preference_judge/ultrafeedback_binarized.jsonl.gz",
)
GOAL_S = 75
KEPT, EDITED, NEAR = 0.3, 0.05, 0.05


def make_data(folder: Path, rows: int, copies: bool) -> Path:
    """Write `rows` pairs of about the size of real ones."""
    pairs = _pairs()
    rng = np.random.default_rng(7)
    words = np.array(sorted({w for p in pairs for w in " ".join(p).split(" ")}))
    path = folder / f"pairs-{rows}{'-copies' if copies else ''}.jsonl"
    last: list[str] = []
    with path.open("w", encoding="utf-8") as file:
        for i in range(rows):
            texts = list(pairs[i % len(pairs)])
            if copies:
                texts[0] = f"(case {i // len(pairs)}) {texts[0]}"
            elif i % int(1 / NEAR) == 1:
                texts = [_changed(text, EDITED, words, rng) for text in last]
            else:
                texts = last = [_changed(text, 1 - KEPT, words, rng) for text in texts]
            scores = [round(float(s), 3) for s in rng.normal((0.4, 0.0))]
            row = dict(zip(("prompt", "chosen", "rejected"), texts, strict=True))
            row |= {"chosen_score": scores[0], "rejected_score": scores[1]}
            file.write(json.dumps(row) + "\n")
    return path


def _pairs() -> list[tuple[str, str, str]]:
    found = []
    for name in FILES:
        with gzip.open(SHARED / name, "rt", encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                prompt = row.get("prompt")
                if prompt is None:
                    prompt, _, _ = row["chosen"].rpartition("\n\nAssistant:")
                found.append((prompt, *(_last(row[side]) for side in ("chosen", "rejected"))))
    return [texts for texts in found if all(t.strip() for t in texts)]


def _last(text: str) -> str:
    return text.rpartition("\n\nAssistant:")[2].strip()


def _changed(text: str, share: float, words: np.ndarray, rng: np.random.Generator) -> str:
    parts = text.split(" ")
    new = rng.random(len(parts)) < share
    drawn = words[rng.integers(words.size, size=int(new.sum()))]
    for at, word in zip(np.flatnonzero(new), drawn, strict=True):
        parts[at] = str(word)
    return " ".join(parts)


def run_audit(path: Path, embeddings: bool) -> dict[str, object]:
    """Read and audit a file in this process."""
    from audit import Options, audit, load
    from catalog.versions import Catalog
    from filters.contamination.benchmarks import read_benchmark

    started = time.monotonic()
    loaded = load(str(path), Catalog(root=path.parent / "none"))
    read = time.monotonic()
    against = (read_benchmark(str(SHARED / "verifiable/gsm8k_test.jsonl.gz")),)
    found = audit(loaded.table, Options(embeddings=embeddings, against=against), loaded.intake)
    audited = time.monotonic()
    page = found.page
    return {
        "rows": found.rows,
        "text_mb": round(loaded.table.estimated_size("mb")),
        "read_s": round(read - started, 1),
        "audit_s": round(audited - read, 1),
        "page_s": round(time.monotonic() - audited, 1),
        "page_kb": len(page) // 1000,
        "cpu_s": round(time.process_time(), 1),
        "peak_mb": round(peak_mb()),
        "slowest": sorted(found.seconds.items(), key=lambda item: -item[1])[:6],
    }


def main() -> None:
    """Run the sizes one after the other and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="10000,50000,160000")
    parser.add_argument("--embeddings", action="store_true")
    parser.add_argument("--copies", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(run_audit(Path(args.one), args.embeddings)))
        return
    print(f"{os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}")
    print("  rows  text MB  read s  audit s  page s  CPU s  peak MB  slowest checks")
    for size in (int(word) for word in args.sizes.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            path = make_data(Path(folder), size, args.copies)
            command = [sys.executable, "-m", "benchmarks.audit", "--one", str(path)]
            command += ["--embeddings"] * args.embeddings
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        slow = ", ".join(f"{name} {seconds:.1f}" for name, seconds in found["slowest"])
        print(
            f"{found['rows']:>6}  {found['text_mb']:>7}  {found['read_s']:>6}  "
            f"{found['audit_s']:>7}  {found['page_s']:>6}  {found['cpu_s']:>5}  "
            f"{found['peak_mb']:>7}  {slow}",
            flush=True,
        )
        if size >= 160_000 and not (args.embeddings or args.copies):
            total = found["read_s"] + found["audit_s"] + found["page_s"]
            print(
                f"goal: {GOAL_S} s for 160k pairs without embeddings on 2 cores; took {total:.1f} s"
            )


if __name__ == "__main__":
    main()
