"""What a terminal is shown of texts that hold control sequences."""

import io

from pipelines.cli import guard
from pipelines.cli.guard import SHOWN, Guarded


def shown(text, live=False):
    out = io.StringIO()
    assert Guarded(out, live).write(text)
    return out.getvalue()


def test_control_sequences_become_signs_and_colours_stay():
    hostile = "a\x1b[2J\x1b]0;title\x07b\x1b[1A\x9b2Jc\x7f\x08\rd"
    out = shown(hostile)
    assert not {"\x1b", "\x07", "\x9b", "\x7f", "\x08", "\r"} & set(out)
    assert out.count(SHOWN) == 8
    usual = "\x1b[1mbold\x1b[0m\ttab\nline\r\nßü 漢字 🙂\n"
    assert shown(usual) == usual


def test_a_live_line_stays_on_the_error_output():
    line = "\x1b[?25l\r\x1b[2K\x1b[1A text \x1b[?25h"
    assert shown(line, live=True) == line
    assert "\x1b]" not in shown("\x1b]52;c;ZXZpbA==\x07", live=True)


def test_both_outputs_are_guarded_once_and_keep_what_they_have(monkeypatch):
    monkeypatch.setattr(guard.sys, "stdout", io.TextIOWrapper(io.BytesIO(), "utf-8"))
    monkeypatch.setattr(guard.sys, "stderr", io.StringIO())
    guard.guard()
    first = guard.sys.stdout
    guard.guard()
    assert guard.sys.stdout is first
    assert first.encoding == "utf-8"
    print("x\x1b[2J", file=first)
    first.writelines(["y\x07"])
    first.flush()
    assert first.buffer.getvalue().decode() == f"x{SHOWN}[2J\ny{SHOWN}"
