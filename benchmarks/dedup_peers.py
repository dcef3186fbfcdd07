"""Other projects' deduplication, each run as its documentation says; started by `dedup.py`.

    PEERS_PYTHON benchmarks/dedup_peers.py NAME DATA.jsonl OUT_FOLDER

Reads lines of `id`, `text`; writes `kept.json` in the folder: the ids that stay. Runs in an
environment that holds the peers, and imports nothing of prefactory.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

TASKS = 4


def texts_of(data: Path) -> list[str]:
    """The texts, in file order; ids are line numbers."""
    return [json.loads(line)["text"] for line in data.open(encoding="utf-8")]


def datatrove(data: Path, out: Path) -> list[int]:
    """Four stages, four tasks, the default configuration (5-grams, 14 x 8, no verification)."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    parts = out / "parts"
    parts.mkdir()
    files = [(parts / f"{i}.jsonl").open("w", encoding="utf-8") for i in range(TASKS)]
    for n, line in enumerate(data.open(encoding="utf-8")):
        files[n % TASKS].write(line)
    for file in files:
        file.close()
    config = MinhashConfig()
    sigs, buckets, gone = (str(out / name) for name in ("sigs", "buckets", "gone"))
    stages = [
        ([JsonlReader(str(parts)), MinhashDedupSignature(sigs, config=config)], TASKS),
        ([MinhashDedupBuckets(sigs, buckets, config=config)], config.num_buckets),
        ([MinhashDedupCluster(buckets, gone, config=config)], 1),
        (
            [
                JsonlReader(str(parts)),
                MinhashDedupFilter(gone),
                JsonlWriter(str(out / "kept"), compression=None),
            ],
            TASKS,
        ),
    ]
    for i, (pipeline, tasks) in enumerate(stages):
        logs = str(out / f"logs{i}")
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=TASKS, logging_dir=logs).run()
    lines = [line for f in sorted((out / "kept").glob("*.jsonl")) for line in f.open("rb")]
    return [int(json.loads(line)["id"]) for line in lines]


def data_juicer(data: Path, out: Path, **options: object) -> list[int]:
    """`dj-process`, four processes, the default options unless some are given."""
    import yaml

    recipe = {
        "project_name": "dedup",
        "dataset_path": str(data),
        "export_path": str(out / "kept.jsonl"),
        "np": TASKS,
        "open_tracer": False,
        "ds_cache_dir": str(out / "cache"),
        "process": [{"document_minhash_deduplicator": options or None}],
    }
    (out / "recipe.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    command = [str(Path(sys.executable).with_name("dj-process")), "--config", out / "recipe.yaml"]
    subprocess.run([str(c) for c in command], check=True, cwd=out)
    lines = (out / "kept.jsonl").open(encoding="utf-8")
    return [int(json.loads(line)["id"]) for line in lines]


def data_juicer_unigrams(data: Path, out: Path) -> list[int]:
    """The same with single words and a threshold of .6."""
    return data_juicer(data, out, window_size=1, jaccard_threshold=0.6)


def rensa(data: Path, out: Path) -> list[int]:
    """Signatures in Rust, one thread: 128 functions, 5-grams, 16 bands, verified at .8."""
    from rensa import RMinHash, RMinHashLSH

    lsh = RMinHashLSH(threshold=0.8, num_perm=128, num_bands=16)
    kept = []
    for i, text in enumerate(texts_of(data)):
        words = text.lower().split()
        grams = [" ".join(words[j : j + 5]) for j in range(max(1, len(words) - 4))]
        signature = RMinHash(num_perm=128, seed=42)
        signature.update(grams)
        near = lsh.query(signature)
        if not near:
            kept.append(i)
            lsh.insert(i, signature)
    return kept


def semhash(data: Path, out: Path) -> list[int]:
    """Vectors given, threshold .95 (`vectors.npy` beside the data; usearch, the default index)."""
    import numpy as np
    from semhash import SemHash

    vectors = np.load(data.with_name("vectors.npy"))
    records = [{"text": str(i), "id": str(i)} for i in range(len(vectors))]
    found = SemHash.from_embeddings(
        embeddings=vectors, records=records, model=None, columns=["text"]
    ).self_deduplicate(threshold=0.95)
    return [int(r["id"]) for r in found.selected]


PEERS = {
    "datatrove": datatrove,
    "data-juicer": data_juicer,
    "data-juicer-unigrams": data_juicer_unigrams,
    "rensa": rensa,
    "semhash": semhash,
}


def main() -> None:
    """Run one peer."""
    name, data, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    kept = PEERS[name](data, out)
    (out / "kept.json").write_text(json.dumps(kept), "utf-8")


if __name__ == "__main__":
    main()
