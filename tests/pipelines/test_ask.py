"""The dialogue of `import` and `init` on a terminal, through a pseudo-terminal."""

import json
import os
import pty
import select
import subprocess
import sys
import time

import yaml

RECORDS = [
    {"topic_text": f"q {i}", "answer_a": f"good {i}", "answer_b": f"bad {i}", "pick": 1 - i % 2}
    for i in range(4)
] + [{"topic_text": "q 4", "answer_a": "bad 4", "answer_b": "good 4", "pick": 0}]
ODD = [{"was": f"q {i}", "besser": f"good {i}", "schlechter": f"bad {i}"} for i in range(3)]


def talk(tmp_path, words, answers):
    """Run a command on a terminal; give each answer once its question was shown."""
    ours, theirs = pty.openpty()
    env = {
        **os.environ,
        "PREFACTORY_HOME": str(tmp_path / "home"),
        "COLUMNS": "200",
        "TERM": "dumb",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *words],
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path, env=env, close_fds=True,
    )  # fmt: skip
    os.close(theirs)
    shown, at, left = "", 0, list(answers)
    end = time.monotonic() + 200
    while time.monotonic() < end:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            shown += piece.decode()
        if left and left[0][0] in shown[at:]:
            at = len(shown)
            os.write(ours, f"{left.pop(0)[1]}\n".encode())
    os.close(ours)
    code = process.wait(200)
    assert not left, shown
    return code, shown.replace("\r\n", "\n")


def saved(tmp_path, records):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in records) + "\n")
    return path


def test_import_asks_what_a_guess_leaves_open(tmp_path):
    saved(tmp_path, RECORDS)
    code, shown = talk(
        tmp_path,
        ["import", "data.jsonl", "--dry-run"],
        [
            ("Is that right?", "y"),
            ("Which column is the prompt?", "nothing"),
            ("there is no column 'nothing'", "1"),
            ("pick is '1'", "a"),
            ("pick is '0'", "maybe"),
            ("say a, b, tie", "b"),
        ],
    )
    assert code == 0, shown
    asked = "prefactory import data.jsonl --layout ab --map prompt=topic_text --map a=answer_a"
    assert asked in shown
    assert "layout   ab: pairs" in shown
    assert "5 rows" in shown


def test_init_asks_and_writes_the_mapping(tmp_path):
    saved(tmp_path, ODD)
    code, shown = talk(
        tmp_path,
        ["init", "data.jsonl", "--out", "r.yaml"],
        [
            ("Number", "1"),
            ("the prompt?", "was"),
            ("the better answer?", "2"),
            ("the worse answer?", "schlechter"),
        ],
    )
    assert code == 0, shown
    source = yaml.safe_load((tmp_path / "r.yaml").read_text())["source"]
    assert source["layout"] == "pairs-text"
    assert source["mapping"] == {"prompt": "was", "chosen": "besser", "rejected": "schlechter"}


def test_without_a_terminal_nobody_is_asked(tmp_path):
    saved(tmp_path, RECORDS)
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "import", "data.jsonl"],
        cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--values '1=?,0=?'" in done.stderr
