"""Replies that servers were seen to give, each again and again: what becomes of its row.

The first ones are those of the project's findings (`server_replies.jsonl`, by their numbers); the
others are their neighbours. Nothing is ever guessed out of what is no answer.
"""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from prefactory.engines.base import Completion, EngineError, Sampling
from prefactory.engines.server import Server
from tests.helpers import user
from tests.prefactory.engines.mock_server import MockServer, answer, chat
from tests.prefactory.engines.test_faults import chunks, http

pytestmark = pytest.mark.usefixtures("quick")

FINE = ("fine", "stop")
SAYS_NOTHING = "bad_answer"
TRIES = 3


def ok(**fields):
    """A whole answer with other fields in its choice."""
    return "ok", answer({**chat("fine"), **fields})


def says(content, **message):
    return ok(message={"role": "assistant", "content": content, **message})


def with_usage(usage):
    return "ok", {**answer(chat("fine")), "usage": usage}


def raw(data):
    return "raw", data


def later():
    return format_datetime(datetime.now(UTC) + timedelta(seconds=-3), usegmt=True)


BODY = json.dumps(answer(chat("fine"))).encode()
JSON = '{"score": 4}'

KINDS = {
    # reply: (what the server says, what comes of it, calls)
    "s01": (ok(message={"content": '{"sco'}, finish_reason="length"), ('{"sco', "length"), 1),
    "s02": (ok(message={"content": None}, finish_reason="content_filter"), "content_filter", 1),
    "s03": (says(None, reasoning_content=JSON), SAYS_NOTHING, 2),
    "s04": (("ok", {"choices": []}), SAYS_NOTHING, TRIES),
    "s05": (says([{"type": "text", "text": "fine"}]), FINE, 1),
    "s06": (("ok", {"choices": [chat("fine")]}), FINE, 1),
    "s06b": (with_usage(None), FINE, 1),
    "s06c": (with_usage({"prompt_tokens": None, "completion_tokens": 3.0}), FINE, 1),
    "s08": (raw(b'data: {"choices": []}\n\ndata: [DONE]\n\n'), SAYS_NOTHING, 2),
    "s10": (("ok", {"error": {"message": "overloaded"}}), SAYS_NOTHING, TRIES),
    "s12": (says(None, refusal="No."), "refused", 1),
    "s13": (raw(b"\x1f\x8b\x08" + b"\0" * 20), SAYS_NOTHING, 2),
    "s15": (
        ("status", (400, {}, {"error": {"code": "context_length_exceeded"}})), "http_400", 1
    ),
    "s16": (ok(message={"content": ""}, finish_reason="error"), ("", "error"), 1),
    "s17": (raw(b"\xef\xbb\xbf" + BODY), FINE, 1),
    "s18": (("status", (500, {}, b"<html>oh no</html>")), "http_500", TRIES),
    "s21": (("ok", {"choices": [{"text": "fine", "finish_reason": "stop"}]}), FINE, 1),
    "s22": (says("\x00\ud800fine"), ("\x00\ud800fine", "stop"), 1),
    "s28": (raw(b"\n  " + BODY + b" \n"), FINE, 1),
    "s29": (ok(index="0"), FINE, 1),
    "s30": (ok(index=None), SAYS_NOTHING, 2),
    "s31": (("ok", answer(chat("one"), chat("two", 1))), SAYS_NOTHING, 2),
    "s32": (("status", (201, {}, BODY)), FINE, 1),
    "s33": (("status", (400, {}, {"error": {"message": "response_format is not supported"}})),
            "http_400", 1),
    "s34": (ok(finish_reason=None), FINE, 1),
    "s35": (says("fine", tool_calls=[]), FINE, 1),
    "s36": (
        says(None, tool_calls=[{"function": {"name": "f", "arguments": JSON}}]), SAYS_NOTHING, 2
    ),
    # neighbours
    "thoughts among the parts": (
        says([{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "fine"}]), FINE, 1
    ),
    "parts of the other API": (says([{"type": "output_text", "text": "fine"}]), FINE, 1),
    "thoughts alone": (says([{"type": "reasoning", "text": JSON}]), SAYS_NOTHING, 2),
    "a refusal among the parts": (says([{"type": "refusal", "refusal": "No."}]), "refused", 1),
    "a picture among the parts": (
        says([{"type": "text", "text": "fine"}, {"type": "image_url"}]), SAYS_NOTHING, 2
    ),
    "reasoning beside the answer": (says("fine", reasoning=JSON, reasoning_content=JSON), FINE, 1),
    "refusal empty": (says("fine", refusal=""), FINE, 1),
    "refusal with half a character": (says(None, refusal="No\ud800."), "refused", 1),
    "cut in other words": (ok(finish_reason="MAX_TOKENS"), ("fine", "length"), 1),
    "cut as Mistral says it": (ok(finish_reason="model_length"), ("fine", "length"), 1),
    "cut without a text": (
        ok(message={"content": None}, finish_reason="max_tokens"), ("", "length"), 1
    ),
    "withheld in other words": (ok(finish_reason="SAFETY"), "content_filter", 1),
    "finish_reason a number": (ok(finish_reason=3), ("fine", "3"), 1),
    "finish_reason half a character": (ok(finish_reason="st\ud800op"), ("fine", "st?op"), 1),
    "finish_reason a page": (ok(finish_reason="x" * 10_000), ("fine", "x" * 40), 1),
    "index a fraction": (ok(index=0.5), SAYS_NOTHING, 2),
    "message a text": (ok(message="fine"), SAYS_NOTHING, 2),
    "content an object": (says({"text": "fine"}), SAYS_NOTHING, 2),
    "UTF-16": (raw(BODY.decode().encode("utf-16")), FINE, 1),
    "Latin-1": (raw(BODY.replace(b"fine", b"f\xefne")), SAYS_NOTHING, TRIES),
    "two objects": (raw(BODY + b"\n" + BODY), SAYS_NOTHING, TRIES),
    "a number of 5,000 digits": (raw(BODY.replace(b"5", b"5" * 5000)), SAYS_NOTHING, TRIES),
    "202": (("status", (202, {}, BODY)), "http_202", TRIES),
    "206": (("status", (206, {}, BODY)), "http_206", TRIES),
    "422": (("status", (422, {}, {"detail": [{"msg": "x"}]})), "http_422", 1),
    "an error with half a character": (
        ("status", (400, {}, b'{"error": {"message": "no \\ud800"}}')), "http_400", 1
    ),
    "a deep error": (("status", (400, {}, b"[" * 100_000)), "http_400", 1),
    "a long number as an error": (("status", (400, {}, b"9" * 5000)), "http_400", 1),
}  # fmt: skip


