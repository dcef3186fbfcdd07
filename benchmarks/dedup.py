"""Near-duplicate removal beside datatrove, data-juicer, rensa and semhash, in one run.

    python -m venv /tmp/peers && /tmp/peers/bin/pip install datatrove spacy nltk py-data-juicer \
        rensa semhash 'xxhash<4' aiohttp
    python -m benchmarks.dedup --peers /tmp/peers/bin/python [--sizes 50000,160000] [--semantic]

Rows are texts of about 1.2 kB, of sentences of the dialogues and answers in ../shared/data in new
mixtures; a twentieth of them are copies of another row with 0, 5, 10 or 20 % of the words replaced
by other words of the corpus. Each contender is a process of its own, from a jsonl file to a file of
the rows that stay; ours is a whole run of a recipe, with ids, store, ledger, digests and a
published version. Peak memory is of all its processes together (proportional set size).
On a busy machine compare the ratios of each turn, not seconds.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SHARED = Path(os.environ.get("PREFACTORY_SHARED_DATA", "../shared/data")).resolve()
DOSES = (0.0, 0.05, 0.10, 0.20)
SEEDED = 11
RECIPE = """
name: bench
seed: 1
source: {path: PATH, layout: responses, name: bench}
steps:
  - filters.NearDuplicates: {"on": response, within: all}
publish: {test_fraction: 0.1, report_rows: 0}
"""

PLANTED = """
name: planted
seed: 1
source: {path: PATH, layout: responses, name: planted}
steps:
  - filters.NearDuplicates: {}
