"""Real vLLM on this CPU, in process and as a server: `make test-vllm` makes the environment.

In any other environment the tests are skipped: vLLM wants an older transformers.
"""

import importlib.util
import json
import os

import pytest

from prefactory.engines.base import Completion, Failure, Sampling
from prefactory.engines.server import Server
from prefactory.engines.session import Session
from prefactory.engines.transformers import Transformers
from prefactory.engines.vllm import VLLM
from tests.helpers import assistant, one_file, prompts, recipe, run, tiny_llama, user, view
from tests.servers import vllm_serve

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="NO VLLM HERE: run `make test-vllm`"
    ),
]
CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}
ASKED = [[user(f"please go {i}")] for i in range(6)]
SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_llama(tmp_path_factory.mktemp("tiny_llama"), heads=2))  # of 32 dimensions


@pytest.fixture(scope="module")
def config(model):
    os.environ.update(CPU)
    return VLLM(model=model, precision="float32", max_model_len=2048, enforce_eager=True)


@pytest.fixture(scope="module")
def engine(config):
    with config.open() as opened:
        yield opened


def texts(found):
    assert all(isinstance(r, Completion) for row in found for r in row), found
    return [[r.text for r in row] for row in found]


def test_samples_repeat_with_their_seeds_and_differ_from_each_other(engine):
    sampling = Sampling(n=3, max_tokens=12, seed=7)
    first = texts(engine.generate(ASKED, sampling))
    assert first == texts(engine.generate(ASKED, sampling))
    assert len({t for row in first for t in row}) > 12
    assert first != texts(engine.generate(ASKED, Sampling(n=3, max_tokens=12, seed=8)))


def test_guided_json_is_json(engine):
    found = texts(engine.generate(ASKED, Sampling(max_tokens=60, seed=1, json_schema=SCHEMA)))
    values = []
    for (text,) in found:
        try:
            values.append(json.loads(text))
        except json.JSONDecodeError:  # an untrained model may write spaces until it is cut off
            assert text.lstrip().startswith("{")
    assert values
    assert all(isinstance(v["ok"], bool) for v in values)


def test_log_probabilities_agree_with_transformers(engine, model):
    said = [[*c, assistant("certainly whatever please")] for c in ASKED]
    got = engine.logprobs(said)
    with Transformers(model=model, precision="fp32").open() as reference:
        want = reference.logprobs(said)
    for a, b in zip(got, want, strict=True):
        assert a.tokens[:3] == b.tokens[:3]
        assert a.total == pytest.approx(b.total, abs=2e-3)


def test_greedy_answers_agree_with_transformers(engine, model):
    greedy = Sampling(temperature=0, max_tokens=8)
    got = texts(engine.generate(ASKED, greedy))
    with Transformers(model=model, precision="fp32").open() as reference:
        want = texts(reference.generate(ASKED, greedy))
    # vLLM holds back bytes that are no whole character yet when an answer is cut off
    assert [t.rstrip("\ufffd") for (t,) in got] == [t.rstrip("\ufffd") for (t,) in want]


def test_users_turns_and_raw_texts_agree_with_transformers(engine, model):
    seen = [[], [user("please go"), assistant("certainly")]]
    with Transformers(model=model, precision="fp32").open() as reference:
        for writes, asked in (("user_turn", seen), ("text", [*ASKED[:2], [user("<|user|>")]])):
            greedy = Sampling(temperature=0, max_tokens=8, writes=writes)
            got, want = texts(engine.generate(asked, greedy)), reference.generate(asked, greedy)
            assert [t.rstrip("\ufffd") for (t,) in got] == [
                r.text.rstrip("\ufffd") for (r,) in want
            ]
    mixed = engine.generate([[user("<|user|>")]], Sampling(max_tokens=3, seed=1, writes="text"))
    assert mixed[0][0].prompt_tokens == 1


def test_a_prompt_that_is_too_long_fails_alone(engine):
    long = [user("whatever " * 4000)]
    found = engine.generate([ASKED[0], long, ASKED[1]], Sampling(max_tokens=4, seed=1))
    assert isinstance(found[1][0], Failure)
    assert [type(r[0]) for r in (found[0], found[2])] == [Completion, Completion]


