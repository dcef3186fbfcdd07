"""Server against a real HTTP server that misbehaves: every row done or failed, none swapped."""

import json
import logging
import threading
import time
import zlib

import pytest
from pydantic import ValidationError

from prefactory.engines import http, serving
from prefactory.engines.base import Completion, EngineError, Failure, Request, Sampling
from prefactory.engines.server import Server
from prefactory.errors import ConfigError, StoppedError
from tests.helpers import assistant, user
from tests.prefactory.engines.mock_server import MockServer, answer, chat, echo

pytestmark = pytest.mark.usefixtures("quick")
KEY = "sk-very-secret-0123456789"


def config(server, **fields):
    return Server(**{"base_url": server.url, "model": "m", "timeout_s": 100, **fields})


def rows(*texts):
    return [[user(t)] for t in texts]


def generate(server, texts, sampling=None, **fields):
    with config(server, **fields).open() as engine:
        return engine.generate(rows(*texts), sampling or Sampling())


def always(kind, value):
    return MockServer(lambda body, times: (kind, value))


def numbered(n):
    return [f"q{i}" for i in range(n)]


def test_the_request_is_what_openai_documents():
    schema = {"type": "object"}
    sampling = Sampling(
        n=2, temperature=0.5, top_p=0.9, max_tokens=7, stop=("x",), seed=3, json_schema=schema
    )
    with MockServer() as server:
        found = generate(server, ["hi ü 😀"], sampling, extra={"top_k": 4})
        bodies = sorted(server.bodies, key=lambda b: b["seed"])
    seeds = [Request([user("hi ü 😀")], sampling, i).seed for i in (0, 1)]
    named = {"name": "answer", "schema": schema, "strict": True}
    assert bodies == [
        {
            "model": "m",
            "messages": [user("hi ü 😀")],
            "temperature": 0.5,
            "top_p": 0.9,
            "max_tokens": 7,
            "top_k": 4,
            "stop": ["x"],
            "seed": seed,
            "response_format": {"type": "json_schema", "json_schema": named},
        }
        for seed in sorted(seeds)
    ]
    assert found == [[Completion(f"echo hi ü 😀 #{s}", "stop", 5, 2) for s in seeds]]


@pytest.mark.parametrize(
    ("dialect", "off", "on"),
    [
        ("openai", {}, {"top_k": 5, "repetition_penalty": 1.5}),
        (
            "vllm",
            {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0},
            {"top_k": 5, "min_p": 0.0, "repetition_penalty": 1.5},
        ),
        (
            "llama.cpp",
            {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0},
            {"top_k": 5, "min_p": 0.0, "repeat_penalty": 1.5},
        ),
    ],
)
def test_what_openai_has_no_names_for(dialect, off, on):
    names = {"top_k", "min_p", "repetition_penalty", "repeat_penalty"}
    with MockServer() as server:
        generate(server, ["a"], dialect=dialect)
        generate(server, ["a"], Sampling(top_k=5, repetition_penalty=1.5), dialect=dialect)
        sent = [{k: v for k, v in body.items() if k in names} for body in server.bodies]
        assert sent == [off, on]
        heats_first = [b.get("samplers", [""] * 2)[1] == "temperature" for b in server.bodies]
        assert heats_first == [dialect == "llama.cpp"] * 2


@pytest.mark.parametrize("numbered", [True, False])
def test_an_answer_to_the_question_before_is_asked_for_again_if_answers_have_ids(
    numbered, monkeypatch
):
    """A second answer that comes when the next question is out already."""
    monkeypatch.setattr(serving, "TRIAL", 0)
    sent = []

    def behave(body, times):
        own = {**echo(body), "id": f"a{len(sent)}" if numbered else ""}
        sent.append(sent[-1] if len(sent) == 3 else own)
        return "ok", sent[-1]

    with MockServer(behave) as server:
        found = generate(server, list("abcdef"), max_concurrency=1)
    texts = [row[0].text for row in found]
    right = [f"echo {t}" for t in "abcdef"]
    assert texts == (right if numbered else [*right[:3], right[2], *right[4:]])
    assert len(sent) == 6 + numbered


