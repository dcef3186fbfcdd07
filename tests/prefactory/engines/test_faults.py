"""Every kind of fault that a server was ever seen to have: nothing swapped, nothing lost.

A third of the questions meet it once. What can't be used once is asked for again, so all rows are
answered, each with its own answer; kinds that are final by their nature end the run or fail their
row, in words.
"""

import asyncio
import contextlib
import gzip
import json
import socket
import struct
import threading
from dataclasses import dataclass

import pytest

from prefactory.engines.base import Completion, EngineError, Sampling
from prefactory.engines.server import Server
from tests.helpers import user
from tests.prefactory.engines.mock_server import answer, chat

pytestmark = pytest.mark.usefixtures("quick")

RESET = object()
N = 12
FINE = "fine"
"""All rows are answered."""


@dataclass(frozen=True)
class Fault:
    """What a server does once: bytes to write and seconds to wait; then it closes, or not.

    Attributes:
        parts: bytes, seconds, RESET, or functions of (question, the right body).
        close: whether the connection is closed after it.
        ends: FINE, the reason of the rows that met it, or words of the error that ends the run.
        endless: nobody waits for its end.
    """

    parts: tuple
    close: bool = False
    ends: str = FINE
    endless: bool = False


def http(status, body=b"", *headers, version=b"1.1", length=True):
    lines = [b"HTTP/%b %d X" % (version, status), *headers]
    lines += [b"Content-Length: %d" % len(body)] if length else []
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def fails(status, *headers, body=b'{"error": {"message": "later"}}', ends=FINE):
    return Fault((http(status, body, *headers),), ends=ends)


