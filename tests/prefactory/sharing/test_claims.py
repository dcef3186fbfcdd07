"""Claims: of two who want an answer one asks, and the other waits for it."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from prefactory.engines.base import Completion, Failure, Sampling, TokenLogprobs
from prefactory.engines.scripted import Scripted
from prefactory.engines.server import Server
from prefactory.engines.session import Session
from prefactory.errors import StoppedError
from prefactory.sharing import locks
from prefactory.sharing.claims import Claims
from tests.helpers import ROOT, until, user
from tests.prefactory.engines.mock_server import MockServer

KEYS = [f"{i:032x}" for i in range(9)]
SEEN = Counter()


def rows(*texts):
    return [[user(t)] for t in texts]


def slow(request):
    SEEN[request.conversation[-1]["content"]] += 1
    time.sleep(0.01)
    return "yes"


def words(conversation):
    text = conversation[-1]["content"]
    SEEN[text] += 1
    time.sleep(0.01)
    return [(word, -1.0) for word in text.split()]


SLOW = Scripted(function=f"{__name__}.slow", logprob_function=f"{__name__}.words")


@pytest.fixture(autouse=True)
def _fresh():
    SEEN.clear()


def test_each_key_is_somebodys(tmp_path):
    first, second = Claims(tmp_path), Claims(tmp_path)
    assert first.take(KEYS[:5]) == set(KEYS[:5])
    assert second.take(KEYS) == set(KEYS[5:])
    assert first.take(KEYS) == set()
    first.finish(KEYS[:2])
    first.tell()
    assert second.take(KEYS) == set(KEYS[:2])
    first.close()
    assert second.take(KEYS) == set(KEYS[2:5])
    second.close()
    assert [p for p in (tmp_path / "claims").iterdir() if p.name != ".lock"] == []


@pytest.mark.parametrize("locking", ["flock", "files"])
def test_the_claims_of_a_killed_process_end(tmp_path, monkeypatch, locking):
    if locking == "files":

        def refuses(handle, kind):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(locks.fcntl, "flock", refuses)
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        theirs = Claims(tmp_path)
        theirs.take(KEYS[:5])
        os.write(tell, b"x")
        time.sleep(60)
        os._exit(0)
    os.read(told, 1)
    mine = Claims(tmp_path)
    assert mine.take(KEYS) == set(KEYS[5:])
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert mine.take(KEYS) == set(KEYS[:5])
    mine.close()


def test_what_a_killed_process_claimed_goes_though_nothing_is_asked(tmp_path):
    """Killed between its last answer and its end, it leaves claims that nobody wants again."""
    texts = [f"q{i}" for i in range(4)]
    with Session(tmp_path) as session:
        engine = session.engine(SLOW)
        engine.generate(rows(*texts), Sampling())
        folder = engine.journal.folder / "claims"
    pid = os.fork()
    if pid == 0:
        Claims(folder.parent).take(KEYS)
        os._exit(0)
    os.waitpid(pid, 0)
    assert list(folder.glob("*.keys"))
    with Session(tmp_path) as session:
        session.engine(SLOW).generate(rows(*texts), Sampling())
    assert sum(SEEN.values()) == 4
    assert [p for p in folder.iterdir() if p.name != ".lock"] == []


def at_once(*works):
    found = [None] * len(works)

    def keep(i):
        found[i] = works[i]()

    threads = [threading.Thread(target=keep, args=(i,)) for i in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("sessions", [1, 2])
def test_who_asks_the_same_at_once_asks_once(tmp_path, sessions):
    """Two threads of a session, and two sessions, which is all that two processes share."""
    texts = [f"q{i}" for i in range(40)]
    with Session(tmp_path) as one, Session(tmp_path) as other:
        engines = [s.engine(SLOW) for s in (one, other if sessions == 2 else one)]
        found = at_once(
            lambda: engines[0].generate(rows(*texts), Sampling()),
            lambda: engines[1].generate(rows(*reversed(texts)), Sampling()),
        )
        both = [one.accounts.total(), other.accounts.total()]
    assert found[0] == found[1][::-1]
    assert set(SEEN.values()) == {1}
    assert sum(u.calls for u in both) == 40
    assert sum(u.reused for u in both) == 40


def test_log_probabilities_are_asked_once_too(tmp_path):
    texts = [f"q{i} and" for i in range(10)]
    with Session(tmp_path) as one, Session(tmp_path) as other:
        found = at_once(*[lambda s=s: s.engine(SLOW).logprobs(rows(*texts)) for s in (one, other)])
    assert found[0] == found[1]
    assert all(isinstance(one, TokenLogprobs) for one in found[0])
    assert set(SEEN.values()) == {1}


def test_what_failed_there_is_asked_here(tmp_path):
    claimed, go_on = threading.Event(), threading.Event()

    def fails(body, times):
        if times == 1:
            claimed.set()
            go_on.wait(200)
            return "status", (400, {}, b'{"error": {"message": "no"}}')
        return "ok", {"choices": [{"index": 0, "message": {"content": "x"}}]}

    with MockServer(fails) as server, Session(tmp_path) as one, Session(tmp_path) as other:
        config = Server(base_url=server.url, model="m")

        def second():
            claimed.wait(200)
            threading.Timer(0.1, go_on.set).start()
            return other.engine(config).generate(rows("a"), Sampling())

        found = at_once(lambda: one.engine(config).generate(rows("a"), Sampling()), second)
    assert isinstance(found[0][0][0], Failure)
    assert isinstance(found[1][0][0], Completion)


def test_a_closed_session_waits_for_nobody(tmp_path):
    asked = threading.Event()

    class Everything:
        def __contains__(self, key):
            asked.set()
            return True

    with Session(tmp_path) as session:
        engine = session.engine(SLOW)
        engine._claims._of_others = lambda: Everything()
        threading.Thread(target=lambda: asked.wait(200) and session.close(), daemon=True).start()
        with pytest.raises(StoppedError):
            engine.generate(rows("a"), Sampling())


CHILD = """
import json, sys
from pathlib import Path
from prefactory.engines.base import Sampling
from prefactory.engines.server import Server
from prefactory.engines.session import Session
url, root, first, last, out = sys.argv[1:]
config = Server(base_url=url, model="m", max_concurrency=8)
asked = [[{"role": "user", "content": f"q{i}"}] for i in range(int(first), int(last))]
with Session(Path(root)) as session:
    found = session.engine(config).generate(asked, Sampling(seed=1))
    Path(out).write_text(json.dumps([[r.text for r in row] for row in found]))
"""


@pytest.mark.slow
def test_two_processes_that_overlap_pay_once_also_when_one_is_killed(tmp_path):
    """Of questions 0 to 199 and 100 to 299, as two recipes of the same prompts ask them."""
    with MockServer(latency_s=0.05) as server:

        def begin(first, last):
            words = [server.url, tmp_path / "j", first, last, tmp_path / f"out-{first}"]
            return subprocess.Popen([sys.executable, "-c", CHILD, *map(str, words)], cwd=ROOT)

        both = [begin(0, 200), begin(100, 300)]
        assert [process.wait(200) for process in both] == [0, 0]
        assert Counter(server.finished).total() == len(set(server.finished)) == 300
        assert [len(json.loads((tmp_path / f"out-{n}").read_text())) for n in (0, 100)] == [200] * 2

        before = len(server.finished)
        both = [begin(300, 600), begin(300, 600)]
        until(lambda: len(server.finished) >= before + 60)
        both[0].kill()
        assert both[1].wait(200) == 0
        both[0].wait()
        assert len(set(server.finished)) == 600
        assert len(server.finished) <= 600 + 8  # what the killed one had in flight