publish: {test_fraction: 0, report_rows: 0}
"""


@dataclass
class Planted:
    """Rows of a file: copies[k] repeats originals[k] with the share doses[k] of words changed."""

    path: Path
    rows: int
    copies: np.ndarray
    originals: np.ndarray
    doses: np.ndarray


def sentences() -> list[str]:
    """Distinct sentences of real dialogues and answers, in a fixed order."""
    texts: list[str] = []
    for name in ("hh_helpful_base", "hh_harmless_base"):
        with gzip.open(SHARED / "preference_human" / f"{name}.jsonl.gz", "rt") as file:
            texts += [json.loads(line)[s] for line in file for s in ("chosen", "rejected")]
    for name in ("alpaca_random", "dolly_filtered"):
        with gzip.open(SHARED / "instructions" / f"{name}.json.gz", "rt") as file:
            texts += [" ".join(str(v) for v in row.values()) for row in json.load(file)]
    found = (s.strip() for t in texts for s in re.split(r"(?<=[.!?])\s+|\n+", t))
    return sorted({s for s in found if 20 <= len(s) <= 400})


def make_data(folder: Path, rows: int) -> Planted:
    """Write the rows: a twentieth are copies, in random places."""
    rng = np.random.default_rng(SEEDED)
    pool = sentences()
    vocabulary = sorted({w for s in pool for w in s.split()})
    texts = []
    for _ in range(rows):
        length, picked = int(rng.lognormal(np.log(1050), 0.5)), []
        while length > 0:
            picked.append(pool[rng.integers(len(pool))])
            length -= len(picked[-1])
        texts.append(" ".join(picked))
    both = rng.permutation(rows)[: 2 * (rows // 20)]
    copies, originals = both[::2], both[1::2]
    doses = np.resize(DOSES, copies.size)
    for copy, original, dose in zip(copies, originals, doses, strict=True):
        words = texts[original].split(" ")
        changed = rng.permutation(len(words))[: round(dose * len(words))]
        for at in changed:
            words[at] = vocabulary[rng.integers(len(vocabulary))]
        texts[copy] = " ".join(words)
    path = folder / f"rows-{rows}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i, text in enumerate(texts):
            row = {"id": str(i), "prompt": f"row {i}", "response": text, "text": text}
            file.write(json.dumps(row) + "\n")
    return Planted(path, rows, copies, originals, doses)


def ours(data: Path, out: Path) -> None:
    """Run the recipe in this process and write the ids that stay."""
    import polars as pl

    from catalog.versions import Catalog
    from pipelines.build import build, check_recipe
    from pipelines.settings import Settings
    from prefactory.stages import thread_mapper
    from prefactory.tables import text_of

    recipe_path = out / "recipe.yaml"
    recipe_path.write_text(RECIPE.replace("PATH", str(data)), "utf-8")
    settings = Settings(out)
    recipe, sources, _ = check_recipe(recipe_path, [])
    outcome = build(recipe, sources, settings, thread_mapper(settings.workers))
    for stage in outcome.stages:
        print(f"{stage.label:<28} {stage.seconds:6.2f} s", file=sys.stderr)
    version = Catalog(root=out / "versions").get("bench")
    kept = [
        int(i)
        for split in ("train", "test")
        for batch in version.batches("responses", split, ["prompt"])
        for i in batch.select(text_of(pl.col("prompt")).str.extract(r"(\d+)$")).to_series()
    ]
    (out / "kept.json").write_text(json.dumps(kept), "utf-8")


def planted_recall(data: Path, out: Path) -> dict[str, float]:
    """Run a recipe with the default step on planted duplicates.

    Args:
        data: folder with `near_duplicates.jsonl.gz` and its truth.
        out: folder for the run.

    Returns:
        By kind the share of planted pairs of which a row is gone, and as `outside` the number of
        other rows that are gone.
    """
    import polars as pl

    from catalog.versions import Catalog
    from pipelines.build import build, check_recipe
    from pipelines.settings import Settings
    from prefactory.stages import thread_mapper

    recipe_path = out / "planted.yaml"
    recipe_path.write_text(PLANTED.replace("PATH", str(data / "near_duplicates.jsonl.gz")), "utf-8")
    settings = Settings(out)
    recipe, sources, _ = check_recipe(recipe_path, [])
    build(recipe, sources, settings, thread_mapper(settings.workers))
    version = Catalog(root=out / "versions").get("planted")
    places = pl.concat(version.batches("responses", "train", ["source_id"]))["source_id"]
    with gzip.open(data / "near_duplicates.jsonl.gz", "rb") as file:
        rows = pl.read_ndjson(file.read()).with_row_index("line", offset=1)
    texts = pl.col("prompt", "response").str.strip_chars()
    usable = rows.filter(pl.all_horizontal(texts != ""))
    stays = places.str.extract(r":(\d+)$").cast(pl.UInt32)
    gone = set(usable.filter(~pl.col("line").is_in(stays.to_list()))["id"])
    truth = pl.read_csv(data / "near_duplicates_truth.csv")
    known = pl.col("id", "duplicate_of").is_in(usable["id"].to_list())
    truth = truth.filter(pl.all_horizontal(known))
    hit = pl.any_horizontal(pl.col("id", "duplicate_of").is_in(list(gone)))
    kinds = truth.group_by("kind").agg(hit.mean().alias("hit")).sort("kind")
    outside = gone - set(truth["id"]) - set(truth["duplicate_of"])
    return {**dict(kinds.rows()), "outside": float(len(outside))}


def ours_semantic(data: Path, out: Path) -> None:
    """Keep what the semantic filter keeps of given vectors, threshold .95."""
    import polars as pl

    from prefactory.near.choose import ranks
    from prefactory.near.leaders import greedy_kept

    vectors = np.load(data.with_name("vectors.npy"))
    ids = pl.Series([f"{i:08d}" for i in range(len(vectors))])
    beside = greedy_kept([vectors], ranks(ids, None), 0.95)
    (out / "kept.json").write_text(json.dumps(np.flatnonzero(beside < 0).tolist()), "utf-8")


def tree_mb(root: int) -> float:
    """Proportional set size of a process and all its descendants, in MB."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    total, waiting = 0, [root]
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, [])
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += int(text.split("Pss:")[1].split()[0])
    return total / 1024


def measure(command: list[str], log: Path, most_s: float = math.inf) -> tuple[float, float]:
    """Run a command; wall seconds and peak memory in MB.

    One that takes `most_s` or more is ended, with all that it started.
    """
    peak = 0.0
    started = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while process.poll() is None and time.monotonic() - started < most_s:
                peak = max(peak, tree_mb(process.pid))
                time.sleep(0.1)
        finally:
            ended = process.returncode is not None
            if not ended:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    seconds = time.monotonic() - started
    if ended and process.returncode:
        raise RuntimeError(f"{command} failed:\n{log.read_text()[-2000:]}")
    return seconds, peak


