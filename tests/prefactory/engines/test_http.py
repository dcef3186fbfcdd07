"""The client against servers that send given bytes: every answer whole, and to its own request."""

import asyncio
import contextlib
import socket
import ssl
import struct

import pytest
import trustme

from prefactory.engines import http
from prefactory.engines.base import Sampling
from prefactory.engines.http import Client, Reply, TransportError
from prefactory.engines.server import Server
from tests.helpers import user
from tests.prefactory.engines.mock_server import MockServer

CLOSE, RESET = object(), object()


def ok(body, head=b"HTTP/1.1 200 OK"):
    return head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body


class Peer:
    """Answers `replies(connection, request, body)`: bytes, seconds or an event to wait for, CLOSE,
    RESET."""

    def __init__(self, replies, tls=None):
        self.replies, self.tls = replies, tls
        self.heads, self.connections = [], 0

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error):
        self.server.close()

    @property
    def url(self):
        return f"{'https' if self.tls else 'http'}://localhost:{self.port}/v1"

    async def _serve(self, reader, writer):
        connection, self.connections = self.connections, self.connections + 1
        number = 0
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.heads.append(head)
                size = head.lower().partition("content-length: ")[2].partition("\r\n")[0]
                body = await reader.readexactly(int(size or 0))
                for part in self.replies(connection, number, body):
                    if part is CLOSE:
                        return writer.close()
                    if part is RESET:
                        linger = struct.pack("ii", 1, 0)
                        peer = writer.get_extra_info("socket")
                        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                        return writer.transport.abort()
                    if isinstance(part, bytes):
                        writer.write(part)
                        await writer.drain()
                    elif isinstance(part, asyncio.Event):
                        await part.wait()
                    else:
                        await asyncio.sleep(part)
                number += 1


async def eventually(condition):
    """Wait until a condition holds."""
    async with asyncio.timeout(100):
        while not condition():
            await asyncio.sleep(0.005)


def talk(replies, *bodies, tls=None, url=None):
    """Ask one after the other. Returns the replies and errors, and the peer."""

    async def main():
        async with Peer(replies, tls) as peer:
            client = Client(url.format(port=peer.port) if url else peer.url, {"X-Key": "k"})
            replies_ = []
            for body in bodies:
                try:
                    replies_.append(await asyncio.wait_for(client.post("/x", body), 100))
                except TransportError as error:
                    replies_.append(error)
            client.close()
            return replies_, peer

    return asyncio.run(main())


def always(*parts):
    return lambda connection, number, body: parts


def echoed(connection, number, body):
    return [ok(b"re " + body)]


def bodies(replies):
    return [r.body if isinstance(r, Reply) else str(r) for r in replies]


def test_a_connection_is_kept_and_the_request_is_plain_http():
    replies, peer = talk(echoed, b"a", b"b", b"c")
    assert replies[0] == Reply(200, {"content-length": "4"}, b"re a")
    assert bodies(replies) == [b"re a", b"re b", b"re c"]
    assert peer.connections == 1
    assert peer.heads[0].split("\r\n") == [
        "POST /v1/x HTTP/1.1",
        f"Host: localhost:{peer.port}",
        "Content-Type: application/json",
        "Accept: application/json",
        "Accept-Encoding: identity",
        "User-Agent: prefactory",
        "X-Key: k",
        "Content-Length: 1",
        "",
        "",
    ]


