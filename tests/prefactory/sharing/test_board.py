"""Journals in a bucket: what one machine was answered the others do not ask, however it ends."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pytest

from pipelines.journal import answers, drop_answers
from pipelines.settings import Settings
from prefactory.engines.base import Sampling, TokenLogprobs
from prefactory.engines.journal import Journal
from prefactory.engines.scripted import Scripted
from prefactory.engines.server import Server
from prefactory.engines.session import Session
from prefactory.errors import StoreError
from prefactory.sharing import presence as presence_module
from prefactory.sharing import segments as segments_module
from prefactory.sharing import turns
from prefactory.sharing.board import BucketClaims
from prefactory.sharing.bucket import Bucket
from prefactory.sharing.objects import BucketStore
from prefactory.sharing.presence import Presence, alone
from prefactory.sharing.segments import Segments
from tests.buckets import PROGRAMS, served_at_url
from tests.helpers import ROOT, until, user
from tests.prefactory.engines.mock_server import MockServer

pytest.importorskip("obstore", reason="NO OBSTORE: pip install -e '.[s3]'")
KEYS = [f"{i:032x}" for i in range(40)]
SEEN = Counter()
KINDS = [pytest.param(k, marks=() if k == "moto" else pytest.mark.slow) for k in sorted(PROGRAMS)]


def slow(request):
    SEEN[request.conversation[-1]["content"]] += 1
    time.sleep(0.01)
    return "yes"


def words(conversation):
    SEEN[conversation[-1]["content"]] += 1
    return [(word, -1.0) for word in conversation[-1]["content"].split()]


SLOW = Scripted(function=f"{__name__}.slow", logprob_function=f"{__name__}.words")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    SEEN.clear()
    monkeypatch.setattr(presence_module, "TICK_S", 0.05)
    monkeypatch.setattr(turns, "BEAT_S", 0.1)
    monkeypatch.setattr(BucketClaims, "look_s", 0.05)


@pytest.fixture
def memory():
    return Bucket("memory:///")


@pytest.fixture(scope="module", params=KINDS)
def server_url(request, tmp_path_factory):
    with served_at_url(request.param, tmp_path_factory.mktemp(request.param)) as url:
        yield url


@pytest.fixture
def served(server_url, tmp_path):
    return Bucket(f"{server_url}/{tmp_path.name}")


class Home(Settings):
    """A home with a bucket that is in memory, and so can't be opened again by its address."""

    def __init__(self, home, shared):
        super().__init__(home, bucket=None)
        object.__setattr__(self, "_bucket", shared)

    @property
    def shared(self):
        return self._bucket

    @property
    def store(self):
        return BucketStore(self.home / "store", bucket=self._bucket)


def rows(*texts):
    return [[user(t)] for t in texts]


def asked(root, bucket, *texts):
    with Session(root, bucket=bucket) as session:
        session.engine(SLOW).generate(rows(*texts), Sampling())
        return session.accounts.total()


# -- what one was answered -----


def test_what_one_machine_was_answered_the_other_does_not_ask(tmp_path, served):
    texts = [f"q{i}" for i in range(40)]
    assert asked(tmp_path / "one", served, *texts).calls == 40
    used = asked(tmp_path / "two", served, *texts, "new")
    assert (used.calls, used.reused) == (1, 40)
    assert asked(tmp_path / "one", served, *texts, "new").calls == 0
    assert set(SEEN.values()) == {1}
    assert list(served.list("alive")) == []
    (board,) = (k for k in served.list("journal") if k.endswith("board.json"))
    assert json.loads(served.read(board)[0])["owners"] == {}


def test_at_once_each_call_is_made_once(tmp_path, served):
    """Eight machines want overlapping questions, one of them all in the other order."""
    texts = [f"q{i}" for i in range(80)]
    wanted = [texts[::-1], *(texts[10 * i :] for i in range(7))]
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(lambda i: asked(tmp_path / f"m{i}", served, *wanted[i]), range(8))
        )  # fmt: skip
    assert set(SEEN.values()) == {1}
    assert len(SEEN) == 80
    assert sum(u.calls for u in found) == 80
    assert sum(u.reused for u in found) == sum(map(len, wanted)) - 80


