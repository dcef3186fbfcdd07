"""VLLM: what can be known without the package, against a stand-in with its documented calls."""

import sys
import types
from types import SimpleNamespace

import pytest
from pydantic import BaseModel, ValidationError

from prefactory.engines.base import Completion, Failure, Request, Sampling, TokenLogprobs
from prefactory.engines.configs import AnyEngine
from prefactory.engines.scripted import Scripted
from prefactory.engines.server import Server
from prefactory.engines.vllm import VLLM
from prefactory.errors import MissingPackageError
from tests.helpers import assistant, user


class Step(BaseModel):
    judge: AnyEngine


def test_engines_are_told_apart_by_their_kind():
    assert Step(judge={"engine": "scripted", "answers": ["x"]}).judge == Scripted(answers=["x"])
    server = {"engine": "server", "base_url": "http://x/v1", "model": "m"}
    assert isinstance(Step(judge=server).judge, Server)
    assert Step(judge={"engine": "vllm", "model": "m"}).judge == VLLM(model="m")
    with pytest.raises(ValidationError, match="'llama', 'scripted', 'server', 'st"):
        Step(judge={"engine": "openai", "model": "m"})


def test_memory_is_not_identity():
    assert VLLM(model="m").fingerprint() == VLLM(model="m", gpu_memory=0.5).fingerprint()
    assert VLLM(model="m").fingerprint() != VLLM(model="m", precision="float16").fingerprint()


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingPackageError, match=r"pip install -e '.\[vllm\]'"):
        VLLM(model="m").open()


class Params(SimpleNamespace):
    pass


class FakeLLM:
    def __init__(self, **options):
        self.options, self.calls = options, []

    def chat(self, messages, params, use_tqdm, add_generation_prompt=True):
        listed = params if isinstance(params, list) else [params] * len(messages)
        self.calls.append((messages, listed))
        if any(m[-1]["content"] == "refuse" for m in messages):
            raise ValueError("prompt too\nlong")
        return [
            self._one(m, p, add_generation_prompt) for m, p in zip(messages, listed, strict=True)
        ]

    def _one(self, messages, params, prompt):
        words = [w for m in messages for w in (m["role"], *m["content"].split(), "\n")]
        words += ["assistant"] if prompt else []
        ids = [hash(w) for w in words]
        answer = SimpleNamespace(
            text=f"to {messages[-1]['content']}", finish_reason="stop", token_ids=[1, 2],
            cumulative_logprob=-0.5,
        )  # fmt: skip
        entries = [
            {i: SimpleNamespace(logprob=-1.0, decoded_token=w)}
            for i, w in zip(ids, words, strict=True)
        ]
        return SimpleNamespace(
            prompt_token_ids=ids, outputs=[answer], prompt_logprobs=[None, *entries[1:]]
        )


@pytest.fixture
def engine(monkeypatch):
    fake, inner = types.ModuleType("vllm"), types.ModuleType("vllm.sampling_params")
    fake.LLM, fake.SamplingParams = FakeLLM, Params
    inner.StructuredOutputsParams = Params
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", inner)
    with VLLM(model="m", tensor_parallel=2).open() as opened:
        yield opened


@pytest.mark.parametrize(("cpu", "expected"), [(True, False), (False, None)])
def test_prompts_are_not_cut_into_parts_on_a_cpu(monkeypatch, engine, cpu, expected):
    """vLLM 0.32 on a CPU ends with "CPU Generator does not use offset" where they are."""
    platforms = types.ModuleType("vllm.platforms")
    platforms.current_platform = SimpleNamespace(is_cpu=lambda: cpu)
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    with VLLM(model="m").open() as opened:
        assert opened._llm.options.get("enable_chunked_prefill") is expected


def test_what_vllm_is_asked(engine):
    assert engine._llm.options["enable_prefix_caching"] is True
    assert engine._llm.options["tensor_parallel_size"] == 2
    sampling = Sampling(n=2, seed=1, stop=("x",), json_schema={"type": "object"})
    found = engine.generate([[user("a")], [user("b")]], sampling)
    assert found[1] == [Completion("to b", "stop", 4, 2, -0.5)] * 2
    ((messages, params),) = engine._llm.calls
    assert messages == [[user("a")], [user("a")], [user("b")], [user("b")]]
    assert params[1].seed == Request([user("a")], sampling, 1).draw_seed
    assert len({p.seed for p in params}) == 4
    assert (params[0].top_k, params[0].min_p, params[0].repetition_penalty) == (0, 0.0, 1.0)
    assert params[0].structured_outputs.json == {"type": "object"}


def test_a_refused_row_does_not_take_others_along(engine):
    found = engine.generate([[user("a")], [user("refuse")], [user("b")]], Sampling())
    assert [getattr(r, "text", r) for (r,) in found] == [
        "to a",
        Failure("refused", "prompt too long"),
        "to b",
    ]


def test_logprobs_of_the_last_message(engine):
    found = engine.logprobs([[user("q"), assistant("yes no")], [user("q")]])
    assert found[0] == TokenLogprobs(("yes", "no"), (-1.0, -1.0))
    assert found[1].reason == "no_answer"