@pytest.mark.parametrize(
    "surplus",
    [
        [ok(b"nobody asked")],
        [b"HTTP/1.1 200 OK\r\n"],
        [b"garbage"],
        [0.05, ok(b"nobody asked")],
        [0.05, b"x"],
    ],
    ids=["an answer", "half an answer", "garbage", "an answer later", "a byte later"],
)
def test_bytes_that_nobody_asked_for_close_the_connection(surplus):
    async def main():
        def replies(connection, number, body):
            return [ok(b"re " + body), *(surplus if connection == 0 else [])]

        async with Peer(replies) as peer:
            client = Client(peer.url)
            first = await client.post("/x", b"0")
            await eventually(lambda: not client._idle)
            rest = [await client.post("/x", b"%d" % i) for i in range(1, 4)]
            client.close()
            return [first, *rest], peer.connections

    replies, connections = asyncio.run(main())
    assert bodies(replies) == [b"re 0", b"re 1", b"re 2", b"re 3"]
    assert connections == 4  # none is kept any more: the next one may come while an answer is due


def test_a_connection_that_a_proxy_closes_with_408_for_being_idle_is_no_surplus():
    async def main():
        def replies(connection, number, body):
            idle = [0.05, b"HTTP/1.1 408 Request Time-out\r\n\r\n", CLOSE]
            return [ok(b"re " + body), *(idle if connection == 0 else [])]

        async with Peer(replies) as peer:
            client = Client(peer.url)
            await client.post("/x", b"0")
            await eventually(client._idle[0].transport.is_closing)
            rest = [await client.post("/x", b"%d" % i) for i in range(1, 4)]
            client.close()
            return rest, peer.connections

    replies, connections = asyncio.run(main())
    assert (bodies(replies), connections) == ([b"re 1", b"re 2", b"re 3"], 2)


class Repeating:
    """Answers every question after a while, and every nth a second time a little later."""

    def __init__(self, every, later_s):
        self.every, self.later_s = every, later_s
        self.asked, self.connections = 0, 0

    async def serve(self, reader, writer):
        self.connections += 1
        tasks = []
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                size = int(head.partition("content-length: ")[2].partition("\r\n")[0])
                body = await reader.readexactly(size)
                self.asked += 1
                await asyncio.sleep(0.005)
                writer.write(ok(b"re " + body))
                if self.asked % self.every == 0:
                    tasks.append(asyncio.create_task(self.again(writer, body, self.asked)))
        writer.close()

    async def again(self, writer, body, number):
        await asyncio.sleep(self.later_s)
        writer.write(ok(b"re %b" % body, b"HTTP/1.1 200 OK\r\nX-Number: %d" % number))