def test_log_probabilities_are_shared_too(tmp_path, memory):
    texts = [f"q{i} and" for i in range(10)]
    found = []
    for name in ("one", "two"):
        with Session(tmp_path / name, bucket=memory) as session:
            found.append(session.engine(SLOW).logprobs(rows(*texts)))
    assert found[0] == found[1]
    assert all(isinstance(one, TokenLogprobs) for one in found[0])
    assert set(SEEN.values()) == {1}


def test_what_was_asked_without_a_bucket_goes_into_it(tmp_path, memory):
    asked(tmp_path / "one", None, "a", "b")
    assert asked(tmp_path / "one", memory, "a", "b").calls == 0
    assert asked(tmp_path / "two", memory, "a", "b").calls == 0


def test_a_new_machine_asks_nothing_when_the_copies_are_gone(tmp_path, memory):
    asked(tmp_path / "one", memory, "a", "b")
    shutil.rmtree(tmp_path / "one")
    assert asked(tmp_path / "one", memory, "a", "b").calls == 0


def test_a_bucket_that_fails_is_one_sentence_and_loses_nothing(tmp_path, memory, monkeypatch):
    asked(tmp_path / "one", memory, "a")

    def refuses(*_):
        raise StoreError("memory:///: it has gone")

    with monkeypatch.context() as broken:
        broken.setattr(Bucket, "create", refuses)
        used = asked(tmp_path / "one", memory, "b")  # the board can be written, the answer not
        assert used.calls == 1
    assert asked(tmp_path / "two", memory, "a").calls == 0
    assert asked(tmp_path / "one", memory, "b").calls == 0
    assert asked(tmp_path / "two", memory, "b").calls == 0


def test_secrets_are_not_in_the_bucket(tmp_path, memory, monkeypatch):
    secret = "sk-very-secret-0123456789"
    monkeypatch.setenv("TEST_KEY", secret)
    with MockServer() as server, Session(tmp_path, bucket=memory) as session:
        config = Server(base_url=server.url, model="m", api_key_env="TEST_KEY")
        session.engine(config).generate(rows(f"it is {secret[:4]}"), Sampling())
    assert server.headers[0]["Authorization"] == f"Bearer {secret}"
    keys = list(memory.list(""))
    assert {k.split("/")[-1] for k in keys} > {"engine.json", "board.json"}
    assert not [k for k in keys if secret.encode() in memory.read(k)[0]]


# -- claims -----


def claims(path, bucket):
    return BucketClaims(path / "engine", Presence(bucket))


def test_a_claim_ends_when_the_answer_is_there(tmp_path, memory):
    one, two = claims(tmp_path / "one", memory), claims(tmp_path / "two", memory)
    first = Journal(tmp_path / "one", "engine", {}, one.segments)
    second = Journal(tmp_path / "two", "engine", {}, two.segments)
    assert one.take(KEYS[:5]) == set(KEYS[:5])
    assert two.take(KEYS[:7]) == set(KEYS[5:7])
    first.put(KEYS[0], {"text": "x"})
    one.finish(KEYS[:1])
    until(lambda: two.take(KEYS[:1]))
    second.refresh()
    assert second.get(KEYS[0]) == {"text": "x"}
    one.finish(KEYS[1:2])  # failed
    until(lambda: two.take(KEYS[1:2]))
    assert one.take(KEYS[:2]) == set()
    one.close()
    assert two.take(KEYS[:5]) == set(KEYS[2:5])
    two.close()


def test_the_claims_of_who_is_silent_are_taken_over_and_of_who_is_slow_not(
    tmp_path, memory, monkeypatch
):
    monkeypatch.setattr(turns, "STALE_S", 3.0)
    silent, slow_, third = (claims(tmp_path / n, memory) for n in ("one", "two", "three"))
    silent.take(KEYS[:5])
    slow_.take(KEYS[5:10])
    silent._presence._over.set()  # as a machine without power
    taken = []
    until(lambda: taken.extend(third.take(KEYS[:10])) or taken)
    assert set(taken) == set(KEYS[:5])
    assert third.take(KEYS[:10]) == set()
    for one in (slow_, third):
        one.close()
        one._presence.close()


