"""The batch API: files in, files out, found again after a kill, nothing paid twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipelines import api
from pipelines.build import load_recipe
from prefactory.engines import batch
from prefactory.engines.base import Completion, EngineError, Sampling
from prefactory.engines.server import Server
from prefactory.engines.session import Session
from prefactory.sharing import turns
from prefactory.sharing.board import BucketClaims
from prefactory.sharing.bucket import Bucket
from tests.helpers import until, user
from tests.pipelines.test_nothing_is_lost import answers_recipe
from tests.prefactory.engines.batch_server import Batches

pytestmark = pytest.mark.usefixtures("quick")


def config(server, **fields):
    return Server(base_url=server.url, model="m", batch=True, batch_poll_s=0.01, **fields)


def asked(server, folder, texts, **fields):
    """Results, and the account of the model."""
    with Session(folder) as session:
        results = session.engine(config(server, **fields)).generate(
            [[user(t)] for t in texts], Sampling(max_tokens=20, seed=1)
        )
        return [r for (r,) in results], session.report()["m"]


def texts_of(results):
    return [r.text if isinstance(r, Completion) else r.reason for r in results]


QUESTIONS = [f"q{i}" for i in range(20)]
RIGHT = [f"re {q}" for q in QUESTIONS]


def test_answers_of_a_batch_go_to_their_questions_and_are_journalled(tmp_path):
    with Batches() as server:
        results, account = asked(server, tmp_path, QUESTIONS)
        assert texts_of(results) == RIGHT
        assert account["calls"] == 20
        assert len(server.batches) == 1
        again, free = asked(server, tmp_path, QUESTIONS)
        assert again == results
        assert (free["calls"], free["reused"], len(server.batches)) == (0, 20, 1)


def test_the_journal_of_batches_is_that_of_calls(tmp_path):
    with Batches() as server:
        asked(server, tmp_path, QUESTIONS)
        direct = Server(base_url=server.url, model="m")
        with Session(tmp_path) as session:
            found = session.engine(direct).generate(
                [[user(q)] for q in QUESTIONS], Sampling(max_tokens=20, seed=1)
            )
    assert texts_of([r for (r,) in found]) == RIGHT


def test_partial_failures_are_those_of_their_rows_and_asked_again(tmp_path):
    odd = {
        "q1": {"response": {"status_code": 500, "body": {"error": {"message": "boom"}}}},
        "q2": {"error": {"code": "batch_expired", "message": "too late"}},
        "q3": {"response": {"status_code": 200, "body": {"choices": []}}},
        "q4": None,
    }
    ill = [True]

    def outcome(question):
        return odd[question] if ill[0] and question in odd else Batches.fine(question)

    with Batches(outcome, status="expired") as server:
        results, _ = asked(server, tmp_path, QUESTIONS)
        assert texts_of(results)[:6] == [
            "re q0", "http_500", "batch_expired", "bad_answer", "batch_expired", "re q5",
        ]  # fmt: skip
        assert "boom" in results[1].detail
        ill[0], server.status = False, "completed"
        again, _ = asked(server, tmp_path, QUESTIONS)
        assert texts_of(again) == RIGHT
    assert Counter(server.billed)["q0"] == 1


def test_a_batch_that_is_refused_as_a_whole_is_one_sentence(tmp_path):
    why = "refused batch batch-0: it does not say why"
    with (
        Batches(lambda question: None, status="failed") as server,
        pytest.raises(EngineError, match=why),
    ):
        asked(server, tmp_path, QUESTIONS)
    with Batches() as server:
        server.url += "/nowhere"
        with pytest.raises(EngineError, match="knows no such address"):
            asked(server, tmp_path, ["q"])


def test_control_requests_are_tried_again_and_a_lost_creation_is_found(tmp_path):
    with Batches() as server:
        server.drop = {("POST", "/files"): 2, ("GET", "/batches/batch-0"): 2}
        server.lose = 1
        results, _ = asked(server, tmp_path, QUESTIONS)
        assert texts_of(results) == RIGHT
        assert len(server.batches) == 1  # not created a second time


def test_large_requests_are_cut_into_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "MOST_REQUESTS", 7)
    with Batches() as server:
        results, _ = asked(server, tmp_path, QUESTIONS)
        assert texts_of(results) == RIGHT
        assert len(server.batches) == 3


def test_half_the_price(tmp_path):
    prices = tmp_path / "prices.yaml"
    prices.write_text("m: [10, 30]\n")
    usd = {}
    with Batches() as server:
        for share in (0.5, 0.25):
            fields = config(server, batch_price=share)
            with Session(tmp_path / str(share), prices=prices) as session:
                session.engine(fields).generate([[user(q)] for q in QUESTIONS], Sampling())
                usd[share] = session.report()["m"]["usd"]
    full = 20 * (5 * 10 + 2 * 30) / 1e6
    assert usd == {0.5: pytest.approx(full / 2), 0.25: pytest.approx(full / 4)}


def test_a_batch_asks_for_each_sample_by_itself():
    with pytest.raises(ValidationError, match="leave n_in_one out"):
        Server(base_url="http://127.0.0.1:1/v1", model="m", batch=True, n_in_one=True)
    plain = Server(base_url="http://127.0.0.1:1/v1", model="m")
    assert plain.fingerprint() == plain.model_copy(update={"batch": True}).fingerprint()


def test_a_recipe_by_batch_publishes_and_its_cost_is_halved(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFACTORY_HOME", str(tmp_path / "home"))
    prices = tmp_path / "prices.yaml"
    prices.write_text("m: [10, 30]\n")

    def outcome(question):
        return Batches.fine(f"{question}: what I know of it, at some length")

    with Batches(outcome) as server:
        path = answers_recipe(tmp_path, server.url, batch=True, batch_poll_s=0.01)
        version = api.run(load_recipe(path, []), prices=prices)
    (usage,) = version.manifest.stages[1].usage
    assert usage["usd"] == pytest.approx(12 * (5 * 10 + 2 * 30) / 1e6 / 2)


ASK = """
import json
import sys
from pathlib import Path
from prefactory.engines import serving
from prefactory.engines.base import Sampling
from prefactory.engines.server import Server
from prefactory.engines.session import Session
serving.BACKOFF_S = 0.005
with Session(Path(sys.argv[2])) as session:
    config = Server(base_url=sys.argv[1], model="m", batch=True, batch_poll_s=0.05)
    asked = [[{"role": "user", "content": f"q{i}"}] for i in range(20)]
    found = session.engine(config).generate(asked, Sampling(max_tokens=20, seed=1))
    print(json.dumps([r.text for (r,) in found]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("phase", [("POST", "/files"), ("POST", "/batches"), ("GET", "polled")])
def test_kill_9_in_any_phase_pays_nothing_twice(tmp_path, phase):
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}

    def start(server):
        words = [sys.executable, "-c", ASK, server.url, str(tmp_path)]
        return subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True)

    with Batches(polls=10**9) as server:
        first = start(server)
        end = time.monotonic() + 200
        while time.monotonic() < end:
            with server.lock:  # nobody is answered while we look
                polled = [r for r in server.requests if r[1].startswith("/batches/")]
                if phase in server.requests or (phase[1] == "polled" and polled):
                    first.kill()
                    break
            time.sleep(0.001)
        first.wait(200)
        server.polls = 0
        second = start(server)
        said, _ = second.communicate(timeout=200)
    assert json.loads(said) == RIGHT
    assert set(Counter(server.billed).values()) == {1}


