"""Kills of runs that `prefactory deploy` serves, and of what serves them."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from catalog.versions import Catalog, verify
from tests.faults.trials import TEMPORARY, Tried
from tests.helpers import until
from tests.pipelines.test_nights import api, ask, ended  # noqa: F401 - the first is a fixture
from tests.pipelines.test_stopping import Counting, MockServer, alive, children, write

CALLS, WIDTH = 180, 8
MOMENTS = (1, 60, 120, 179, CALLS)
"""Calls after which the process is killed: at the beginning, in the middle, and while it ends."""


class Halting(Counting):
    """Answers nobody from the call of a number on: who kills may be slower than a run."""

    most = CALLS

    def __call__(self, body, times):
        answer = super().__call__(body, times)
        halted = self.most < CALLS and len(self.calls) >= self.most
        return ("hang", None) if halted else answer


def served(folder, log):
    return subprocess.Popen(
        [
            str(Path(sys.executable).parent / "prefactory"), "deploy", "recipe.yaml",
            "--cron", "0 3 1 1 *", "--name", "night", "--workers", "2", "--overlap",
        ],
        cwd=folder, stdout=log, stderr=log,
        env={**os.environ, "PREFACTORY_HOME": str(folder / "home")},
    )  # fmt: skip


def deployment(url):
    try:
        return ask(url, "/deployments/name/curate/night")
    except OSError:
        return None


def triggered(url, home):
    body = {"parameters": {"home": str(home)}}
    return ask(url, f"/deployments/{deployment(url)['id']}/create_flow_run", body)["id"]


@pytest.mark.slow
@pytest.mark.timeout(6000)
def test_sigterm_in_the_middle_of_a_served_run(api, tmp_path):  # noqa: F811
    counting = Counting()
    with MockServer(counting, latency_s=0.3) as server, (tmp_path / "log").open("w") as log:
        write(tmp_path, server.url)
        process = served(tmp_path, log)
        until(lambda: deployment(api), 300)
        triggered(api, tmp_path / "home")
        until(lambda: len(counting.calls) >= 40, 300)
        victims = children(process.pid)
        assert victims
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait(200)
        took = time.monotonic() - began
        until(lambda: not any(map(alive, victims)))
        print(f"\ndeploy: {took:.1f} s from SIGTERM to the end")  # noqa: T201
        assert code == 3
        process = served(tmp_path, log)
        run = triggered(api, tmp_path / "home")
        assert ended(api, run, 600)[0] == "COMPLETED"
        process.send_signal(signal.SIGTERM)
        assert process.wait(200) == 3
    assert len(set(counting.calls)) == CALLS
    assert len(counting.calls) <= CALLS + WIDTH
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.slow
@pytest.mark.timeout(6000)
def test_kills_of_served_runs(api, tmp_path):  # noqa: F811
    counting = Halting()
    repeated = 0
    with MockServer(counting, latency_s=0.05) as server, (tmp_path / "log").open("w") as log:
        write(tmp_path, server.url)
        process = served(tmp_path, log)

        until(lambda: deployment(api), 200)
        assert ended(api, triggered(api, tmp_path / "calm"), 600)[0] == "COMPLETED"
        calm = Catalog(tmp_path / "calm")["answered"].manifest.content_digest
        for moment in MOMENTS:
            counting.calls.clear()
            counting.most = moment
            home = f"home-{moment}"
            run = triggered(api, tmp_path / home)
            until(lambda m=moment: len(counting.calls) >= m, 600)
            victims = children(process.pid)
            assert victims or moment == CALLS
            if moment == MOMENTS[1]:  # the server of runs dies as well, and with it the schedule
                process.kill()
                process.wait()
            for victim in victims:
                with suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
            until(lambda v=victims: not any(map(alive, v)))
            counting.most = CALLS
            if process.poll() is not None:
                process = served(tmp_path, log)
            else:
                before = ("COMPLETED",) if moment == CALLS else ()
                assert ended(api, run, 600)[0] in ("CRASHED", "FAILED", *before)
            assert ended(api, triggered(api, tmp_path / home), 600)[0] == "COMPLETED"
            assert len(set(counting.calls)) == CALLS
            assert len(counting.calls) <= CALLS + WIDTH
            repeated += len(counting.calls) - CALLS
            version = Catalog(tmp_path / home)["answered"]
            assert version.manifest.content_digest == calm
            assert verify(version) == []
            assert not [p for p in (tmp_path / home).rglob("*") if TEMPORARY.fullmatch(p.name)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(200) == 3
    Tried("kill -9, runs that deploy serves", len(MOMENTS), repeated=repeated).say()