@pytest.mark.parametrize("dialect", ["openai", "vllm", "llama.cpp"])
def test_llama_cpp_is_told_how_to_draw_whatever_the_dialect(dialect):
    drawn = []

    def behave(body, times):
        drawn.append(body.get("repeat_penalty"))
        told = "well" if "repeat_penalty" in body else "as llama.cpp likes"
        return "status", (200, {"Server": "llama.cpp"}, answer(chat(told)))

    with MockServer(behave) as server:
        found = generate(server, list("abcdef"), dialect=dialect, max_concurrency=2, retries=0)
    assert [row[0].text for row in found] == ["well"] * 6
    untold = drawn.count(None)  # what was in flight before the first answer
    assert untold == 0 if dialect == "llama.cpp" else 1 <= untold <= 2
    assert len(drawn) == 6 + untold
    assert sum(row[0].wasted[0] > 0 for row in found) == untold


def test_the_usual_dialect_keeps_the_keys_of_older_journals():
    config = Server(base_url="http://x/v1", model="m")
    assert "dialect" not in config.identity()
    assert Server(base_url="http://x/v1", model="m", dialect="vllm").identity()["dialect"] == "vllm"


def test_no_seed_is_sent_without_one():
    with MockServer() as server:
        generate(server, ["a"], token_field="max_completion_tokens")
        assert server.bodies[0].keys() == {
            "model",
            "messages",
            "temperature",
            "top_p",
            "max_completion_tokens",
        }


def test_n_samples_in_one_request_whatever_their_order():
    def behave(body, times):
        found = echo(body)
        found["choices"].reverse()
        return "ok", {**found, "usage": {"prompt_tokens": 9, "completion_tokens": 7}}

    with MockServer(behave) as server:
        found = generate(server, ["a", "b"], Sampling(n=3), n_in_one=True)
        assert len(server.bodies) == 2
    assert [[r.text for r in row] for row in found] == [
        [f"echo {t} ({i})" for i in range(3)] for t in "ab"
    ]
    assert sum(r.prompt_tokens for r in found[0]) == 9
    assert sum(r.completion_tokens for r in found[0]) == 7


@pytest.mark.parametrize("choices", [0, 1, 4])
def test_another_number_of_choices_is_asked_again_and_then_a_failure(choices):
    value = answer(*[chat("x", i) for i in range(choices)])
    with always("ok", value) as server:
        found = generate(server, ["a"], Sampling(n=3), n_in_one=True, retries=2)
        assert server.seen.total() == (2 if choices else 3)  # a habit is asked about once more
    assert {r.reason for r in found[0]} == {"bad_answer"}
    assert f"{choices} choices, not 3" in found[0][0].detail


@pytest.mark.parametrize(
    "value",
    [
        b"", b"{", b"[]", b"{}", b'{"choices": null}', b'{"choices": [1]}', b"\xff\xfe",
        b'{"choices": [{"index": 0, "message": {}}]}',
        b'{"choices": [{"index": 7, "message": {"content": "x"}}]}',
        b'{"choices": [{"index": 0, "message": {"content": 5}}]}',
        b'{"error": "nothing here"}',
    ],
)  # fmt: skip
def test_an_answer_of_another_form_is_a_failure_in_the_end(value):
    with always("raw", value) as server:
        (row,) = generate(server, ["a"], retries=1)
        assert server.seen.total() == 2
    assert row[0].reason == "bad_answer"


def test_a_passing_fault_of_any_kind_is_mended():
    faults = [
        ("status", (500, {}, {"error": {"message": "oops"}})),
        ("status", (429, {"Retry-After": "0.05"}, b"slow down")),
        ("status", (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, b"")),
        ("reset", None),
        ("cut", answer(chat("half"))),
        ("raw", b'{"choices": [{"mess'),
        ("hang", None),
    ]

    def behave(body, times):
        fault = faults[int(body["messages"][0]["content"][1:]) % len(faults)]
        return fault if times == 1 else ("chunked", echo(body))

    with MockServer(behave) as server:
        found = generate(server, numbered(21), timeout_s=1.0, retries=20)
    assert [row[0].text for row in found] == [f"echo q{i}" for i in range(21)]