def test_another_machine_finds_the_batches_of_a_lost_one(tmp_path, monkeypatch):
    pytest.importorskip("obstore", reason="NO OBSTORE: pip install -e '.[s3]'")
    monkeypatch.setattr(turns, "BEAT_S", 0.1)
    monkeypatch.setattr(turns, "STALE_S", 1.0)
    monkeypatch.setattr(BucketClaims, "look_s", 0.1)
    bucket = Bucket("memory:///")
    questions = [[user(q)] for q in QUESTIONS]

    def work(home):
        session = Session(tmp_path / home / "journal", bucket=bucket)
        engine = session.engine(config(server))
        return session, lambda: engine.generate(questions, Sampling(max_tokens=20, seed=1))

    with Batches(polls=10**9) as server, ThreadPoolExecutor(2) as pool:
        lost, ask = work("one")
        first = pool.submit(ask)
        until(lambda: any(r[1].startswith("/batches/") for r in server.requests))
        lost._presence._over.set()  # as a machine without power
        there, ask = work("two")
        second = pool.submit(ask)
        time.sleep(0.3)
        assert not second.done()
        server.polls = 0
        assert texts_of([r for (r,) in second.result(200)]) == RIGHT
        there.close()
        lost.close()
        first.exception(200)
    assert len(server.batches) == 1