def says(value, ends=FINE):
    """A whole answer of some JSON, or bytes."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Fault((http(200, body),), ends=ends)


def choice(**fields):
    return says(answer({**chat("x"), **fields}))


def right(build):
    """The right answer in another wrapping: `build(body) -> bytes`."""
    return lambda question, body: build(body)


def of_usage(**usage):
    return Fault((lambda q, b: http(200, json.dumps({**json.loads(b), "usage": usage}).encode()),))


def chunks(body, size=5, extension=b"", trailer=b""):
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    data = b"".join(b"%x%b\r\n%b\r\n" % (len(p), extension, p) for p in pieces)
    head = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + data + b"0\r\n" + trailer + b"\r\n"


def unframed(version, *headers):
    """A body in two packets that ends with the connection."""

    def whole(body):
        return http(200, body, *headers, version=version, length=False)

    return Fault((right(lambda b: whole(b)[:60]), 0.01, right(lambda b: whole(b)[60:])), close=True)


CHUNKED = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n"
FAULTS = {
    # status
    "429": fails(429),
    "429 after a number": fails(429, b"Retry-After: 0.01"),
    "429 after a date": fails(429, b"Retry-After: Wed, 21 Oct 2015 07:28:00 GMT"),
    "429 after a negative": fails(429, b"Retry-After: -5"),
    "429 after nan": fails(429, b"Retry-After: nan"),
    "429 after inf": fails(429, b"Retry-After: inf"),
    "429 after 1e3000": fails(429, b"Retry-After: 1e3000"),
    "429 after words": fails(429, b"Retry-After: soon"),
    "500 JSON": fails(500),
    "500 HTML": fails(500, body=b"<html>oh no</html>"),
    "503": fails(503),
    "999": fails(999),
    "204": fails(204, body=b""),
    "400 too long": fails(400, ends="http_400"),
    "401": fails(401, ends="wants a key"),
    "302": fails(302, b"Location: http://127.0.0.1:1/", ends="sends us elsewhere"),
    "307": fails(307, b"Location: http://127.0.0.1:1/", ends="sends us elsewhere"),
    # connection
    "reset": Fault((RESET,)),
    "hang": Fault((3600.0,), endless=True),
    "half a head": Fault((b"HTTP/1.1 20",), close=True),
    "half a body": Fault((right(lambda b: http(200, b)[:-20]),), close=True),
    "closed at once": Fault((), close=True),
    "length too long": Fault((right(lambda b: http(200, b + b" " * 9)[:-9]),), close=True),
    "length too short": Fault((right(lambda b: http(200, b[:-9]) + b[-9:]),)),
    "length negative": Fault((http(200, b"", b"Content-Length: -5", length=False),), close=True),
    "endless 100s": Fault((b"HTTP/1.1 100 Continue\r\n\r\n" * 5000,), close=True),
    "slow-loris": Fault(
        tuple(x for c in b"HTTP/1.1 200 " * 999 for x in (bytes([c]), 0.2)), endless=True
    ),
    "200k headers": Fault((b"HTTP/1.1 200 X\r\n" + b"A: b\r\n" * 40_000,), close=True),
    "bad chunk": Fault((CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n",), close=True),
    "negative chunk": Fault((CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",), close=True),
    "cut chunks": Fault((right(lambda b: chunks(b)[:-30]),), close=True),
    "chunk extensions": Fault((right(lambda b: chunks(b, extension=b";a=b")),)),
    "trailers": Fault((right(lambda b: chunks(b, trailer=b"X-Sum: 5\r\n")),)),
    "garbage": Fault((b"\x00\x01\x02 garbage\r\n\r\n",), close=True),
    "two answers": Fault((right(lambda b: http(200, b) * 2),)),
    "an answer later": Fault((right(lambda b: http(200, b)), 0.02, http(200, b"{}"))),
    "no length": unframed(b"1.1", b"Connection: close"),
    "HTTP/1.0": unframed(b"1.0"),
    "late": Fault((0.05, right(lambda b: http(200, b)))),
    # body
    "cut JSON": Fault((right(lambda b: http(200, b[:-9])),)),
    "200 and an error": says({"error": {"message": "overloaded"}}),
    "no choices": says({"choices": []}),
    "choices null": says({"choices": None}),
    "an extra choice": says(answer(chat("x"), chat("y", 1))),
    "message null": choice(message=None),
    "content null": choice(message={"content": None}),
    "content a number": choice(message={"content": 5}),
    "a tool call": choice(message={"content": None, "tool_calls": [{"id": "x"}]}),
    "wrong index": choice(index=7),
    "index null": choice(index=None),
    "usage negative": of_usage(prompt_tokens=-5, completion_tokens=-1),
    "usage text": of_usage(prompt_tokens="many", completion_tokens=None),
    "usage huge": of_usage(prompt_tokens=10**30, completion_tokens=1),
    "usage a list": Fault(
        (lambda q, b: http(200, json.dumps({**json.loads(b), "usage": [1]}).encode()),)
    ),
    "odd finish_reason": Fault((lambda q, b: http(200, b.replace(b'"stop"', b'"because"')),)),
    "parts": Fault(
        (
            lambda q, b: http(
                200, json.dumps(answer(chat([{"type": "text", "text": f"re {q}"}]))).encode()
            ),
        )
    ),
    "201": Fault((right(lambda b: http(201, b)),)),
    "deep JSON": says(b"[" * 100_000),
    "no UTF-8": says(b'{"choices": [{"message": {"content": "\xff\xfe"}}]}'),
    "BOM": Fault((right(lambda b: http(200, b"\xef\xbb\xbf" + b)),)),
    "NUL": says(b"\x00" * 50),
    "gzip": Fault((right(lambda b: http(200, gzip.compress(b), b"Content-Encoding: gzip")),)),
    "gzip bomb": says(gzip.compress(b" " * (1 << 24))),
    "an event stream": says(b'data: {"choices": []}\n\ndata: [DONE]\n\n'),
    "refusal": Fault(
        (http(200, json.dumps(answer(chat(None) | {"message": {"refusal": "No."}})).encode()),),
        ends="refused",
    ),
}
SAMPLE = [
    "429 after inf", "500 HTML", "reset", "half a body", "two answers", "no length", "HTTP/1.0",
    "cut chunks", "content null", "200 and an error", "gzip", "index null", "204", "401", "hang",
]  # fmt: skip


class Ill:
    """Serves; each question that is divisible by three meets the fault the first time."""

    def __init__(self, fault):
        self.fault = fault
        self.met, self.calls = set(), 0

    def __enter__(self):
        ready = threading.Event()

        async def main():
            self.loop, self.stop = asyncio.get_running_loop(), asyncio.Event()
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            await self.stop.wait()
            server.close()

        self.thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
        self.thread.start()
        assert ready.wait(200), "the server never came up"
        return self

    def __exit__(self, *error):
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(60)

    async def _serve(self, reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await self._one(reader, writer):
                pass
        writer.close()

    async def _one(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        question = json.loads(await reader.readexactly(size))["messages"][-1]["content"]
        self.calls += 1
        body = json.dumps(answer(chat(f"re {question}"))).encode()
        if int(question[1:]) % 3 or question in self.met:
            writer.write(http(200, body))
            await writer.drain()
            return True
        self.met.add(question)
        for part in self.fault.parts:
            if part is RESET:
                linger = struct.pack("ii", 1, 0)
                peer = writer.get_extra_info("socket")
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
                return False
            part = part(question, body) if callable(part) else part
            if isinstance(part, float):
                await asyncio.sleep(part)
            else:
                writer.write(part)
                await writer.drain()
        return not self.fault.close


def survives(fault):
    with Ill(fault) as server:
        config = Server(
            base_url=f"http://127.0.0.1:{server.port}/v1", model="m", retries=3, max_concurrency=3,
            timeout_s=1.0 if fault.endless else 100.0,
        )  # fmt: skip
        with config.open() as engine:
            asked = [[user(f"q{i}")] for i in range(N)]
            if " " in fault.ends:
                with pytest.raises(EngineError, match=fault.ends):
                    engine.generate(asked, Sampling(max_tokens=9))
                return
            results = [r for (r,) in engine.generate(asked, Sampling(max_tokens=9))]
    for i, result in enumerate(results):
        if fault.ends != FINE and i % 3 == 0:
            assert result.reason == fault.ends
        else:
            assert isinstance(result, Completion), (i, result)
            assert result.text == f"re q{i}"
    if not fault.endless:  # a slow machine keeps nobody waiting for less than that second
        assert server.calls <= N + len(server.met)  # each is asked once more


@pytest.mark.parametrize("kind", SAMPLE)
def test_a_fault_swaps_nothing_and_loses_nothing(kind):
    survives(FAULTS[kind])


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(set(FAULTS) - set(SAMPLE)))
def test_each_other_fault_swaps_nothing_and_loses_nothing(kind):
    survives(FAULTS[kind])


def test_at_least_54_kinds_are_tried():
    assert len(FAULTS) >= 54