def test_few_requests_for_many_calls(tmp_path, memory, monkeypatch):
    """The claims of a batch are one reading and one writing of the board."""
    count = Counter()
    for name in ("create", "read", "replace_if", "list", "tags"):
        real = getattr(Bucket, name)

        def counted(self, *words, real=real, name=name):
            count[name] += 1
            return real(self, *words)

        monkeypatch.setattr(Bucket, name, counted)
    monkeypatch.setattr(presence_module, "TICK_S", 60.0)
    monkeypatch.setattr(turns, "BEAT_S", 60.0)
    with Session(tmp_path, bucket=memory) as session:
        engine = session.engine(Scripted(function=f"{__name__}.quick"))
        before = count.total()
        engine.generate(rows(*(f"q{i}" for i in range(2000))), Sampling())
        assert session.accounts.total().calls == 2000
        assert count.total() - before <= 60  # 16, 32, ... 256 at a time


def quick(request):
    return "yes"


def test_a_damaged_board_is_said(tmp_path, memory):
    asked(tmp_path / "one", memory, "a")
    (board,) = (k for k in memory.list("journal") if k.endswith("board.json"))
    memory.upload(b"{", board)
    with pytest.raises(StoreError, match=r"board\.json is damaged"):
        asked(tmp_path / "two", memory, "a")
    memory.delete(board)
    assert asked(tmp_path / "two", memory, "a").calls == 0


# -- segments -----


def pair(tmp_path, bucket):
    """A journal that writes and one that reads, of two machines."""
    there, here = (Segments(bucket, tmp_path / name / "engine") for name in ("one", "two"))
    return (
        Journal(tmp_path / "one", "engine", {"model": "m"}, there), there,
        Journal(tmp_path / "two", "engine", {"model": "m"}, here),
    )  # fmt: skip


def test_pieces_make_the_same_bytes_and_are_put_together(tmp_path, memory, monkeypatch):
    monkeypatch.setattr(segments_module, "MANY", 5)
    writer, sends, reader = pair(tmp_path, memory)
    for i, key in enumerate(KEYS):
        writer.put(key, {"text": f"{i}\n" * i})
        sends.send()
        if i % 7 == 3:
            reader.refresh()
    reader.refresh()
    assert [reader.get(k) for k in KEYS] == [writer.get(k) for k in KEYS]
    (own,), (copy,) = ((tmp_path / n).rglob("*.calls") for n in ("one", "two"))
    assert own.name == copy.name
    assert own.read_bytes() == copy.read_bytes()
    assert len([k for k in memory.list("journal") if "/pieces/" in k]) == 8
    third = Journal(tmp_path / "three", "engine", {}, Segments(memory, tmp_path / "three/engine"))
    assert len(third) == len(KEYS)


def test_long_segments_go_up_in_pieces(tmp_path, memory, monkeypatch):
    monkeypatch.setattr(segments_module, "PIECE_BYTES", 100)
    writer, sends, reader = pair(tmp_path, memory)
    for key in KEYS:
        writer.put(key, {"text": "x" * 333})
    sends.send()
    reader.refresh()
    assert [reader.get(k) for k in KEYS] == [writer.get(k) for k in KEYS]


@pytest.mark.parametrize("damage", ["flipped", "shorter", "missing", "odd name"])
def test_a_damaged_piece_costs_its_own_answers(tmp_path, memory, damage):
    writer, sends, reader = pair(tmp_path, memory)
    for key in KEYS:
        writer.put(key, {"text": "x" * 50})
        sends.send()
    key = sorted(k for k in memory.list("journal") if "/pieces/" in k)[7]
    data = memory.read(key)[0]
    if damage == "flipped":
        memory.upload(data[:60] + bytes([data[60] ^ 1]) + data[61:], key)
    elif damage == "shorter":
        memory.upload(data[:-9], key)
    elif damage == "missing":
        memory.delete(key)
    else:
        memory.upload(b"x", re.sub("pieces/[^/]*/", "pieces/..%2f..%2fx/", key))
        memory.upload(b"x", key + "x")
    reader.refresh()
    lost = [k for k in KEYS if reader.get(k) is None]
    assert lost == ([] if damage == "odd name" else [KEYS[7]])
    assert {p.suffix for p in (tmp_path / "two").rglob("*") if p.is_file()} == {".calls"}
    fresh = Journal(tmp_path / "two", "engine", {})  # the copy as it is
    assert [k for k in KEYS if fresh.get(k) is None] == lost


def test_a_copy_that_a_kill_cut_goes_on_at_any_byte(tmp_path, memory):
    writer, sends, reader = pair(tmp_path, memory)
    for key in KEYS[:10]:
        writer.put(key, {"text": "x" * 20})
    sends.send()
    reader.refresh()
    (copy,) = (tmp_path / "two").rglob("*.calls")
    whole = copy.read_bytes()
    for cut in range(0, len(whole), 37):
        copy.write_bytes(whole[:cut])
        again = Journal(tmp_path / "two", "engine", {}, Segments(memory, copy.parent))
        assert copy.read_bytes() == whole
        assert len(again) == 10


