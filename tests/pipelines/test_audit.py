"""`prefactory audit` as a user types it."""

import json
import re
from pathlib import Path

import pytest

from pipelines.cli.audit import audit
from prefactory.errors import PrefactoryError


def test_a_file_is_audited_and_written(prefactory, small):
    done = prefactory("audit", "pairs.jsonl", "--no-embeddings")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "pairs: 200 pairs of 200 prompts"
    assert len(lines) < 45
    found = json.loads((small / "audit-pairs" / "audit.json").read_text())
    assert found["rows"] == 200
    assert found["dataset"]["left_out_by_reader"] == {"malformed": 1}
    page = (small / "audit-pairs" / "audit.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "1 records could not be used" in page


def test_json_goes_to_stdout_and_is_the_same_again(prefactory, small):
    one = prefactory("audit", "pairs.jsonl", "--no-embeddings", "--json")
    two = prefactory("audit", "pairs.jsonl", "--no-embeddings", "--json", PYTHONHASHSEED="7")
    assert one.stdout == two.stdout
    assert json.loads(one.stdout)["counts"]["fault"] == 0
    assert not (small / "audit-pairs").exists()


def test_some_rows_are_drawn(small, monkeypatch, capsys):
    monkeypatch.chdir(small)
    audit("pairs.jsonl", embeddings=False, as_json=True, rows=50)
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["dataset"]["rows_in_all"]) == (50, 200)


def test_a_value_system_is_covered_by_its_name(small, monkeypatch, capsys):
    monkeypatch.chdir(small)
    audit("pairs.jsonl", embeddings=False, as_json=True, values="flames5")
    found = json.loads(capsys.readouterr().out)
    assert found["options"]["values"] == "flames5"
    finding = next(f for f in found["findings"] if f["check"] == "value_coverage")
    assert finding["metrics"]["leaves"]["value"] == 12
    with pytest.raises(PrefactoryError, match="there is no value system 'flames6'"):
        audit("pairs.jsonl", embeddings=False, as_json=True, values="flames6")


def test_gates_decide_the_exit_code(prefactory, small):
    (small / "gates.yaml").write_text("gates: {any: fault, duplicates.rows: 0}\n")
    words = ("audit", "pairs.jsonl", "--no-embeddings", "--gates", "gates.yaml", "--out", "out")
    passed = prefactory(*words)
    assert passed.returncode == 0, passed.stderr
    assert "gates: all passed" in passed.stdout
    lines = (small / "pairs.jsonl").read_text().splitlines(keepends=True)
    (small / "pairs.jsonl").write_text("".join(lines[:200] + lines[:5]))
    failed = prefactory(*words)
    assert failed.returncode == 1
    assert "gates: 1 failed" in failed.stdout
    assert "duplicates.rows" in failed.stdout
    assert "Traceback" not in failed.stderr
    assert "Gates that failed" in (small / "out" / "audit.html").read_text()


def test_benchmarks_are_looked_up(small, monkeypatch, capsys):
    monkeypatch.chdir(small)
    first = json.loads((small / "pairs.jsonl").read_text().splitlines()[0])
    asked = first["chosen"].split("Human: ")[1].split("\n")[0]
    (small / "bench.jsonl").write_text(json.dumps({"question": asked}) + "\n")
    audit("pairs.jsonl", embeddings=False, as_json=True, against=["bench.jsonl"])
    found = json.loads(capsys.readouterr().out)
    contamination = next(f for f in found["findings"] if f["check"] == "contamination")
    assert contamination["metrics"]["benchmark:bench"]["value"] == 1.0


def test_a_version_is_audited_by_its_name(published):
    done = published("audit", "small", "--no-embeddings", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["dataset"]["name"].startswith("small@")
    assert found["dataset"]["license"] == "mit"
    checks = {f["check"]: f for f in found["findings"]}
    assert checks["leakage"]["severity"] == "ok"
    assert checks["scores"]["metrics"]["contradictions:reward"]["value"] == 0
    answers = published("audit", "small", "--no-embeddings", "--json", "--table", "responses")
    assert json.loads(answers.stdout)["shape"] == "responses"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"dataset": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"dataset": "smal"}, "no dataset 'smal'"),
        ({"layout": "hhh"}, "hhh"),
        ({"mapping": ["prompt"]}, "our_column=their.column"),
        ({"against": ["none.jsonl"]}, "none.jsonl"),
        ({"gates": Path("none.yaml")}, "none.yaml"),
        ({"gates": Path("gates.yaml")}, "line 2: baselines has no metric 'longr'; did you mean"),
        ({"table": "pairs"}, "no version of the catalog"),
        ({"out": Path("taken")}, "--out 'taken' can't be written"),
    ],
)
def test_mistakes_are_told(small, monkeypatch, options, expected):
    monkeypatch.chdir(small)
    (small / "gates.yaml").write_text("gates:\n  baselines.longr: 0.6\n")
    (small / "taken").write_text("a file")
    given = {"dataset": "pairs.jsonl", "embeddings": False, **options}
    with pytest.raises(PrefactoryError, match=re.escape(expected)) as caught:
        audit(**given)
    assert caught.value.exit_code == 2


def test_a_mistake_is_no_traceback(prefactory):
    done = prefactory("audit", "nowhere.jsonl")
    assert done.returncode == 2
    assert "nowhere.jsonl" in done.stderr
    assert "Traceback" not in done.stderr
