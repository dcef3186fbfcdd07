"""A real OpenAI-compatible server that is not ours: `transformers serve` with a tiny model."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from prefactory.engines.base import Completion, EngineError, Sampling
from prefactory.engines.server import Server
from prefactory.engines.session import Session
from prefactory.engines.transformers import Transformers
from tests.helpers import system, tiny_llama, user

ASKED = [[user(f"please go {i}")] for i in range(4)] + [[system("whatever"), user("certainly")]]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_llama(tmp_path_factory.mktemp("tiny_llama")))


@pytest.fixture(scope="module")
def served(model):
    """Address of a server of the tiny model, in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            str(Path(sys.executable).parent / "transformers"),
            *("serve", model, "--port", str(port), "--device", "cpu", "--dtype", "float32"),
        ],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 180
        while not _up(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, "transformers serve ended"
            assert time.monotonic() < end, "transformers serve never came up"
            time.sleep(0.3)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


def _up(url):
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def texts(found):
    assert all(isinstance(r, Completion) for row in found for r in row), found
    return [[r.text for r in row] for row in found]


def test_greedy_answers_are_those_of_the_same_model_in_process(served, model):
    greedy = Sampling(temperature=0, max_tokens=8)
    with Server(base_url=served, model=model, max_concurrency=3).open() as engine:
        found = engine.generate(ASKED, greedy)
    with Transformers(model=model, precision="fp32").open() as reference:
        assert texts(found) == texts(reference.generate(ASKED, greedy))
    assert all(r.prompt_tokens > 0 and r.completion_tokens > 0 for (r,) in found)


def test_samples_are_journalled_and_not_asked_again(served, model, tmp_path):
    config = Server(base_url=served, model=model)
    sampling = Sampling(n=2, max_tokens=6, temperature=1.0, seed=3)
    ids = [str(i) for i in range(len(ASKED))]
    with Session(tmp_path) as session:
        first = texts(session.engine(config).generate(ASKED, sampling, ids))
        assert session.report()[model]["calls"] == 10
    with Session(tmp_path) as session:
        assert texts(session.engine(config).generate(ASKED, sampling, ids)) == first
        assert session.report()[model] | {"calls": 0, "reused": 10} == session.report()[model]


def test_a_wrong_address_is_one_sentence(served, model):
    with (
        Server(base_url=served.replace("/v1", "/v2"), model=model, retries=0).open() as engine,
        pytest.raises(EngineError, match="/v2"),
    ):
        engine.generate(ASKED[:1], Sampling(max_tokens=4))
