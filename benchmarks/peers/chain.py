"""Other projects' light chains over pairs, each run as its documentation says.

    PEERS_PYTHON benchmarks/peers/chain.py NAME DATA.jsonl.gz OUT_FOLDER -> one JSON line

Each reads the pairs, drops texts of few letters and exact duplicates, keeps a random half and
writes JSON lines. The clock
starts when the project is imported; what it starts itself counts. Runs in an environment that holds
the project, and imports nothing of prefactory.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

TASKS = 2
os.environ |= {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}


def rows_of(data: Path) -> list[dict[str, str]]:
    """The pairs, each with both dialogues as one `text`: filters of the peers look at one."""
    with gzip.open(data, "rt", encoding="utf-8") as file:
        pairs = [json.loads(line) for line in file]
    return [{"id": str(i), "text": f"{p['chosen']}\n{p['rejected']}"} for i, p in enumerate(pairs)]


def text_of(document: Any) -> str:
    """What is compared of a document of datatrove."""
    return str(document.text)


def is_text(document: Any) -> bool:
    """Whether a quarter of a document is letters and digits: what data-juicer's filter asks."""
    return sum(map(str.isalnum, document.text)) >= len(document.text) / 4


def _write(rows: list[dict[str, str]], folder: Path) -> Path:
    """As many files as tasks: a file is read by one."""
    folder.mkdir()
    for task in range(TASKS):
        with (folder / f"{task}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows[task::TASKS])
    return folder


def datatrove(data: Path, out: Path) -> tuple[float, int]:
    """Share of letters and digits, exact duplicates in three stages, a sampler; two tasks."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup.exact_dedup import (
        ExactDedupConfig,
        ExactDedupFilter,
        ExactDedupSignature,
        ExactFindDedups,
    )
    from datatrove.pipeline.filters import LambdaFilter, SamplerFilter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    parts = _write(rows_of(data), out / "parts")
    started = time.monotonic()
    config = ExactDedupConfig(content_getter=text_of)
    clean, signs, gone, kept = (str(out / name) for name in ("clean", "signs", "gone", "kept"))
    stages: list[tuple[list[Any], int]] = [
        (
            [
                JsonlReader(str(parts)),
                LambdaFilter(is_text),
                JsonlWriter(clean, compression=None),
                ExactDedupSignature(signs, config=config, finder_workers=1),
            ],
            TASKS,
        ),
        ([ExactFindDedups(signs, gone, config=config)], 1),
        (
            [
                JsonlReader(clean),
                ExactDedupFilter(gone, config=config),
                SamplerFilter(rate=0.5, seed=1),
                JsonlWriter(kept, compression=None),
            ],
            TASKS,
        ),
    ]
    for i, (pipeline, tasks) in enumerate(stages):
        logs = str(out / f"logs{i}")
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=tasks, logging_dir=logs).run()
    seconds = time.monotonic() - started
    return seconds, sum(1 for f in Path(kept).glob("*.jsonl") for _ in f.open("rb"))


def data_juicer(data: Path, out: Path) -> tuple[float, int]:
    """Length, letters and digits, exact duplicates and a random half; two processes."""
    import yaml
    from data_juicer.config import init_configs
    from data_juicer.core import DefaultExecutor

    parts = _write(rows_of(data), out / "parts")
    recipe = {
        "project_name": "chain",
        "dataset_path": str(parts),
        "export_path": str(out / "kept.jsonl"),
        "np": TASKS,
        "open_tracer": False,
        "ds_cache_dir": str(out / "cache"),
        "process": [
            {"text_length_filter": {"min_len": 1}},
            {"alphanumeric_filter": None},
            {"document_deduplicator": None},
            {"random_selector": {"select_ratio": 0.5}},
        ],
    }
    (out / "recipe.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    started = time.monotonic()
    DefaultExecutor(init_configs(["--config", str(out / "recipe.yaml")])).run()
    seconds = time.monotonic() - started
    return seconds, sum(1 for _ in (out / "kept.jsonl").open("rb"))


PEERS = {"datatrove": datatrove, "data-juicer": data_juicer}

if __name__ == "__main__":
    took, left = PEERS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
    print(json.dumps({"seconds": took, "rows": left}))
