"""`kill -9` at random moments, then the same command again: same digest, same bytes."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

SHARDS = ("--runner", "threads", "--json", "--shard-rows", "100")


def start(folder: Path, home: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(Path(sys.executable).parent / "prefactory"), "run", *words, *SHARDS],
        cwd=folder,
        env={**os.environ, "PREFACTORY_HOME": str(folder / home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder: Path, home: str, *words: str) -> tuple[dict, float]:
    started = time.monotonic()
    process = start(folder, home, *words)
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    return json.loads(out), time.monotonic() - started


def objects(home: Path) -> dict[str, tuple[int, int]]:
    records = home.glob("store/objects/*/*/record.json")
    return {p.parent.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in records}


def published_bytes(home: Path) -> dict[str, bytes]:
    """All files of all versions, but the one that tells when and where a run was."""
    files = [p for p in sorted(home.glob("versions/**/*")) if p.is_file()]
    return {
        p.relative_to(home).as_posix(): p.read_bytes() for p in files if p.name != "provenance.json"
    }


def kill_and_resume(folder: Path, kills: int, seed: int, *words: str) -> None:
    clean, seconds = finish(folder, "clean", *words)
    rng = random.Random(seed)
    survived: dict[str, tuple[int, int]] = {}
    for _ in range(kills):
        process = start(folder, "killed", *words)
        time.sleep(rng.uniform(0.3, 1.0) * seconds)
        process.kill()
        process.communicate()
        now = objects(folder / "killed")
        assert {k: now.get(k) for k in survived} == survived  # nothing finished is made again
        survived = now
    made, _ = finish(folder, "killed", *words)
    assert made["content_digest"] == clean["content_digest"]
    assert published_bytes(folder / "killed") == published_bytes(folder / "clean")
    now = objects(folder / "killed")
    assert {k: now[k] for k in survived} == survived
    again, _ = finish(folder, "killed", *words)
    assert sum(s["made"] for s in again["stages"]) == 0
    assert not again["new"]
    assert len(list((folder / "killed").glob("versions/*/*"))) == 1


def test_a_killed_run_resumes_to_the_same_bytes(small):
    kill_and_resume(small, 2, 1, "recipe.yaml")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_killed_run_on_real_data_resumes_to_the_same_bytes(tmp_path, shared_data):
    recipe = Path(__file__).resolve().parents[2] / "recipes" / "hh_rlhf.yaml"
    source = shared_data / "preference_human" / "hh_h*_base.jsonl.gz"
    kill_and_resume(tmp_path, 4, 7, str(recipe), f"source.path={source}", "version=1")
