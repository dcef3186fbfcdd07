"""A small HTTP/1.1 client on asyncio: requests, kept connections, nothing else.

The parser is llhttp (Node's) by httptools; connections, proxies and TLS are asyncio's. At most one
request is out on a connection. A server that sends bytes nobody asked for gets a connection for
each request, and so does every server at first: HTTP/1.1 does not tie an answer to its request, so
a connection is used again only where enough others were quiet after their answer (`trial`). An
answer too many would be taken for the next one, and the next for the one after it, for good.

Why not aiohttp: on it the whole engine takes about twice the CPU a call, and stays 7 to 24 points
of the ideal below this client at 64 and 256 requests in flight (`benchmarks/engine_overhead.py
--compare`, docs/performance.md).

TLS is verified with the system's certificates (`SSL_CERT_FILE` is honoured); `HTTP_PROXY`,
`HTTPS_PROXY` and `NO_PROXY` are obeyed. No redirects, no compression.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import select
import ssl
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast
from urllib.parse import SplitResult, unquote, urlsplit

import httptools

_MAX_HEAD = 1 << 16
_MAX_BODY = 1 << 26
_JSON = b"application/json"
_IDLED = b" 408 "
"""In the status line with which some proxies close a connection that was idle."""
WATCHED_S, RETIRED_S = (0.05, 0.25), (0.05, 30.0)
"""How long a connection is watched after its last answer, on trial and after many: as long as that
answer took, within these."""
ANSWERS = 64
"""That a connection is used for, half of it to one and a half, so that not all end at once: an
answer too many, once in it, shows when it is asked no more."""
_LOG = logging.getLogger(__name__)


class TransportError(Exception):
    """The connection failed or the answer is no HTTP. `sent`: the server may have seen it."""

    def __init__(self, message: str, sent: bool = True) -> None:
        """Keep whether the request may have arrived."""
        super().__init__(message)
        self.sent = sent


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: status, headers with names in lower case, body.

    `repeats`: it is, byte for byte, the one before on its connection, to another request.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    repeats: bool = field(default=False, compare=False)


class _Unanswered(Exception):
    """The connection ended before the first byte of an answer."""


class _Answer:
    """The answer to one request, as the parser calls it; interim answers (1xx) are skipped."""

    def __init__(self, connect: bool, most: int) -> None:
        """Wait for the first byte.

        Args:
            connect: the request is a CONNECT, whose answer ends with its head.
            most: bytes of its body.
        """
        self.connect = connect
        self.most = most
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.keep = False
        self.surplus = False
        self._parser = httptools.HttpResponseParser(self)
        self._status = 0
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._head_bytes = self._body_bytes = 0

    def feed(self, data: bytes) -> None:
        """Take bytes from the server; `reply` is done when they complete the answer.

        Raises:
            TransportError: they are no answer, or one over the bounds.
        """
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.keep = False
            self.surplus |= self.reply.done()
            if not self.reply.done():
                cause = error.__context__ if isinstance(error.__context__, TransportError) else None
                raise cause or TransportError(f"no HTTP answer: {_words(error)}") from error
        if not self._status:
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD:
                raise TransportError(f"a head of over {_MAX_HEAD} bytes")

    def end(self) -> bool:
        """Take the end of the connection: whether it completes a body of no stated length."""
        framed = "content-length" in self._headers or "transfer-encoding" in self._headers
        if not self._status or framed or self.connect:
            return False
        self._complete(keep=False)
        return True

    def _complete(self, keep: bool) -> None:
        self.keep = keep
        if not self.reply.done():
            self.reply.set_result(Reply(self._status, self._headers, b"".join(self._body)))

    # -- called by the parser ------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._status:  # a second answer to one request
            self.keep, self.surplus = False, True
        self._headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1").strip()

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 or self._status:
            return
        self._status = status
        if self.connect:
            self._complete(keep=True)

    def on_body(self, data: bytes) -> None:
        self._body_bytes += len(data)
        if self._body_bytes > self.most:
            raise TransportError(f"a body of over {self.most} bytes")
        if self.reply.done():
            self.keep, self.surplus = False, True
        else:
            self._body.append(data)

    def on_message_complete(self) -> None:
        if self._status and not self.reply.done():
            self._complete(self._parser.should_keep_alive())


class _Connection(asyncio.Protocol):
    """A connection with at most one request out on it."""

    def __init__(self, distrust: Callable[[int], None]) -> None:
        """Begin unused.

        Args:
            distrust: called where the server sends what nobody asked for, with how many answers
                on this connection may belong to another request.
        """
        self.transport: asyncio.Transport
        self.answers = 0
        self.most = 0
        self._distrust = distrust
        self._before: tuple[int, int] | None = None
        self._look: select.poll | None = None
        self._answer: _Answer | None = None
        self._begun = False

    async def ask(
        self,
        data: bytes,
        connect: bool = False,
        most: int | None = None,
        deadline: float | None = None,
    ) -> Reply:
        """Send a request and wait for its answer, until a time of the event loop's clock.

        Raises:
            _Unanswered: the connection ended before the first byte of an answer.
            TransportError: it ended later, or the answer is none.
            TimeoutError: the time is over.
        """
        if self.transport.is_closing():  # the event loop won't tell of it again
            raise _Unanswered("closed without an answer")
        answer = self._answer = _Answer(connect, _MAX_BODY if most is None else most)
        self._begun = False
        expiry = None
        if deadline is not None:
            expiry = asyncio.get_running_loop().call_at(deadline, self._expire, answer)
        self.transport.write(data)
        try:
            reply = await answer.reply
        finally:
            if expiry is not None:
                expiry.cancel()
            self._answer = None
            self.answers += 1
            if answer.surplus:
                self._distrust(max(0, self.answers - 2))
            if not answer.keep:
                self.drop()
        if answer.surplus and self.answers > 1:
            raise TransportError("an answer too many came with the answer")
        asked, said = hash(data), hash(reply.body)
        before, self._before = self._before or (asked, 0), (asked, said)
        repeats = before[0] != asked and before[1] == said
        return replace(reply, repeats=True) if repeats else reply

    def stale(self) -> bool:
        """Whether it has ended, or bytes wait that nobody asked for."""
        if self.transport.is_closing():
            return True
        if self._look is None:
            self._look = select.poll()
            self._look.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(self._look.poll(0))

    def _expire(self, answer: _Answer) -> None:
        self.drop()
        if not answer.reply.done():
            answer.reply.set_exception(TimeoutError())

    def drop(self) -> None:
        """Close it at once."""
        with contextlib.suppress(Exception):
            self.transport.abort()

    # -- called by the event loop --------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Feed the answer; close where there is nothing to answer."""
        answer = self._answer
        if answer is None or answer.reply.done():
            if answer is not None:
                answer.keep = False
            if _IDLED not in data[:16]:
                late = b" 200" in data[:16] and data.startswith(b"HTTP/")
                self._distrust(max(0, self.answers - 1) if late else 0)
            self.drop()
            return
        self._begun = True
        try:
            answer.feed(data)
        except TransportError as error:
            answer.reply.set_exception(error)

    def connection_lost(self, error: Exception | None) -> None:
        """Finish a body that ends with the connection, or say what broke."""
        answer = self._answer
        if answer is None or answer.reply.done() or (error is None and answer.end()):
            return
        if self._begun:
            answer.reply.set_exception(TransportError("the server cut its answer off"))
        else:
            words = _words(error) if error else "closed without an answer"
            answer.reply.set_exception(_Unanswered(words))