# -- dropping -----


def test_what_is_dropped_is_asked_again_by_all(tmp_path, memory, monkeypatch):
    texts = ["a", "b", "c"]
    homes = [Home(tmp_path / name, memory) for name in ("one", "two")]
    for home in homes:
        asked(home.home / "journal", memory, *texts)
    (own,) = (homes[0].home / "journal").rglob("*.calls")
    own.write_bytes(own.read_bytes() + b"this was never sent\n")
    found = answers(homes[1])
    assert found.height == 3
    gone = found.filter(pl.col("key") == found["key"][0])
    assert drop_answers(homes[1], gone) == 1
    assert answers(homes[0]).height == answers(homes[1]).height == 2
    assert len([k for k in memory.list("journal") if "/pieces/" in k]) == 1
    assert b"never sent" in b"".join(p.read_bytes() for p in own.parent.glob("*.calls"))
    for home in homes:
        asked(home.home / "journal", memory, *texts)
    assert sorted(SEEN.values()) == [1, 1, 2]


def test_nothing_is_dropped_while_a_machine_is_at_work(tmp_path, memory, monkeypatch):
    one, two = (Home(tmp_path / name, memory) for name in ("one", "two"))
    with Session(one.home / "journal", bucket=memory) as session:
        session.engine(SLOW).generate(rows("a"), Sampling())
        until(lambda: answers(two).height)
        with pytest.raises(StoreError, match="a run is using memory:///; wait for its end"):
            drop_answers(two, answers(two))
    assert answers(two).height == 1
    monkeypatch.setattr(turns, "STALE_S", 0.5)
    memory.upload(b"x", "alive/deadbeef-1-x")  # of a machine that has gone
    assert drop_answers(two, answers(two)) == 1
    assert answers(one).height == 0
    assert list(memory.list("alive")) == []


def test_who_comes_while_somebody_drops_waits(tmp_path, memory):
    with alone(memory), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(asked, tmp_path / "one", memory, "a")
        time.sleep(0.3)
        assert not waiting.done()
        assert SEEN == {}
        memory.delete("turns/journal")
        assert waiting.result().calls == 1


# -- kill -9 -----

CHILD = """
import json, sys
from pathlib import Path
from prefactory.engines.base import Sampling
from prefactory.engines.server import Server
from prefactory.engines.session import Session
from prefactory.sharing import presence
from prefactory.sharing.bucket import Bucket
url, root, node, bucket, first, last = sys.argv[1:]
presence.this_node, presence.TICK_S = lambda: node * 8, 0.3  # another machine
config = Server(base_url=url, model="m", max_concurrency=8)
asked = [[{"role": "user", "content": f"q{i}"}] for i in range(int(first), int(last))]
with Session(Path(root), bucket=Bucket(bucket)) as session:
    session.engine(config).generate(asked, Sampling(seed=1))
"""


def test_a_killed_machine_loses_what_was_in_flight_and_not_yet_sent(tmp_path, served, monkeypatch):
    """The others make these calls again after its silence, and no call that had been sent."""
    monkeypatch.setattr(turns, "STALE_S", 2.0)
    with MockServer(latency_s=0.05) as server:
        words = [server.url, tmp_path / "one", "a", served.url, 0, 600]
        with subprocess.Popen([sys.executable, "-c", CHILD, *map(str, words)], cwd=ROOT) as child:
            until(lambda: len(server.finished) > 250)
            child.kill()
        until(lambda: server.left)
        sent = sum(
            served.read(k)[0].count(b"\n") for k in served.list("journal") if "/pieces/" in k
        )  # fmt: skip
        before = len(server.finished)
        assert sent > 0
        with Session(tmp_path / "two", bucket=served) as session:
            config = Server(base_url=server.url, model="m", max_concurrency=8)
            asked = rows(*(f"q{i}" for i in range(600)))
            session.engine(config).generate(asked, Sampling(seed=1))
            used = session.accounts.total()
        assert used.reused == sent
        assert used.calls == 600 - sent
        assert len(set(server.finished)) == 600
        assert len(server.finished) - 600 == before - sent
