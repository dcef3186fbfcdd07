"""`prefactory audit` as a user types it."""

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cli.audit import audit
from prefactory.errors import PrefactoryError
from tests.prefactory.engines.mock_server import MockServer, answer, chat


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


@pytest.mark.slow
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


def longer(body, times):
    """A judge who names the longer answer, wherever it stands."""
    text = body["messages"][-1]["content"]
    shown = re.findall(r"<<< answer ([AB]) (\w{8})\n(.*?)\n>>> answer \1 \2", text, re.DOTALL)
    best = max(shown, key=lambda one: (len(one[2]), one[2]))
    return "ok", answer(chat(f"[[{best[0]}]]"))


@pytest.mark.slow
def test_a_judge_is_asked_about_a_sample_of_the_labels(prefactory, small):
    with MockServer(longer) as server:
        judge = f"{{engine: server, base_url: '{server.url}', model: long}}"
        (small / "prices.yaml").write_text("long: [1.0, 2.0]\n")
        words = ("audit", "pairs.jsonl", "--no-embeddings", "--json", "--judge", judge)
        words = (*words, "--sample", "40", "--prices", "prices.yaml")
        poor = prefactory(*words, "--budget-usd", "0.001")
        assert poor.returncode == 3, poor.stderr
        assert "asked nothing" in poor.stderr
        assert not server.bodies
        done = prefactory(*words, "--budget-usd", "5")
        assert done.returncode == 0, done.stderr
        cost = "judge long: 40 pairs in both orders, 80 calls, 0 of them answered before; at most"
        assert cost in done.stderr
        assert len(server.bodies) == 80
        again = prefactory(*words, "--budget-usd", "0")
        assert len(server.bodies) == 80
    labels = json.loads(done.stdout)["findings"][0]
    metrics = labels["metrics"]
    assert metrics["judge_error"]["n"] == 40
    assert metrics["judge_position"]["value"] == 0
    assert f"{100 * metrics['judge_error']['value']:.0f}%" in labels["headline"]
    assert again.stdout == done.stdout


@pytest.mark.parametrize(
    ("said", "calls", "code"), [(b"n\n", 0, 3), pytest.param(b"y\n", 20, 0, marks=pytest.mark.slow)]
)
def test_a_terminal_is_asked_before_the_judge(small, said, calls, code):
    with MockServer(longer) as server:
        engine = f"{{engine: server, base_url: '{server.url}', model: long}}"
        (small / "judge.yaml").write_text(engine)
        master, slave = pty.openpty()
        os.write(master, said)
        words = ("audit", "pairs.jsonl", "--no-embeddings", "--json", "--judge", "judge.yaml")
        done = subprocess.run(
            [str(Path(sys.executable).parent / "prefactory"), *words, "--sample", "10"],
            cwd=small, env={**os.environ, "PREFACTORY_HOME": str(small / "home")},
            stdin=slave, stdout=subprocess.DEVNULL, stderr=slave, timeout=200, check=False,
        )  # fmt: skip
        os.close(slave)
        shown = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while piece := os.read(master, 100_000):
                shown += piece
        os.close(master)
        assert b"Ask the judge?" in shown
        assert (done.returncode, len(server.bodies)) == (code, calls)