def asked(server, **fields):
    config = Server(
        base_url=server.url, model="m", retries=TRIES - 1, timeout_s=20.0, **fields
    )  # fmt: skip
    with config.open() as engine:
        ((result,),) = engine.generate([[user("q")]], Sampling(max_tokens=9))
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_of_a_reply(kind):
    reply, right, calls = KINDS[kind]
    with MockServer(lambda body, times: reply) as server:
        result = asked(server)
        assert len(server.bodies) == calls
    if isinstance(right, tuple):
        assert isinstance(result, Completion), result
        assert (result.text, result.finish_reason) == right
    else:
        assert result.reason == right
        result.detail.encode()  # a table can hold it


@pytest.mark.parametrize(
    "reply",
    [
        ("status", (429, {"Retry-After": later()}, b"")),  # s07
        ("status", (429, {"retry-after-ms": "1"}, b"")),  # s07b
        ("ok", {"error": {"message": "slow down", "code": 429}}),  # s11
    ],
)
def test_a_server_that_was_busy_twice_is_asked_a_third_time(reply):
    with MockServer(lambda body, times: reply if times < 3 else ok()) as server:
        assert asked(server).text == "fine"


@pytest.mark.parametrize(
    ("data", "right"),
    [
        (http(200, BODY, version=b"1.0", length=False), "fine"),  # s09
        (chunks(BODY)[:-30], "connection"),  # s14
        (chunks(BODY, extension=b";a=b", trailer=b"X-Sum: 5\r\n"), "fine"),  # s14b
        (b"HTTP/1.1 200\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY), "fine"),
        (b"HTTP/1.1 200 X\r\nContent-Length: 9\r\nContent-Length: 8\r\n\r\n{}", "connection"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n", "connection"),
    ],
)
def test_bytes_that_end_with_the_connection(data, right):
    from tests.prefactory.engines.test_faults import Fault, Ill

    with Ill(Fault((data,), close=True)) as server:
        server.met = Never()
        config = Server(base_url=f"http://127.0.0.1:{server.port}/v1", model="m", retries=1)
        with config.open() as engine:
            ((result,),) = engine.generate([[user("q0")]], Sampling(max_tokens=9))
    assert getattr(result, "text", None) == right or result.reason == right


class Never(set):
    """Holds nothing, so that each request meets the fault."""

    def add(self, _):
        pass


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (307, {}, "sends us elsewhere"),  # q19
        (429, {"code": "insufficient_quota", "message": "pay \ud800"}, "HTTP 429"),  # q25
    ],
)
def test_what_ends_the_run(status, error, words):
    reply = ("status", (status, {"Location": "http://127.0.0.1:1/"}, {"error": error}))
    with MockServer(lambda body, times: reply) as server:
        with pytest.raises(EngineError, match=words) as caught:
            asked(server)
        assert len(server.bodies) == 1
    str(caught.value).encode()


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 2}, (5, 2)),
        ({"prompt_tokens": 5.0, "completion_tokens": 0}, (5, 0)),
        ({"prompt_tokens": 10**30, "completion_tokens": 1}, (0, 0)),
        ({"prompt_tokens": 2**63, "completion_tokens": 1}, (0, 0)),
        ({"prompt_tokens": -5, "completion_tokens": 1}, (0, 0)),
        ({"prompt_tokens": True, "completion_tokens": True}, (0, 0)),
        ({"prompt_tokens": 1.5, "completion_tokens": 1}, (0, 0)),
        ({"prompt_tokens": float("inf"), "completion_tokens": float("nan")}, (0, 0)),
        ({"prompt_tokens": None, "completion_tokens": 3.0}, (0, 0)),
        ({"prompt_tokens": "many", "completion_tokens": None}, (0, 0)),
        ({"completion_tokens": 3}, (0, 0)),
        ([1], (0, 0)),
    ],
)
def test_usage_that_is_not_two_counts_is_none(usage, tokens):
    with MockServer(lambda body, times: with_usage(usage)) as server:
        result = asked(server)
    assert (result.prompt_tokens, result.completion_tokens) == tokens


def test_log_probabilities_that_are_none():
    reply = ok(logprobs={"content": [{"logprob": float("nan")}]})
    with MockServer(lambda body, times: reply) as server:
        assert asked(server, completion_logprobs=True).reason == SAYS_NOTHING
