"""Scripted: a full member that never guesses."""

import pytest

from prefactory.engines.base import Completion, EngineError, Failure, Sampling
from prefactory.engines.scripted import Scripted
from prefactory.errors import ConfigError
from tests.helpers import assistant, system, user


def shout(request):
    text = request.conversation[-1]["content"]
    if text == "fail":
        return Failure("http_500", "no")
    return f"{text.upper()} {request.sample} {request.draw_seed}"


def words(conversation):
    return [(w, -1.0) for w in conversation[-1]["content"].split()]


def one(config, *messages, **sampling):
    with config.open() as engine:
        return engine.generate([list(messages)], Sampling(**sampling))[0]


def test_a_table_by_the_last_user_text():
    config = Scripted(answers={"hi": "hello", "two": ["a", "b"]})
    assert one(config, system("s"), user("hi")) == [Completion("hello", "stop", 2, 1)]
    assert [r.text for r in one(config, user("two"), n=2)] == ["a", "b"]
    assert one(config, user("hi"), stop=("l",))[0].text == "he"


def test_an_unknown_request_is_an_error():
    config = Scripted(answers={"hello there": "x", "two": ["a", "b"]})
    with pytest.raises(EngineError, match=r"no answer to .hello thee.; .* .hello there."):
        one(config, user("hello thee"))
    with pytest.raises(EngineError, match="sample 2 of 'two'"):
        one(config, user("two"), n=3)
    with pytest.raises(EngineError, match="1 scripted answers are used up; request: 'b'"):
        one(Scripted(answers=["x"]), user("b"), n=2)
    with pytest.raises(EngineError, match="no answer to 'x'"):
        one(Scripted(answers={}), user("x"))


def test_a_function_by_its_path():
    config = Scripted(function=f"{__name__}.shout", answers={"hi": "from the table"})
    assert one(config, user("hi"))[0].text == "from the table"
    first, second = (r.text for r in one(config, user("yo"), n=2))
    assert first.startswith("YO 0 ")
    assert first.split()[2] != second.split()[2]
    assert one(config, user("fail")) == [Failure("http_500", "no")]


@pytest.mark.parametrize(
    "path", ["no.such.module", "prefactory.nothing", "plain", f"{__name__}:pytest"]
)
def test_a_wrong_path_is_a_configuration_error(path):
    with pytest.raises(ConfigError, match="scripted engine"):
        Scripted(function=path).open()


def test_nothing_to_say():
    with pytest.raises(ConfigError, match="needs `answers` or a `function`"):
        Scripted().open()


def test_logprobs_by_a_function():
    config = Scripted(answers={}, logprob_function=f"{__name__}.words")
    assert config.capabilities == {"generate", "images", "logprobs", "text", "user_turn"}
    with config.open() as engine:
        (found,) = engine.logprobs([[user("q"), assistant("a b c")]])
    assert found.tokens == ("a", "b", "c")
    assert found.total == -3.0
    assert "logprobs" not in Scripted(answers={}).open().capabilities


def test_identity_is_all_of_it():
    assert Scripted(answers={"a": "b"}).fingerprint() != Scripted(answers={"a": "c"}).fingerprint()
    assert Scripted(answers=[], version=2).fingerprint() != Scripted(answers=[]).fingerprint()