def test_out_of_order_answers_stay_with_their_rows():
    def behave(body, times):
        number = int(body["messages"][0]["content"][1:])
        return "late", (0.05 * (number % 5), echo(body))

    with MockServer(behave) as server:
        found = generate(server, numbered(100))
    assert [row[0].text for row in found] == [f"echo q{i}" for i in range(100)]


def test_answers_that_may_be_those_of_others_end_the_run(monkeypatch):
    from prefactory.engines.http import Client

    real = Client.request

    async def doubted(self, *args, **more):
        self.doubtful += 3
        return await real(self, *args, **more)

    with MockServer() as server:
        monkeypatch.setattr(Client, "request", doubted)
        with pytest.raises(EngineError, match="3 answers before it may belong to other questions"):
            generate(server, ["a"])


def test_chaos():
    """A third of all attempts fail in one way or another, at random but repeatably."""

    def behave(body, times):
        draw = zlib.crc32(f"{json.dumps(body, sort_keys=True)} {times}".encode()) % 18
        return {
            0: ("status", (429, {"Retry-After": "0.02"}, b"")),
            1: ("status", (500, {}, b"<html>")),
            2: ("reset", None),
            3: ("cut", echo(body)),
            4: ("raw", b"{"),
            5: ("late", (0.03, echo(body))),
            6: ("status", (503, {}, b"")),
        }.get(draw, ("ok", echo(body)))

    with MockServer(behave) as server:
        found = generate(server, numbered(300), max_concurrency=32, retries=20)
        assert len(server.finished) == len(set(server.finished)) == 300  # no call twice
        assert server.most_in_flight <= 33
    assert [row[0].text for row in found] == [f"echo q{i}" for i in range(300)]


def test_what_stays_broken_is_a_failure_of_its_row_alone():
    def behave(body, times):
        text = body["messages"][0]["content"]
        return {
            "q1": ("status", (500, {}, {"error": {"message": "out of\nmemory"}})),
            "q2": ("status", (400, {}, {"error": {"message": "too long", "code": "context"}})),
            "q4": ("reset", None),
            "q5": ("ok", answer({**chat(None), "finish_reason": "content_filter"})),
            "q6": ("ok", answer({**chat(None), "finish_reason": "length"})),
        }.get(text, ("ok", echo(body)))

    with MockServer(behave) as server:
        found = [r for (r,) in generate(server, numbered(8), retries=2)]
        times = {json.loads(raw)["messages"][0]["content"]: n for raw, n in server.seen.items()}
    assert found[1] == Failure("http_500", "out of memory")
    assert found[2] == Failure("http_400", "too long")
    assert found[4].reason == "connection"
    assert found[5].reason == "content_filter"
    assert (found[6].text, found[6].finish_reason) == ("", "length")
    assert [found[i].text for i in (0, 3, 7)] == ["echo q0", "echo q3", "echo q7"]
    assert times["q1"] == 3
    assert times["q2"] == 1  # asking again would not help


def test_no_answer_in_time_is_a_failure_after_as_many_tries():
    with always("hang", None) as server:
        (row,) = generate(server, ["a"], retries=2, timeout_s=0.2)
        assert server.seen.total() <= 3  # before a slow machine has sent it, its time may be over
    assert row == [Failure("timeout", "no answer within 0.2 s")]


@pytest.mark.parametrize("status", [401, 402, 403, 404, 301, 429])
def test_no_rights_no_model_and_no_money_end_the_run_at_once(status):
    error = {"message": "go away", "code": "insufficient_quota"}
    with always("status", (status, {}, {"error": error})) as server:
        with pytest.raises(EngineError, match=f"HTTP {status}, model 'm'.*go away"):
            generate(server, numbered(100), max_concurrency=4)
        assert server.seen.total() <= 8


