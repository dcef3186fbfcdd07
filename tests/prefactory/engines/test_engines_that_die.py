"""An engine that dies in the middle of a run: one sentence, exit code 3, and a whole journal.

llama.cpp's end is in `test_llama.py`.
"""

import subprocess
import sys
import types
from pathlib import Path

import pytest

from prefactory.engines import serving, vllm
from prefactory.engines.base import Request, Sampling
from prefactory.engines.scripted import Scripted
from prefactory.engines.server import Server
from prefactory.engines.session import Session
from prefactory.engines.transformers import Transformers
from prefactory.engines.vllm import VLLM
from prefactory.errors import StoppedError
from tests.helpers import tiny_llama, user
from tests.prefactory.engines.test_vllm import FakeLLM, Params

ASKED = [[user(f"please go {i}")] for i in range(6)]


@pytest.fixture
def model(tmp_path_factory):
    return Transformers(
        model=str(tiny_llama(tmp_path_factory.mktemp("llama"))),
        precision="fp32", batch_size=2, threads=1,
    )  # fmt: skip


@pytest.fixture
def offline(monkeypatch):
    fake, inner = types.ModuleType("vllm"), types.ModuleType("vllm.sampling_params")
    fake.LLM, fake.SamplingParams = FakeLLM, Params
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", inner)
    monkeypatch.setattr(vllm, "_CHUNK", 2)
    return VLLM(model="m")


@pytest.fixture
def served(monkeypatch):
    """A server in a process of its own."""
    monkeypatch.setattr(serving, "BACKOFF_S", 0.01)
    script = Path(__file__).with_name("mock_server.py")
    process = subprocess.Popen(
        [sys.executable, str(script), "0.05"], stdout=subprocess.PIPE, text=True
    )
    url = f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    yield Server(base_url=url, model="m", max_concurrency=1, retries=1), process
    process.kill()
    process.wait()
    process.stdout.close()


class EngineDeadError(Exception):
    """As vLLM's: of no kind that it raises for a request."""


def die_of(monkeypatch, owner, name, calls, error):
    real, made = getattr(owner, name), []

    def dying(*words, **options):
        made.append(1)
        if len(made) > calls:
            raise error
        return real(*words, **options)

    monkeypatch.setattr(owner, name, dying)


def stopped(config, folder, kill):
    """Answers until the engine was killed, and the sentence."""
    requests = [Request(c, Sampling(max_tokens=4, seed=1)) for c in ASKED]
    answered = {}
    with Session(folder) as session:
        engine = session.engine(config)
        engine._opened()
        kill(engine._inner)

        def done(place, result):
            answered[place] = result
            if len(answered) == 2:
                kill(None)

        with pytest.raises(StoppedError) as told:
            engine.run(requests, done)
        assert told.value.exit_code == 3
        assert "\n" not in str(told.value)
        assert "what was answered is kept" in str(told.value)
        assert len(engine.unanswered(requests)) == len(ASKED) - len(answered)
    assert len(answered) == 2
    return answered, str(told.value)


def resumed(config, folder, answered):
    """A second session asks for the rest alone."""
    with Session(folder) as session:
        found = session.engine(config).generate(ASKED, Sampling(max_tokens=4, seed=1))
        assert session.report()[config.model]["reused"] == len(answered)
    assert {i: found[i][0] for i in answered} == answered


def test_a_model_of_transformers(model, tmp_path, monkeypatch):
    def kill(inner):
        if inner is not None:
            die_of(monkeypatch, inner._model, "generate", 1, RuntimeError("CUDA error:\n gone"))

    answered, told = stopped(model, tmp_path, kill)
    assert "died in the middle of the run (RuntimeError: CUDA error: gone)" in told
    resumed(model, tmp_path, answered)


def test_vllm_in_this_process(offline, tmp_path, monkeypatch):
    def kill(inner):
        if inner is not None:
            die_of(monkeypatch, inner._llm, "chat", 1, EngineDeadError("core is dead"))

    answered, told = stopped(offline, tmp_path, kill)
    assert "(EngineDeadError: core is dead)" in told
    resumed(offline, tmp_path, answered)


def test_a_server(served, tmp_path):
    config, process = served

    def kill(inner):
        if inner is None:
            process.kill()
            process.wait()

    _, told = stopped(config, tmp_path, kill)
    assert "can't be reached" in told


def test_what_a_function_of_yours_raises_keeps_its_traceback(tmp_path):
    config = Scripted(function="tests.prefactory.engines.test_engines_that_die.buggy")
    with Session(tmp_path) as session, pytest.raises(ZeroDivisionError):
        session.engine(config).generate(ASKED, Sampling())


def buggy(request):
    return str(1 // 0)


def test_what_the_caller_raises_is_not_the_engines_end(model, tmp_path):
    with Session(tmp_path) as session, pytest.raises(KeyError):
        session.engine(model).run([Request(ASKED[0], Sampling(max_tokens=2))], lambda *_: {}["x"])