@dataclass
class Client:
    """Connections to one server, used within one event loop.

    Attributes:
        url: `http(s)://host[:port][/path]`; request paths are appended.
        headers: sent with every request; never shown.
        trial: so many connections must have been quiet after their only answer before one is used
            again.
        doubtful: answers on connections that were used again, and on which an answer came that
            nobody had asked for: they may belong to other requests.
    """

    url: str
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    trial: int = 0
    doubtful: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Take the address apart and prepare what all requests share."""
        self._at = urlsplit(self.url)
        self._tls = ssl.create_default_context() if self._at.scheme == "https" else None
        self._proxy = _proxy(self._at)
        self._idle: list[_Connection] = []
        self._watched: set[_Connection] = set()
        self._keeps, self._opened = True, 0
        lines = [f"{k}: {v}\r\n" for k, v in {**_FIXED, **self.headers}.items()]
        if self._proxy and not self._tls:
            lines += [f"{k}: {v}\r\n" for k, v in _proxy_rights(self._proxy).items()]
        self._head = f"Host: {_netloc(self._at)}\r\n{''.join(lines)}".encode("latin-1")

    @property
    def secrets(self) -> list[str]:
        """The password of the proxy, as it is and as it is sent; a proxy may say it back."""
        if self._proxy is None or not self._proxy.password:
            return []
        sent = _proxy_rights(self._proxy).values()
        return [unquote(self._proxy.password), *(value.split(" ")[-1] for value in sent)]

    async def post(self, path: str, body: bytes, timeout_s: float | None = None) -> Reply:
        """Send JSON; see `request`."""
        return await self.request("POST", path, body, timeout_s=timeout_s)

    async def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        kind: str = "",
        most: int | None = None,
        anew: bool = False,
        timeout_s: float | None = None,
    ) -> Reply:
        """Send one request; a kept connection that the server had closed is replaced.

        Args:
            method: of HTTP.
            path: after that of the address.
            body: of the request.
            kind: its media type; JSON if empty.
            most: bytes of the answer's body; None: 64 MiB.
            anew: on a connection of its own, so that it is never sent twice.
            timeout_s: for all of it, seconds.

        Raises:
            TransportError: no connection, or it broke, or the answer is no HTTP.
            TimeoutError: no whole answer in time.
        """
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        target = self._at.path.rstrip("/") + path
        if self._proxy and not self._tls:
            target = f"http://{_netloc(self._at)}{target}"
        head = b"%b %b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n"
        shared = self._head.replace(_JSON, kind.encode("ascii"), 1) if kind else self._head
        line = method.encode("ascii"), target.encode("ascii")
        data = head % (*line, shared, len(body)) + body
        while True:
            connection = None if anew else self._kept()
            if connection is None:
                async with asyncio.timeout_at(deadline):
                    connection = await self._connect()
            kept = connection.answers > 0
            began = loop.time()
            try:
                reply = await connection.ask(data, most=most, deadline=deadline)
            except _Unanswered as error:
                if not kept:
                    raise TransportError(f"the connection broke: {error}") from error
                continue
            if not self._keeps or connection.transport.is_closing():
                connection.drop()
            elif self.trial > 0:
                self._watch(connection, loop.time() - began, WATCHED_S)
            elif connection.answers >= connection.most:
                self._watch(connection, loop.time() - began, RETIRED_S)
            else:
                self._idle.append(connection)
            return reply

    def _watch(self, connection: _Connection, took_s: float, within: tuple[float, float]) -> None:
        """Leave a connection alone for a while; what comes meanwhile ends all trust."""
        self._watched.add(connection)
        wait_s = min(max(took_s, within[0]), within[1])
        asyncio.get_running_loop().call_later(wait_s, self._quiet, connection)

    def _quiet(self, connection: _Connection) -> None:
        self._watched.discard(connection)
        self.trial -= self._keeps
        ended = self._keeps and self.trial <= 0 and connection.answers < connection.most
        if ended and not connection.stale():
            self._idle.append(connection)
        else:
            connection.drop()

    def close(self) -> None:
        """Close all idle connections."""
        for connection in (*self._idle, *self._watched):
            connection.drop()
        self._idle.clear()

    def _distrust(self, doubtful: int) -> None:
        """Keep no connection any more: what comes late would be taken for the next answer."""
        self.doubtful += doubtful
        if self._keeps:
            self._keeps = False
            _LOG.warning(
                "%s sends bytes that nobody asked for: each request gets a connection of its own "
                "from now on, so that no answer goes to another question",
                self.url,
            )
        self.close()

    def _kept(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.stale():
                return connection
            connection.drop()
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        at = self._proxy or self._at
        port = at.port or (443 if at.scheme == "https" else 80)
        tls = self._tls if self._proxy is None else None
        connection = _Connection(self._distrust)
        connection.most = ANSWERS // 2 + 7 * self._opened % (ANSWERS + 1)
        self._opened += 1
        try:
            await loop.create_connection(lambda: connection, at.hostname or "", port, ssl=tls)
            if self._proxy is not None and self._tls is not None:
                await self._tunnel(connection, self._tls)
        except BaseException as error:
            connection.drop()
            if not isinstance(error, (OSError, ValueError, _Unanswered, TransportError)):
                raise
            raise TransportError(f"no connection: {_words(error)}", sent=False) from error
        return connection

    async def _tunnel(self, connection: _Connection, tls: ssl.SSLContext) -> None:
        to = _netloc(self._at) if self._at.port else f"{_netloc(self._at)}:443"
        rights = _proxy_rights(self._proxy) if self._proxy else {}
        lines = "".join(f"{k}: {v}\r\n" for k, v in rights.items())
        asked = f"CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{lines}\r\n"
        reply = await connection.ask(asked.encode("latin-1"), connect=True)
        if not 200 <= reply.status < 300:
            raise TransportError(f"the proxy answered {reply.status} to CONNECT")
        if connection.transport.is_closing():
            raise TransportError("the proxy said more than its answer to CONNECT")
        transport = await asyncio.get_running_loop().start_tls(
            connection.transport, connection, tls, server_hostname=self._at.hostname
        )
        if transport is None:
            raise TransportError("the proxy closed the connection")
        connection.connection_made(transport)
        connection.answers = 0


_FIXED = {
    "Content-Type": "application/json",
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "User-Agent": "prefactory",
}


def _netloc(at: SplitResult) -> str:
    return at.netloc.rpartition("@")[2]


def _proxy(at: SplitResult) -> SplitResult | None:
    host = at.hostname or ""
    if urllib.request.proxy_bypass(_netloc(at)) or urllib.request.proxy_bypass(host):
        return None
    proxy = urllib.request.getproxies().get(at.scheme)
    if not proxy or host in ("localhost", "127.0.0.1", "::1"):
        return None
    return urlsplit(proxy if "://" in proxy else f"http://{proxy}")


def _proxy_rights(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