def outcome(planted: Planted, kept: list[int]) -> tuple[list[float], int]:
    """Recall at each dose (one of the two rows is gone), and other rows removed."""
    stays = np.zeros(planted.rows, dtype=bool)
    stays[kept] = True
    found = ~(stays[planted.copies] & stays[planted.originals])
    recall = [float(found[planted.doses == d].mean()) for d in DOSES]
    return recall, int((~stays).sum() - found.sum())


def once(planted: Planted, name: str, peers: Path | None) -> tuple[float, float, list[int], str]:
    """Run one contender: seconds, peak memory, ids that stay, its own lines about its stages."""
    out = Path(tempfile.mkdtemp(prefix="dedup-", dir=planted.path.parent))
    if name.startswith("ours"):
        command = [sys.executable, "-m", "benchmarks.dedup", "--child", name]
    else:
        command = [str(peers), str(Path(__file__).with_name("dedup_peers.py")), name]
    seconds, peak = measure([*command, str(planted.path), str(out)], out / "log")
    kept = json.loads((out / "kept.json").read_text())
    stages = [x for x in (out / "log").open() if x.endswith(" s\n")] if name == "ours" else []
    shutil.rmtree(out)
    return seconds, peak, kept, "".join(f"      {line}" for line in stages)


def compare(planted: Planted, names: list[str], peers: Path | None, turns: int) -> None:
    """Run the contenders in turns; print medians, and the ratios of each turn."""
    found: dict[str, list[tuple[float, float, list[int], str]]] = {name: [] for name in names}
    for _ in range(turns):
        for name in list(found):
            try:
                found[name].append(once(planted, name, peers))
            except RuntimeError as error:
                print(f"  {name} did not run: {str(error).splitlines()[-1]}")
                del found[name]
    print(f"\n{planted.rows:,} rows, {turns} turns: recall at {DOSES} of the words changed")
    base = [turn[0] for turn in next(iter(found.values()))]
    for name, runs in found.items():
        seconds, peak = (statistics.median(r[i] for r in runs) for i in (0, 1))
        recall, others = outcome(planted, runs[0][2])
        ratios = [r[0] / b for r, b in zip(runs, base, strict=True)]
        print(
            f"  {name:<22} {seconds:7.1f} s  {statistics.median(ratios):5.2f}x "
            f"({', '.join(f'{r:.1f}' for r in ratios)})  {peak:6,.0f} MB   "
            + " / ".join(f"{r:.3f}" for r in recall)
            + f"   others removed {others}\n{runs[-1][3]}",
            end="",
            flush=True,
        )


def make_vectors(planted: Planted) -> None:
    """Unit vectors for the semantic contenders: random, with copies near their originals."""
    rng = np.random.default_rng(SEEDED)
    vectors = rng.standard_normal((planted.rows, 384), dtype=np.float32)
    noise = rng.standard_normal((planted.copies.size, 384), dtype=np.float32)
    scale = 2.0 * planted.doses[:, None].astype(np.float32)
    vectors[planted.copies] = vectors[planted.originals] + scale * noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.save(planted.path.with_name("vectors.npy"), vectors)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="50000,160000")
    parser.add_argument("--peers", type=Path, help="Python of an environment with the peers")
    parser.add_argument("--only", default="datatrove,data-juicer,data-juicer-unigrams,rensa")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--semantic", action="store_true", help="given vectors, beside semhash")
    parser.add_argument("--planted", action="store_true", help="recall by kind of copy")
    parser.add_argument("--child")
    parser.add_argument("paths", nargs="*", type=Path)
    options = parser.parse_args()
    if options.child:
        (ours_semantic if options.child == "ours-semantic" else ours)(*options.paths)
        return
    if options.planted:
        with tempfile.TemporaryDirectory() as folder:
            for kind, share in planted_recall(SHARED / "dedup", Path(folder)).items():
                print(f"{kind:<28} {share:.2f}")
        return
    others = [n for n in options.only.split(",") if n and options.peers]
    names = ["ours", *others]
    if options.semantic:
        names = ["ours-semantic", *(["semhash"] if options.peers else [])]
    with tempfile.TemporaryDirectory() as folder:
        for rows in [int(s) for s in options.sizes.split(",")]:
            planted = make_data(Path(folder), rows)
            if options.semantic:
                make_vectors(planted)
            compare(planted, names, options.peers, options.turns)


if __name__ == "__main__":
    main()
