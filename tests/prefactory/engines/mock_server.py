"""A real HTTP server on loopback that can misbehave: in a thread for tests, a process otherwise.

`python tests/prefactory/engines/mock_server.py LATENCY_S` prints its port.
"""

import asyncio
import json
import socket
import struct
import sys
import threading
from collections import Counter


def chat(text, index=0, **extra):
    message = {"role": "assistant", "content": text}
    return {"index": index, "message": message, "finish_reason": "stop", **extra}


def answer(*choices, prompt_tokens=5, completion_tokens=2):
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    usage["total_tokens"] = prompt_tokens + completion_tokens
    return {"id": "x", "choices": list(choices), "usage": usage}


def echo(body):
    """What a sound server says: a function of the request alone."""
    text = body["messages"][-1]["content"]
    seed = f" #{body['seed']}" if "seed" in body else ""
    n = body.get("n", 1)
    return answer(*[chat(f"echo {text}{seed}" + (f" ({i})" if n > 1 else ""), i) for i in range(n)])


class MockServer:
    """`behave(body, times) -> (kind, value)`; `times`: how often this body came, from 1.

    Kinds: ok (JSON), status (code, headers, body), raw (bytes), hang, cut, reset, late (seconds,
    JSON), chunked (JSON).
    """

    def __init__(self, behave=None, latency_s=0.0, tls=None):
        self.behave = behave or (lambda body, times: ("ok", echo(body)))
        self.latency_s = latency_s
        self.tls = tls
        self.seen = Counter()
        self.finished = []
        self.headers = []
        self.paths = []
        self.bodies = []
        self.in_flight = self.most_in_flight = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(200), "the server never came up"
        return self

    def __exit__(self, *error):
        self.loop.call_soon_threadsafe(self.stop.set)
        self._thread.join(60)

    @property
    def url(self):
        return f"{'https://localhost' if self.tls else 'http://127.0.0.1'}:{self.port}/v1"

    @property
    def left(self):
        """Whether nobody is connected: what those who were killed had asked has ended here."""
        return not self._tasks

    def _serve(self):
        asyncio.run(self.main())

    async def main(self):
        self.loop = asyncio.get_running_loop()
        self.stop = asyncio.Event()
        self._tasks = set()
        server = await asyncio.start_server(
            self._accept, "127.0.0.1", 0, backlog=4096, ssl=self.tls
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self.stop.wait()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        raw = await reader.readexactly(int(lines["Content-Length"]))
        body = json.loads(raw)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.seen[raw] += 1
        self.headers.append(lines)
        self.paths.append(head.split(" ", 2)[1])
        self.bodies.append(body)
        try:
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            kind, value = self.behave(body, self.seen[raw])
            if kind == "late":
                await asyncio.sleep(value[0])
                kind, value = "ok", value[1]
            if kind not in ("ok", "chunked"):
                return await self._reply(writer, kind, value)
            # Noted first: whoever has the answer looks here before this thread has a turn again.
            self.finished.append(raw)
            try:
                return await self._reply(writer, kind, value)
            except BaseException:  # not sent
                self.finished.remove(raw)
                raise
        finally:
            self.in_flight -= 1

    async def _reply(self, writer, kind, value):
        if kind == "hang":
            await asyncio.sleep(3600)
        if kind == "reset":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
            return False
        if kind == "chunked":
            data = json.dumps(value).encode()
            parts = [data[i : i + 7] for i in range(0, len(data), 7)]
            body = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
            return True
        status, headers, data = value if kind == "status" else (200, {}, value)
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        size = len(data) + (100 if kind == "cut" else 0)
        lines = "".join(f"{k}: {v}\r\n" for k, v in headers.items())
        writer.write(
            f"HTTP/1.1 {status} X\r\n{lines}Content-Type: application/json\r\n"
            f"Content-Length: {size}\r\n\r\n".encode()
            + data
        )
        await writer.drain()
        return kind != "cut"


class Fast(asyncio.Protocol):
    """The same sound server with as little work per call as Python allows: for benchmarks."""

    latency_s = 0.1
    body = json.dumps(answer(chat("hello there"))).encode()
    reply = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        % len(body)
        + body
    )

    def connection_made(self, transport):
        self.transport, self.waiting = transport, b""

    def data_received(self, data):
        self.waiting += data
        while (end := self.waiting.find(b"\r\n\r\n")) >= 0:
            head = self.waiting[:end].lower()
            size = int(head[head.index(b"content-length:") + 15 :].split(b"\r\n")[0])
            if len(self.waiting) < end + 4 + size:
                return
            self.waiting = self.waiting[end + 4 + size :]
            asyncio.get_running_loop().call_later(self.latency_s, self.answer)

    def answer(self):
        if not self.transport.is_closing():
            self.transport.write(self.reply)


async def _fast(latency_s):
    Fast.latency_s = latency_s
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Fast, "127.0.0.1", 0, backlog=4096)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_fast(float(sys.argv[1])))