def test_a_server_that_is_gone_stops_the_run_resumably():
    with MockServer() as server:
        url = server.url
    with (
        pytest.raises(StoppedError, match="can't be reached") as caught,
        Server(base_url=url, model="m", retries=1).open() as engine,
    ):
        engine.generate(rows("a", "b"), Sampling())
    assert caught.value.exit_code == 3


def test_concurrency_grows_to_the_limit_and_falls_when_the_server_says_so():
    with MockServer(latency_s=0.1) as server, config(server, max_concurrency=40).open() as engine:
        engine.generate(rows(*numbered(600)), Sampling())
        assert server.most_in_flight == 40
        assert engine.limiter.limit == 40

    def behave(body, times):  # more than 10 at a time are too many
        if server.in_flight > 10:
            return "status", (429, {}, b"")
        return "ok", echo(body)

    with (
        MockServer(behave, latency_s=0.05) as server,
        config(server, max_concurrency=200, retries=50).open() as engine,
    ):
        found = engine.generate(rows(*numbered(300)), Sampling())
        assert engine.limiter.limit < 40
        assert engine.attempts < 800  # 300, and 200 + 100 + 50 + 25 at most while it halves
    assert all(isinstance(r, Completion) for (r,) in found)


def test_retry_after_is_obeyed():
    first = []

    def behave(body, times):
        first.append(time.monotonic())
        return (
            ("status", (429, {"Retry-After": "0.5"}, b""))
            if len(first) == 1
            else ("ok", echo(body))
        )

    with MockServer(behave) as server:
        generate(server, ["a"], max_concurrency=1)
    assert first[1] - first[0] >= 0.49


def test_several_threads_share_one_engine():
    found = {}
    with MockServer(latency_s=0.01) as server, config(server, max_concurrency=8).open() as engine:

        def work(name):
            texts = [f"{name}{i}" for i in range(50)]
            found[name] = [r.text for (r,) in engine.generate(rows(*texts), Sampling())]

        threads = [threading.Thread(target=work, args=(name,)) for name in "abcdef"]
        [t.start() for t in threads]
        [t.join() for t in threads]
        assert server.most_in_flight <= 8
    assert found == {n: [f"echo {n}{i}" for i in range(50)] for n in "abcdef"}


def test_an_error_of_the_caller_is_raised_and_the_engine_lives_on():
    def broken(place, result):
        raise OSError("disk full")

    with MockServer() as server, config(server).open() as engine:
        with pytest.raises(OSError, match="disk full"):
            engine.run([Request(rows("a")[0], Sampling())] * 20, broken)
        assert engine.generate(rows("a"), Sampling())[0][0].text == "echo a"
        assert engine.limiter.in_flight == 0


def test_completion_logprobs():
    tokens = {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.25}]}
    with always("ok", answer(chat("ab", logprobs=tokens))) as server:
        (row,) = generate(server, ["a"], completion_logprobs=True)
        assert server.bodies[0]["logprobs"] is True
    assert row[0].logprob == -1.75


def test_logprobs_of_the_last_message_as_vllm_gives_them():
    def behave(body, times):
        if "prompt_logprobs" not in body:
            assert body["messages"] == [user("q")]
            return "ok", answer(chat("x"), prompt_tokens=3)
        entries = [None, *({str(i): {"logprob": -i / 2, "decoded_token": t}} for i, t in tokens)]
        return "ok", {**answer(chat("x")), "prompt_logprobs": entries}

    tokens = [(1, "<s>"), (2, "q"), (4, "yes"), (5, "</s>"), (6, "\n")]
    with MockServer(behave) as server, config(server, prompt_logprobs=True).open() as engine:
        (found,) = engine.logprobs([[user("q"), assistant("yes")]])
    assert found.tokens == ("yes", "</s>")
    assert found.logprobs == (-2.0, -2.5)


