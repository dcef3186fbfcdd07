"""What a terminal is shown of texts that hold control sequences."""

import io
import json
import os
import pty
import re
import subprocess
import sys

import pytest
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipelines import terminal
from pipelines.terminal import SHOWN, Guarded, cleaned, write_json

HOSTILE = (
    "a\x1b[2J\x1b]0;title\x07b\x1b[1A\x9b2Jc\x7f\x08\rd\x1b[31mred\x1b]8;;http://evil\x1b\\"
    "\x1b]52;c;ZXZpbA==\x07\x85\u2028\u202egnp.exe\u2066\u2069\x9d0;t\x9c\x0b\x0c"
)
SIGNS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
OURS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r\n")


def shown(text, live=False):
    out = io.StringIO()
    assert Guarded(out, live).write(text)
    return out.getvalue()


@pytest.mark.parametrize("live", [False, True])
def test_control_sequences_become_signs_colours_too(live):
    out = shown(HOSTILE, live)
    assert not SIGNS.search(out)
    assert f"{SHOWN}[31mred" in out
    usual = "bold\ttab\nline\r\nßü 漢字 🙂 שלום\u200f\n"
    assert shown(usual, live) == usual


def test_bars_of_tqdm_stay_on_a_terminal_s_error_output():
    bar, gone = "\r 50%|█████     | 1/2", "\r          \r"
    assert (shown(bar, live=True), shown(gone, live=True)) == (bar, gone)
    assert shown("\x1b[A\x1b[A", live=True) == "\x1b[A\x1b[A"
    assert "\r" not in shown(bar)
    assert "\x1b" not in shown("\r\x1b[A", live=True)
    assert "\r" not in shown("what it says\rother", live=True)


def test_both_outputs_are_guarded_once_and_keep_what_they_have(monkeypatch):
    monkeypatch.setattr(terminal.sys, "stdout", io.TextIOWrapper(io.BytesIO(), "utf-8"))
    monkeypatch.setattr(terminal.sys, "stderr", io.StringIO())
    terminal.guard()
    first = terminal.sys.stdout
    terminal.guard()
    assert terminal.sys.stdout is first
    assert first.encoding == "utf-8"
    print("x\x1b[2J", file=first)
    first.writelines(["y\x07"])
    first.flush()
    assert first.buffer.getvalue().decode() == f"x{SHOWN}[2J\ny{SHOWN}"


def test_rich_writes_its_own_colours_and_no_others(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(terminal.sys, "stdout", Guarded(out, live=False))
    monkeypatch.setattr(terminal.sys, "stderr", io.StringIO())
    terminal.guard()
    console = Console(force_terminal=True, color_system="standard", width=400)
    table = Table("h")
    table.add_row(HOSTILE)
    for what in (Text(HOSTILE, style="bold"), HOSTILE, table):
        console.print(what, markup=False) if isinstance(what, str) else console.print(what)
    console.print("[link=http://evil]x[/link]")
    with Live("", console=console):
        terminal.sys.stdout.write(HOSTILE + "\n")  # Rich would take its colours for ours
        console.print(HOSTILE, markup=False)
    text = out.getvalue()
    assert "\x1b[1m" in text
    assert "\x1b[31m" not in text
    assert not SIGNS.search(OURS.sub("", text).replace("\r", ""))
    assert "\x1b]8" not in text


def test_json_keeps_what_the_data_says(capsys):
    write_json({"a": HOSTILE, "b": "ß\u202e"})
    out = capsys.readouterr().out
    assert not SIGNS.search(out)
    assert json.loads(out) == {"a": HOSTILE, "b": "ß\u202e"}
    assert "ß" in out


def test_a_text_without_signs_is_itself():
    assert cleaned("a\nb") == "a\nb"


def on_a_terminal(*words, **kwargs):
    """What a command writes to a terminal, all of it."""
    ours, theirs = pty.openpty()
    done = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *words], stdout=theirs, stderr=theirs, **kwargs
    )
    os.close(theirs)
    out = b""
    try:
        while piece := os.read(ours, 65536):
            out += piece
    except OSError:  # the terminal is gone with the command
        pass
    done.wait()
    os.close(ours)
    return out.decode()


def test_commands_on_a_terminal_show_no_sequence_of_the_data(tmp_path):
    name = "evil\x1b]0;t\x07\x1b[31m.jsonl"
    rows = [{"prompt": f"{HOSTILE} {i}", "chosen": HOSTILE, "rejected": f"b{HOSTILE}",
             "x\x1b[41m": HOSTILE} for i in range(3)]  # fmt: skip
    (tmp_path / name).write_text("".join(json.dumps(r) + "\n" for r in rows))
    env = {**os.environ, "TERM": "xterm-256color", "PREFACTORY_HOME": str(tmp_path / "home")}
    env.pop("NO_COLOR", None)
    root = str(terminal.__file__).rsplit("/prefactory/", 1)[0]
    env["PYTHONPATH"] = root
    seen = [
        on_a_terminal("import", name, "--dry-run", cwd=tmp_path, env=env),
        on_a_terminal("import", name, "--dry-run", "--json", cwd=tmp_path, env=env),
        on_a_terminal("run", "none\x1b[31m.yaml", cwd=tmp_path, env=env),
    ]
    assert "\x1b[1m" in seen[0]  # ours
    assert SHOWN in seen[0]
    for text in seen:
        assert len(text) > 40
        assert "\x1b[31m" not in text
        assert not SIGNS.search(OURS.sub("", text))
