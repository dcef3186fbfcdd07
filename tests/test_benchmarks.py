"""`make bench` compares like with like, and says what got slower."""

import json

from benchmarks.record import last, slower

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