# -- configuration and secrets -----


@pytest.mark.parametrize(
    "url", ["ftp://x/v1", "localhost:80", "http://u:p@x/v1", "http://x/v1?key=1", "http://"]
)
def test_wrong_addresses(url):
    with pytest.raises(ValidationError, match="base_url must"):
        Server(base_url=url, model="m")


def test_extra_may_not_undo_the_sampling():
    with pytest.raises(ValidationError, match="extra may not hold"):
        Server(base_url="http://x/v1", model="m", extra={"n": 2})


def test_identity_has_the_endpoint_and_no_operations():
    one = Server(base_url="http://x/v1/", model="m")
    same = Server(
        base_url="http://x/v1",
        model="m",
        api_key_env="K",
        max_concurrency=1,
        timeout_s=1,
        retries=0,
    )
    assert one.fingerprint() == same.fingerprint()
    assert one.fingerprint() != Server(base_url="http://y/v1", model="m").fingerprint()
    assert one.fingerprint() != Server(base_url="http://x/v1", model="n").fingerprint()
    assert "K" not in json.dumps(same.identity())


def test_a_missing_key_is_named(monkeypatch):
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(ConfigError, match="variable NO_KEY is not set"):
        Server(base_url="http://x/v1", model="m", api_key_env="NO_KEY").open()
    monkeypatch.setenv("NO_KEY", "a\nb")
    with pytest.raises(ConfigError, match="no line of ASCII"):
        Server(base_url="http://x/v1", model="m", api_key_env="NO_KEY").open()


def test_secrets_are_sent_and_shown_nowhere(monkeypatch, caplog):
    monkeypatch.setenv("TEST_KEY", KEY)
    monkeypatch.setenv("TEST_TEAM", "team-" + KEY)
    caplog.set_level(logging.DEBUG)

    def behave(body, times):  # a server that repeats what it was sent
        text = body["messages"][0]["content"]
        if text == "fatal":
            return "status", (401, {}, {"error": {"message": f"wrong key Bearer {KEY}"}})
        if text == "bad":
            return "status", (400, {}, f"key {KEY} team-{KEY}".encode())
        return "ok", answer(chat(f"your key is {KEY}"))

    with MockServer(behave) as server:
        made = config(server, api_key_env="TEST_KEY", headers_env={"X-Team": "TEST_TEAM"})
        with made.open() as engine:
            found = engine.generate(rows("a", "bad"), Sampling())
            with pytest.raises(EngineError) as caught:
                engine.generate(rows("fatal"), Sampling())
        assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
        assert server.headers[0]["X-Team"] == f"team-{KEY}"
    shown = [repr(found), str(caught.value), caplog.text, repr(made), made.model_dump_json()]
    shown += [json.dumps(made.identity()), repr(engine.__dict__), repr(engine._client)]
    shown.pop(-2)  # the list of what to scrub is the engine's own
    assert not [text for text in shown if KEY in text]
    assert found[0][0].text == "your key is ***"


def test_a_proxy_is_obeyed(monkeypatch):
    seen = []
    monkeypatch.setattr(http, "_proxy", lambda at: http.urlsplit(proxy.url.removesuffix("/v1")))
    with (
        MockServer(lambda body, times: (seen.append(body), ("ok", echo(body)))[1]) as proxy,
        Server(base_url="http://far.invalid/v1", model="m").open() as engine,
    ):
        assert engine.generate(rows("a"), Sampling())[0][0].text == "echo a"
        assert proxy.headers[0]["Host"] == "far.invalid"
    monkeypatch.undo()
    monkeypatch.setenv("http_proxy", "http://u:p@proxy:3128")
    found = http._proxy(http.urlsplit("http://far.invalid/v1"))
    assert found.hostname == "proxy"
    assert http._proxy_rights(found) == {"Proxy-Authorization": "Basic dTpw"}
    assert http._proxy(http.urlsplit("http://127.0.0.1:80/v1")) is None
