"""SIGTERM, Ctrl-C and `kill -9`: exit code 3 within seconds, nothing left running, resumable."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from pipelines.conduct import temporary_server as temporary
from pipelines.conduct.stopping import ended_in_time
from prefactory.engines.base import Request, Sampling
from prefactory.engines.server import Server
from prefactory.engines.session import Session
from prefactory.errors import ConfigError, StoppedError
from prefactory.stages import thread_mapper
from tests.helpers import until
from tests.pipelines.conftest import ANSWERED
from tests.prefactory.engines.mock_server import MockServer

RECIPE = ANSWERED % ("%s", 300)
REQUEST = Request([{"role": "user", "content": "?"}], Sampling())


class Asker(threading.Thread):
    """A worker that waits for a model, and keeps what it is told."""

    def __init__(self, engine):
        super().__init__(daemon=True)
        self.engine, self.error = engine, None
        self.start()

    def run(self):
        try:
            self.engine.run([REQUEST], lambda place, result: None)
        except Exception as error:
            self.error = error


@pytest.fixture
def silent():
    """A server that never answers."""
    with MockServer(lambda body, times: ("hang", None)) as server:
        yield server


def test_closing_ends_who_waits_for_a_server(silent):
    engine = Server(base_url=silent.url, model="m").open()
    askers = [Asker(engine) for _ in range(3)]
    until(lambda: silent.in_flight == 3)
    engine.close()
    for asker in askers:
        asker.join(200)
        assert isinstance(asker.error, StoppedError)
        assert asker.error.exit_code == 3
        assert "run the same command again" in str(asker.error)
    engine.close()
    with pytest.raises(StoppedError):
        engine.run([REQUEST], lambda place, result: None)


def test_a_closed_session_opens_nothing_again(silent, tmp_path):
    with Session(tmp_path) as session:
        engine = session.engine(Server(base_url=silent.url, model="m"))
        asker = Asker(engine)
        until(lambda: silent.in_flight == 1)
    asker.join(200)
    assert isinstance(asker.error, StoppedError)
    with pytest.raises(StoppedError):
        engine.run([REQUEST], lambda place, result: None)


def test_ctrl_c_waits_for_no_shard():
    begun, go_on = threading.Event(), threading.Event()

    def work(i):
        if i == 0:
            begun.wait(200)
            raise KeyboardInterrupt
        begun.set()
        return go_on.wait(200)

    with pytest.raises(KeyboardInterrupt):
        thread_mapper(2)("shards", work, 2)
    assert not go_on.is_set()
    go_on.set()


PROGRAM = """
import os, signal, sys
from pipelines.conduct import stopping
stopping.end_at_signals()
if sys.argv[2] == "slow":  # as Prefect, which waits for a shard that can't be interrupted
    stopping.PATIENCE_S = 0.1
    signal.signal(signal.SIGTERM, lambda *_: None)
    with stopping.ended_in_time():
        os.kill(os.getpid(), int(sys.argv[1]))
        import time
        time.sleep(600)
os.kill(os.getpid(), int(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("sent", "how"),
    [(signal.SIGTERM, "at once"), (signal.SIGINT, "at once"), (signal.SIGTERM, "slow")],
)
def test_signals_end_a_process_with_a_line_and_exit_code_3(sent, how):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(int(sent)), how],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "run the same command again to resume" in done.stderr


def test_the_handler_of_before_comes_back_and_other_threads_set_none():
    before = signal.getsignal(signal.SIGTERM)
    with ended_in_time():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    seen = []

    def in_a_thread():
        with ended_in_time():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_server_that_does_not_start_is_told_with_its_last_words(monkeypatch):
    monkeypatch.setattr(temporary, "_PROGRAM", "raise SystemExit('no database here')")
    with (
        pytest.raises(ConfigError, match=r"no Prefect server.*no database here.*--runner threads"),
        temporary.temporary_server(),
    ):
        pass


@pytest.mark.slow
def test_a_database_that_was_made_by_half_is_told_with_its_cure(tmp_path):
    """Prefect's own, whose first migration was killed; under the command, which is quiet."""
    (tmp_path / "prefect").mkdir()
    with contextlib.closing(sqlite3.connect(tmp_path / "prefect" / "prefect.db")) as database:
        database.execute("create table flow (id integer)")
        database.commit()
    (tmp_path / "p.jsonl").write_text('{"prompt": "q", "chosen": "a", "rejected": "b"}\n')
    (tmp_path / "r.yaml").write_text("name: r\nsource: p.jsonl\nsteps: []\n")
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    done = subprocess.run(
        [str(Path(sys.executable).parent / "prefactory"), "run", "r.yaml"],
        cwd=tmp_path, env={**env, "PREFECT_HOME": str(tmp_path / "prefect")},
        capture_output=True, text=True, check=False, timeout=400,
    )  # fmt: skip
    assert done.returncode == 2
    assert "table flow already exists" in done.stderr
    assert f"{tmp_path / 'prefect' / 'prefect.db'}" in done.stderr
    assert "move the file away" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_slow_server_is_waited_for_with_a_line(monkeypatch, caplog):
    answers = iter([False, False, True])
    monkeypatch.setattr(temporary, "_answers", lambda url: next(answers))
    monkeypatch.setattr(temporary, "_PROGRAM", "import sys; sys.stdin.read()")
    monkeypatch.setattr(temporary, "FIRST_LINE_S", 0.0)
    with caplog.at_level("INFO"), temporary.temporary_server() as url:
        assert url.startswith("http://127.0.0.1:")
    assert caplog.text.count("Prefect's server is starting") == 1


