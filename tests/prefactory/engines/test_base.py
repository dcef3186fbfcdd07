"""The interface, and `ask`: order, seeds, keys, corrections."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prefactory.asking import ask
from prefactory.engines.base import (
    Completion,
    Engine,
    EngineError,
    Failure,
    Request,
    Sampling,
    TokenLogprobs,
    canonical_messages,
    last_user_text,
    require,
)
from prefactory.engines.chat_form import present
from prefactory.identity import canonical_json, fingerprint
from tests.helpers import assistant, system, user

MESSAGES = st.dictionaries(
    st.sampled_from(["role", "content", "name"]), st.text(st.characters()) | st.none()
)


class Backwards(Engine):
    """Answers last requests first; fails what says so."""

    def run(self, requests, done):
        for place, request in reversed(list(enumerate(requests))):
            text = last_user_text(request.conversation)
            if text == "fail":
                done(place, Failure("http_500", "no"))
            elif text != "silent":
                done(place, Completion(f"{text}/{request.sample}/{request.row_id}"))


def texts(rows):
    return [[getattr(r, "text", r) for r in row] for row in rows]


def test_order_is_kept_and_failures_have_their_place():
    found = Backwards().generate([[user("a")], [user("fail")], [user("b")]], Sampling(n=2), "xyz")
    failure = Failure("http_500", "no")
    assert texts(found) == [["a/0/x", "a/1/x"], [failure, failure], ["b/0/z", "b/1/z"]]


def test_nothing_to_do_and_what_was_forgotten():
    assert Backwards().generate([], Sampling()) == []
    assert texts(Backwards().generate([[user("silent")]], Sampling())) == [
        [Failure("no_answer", "never answered")]
    ]


def test_row_ids_must_match():
    with pytest.raises(ValueError, match="2 conversations but 1 row ids"):
        Backwards().generate([[user("a")], [user("b")]], Sampling(), ["x"])


def test_seeds_derive_from_seed_row_and_sample():
    def seed(text="a", row_id="r", sample=0, seed=1):
        return Request([user(text)], Sampling(seed=seed), sample, row_id).seed

    assert seed() == seed(text="b")  # the row decides, not its text
    assert len({seed(), seed(row_id="s"), seed(sample=1), seed(seed=2)}) == 4
    assert seed(row_id=None) != seed("b", row_id=None)
    assert 0 <= seed() < 2**31
    assert seed(seed=None) is None
    assert Request([user("a")], Sampling(), 0, "r").draw_seed == seed(seed=0)


def test_keys_leave_out_the_number_of_samples_only():
    def key(text="a", sample=0, row_id=None, **sampling):
        return Request([user(text)], Sampling(**sampling), sample, row_id).content_key

    same = key()
    assert key(n=5) == same
    others = [key("b"), key(sample=1), key(row_id="r"), key(temperature=0.5), key(top_p=0.5)]
    others += [key(max_tokens=1), key(stop=("x",)), key(seed=1), key(json_schema={"type": "array"})]
    assert len({same, *others}) == 10
    assert same == fingerprint([[user("a")], Sampling().of_one_sample(), 0, None])
    assert Request([user("\ud800 😀")], Sampling()).content_key


@given(st.lists(MESSAGES))
def test_messages_have_one_canonical_form(conversation):
    assert canonical_messages(conversation) == canonical_json(present(conversation))


def test_the_same_call_with_somebody_who_pays():
    call = Request([user("a")], Sampling(seed=1), 2, "row")
    paying = call.paying(lambda wasted: True)
    assert paying == call
    assert paying.paid is not None
    assert (paying.content_key, paying.draw_seed) == (call.content_key, call.draw_seed)


def test_sampling_is_checked():
    for wrong in ({"n": 0}, {"temperature": -1}, {"top_p": 0}, {"max_tokens": 0}, {"heat": 1}):
        with pytest.raises(ValidationError):
            Sampling(**wrong)
    with pytest.raises(ValidationError):
        Sampling(temperature=float("nan"))


def test_capabilities_are_asked_for():
    require(Backwards(), "generate", "a judge")
    with pytest.raises(EngineError, match="a scorer needs an engine with 'logprobs'"):
        require(Backwards(), "logprobs", "a scorer")
    with pytest.raises(EngineError, match="no log-probabilities"):
        Backwards().logprobs([[user("a")]])
    with pytest.raises(EngineError, match="no vectors"):
        Backwards().embed(["a"])
    assert TokenLogprobs(("a", "b"), (-0.5, -1.0)).total == -1.5


def test_last_user_text():
    assert last_user_text([system("s"), user("a"), assistant("b")]) == "a"
    assert last_user_text([system("s")]) == "s"
    assert last_user_text([]) == ""


def test_configurations_load_nothing_heavy():
    code = (
        "import sys; import prefactory.engines.server, prefactory.engines.scripted,"
        "prefactory.engines.transformers, prefactory.engines.vllm, prefactory.engines.session,"
        "prefactory.engines.configs;"
        "print([m for m in ('torch', 'transformers', 'httpx', 'vllm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- ask -----


class Learner(Engine):
    """Says `bad` until it was corrected often enough: the number in the first message."""

    def __init__(self):
        self.rounds = []

    def run(self, requests, done):
        batch = list(requests)
        self.rounds.append(batch)
        for place, request in enumerate(batch):
            first = request.conversation[0]["content"]
            corrections = sum(m["role"] == "assistant" for m in request.conversation)
            if first == "fail":
                done(place, Failure("timeout", "late"))
            else:
                good = corrections >= int(first)
                done(place, Completion(str(10 * corrections) if good else "bad"))


def number(text):
    if not text.isdigit():
        raise ValueError(f"{text!r} is no number; answer with digits only")
    return int(text)


def test_ask_corrects_what_cannot_be_parsed():
    engine = Learner()
    asked = [[user(t)] for t in ("0", "1", "9", "fail", "2")]
    found = [row[0] for row in ask(engine, asked, Sampling(), number, list("abcde"))]
    assert [(a.value, a.attempts) for a in (found[0], found[1], found[4])] == [
        (0, 1),
        (10, 2),
        (20, 3),
    ]
    assert found[2].reason == "unparseable"
    assert "asked 3 times" in found[2].detail
    assert "'bad'" in found[2].detail
    assert found[3] == Failure("timeout", "late")
    assert [len(batch) for batch in engine.rounds] == [5, 3, 2]
    assert engine.rounds[1][0].conversation == [
        user("1"),
        assistant("bad"),
        user("'bad' is no number; answer with digits only"),
    ]
    assert asked[1] == [user("1")]  # the caller's own lists stay as they were


def test_ask_corrects_each_sample_for_itself():
    engine = Learner()
    found = ask(engine, [[user("1")], [user("1")]], Sampling(n=2), number)
    assert [[a.value for a in row] for row in found] == [[10, 10], [10, 10]]
    first, second = engine.rounds[1][:2]
    assert first.row_id != second.row_id  # so that they draw apart
    assert all(r.sample == 0 for r in engine.rounds[1])


def test_ask_once():
    engine = Learner()
    (row,) = ask(engine, [[user("1")]], Sampling(), number, attempts=1)
    assert row[0].reason == "unparseable"
    assert len(engine.rounds) == 1


class Refuser(Engine):
    """Says two lines without what is asked for; the wise one once it is warmer."""

    def __init__(self, wise=False, failure=None):
        self.requests, self.wise, self.failure = [], wise, failure

    def run(self, requests, done):
        for place, request in enumerate(requests):
            self.requests.append(request)
            text = "7" if self.wise and request.sampling.temperature > 0 else "x" * 999 + "\nno"
            done(place, self.failure or Completion(text))


def test_a_correction_quotes_a_line_and_is_drawn_otherwise():
    engine = Refuser()
    ask(engine, [[user("how many?")]], Sampling(temperature=0), number)
    first, second, third = engine.requests
    assert [r.sampling.temperature for r in engine.requests] == [0, 0.3, 0.6]
    assert first.sampling.seed is None
    assert second.sampling.seed is not None
    assert second.conversation[1] == assistant("no")
    assert len(third.conversation) == 5
    assert max(len(m["content"]) for m in third.conversation) < 1200
    ((answer,),) = ask(Refuser(wise=True), [[user("?")]], Sampling(temperature=0), number)
    assert (answer.value, answer.attempts) == (7, 2)


def test_what_is_warm_stays_as_warm():
    engine = Refuser()
    ask(engine, [[user("?")]], Sampling(temperature=0.9, seed=5), number)
    assert [r.sampling.temperature for r in engine.requests] == [0.9, 1.0, 1.0]
    engine = Refuser()
    ask(engine, [[user("?")]], Sampling(temperature=1.5, seed=5), number)
    assert {r.sampling.temperature for r in engine.requests} == {1.5}


@pytest.mark.parametrize("n", [1, 20, 100])
def test_how_often_is_asked_does_not_depend_on_the_company(n):
    engine = Refuser()
    found = ask(engine, [[user(str(i))] for i in range(n)], Sampling(), number)
    assert {row[0].reason for row in found} == {"unparseable"}
    assert len(engine.requests) == 3 * n
    wise = Refuser(wise=True)
    found = ask(wise, [[user(str(i))] for i in range(n)], Sampling(temperature=0), number)
    assert [row[0].value for row in found] == [7] * n


def test_a_server_that_refuses_schemas_is_told_of():
    refused = Failure("http_400", "response_format is not supported")
    sampling = Sampling(json_schema={"type": "object"})
    ((found,),) = ask(Refuser(failure=refused), [[user("?")]], sampling, number)
    assert found.detail.endswith("set guided: false")
    ((found,),) = ask(Refuser(failure=refused), [[user("?")]], Sampling(), number)
    assert found == refused


def test_what_came_later_leaves_the_keys_of_older_journals():
    asked = Sampling(temperature=0.5, max_tokens=9)
    assert set(asked.of_one_sample()) == {
        "temperature", "top_p", "max_tokens", "stop", "seed", "json_schema"
    }  # fmt: skip
    assert Sampling(top_k=3, min_p=0.1).of_one_sample()["top_k"] == 3