def asked_side_by_side(repeating, questions, width=3, **fields):
    """Which questions got another's answer, and the client."""

    async def main():
        server = await asyncio.start_server(repeating.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = Client(f"http://127.0.0.1:{port}/v1", **fields)
        waiting = iter(range(questions))
        wrong = []

        async def work():
            for i in waiting:
                with contextlib.suppress(TransportError):
                    if (await client.post("/x", b"%d" % i)).body != b"re %d" % i:
                        wrong.append(i)

        await asyncio.gather(*(work() for _ in range(width)))
        await asyncio.sleep(0.1)  # connections that were asked often are still watched
        client.close()
        server.close()
        return wrong, client

    return asyncio.run(main())


@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize("later_s", [0.001, 0.01, 0.03])
def test_a_server_on_trial_that_answers_too_often_a_little_later_is_never_misread(every, later_s):
    wrong, client = asked_side_by_side(Repeating(every, later_s), 100, trial=32)
    assert wrong == []
    assert (client.doubtful, client.trial > 0) == (0, True)


def test_a_server_that_passes_its_trial_is_asked_on_kept_connections():
    server = Repeating(10**9, 0)
    wrong, client = asked_side_by_side(server, 200, trial=16)
    assert (wrong, client.doubtful, client.trial <= 0) == ([], 0, True)
    assert 16 <= server.connections < 60


def test_answers_that_are_out_of_step_show_when_a_connection_is_asked_no_more(monkeypatch):
    monkeypatch.setattr(http, "ANSWERS", 32)

    def replies(connection, number, body):
        own = ok(b"re %d" % number)
        if number == 5:  # that to question 4 once more, and the right one when 6 is asked
            return [ok(b"re 4")]
        if number < 5:
            return [own]
        return [ok(b"re %d" % (number - 1)), *([0.2, own] if number == 15 else [])]

    async def main():
        async with Peer(replies) as peer:
            client = Client(peer.url)
            found = [(await client.post("/x", b"%d" % i)).body for i in range(16)]
            await eventually(lambda: client.doubtful)
            client.close()
            return found, client.doubtful

    monkeypatch.setattr(http, "RETIRED_S", (100.0, 300.0))
    found, doubtful = asyncio.run(main())
    assert found == [b"re %d" % (i - (i > 4)) for i in range(16)]  # without a trial
    assert doubtful == 15


def test_an_answer_too_many_that_comes_with_the_answer_to_the_next_is_no_answer():
    def replies(connection, number, body):
        doubled = connection == 0 and number == 1
        return [ok(b"re 0") * 2 if doubled else ok(b"re " + body)]

    replies_, peer = talk(replies, b"0", b"1", b"2")
    assert bodies(replies_) == [b"re 0", "an answer too many came with the answer", b"re 2"]
    assert peer.connections == 2


def test_an_answer_that_is_the_one_before_says_so():
    replies, _ = talk(always(ok(b"same")), b"a", b"b", b"b")
    assert [r.repeats for r in replies] == [False, True, False]


def test_bytes_that_lie_unread_in_the_kernel_close_the_connection():
    async def main():
        def replies(connection, number, body):
            return [ok(b"re " + body), *([0.05, b"x"] if connection == 0 else [])]

        async with Peer(replies) as peer:
            client = Client(peer.url)
            await client.post("/x", b"0")
            client._idle[0].transport.pause_reading()  # the event loop has not come to it yet
            await eventually(client._idle[0].stale)
            reply = await asyncio.wait_for(client.post("/x", b"1"), 100)
            client.close()
            return reply.body, peer.connections

    assert asyncio.run(main()) == (b"re 1", 2)


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
def test_a_body_without_a_length_is_read_to_the_end_of_the_connection(version):
    head = f"{version} 200 OK\r\nX: y\r\n\r\n".encode()
    replies, peer = talk(
        lambda connection, number, body: [head, 0.02, b"re ", 0.02, body * 9, CLOSE], b"a", b"b"
    )
    assert bodies(replies) == [b"re " + b"a" * 9, b"re " + b"b" * 9]
    assert peer.connections == 2


def test_chunks_their_extensions_and_trailers_are_read():
    body = b"3;name=value\r\nre \r\n1\r\na\r\n0\r\nTrailer: x\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = [head + body[:1], 0.01, body[1:9], 0.01, body[9:]]
    replies, peer = talk(always(*pieces), b"a", b"b")
    assert bodies(replies) == [b"re a", b"re a"]
    assert peer.connections == 1


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", CLOSE], "cut its answer off"),
        ([b"HTTP/1.1 200 OK\r\nContent-Le", CLOSE], "cut its answer off"),
        (
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal", CLOSE],
            "cut its answer off",
        ),
        (
            [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n", CLOSE],
            "cut its answer off",
        ),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"], "no HTTP answer"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"], "no HTTP answer"),
        (
            [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"],
            "no HTTP answer",
        ),
        ([b"SSH-2.0-OpenSSH\r\n"], "no HTTP answer"),
        ([b"HTTP/1.1 101 Other\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"], "no HTTP answer"),
        ([b"HTTP/1.1 200 OK\r\n\r\nhalf", 0.05, RESET], "cut its answer off"),
        ([CLOSE], "closed without an answer"),
        ([RESET], "Connection reset by peer"),
    ],
)
def test_what_is_no_whole_answer_is_an_error_and_its_connection_is_gone(parts, words):
    def replies(connection, number, body):
        return parts if connection == 0 else [ok(b"re " + body)]

    (error, after), peer = talk(replies, b"a", b"b")
    assert words in str(error)
    assert error.sent
    assert after.body == b"re b"
    assert peer.connections == 2