def test_a_server_ends_when_nobody_holds_its_pipe(monkeypatch):
    """As the system closes it for a process that is gone."""
    head, _ = temporary._PROGRAM.split("import uvicorn")
    monkeypatch.setattr(temporary, "_PROGRAM", f"{head}import time; time.sleep(600)")
    with temporary._listening() as at, tempfile.TemporaryFile() as log:
        process = temporary._start(at, log)
        process.stdin.close()
        assert process.wait(200) == 0


@pytest.mark.slow
def test_a_server_ends_with_its_parent_however_that_dies(tmp_path):
    """The same pipe with a program that takes no time to start."""
    program = (
        "import os, signal\n"
        "from pipelines.conduct import temporary_server as t\n"
        "head, end = t._PROGRAM.split('import uvicorn')\n"
        "t._PROGRAM = head + 'import time; time.sleep(600)'\n"
        "t._answers = lambda url: True\n"
        "start = t._start\n"
        "def told(*words):\n"
        "    process = start(*words)\n"
        "    print(process.pid, flush=True)\n"
        "    return process\n"
        "t._start = told\n"
        "with t.temporary_server():\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    out = tmp_path / "out"
    with out.open("w") as file:
        words = [sys.executable, "-c", program]
        done = subprocess.run(words, stdout=file, check=False, timeout=200)
    assert done.returncode == -signal.SIGKILL
    pid = int(out.read_text())
    until(lambda: not alive(pid))


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = stat.read_text().rsplit(")", 1)[1].split()[1]
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += [int(stat.parent.name)] if int(parent) == pid else []
    return found


class Counting:
    """A slow server that counts its calls, each by its body."""

    def __init__(self):
        self.calls = []

    def __call__(self, body, times):
        self.calls.append(json.dumps(body, sort_keys=True))
        words = "very " * (body["seed"] % 7)
        choice = {"message": {"role": "assistant", "content": f"{words}well {body['seed']}"}}
        usage = {"prompt_tokens": 5, "completion_tokens": 2}
        reply = {"choices": [{"index": 0, "finish_reason": "stop", **choice}], "usage": usage}
        return "ok", reply


def start(folder, home, runner, log):
    return subprocess.Popen(
        [
            str(Path(sys.executable).parent / "prefactory"),
            *("run", "recipe.yaml", "--runner", runner, "--shard-rows", "20"),
        ],
        cwd=folder,
        env={**os.environ, "PREFACTORY_HOME": str(folder / home)},
        stdout=log,
        stderr=log,
    )


def write(folder, url):
    rows = [{"prompt": f"Question {i}?"} for i in range(60)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "recipe.yaml").write_text(RECIPE % url)


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["threads", "prefect"])
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_run_in_the_middle_of_calls_stops_and_resumes(tmp_path, runner, sent):
    counting = Counting()
    with MockServer(counting, latency_s=0.3) as server:
        write(tmp_path, server.url)
        with (tmp_path / "log").open("w") as log:
            process = start(tmp_path, "home", runner, log)
            until(lambda: len(counting.calls) >= 40)
            helpers = children(process.pid)
            assert bool(helpers) == (runner == "prefect")
            process.send_signal(sent)
            code = process.wait(200)
        told = (tmp_path / "log").read_text()
        assert code == (-9 if sent == signal.SIGKILL else 3), told
        assert ("run the same command again to resume" in told) == (sent != signal.SIGKILL)
        assert "Traceback" not in told
        until(lambda: not any(map(alive, helpers)))
        with (tmp_path / "log").open("w") as log:
            assert start(tmp_path, "home", runner, log).wait(200) == 0
        assert len(set(counting.calls)) == 180
        assert len(counting.calls) <= 180 + 8  # what was in flight


def test_the_log_is_sent_while_there_is_a_server(monkeypatch):
    order = []
    monkeypatch.setattr(temporary, "_start", lambda at, log: "server")
    monkeypatch.setattr(temporary, "_wait_until_up", lambda process, url, log: None)
    monkeypatch.setattr(temporary, "_stop", lambda process: order.append("stop"))
    monkeypatch.setattr(temporary.APILogHandler, "flush", lambda handler: order.append("log"))
    with temporary.temporary_server():
        pass
    assert order == ["log", "stop"]
