"""Import, publish and export beside Hugging Face's `datasets` on the same rows, in one run.

    python -m benchmarks.files [--sizes 10000,50000]

Rows are those of `benchmarks.chain --distinct`. Each side of each contest is a process of its own,
and what it imports is not measured. `datasets` does much less, so the ratio says what the rest
costs, and above all whether it grows:

- import: a packed file of JSON lines becomes a version, with messages, ids, ledger, digests, splits
  and report; there it becomes a folder of its columns (`load_dataset`, `save_to_disk`).
- publish: rows that a run has made already become a version, as when the same recipe runs under
  another name; there they are split at random and saved (`train_test_split`, `save_to_disk`).
- export: a version becomes Parquet in the layout `trl`; there its three columns become the same
  (`to_parquet`).
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.chain import child, make_data, peak_mb

if TYPE_CHECKING:
    from catalog.versions import Version

COLUMNS = ["prompt", "chosen", "rejected"]
Work = Callable[[], object]


def version_of(path: Path, home: Path, name: str) -> Version:
    """Read a file and publish its rows, none of which a step looks at."""
    from pipelines.build import SECTIONS, build, open_sources
    from pipelines.settings import Settings
    from prefactory.recipe import parse
    from prefactory.stages import thread_mapper

    source = {"path": str(path), "layout": "hh", "name": "bench"}
    recipe = parse({"name": name, "source": source, "steps": []}, home / "bench", [], SECTIONS)
    settings = Settings(home)
    mapper = thread_mapper(settings.workers)
    return build(recipe, open_sources(recipe), settings, mapper).published.version


def rows_of(path: Path, home: Path) -> Any:  # noqa: ANN401 - a `datasets.Dataset`
    """The columns of a file as a dataset on disk."""
    import datasets

    files = {"data_files": str(path), "split": "train", "cache_dir": str(home / "cache")}
    return datasets.load_dataset("json", **files)


def _our_export(version: Version, home: Path) -> object:
    from catalog.layouts import export

    return export(version, "trl", home / "out", "parquet")


def _their_publish(rows: Any, home: Path) -> object:  # noqa: ANN401 - a `datasets.Dataset`
    return rows.train_test_split(test_size=0.1, seed=1).save_to_disk(str(home / "out"))


def _their_export(version: Version, home: Path) -> None:
    (home / "out").mkdir()
    for split in ("train", "test"):
        rows = version.pairs(split).select_columns(COLUMNS)
        rows.to_parquet(str(home / "out" / f"{split}.parquet"))


def work_of(name: str, path: Path, home: Path) -> Work:
    """What is measured of a contender (`SIDE NAME`), once all that it needs is there."""
    few = home / "few"
    few.mkdir()
    head = make_head(path, few)
    side, contest = name.split()
    if contest == "import":
        if side == "ours":
            version_of(head, few, "few")
            return lambda: version_of(path, home, "bench")
        rows_of(head, few).save_to_disk(str(few / "saved"))
        return lambda: rows_of(path, home).save_to_disk(str(home / "saved"))
    if side == "theirs" and contest == "publish":
        rows = rows_of(path, home)
        _their_publish(rows_of(head, few), few)
        return lambda: _their_publish(rows, home)
    version, small = version_of(path, home, "bench"), version_of(head, few, "few")
    if contest == "publish":
        return lambda: version_of(path, home, "again")
    export = _our_export if side == "ours" else _their_export
    export(small, few)
    return lambda: export(version, home)


def make_head(path: Path, folder: Path) -> Path:
    """The first hundred rows of a packed file."""
    import gzip
    from itertools import islice

    head = folder / "head.jsonl.gz"
    with gzip.open(path, "rb") as rows, gzip.open(head, "wb") as file:
        file.writelines(islice(rows, 100))
    return head


CONTESTS = ("import", "publish", "export")


def measure(name: str, path: Path, home: Path) -> dict[str, float]:
    """Do a contender's work in this process."""
    work = work_of(name, path, home)
    started, cpu = time.monotonic(), time.process_time()
    work()
    seconds, cpu_s = time.monotonic() - started, time.process_time() - cpu
    return {"seconds": seconds, "cpu_s": cpu_s, "peak_mb": peak_mb()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="10000,50000")
    parser.add_argument("--child")
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    if options.child:
        home = Path(tempfile.mkdtemp())
        try:
            print(json.dumps(measure(options.child, options.data, home)))
        finally:
            shutil.rmtree(home)
        return
    with tempfile.TemporaryDirectory() as folder:
        for rows in [int(s) for s in options.sizes.split(",")]:
            path = make_data(Path(folder), rows, distinct=True)
            for contest in CONTESTS:
                ours, theirs = (
                    child(f"{side} {contest}", path, "benchmarks.files")
                    for side in ("ours", "theirs")
                )
                print(
                    f"{rows:>8,} pairs, {contest:<8} {ours['cpu_s']:7.2f} s of the CPU, wall "
                    f"{ours['seconds']:6.2f} s, peak {ours['peak_mb']:6,.0f} MB; datasets "
                    f"{theirs['cpu_s']:6.2f} s, wall {theirs['seconds']:6.2f} s, peak "
                    f"{theirs['peak_mb']:6,.0f} MB; ratio {ours['cpu_s'] / theirs['cpu_s']:.1f}"
                )


if __name__ == "__main__":
    main()
