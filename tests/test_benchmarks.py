"""`make bench` compares like with like, and says what got slower."""

import gzip
import json
import subprocess
import time
from pathlib import Path

import polars as pl
import pytest

from benchmarks import dedup, files, record
from benchmarks.record import last, slower
from prefactory import folders

HERE = {"processor": "p", "cores": 2, "python": "3.11", "load": 0.1}


def test_what_is_worse_by_more_than_a_quarter_is_told_worst_first():
    before = {"a s": 1.0, "b s": 2.0, "c s": 1.0, "gone": 1.0, "zero": 0.0}
    now = {"a s": 1.3, "b s": 2.4, "c s": 5.0, "new": 9.0, "zero": 1.0}
    assert slower(before, now) == ["c s: 1 -> 5 (+400%)", "a s: 1 -> 1.3 (+30%)"]


def test_the_last_result_is_the_newest_of_such_a_machine(tmp_path):
    for day, machine in (("01", HERE), ("03", HERE | {"load": 9}), ("05", HERE | {"cores": 4})):
        result = {"time": f"2026-11-{day}T00:00:00+00:00", "machine": machine}
        result["figures"] = {"10 pairs, s": float(day), f"{day} pairs, s": 1.0}
        (tmp_path / f"chain-2026-11-{day}-abc.json").write_text(json.dumps(result))
    assert last("chain", HERE, tmp_path)["time"].startswith("2026-11-03")
    figures = {"10 pairs, s": 3.0, "01 pairs, s": 1.0, "03 pairs, s": 1.0}
    assert last("chain", HERE, tmp_path)["figures"] == figures  # a run of other sizes hides none
    assert last("audit", HERE, tmp_path) is None
    assert last("chain", HERE | {"processor": "q"}, tmp_path) is None


@pytest.fixture
def packed(tmp_path):
    """A packed file of 120 pairs in the form of hh-rlhf."""
    path = tmp_path / "pairs.jsonl.gz"
    with gzip.open(path, "wt") as file:
        for i in range(120):
            said = f"\n\nHuman: What is {i} and {i * 7919 % 101}?\n\nAssistant: It is"
            file.write(
                json.dumps({"chosen": f"{said} {2 * i}.", "rejected": f"{said} odd."}) + "\n"
            )
    return path


@pytest.mark.slow
def test_both_sides_export_the_same_rows(packed, tmp_path):
    rows = {}
    for side in ("ours", "theirs"):
        home = tmp_path / side
        home.mkdir()
        found = files.measure(f"{side} export", packed, home)
        assert found["cpu_s"] > 0
        tables = [pl.read_parquet(p) for p in sorted((home / "out").rglob("*.parquet"))]
        rows[side] = pl.concat(t.select(files.COLUMNS) for t in tables)
    assert rows["ours"].height == 120
    assert rows["ours"].equals(rows["theirs"])


def test_publishing_again_makes_no_row_anew(packed, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    files.measure("ours publish", packed, home)
    told = json.loads(next(home.glob("versions/again/*/provenance.json")).read_text())
    assert [stage["made"] for stage in told["stages"]] == [0]
    digests = {
        json.loads(path.read_text())["content_digest"]
        for path in home.glob("versions/*/*/manifest.json")
    }
    assert len(digests) == 1


def test_a_ratio_is_ours_over_theirs(monkeypatch):
    took = {"ours": 6.0, "theirs": 2.0}
    monkeypatch.setattr(record.chain, "make_data", lambda *_, **__: None)
    monkeypatch.setattr(
        record.files,
        "child",
        lambda name, _, module: {
            "cpu_s": took[name.split()[0]] if module == "benchmarks.files" else 0.0,
            "seconds": 1.0,
            "peak_mb": 5.0,
        },
    )
    compared, beside = record.run_files([10])
    for contest in ("import", "publish", "export"):
        assert compared[f"{contest} of 10 pairs, times the CPU of datasets"] == 3.0
        assert beside[f"{contest} of 10 pairs, datasets, wall s"] == 1.0


def test_a_peer_that_does_not_end_is_ended_with_what_it_started(tmp_path, monkeypatch):
    script = f"sleep 300 & echo $! > {tmp_path}/pid; wait"
    took, _ = dedup.measure(["bash", "-c", script], tmp_path / "log", 1.0)
    assert took < 300
    pid = int((tmp_path / "pid").read_text())
    for _ in range(200):
        if not folders.alive(pid) or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            break
        time.sleep(0.1)
    else:
        pytest.fail("its child goes on")
    monkeypatch.setattr(record.dedup, "measure", lambda *_: (9.0, 70.0))
    assert record.peer_chain("datatrove", Path("python"), tmp_path, 9.0) == (None, 70.0)


def test_a_contest_of_another_benchmark_is_no_chain(tmp_path):
    with pytest.raises(subprocess.CalledProcessError):
        record.chain.child("ours import", tmp_path)