def test_interim_answers_are_skipped():
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX-Early: 1\r\n\r\n"
    replies, peer = talk(always(interim, 0.01, ok(b"yes")), b"a", b"b")
    assert replies == [Reply(200, {"content-length": "3"}, b"yes")] * 2
    assert peer.connections == 1


@pytest.mark.parametrize(
    "endless",
    [b"HTTP/1.1 100 Continue\r\n\r\n", b"X: y\r\n", b"x"],
    ids=["interim answers", "headers", "one header"],
)
def test_heads_are_bounded(endless):
    head = b"" if endless.startswith(b"HTTP") else b"HTTP/1.1 200 OK\r\nX"
    many = [endless * (8192 // len(endless))] * 100
    (error,), _ = talk(always(head, *many), b"a")
    assert f"a head of over {1 << 16} bytes" in str(error)


@pytest.mark.parametrize(
    ("head", "parts"),
    [
        (b"Content-Length: 1001", [b"x" * 500, b"x" * 501]),
        (b"Transfer-Encoding: chunked", [b"1f4\r\n" + b"x" * 500 + b"\r\n"] * 3),
        (b"Connection: close", [b"x" * 500] * 3),
    ],
)
def test_the_sum_of_a_body_is_bounded_however_it_comes(monkeypatch, head, parts):
    monkeypatch.setattr(http, "_MAX_BODY", 1000)
    whole = [b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n", *parts]
    (error, after), _ = talk(
        lambda connection, number, body: whole if connection == 0 else [ok(b"y" * 1000)], b"a", b"b"
    )
    assert "a body of over 1000 bytes" in str(error)
    assert after.body == b"y" * 1000


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        (b"HTTP/1.1 200 OK", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close", False),
        (b"HTTP/1.1 200 OK\r\nConnection: Close", False),
        (b"HTTP/1.0 200 OK", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive", True),
        (b"HTTP/1.1 500 Oops", True),
    ],
)
def test_only_connections_that_the_server_keeps_are_used_again(head, kept):
    replies, peer = talk(always(ok(b"x", head)), b"a", b"b", b"c")
    assert bodies(replies) == [b"x"] * 3
    assert peer.connections == (1 if kept else 3)


def test_an_answer_without_a_body_needs_no_length():
    replies, peer = talk(always(b"HTTP/1.1 204 Nothing\r\n\r\n"), b"a", b"b")
    assert replies == [Reply(204, {}, b"")] * 2
    assert peer.connections == 1


def test_a_kept_connection_that_the_server_closed_is_replaced_and_a_fresh_one_is_not():
    def replies(connection, number, body):
        if connection < 2:
            return [ok(b"re " + body)] if number == 0 else [CLOSE]
        return [CLOSE] if connection == 2 else [ok(b"re " + body)]

    replies, peer = talk(replies, b"a", b"b", b"c", b"d", b"e")
    # a: connection 0; b: 0 closes, so 1; c: 1 closes, 2 is fresh and closes; d and e: 3
    assert bodies(replies)[:2] == [b"re a", b"re b"]
    assert "closed without an answer" in str(replies[2])
    assert bodies(replies)[3:] == [b"re d", b"re e"]
    assert peer.connections == 4


def test_an_answer_that_had_begun_is_not_asked_for_again():
    def replies(connection, number, body):
        return [ok(b"x")] if number == 0 else [b"HTTP/1.1 200 OK\r\nContent", CLOSE]

    (_, error), peer = talk(replies, b"a", b"b")
    assert "cut its answer off" in str(error)
    assert len(peer.heads) == 2


def test_a_server_that_hangs_up_at_once_is_an_error_each_time():
    async def main():
        async def hang_up(reader, writer):
            writer.close()

        async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
            client = Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
            connection = await client._connect()
            await eventually(connection.transport.is_closing)  # told of before anything is asked
            early = asyncio.wait_for(connection.ask(b""), 100)
            asked = [client.post("/x", b"a") for _ in range(20)]
            return await asyncio.gather(early, *asked, return_exceptions=True)

    early, *errors = asyncio.run(asyncio.wait_for(main(), 100))
    assert isinstance(early, http._Unanswered)
    assert {type(error) for error in errors} == {TransportError}


def test_a_connection_that_ended_while_idle_is_not_asked():
    async def main():
        parts = {0: [ok(b"x"), 0.05, CLOSE]}
        async with Peer(lambda connection, *_: parts.get(connection, [ok(b"x")])) as peer:
            client = Client(peer.url)
            await client.post("/x", b"a")
            await eventually(client._idle[0].stale)
            await client.post("/x", b"b")
            client.close()
            return len(peer.heads)

    assert asyncio.run(main()) == 2


def test_a_request_that_was_given_up_never_gets_its_answer_read_by_another():
    async def main():
        given_up = asyncio.Event()

        def replies(connection, number, body):
            return [*([given_up] if body == b"slow" else []), ok(b"re " + body)]

        async with Peer(replies) as peer:
            client = Client(peer.url)
            asked = asyncio.create_task(client.post("/x", b"slow"))
            await eventually(lambda: peer.heads)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            given_up.set()
            replies = [await client.post("/x", b"quick") for _ in range(2)]
            client.close()
            return bodies(replies), peer.connections

    assert asyncio.run(main()) == ([b"re quick"] * 2, 2)


def test_no_server_is_told_apart_from_one_that_broke():
    async def main():
        async with Peer(echoed) as peer:
            pass
        with pytest.raises(TransportError, match="no connection") as caught:
            await Client(peer.url).post("/x", b"a")
        return caught.value.sent

    assert asyncio.run(main()) is False


# -- TLS and proxies ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def trusted(authority, tmp_path, monkeypatch):
    """The certificates of our own authority are those of the system."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))


def tls(authority, *names):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def test_https_with_a_certificate_of_our_own(authority, trusted):
    replies, peer = talk(echoed, b"a", b"b" * 300_000, tls=tls(authority, "localhost"))
    assert bodies(replies) == [b"re a", b"re " + b"b" * 300_000]
    assert peer.connections == 1


def test_a_body_over_tls_that_ends_with_the_connection(authority, trusted):
    parts = [b"HTTP/1.1 200 OK\r\n\r\n", 0.02, b"all ", 0.02, b"of it", CLOSE]
    replies, _ = talk(always(*parts), b"a", b"b", tls=tls(authority, "localhost"))
    assert bodies(replies) == [b"all of it"] * 2


def test_a_certificate_that_nobody_vouches_for_is_refused(authority):
    (error,), peer = talk(echoed, b"secret", tls=tls(authority, "localhost"))
    assert "certificate verify failed" in str(error)
    assert not error.sent
    assert peer.heads == []


def test_a_certificate_for_another_host_is_refused(authority, trusted):
    (error,), peer = talk(echoed, b"secret", tls=tls(authority, "other.test"))
    assert "certificate is not valid for 'localhost'" in str(error)
    assert peer.heads == []


def test_https_to_a_server_without_it_is_no_connection():
    async def main():
        async def plain(reader, writer):
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(TransportError, match="no connection") as caught:
                await Client(f"https://localhost:{port}/v1").post("/x", b"a")
        return caught.value.sent

    assert asyncio.run(asyncio.wait_for(main(), 100)) is False


def test_the_engine_over_https(authority, trusted):
    with (
        MockServer(tls=tls(authority, "localhost")) as server,
        Server(base_url=server.url, model="m", max_concurrency=4).open() as engine,
    ):
        answers = engine.generate([[user(f"q{i}")] for i in range(20)], Sampling())
    assert [row[0].text for row in answers] == [f"echo q{i}" for i in range(20)]


async def forward(reader, writer, port):
    """What a proxy does after CONNECT: pass bytes on, both ways."""
    there, out = await asyncio.open_connection("127.0.0.1", port)

    async def pump(source, sink):
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        sink.close()

    await asyncio.gather(pump(reader, out), pump(there, writer))


def through(monkeypatch, authority, greeting, target="far.test"):
    """One request by HTTPS to `target` through a proxy that greets so; the proxy's requests too."""
    seen = []

    async def main():
        async with Peer(echoed, tls(authority, "far.test")) as peer:

            async def proxy(reader, writer):
                seen.append((await reader.readuntil(b"\r\n\r\n")).decode())
                writer.write(greeting)
                await writer.drain()
                if b" 200 " in greeting:
                    await forward(reader, writer, peer.port)
                else:
                    writer.close()

            async with await asyncio.start_server(proxy, "127.0.0.1", 0) as server:
                port = server.sockets[0].getsockname()[1]
                monkeypatch.setenv("https_proxy", f"http://u:p%40@127.0.0.1:{port}")
                monkeypatch.delenv("no_proxy", raising=False)
                client = Client(f"https://{target}/v1")
                try:
                    return [await client.post("/x", b"%d" % i) for i in range(2)]
                except TransportError as error:
                    return error
                finally:
                    client.close()

    return asyncio.run(asyncio.wait_for(main(), 100)), seen


@pytest.mark.parametrize(
    "greeting",
    [
        b"HTTP/1.1 200 Connection established\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nProxy-Agent: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_https_goes_through_a_proxy_by_connect(monkeypatch, authority, trusted, greeting):
    replies, seen = through(monkeypatch, authority, greeting)
    assert bodies(replies) == [b"re 0", b"re 1"]
    assert seen == [
        "CONNECT far.test:443 HTTP/1.1\r\nHost: far.test:443\r\n"
        "Proxy-Authorization: Basic dTpwQA==\r\n\r\n"
    ]


@pytest.mark.parametrize("status", [403, 407, 502])
def test_a_proxy_that_refuses_is_told_and_nothing_is_sent_to_it(
    monkeypatch, authority, trusted, status
):
    error, seen = through(monkeypatch, authority, b"HTTP/1.1 %d No\r\n\r\n" % status)
    assert f"the proxy answered {status} to CONNECT" in str(error)
    assert not error.sent
    assert len(seen) == 1


def test_a_proxy_that_speaks_before_the_server_is_refused(monkeypatch, authority, trusted):
    error, _ = through(monkeypatch, authority, b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")
    assert "said more than its answer to CONNECT" in str(error)
    assert not error.sent


def test_the_certificate_is_the_servers_also_behind_a_proxy(monkeypatch, authority, trusted):
    error, _ = through(monkeypatch, authority, b"HTTP/1.1 200 OK\r\n\r\n", target="elsewhere.test")
    assert "certificate is not valid for 'elsewhere.test'" in str(error)


def test_http_goes_to_the_proxy_whole_and_no_proxy_is_obeyed(monkeypatch):
    async def main():
        async with Peer(echoed) as proxy:
            monkeypatch.setenv("http_proxy", f"http://u:p@127.0.0.1:{proxy.port}")
            monkeypatch.setenv("no_proxy", "near.invalid")
            reply = await Client("http://far.invalid:81/v1").post("/x", b"a")
            with pytest.raises(TransportError, match="no connection"):
                await Client("http://near.invalid/v1").post("/x", b"a")
            return reply, proxy.heads

    reply, heads = asyncio.run(main())
    assert reply.body == b"re a"
    assert len(heads) == 1
    assert heads[0].startswith("POST http://far.invalid:81/v1/x HTTP/1.1\r\nHost: far.invalid:81")
    assert "Proxy-Authorization: Basic dTpw\r\n" in heads[0]