def test_the_journal_answers_a_second_session(config, tmp_path):
    sampling = Sampling(max_tokens=6, seed=3)
    ids = [str(i) for i in range(len(ASKED))]
    with Session(tmp_path) as session:
        first = texts(session.engine(config).generate(ASKED, sampling, ids))
    with Session(tmp_path) as session:
        assert texts(session.engine(config).generate(ASKED, sampling, ids)) == first
        assert session.report()[config.model]["calls"] == 0


@pytest.fixture(scope="module")
def served(model):
    """Address of vLLM's server with the tiny model, in a process of its own."""
    with vllm_serve(model, **CPU) as url:
        yield url


def test_a_server_of_vllm_answers_json_and_scores_prompts(served, model):
    config = Server(base_url=served, model=model, completion_logprobs=True, prompt_logprobs=True)
    with config.open() as opened:
        sampling = Sampling(n=2, max_tokens=12, seed=7)
        first = opened.generate(ASKED, sampling)
        assert texts(first) == texts(opened.generate(ASKED, sampling))
        assert all(r.logprob < 0 for row in first for r in row)
        guided = texts(opened.generate(ASKED, Sampling(max_tokens=60, seed=1, json_schema=SCHEMA)))
        assert all(t.lstrip().startswith("{") for (t,) in guided)
        scored = opened.logprobs([[*ASKED[0], assistant("certainly whatever")]])
    with Transformers(model=model, precision="fp32").open() as reference:
        want = reference.logprobs([[*ASKED[0], assistant("certainly whatever")]])
    assert scored[0].total == pytest.approx(want[0].total, abs=2e-3)


def test_a_server_of_vllm_continues_texts(served, model):
    config = Server(base_url=served, model=model, extra={"add_special_tokens": False})
    greedy = Sampling(temperature=0, max_tokens=8, writes="text")
    asked = [[user("<|user|>please")], [user("whatever")]]
    with config.open() as opened:
        got = texts(opened.generate(asked, greedy))
    with Transformers(model=model, precision="fp32").open() as reference:
        want = texts(reference.generate(asked, greedy))
    assert [t.rstrip("\ufffd") for (t,) in got] == [t.rstrip("\ufffd") for (t,) in want]


def test_an_unknown_model_is_an_error(served):
    from prefactory.engines.base import EngineError

    with (
        Server(base_url=served, model="no-such-model").open() as opened,
        pytest.raises(EngineError, match="no-such-model"),
    ):
        opened.generate(ASKED[:1], Sampling(max_tokens=4))


QUESTIONS = prompts(*[f"please go {i}" for i in range(5)])


@pytest.mark.parametrize("kind", ["in process", "served"])
def test_a_recipe_answers_judges_and_pairs(kind, config, served, model, tmp_path):
    """Answers, a judge whose JSON vLLM guides, and pairs, from a model that knows nothing."""
    named = config.model_dump(mode="json")
    if kind == "served":
        named = {"engine": "server", "base_url": served, "model": model}
    judge = {
        "judge": named,
        "criteria": [{"id": "good", "text": "It is good."}],
        "details": True,
        "sampling": {"max_tokens": 60, "temperature": 1.0},
    }
    short = {"max_tokens": 12}  # each is cut off: the model has not learned to end
    steps = recipe(
        {"generators.Responses": {"models": [named], "n": 3, "sampling": short, "gate": "keep"}},
        {"labelers.Rubric": judge},
        {"labelers.TextStatistics": {"objectives": ["characters"]}},
        {"labelers.Pairs": {"objective": "characters"}},
    )
    with Session(tmp_path / "journal") as session:
        first = run(steps, one_file(QUESTIONS), tmp_path / "a", engine=session.engine)
    rows = view(first, "responses")
    assert rows["prompt_id"].n_unique() == 5
    assert set(rows["model"]) == {model}
    rated = rows["score_rubric"].drop_nulls()
    assert rated.len() > 0, rows[
        "detail_rubric"
    ].to_list()  # guided, so that even this model's JSON has the form
    assert set(rated) <= {0.0, 1.0}
    assert rows.filter(rows["score_rubric"].is_null())["reason_rubric"].null_count() == 0
    assert view(first, "pairs").height > 0
    with Session(tmp_path / "journal") as session:
        again = run(steps, one_file(QUESTIONS), tmp_path / "b", 2, engine=session.engine)
        assert all(used["calls"] == 0 for used in session.report().values() if not used["failures"])
    assert view(again, "responses").equals(rows)
