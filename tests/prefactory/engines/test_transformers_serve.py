"""A real OpenAI-compatible server that is not ours: `transformers serve` with a tiny model."""

import pytest

from prefactory.engines.base import Completion, EngineError, Sampling
from prefactory.engines.server import Server
from prefactory.engines.session import Session
from prefactory.engines.transformers import Transformers
from tests.helpers import system, tiny_llama, user
from tests.servers import transformers_serve

ASKED = [[user(f"please go {i}")] for i in range(4)] + [[system("whatever"), user("certainly")]]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_llama(tmp_path_factory.mktemp("tiny_llama")))


@pytest.fixture(scope="module")
def served(model):
    """Address of a server of the tiny model, in a process of its own."""
    with transformers_serve(model) as url:
        yield url


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
