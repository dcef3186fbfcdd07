"""prefactory's HTTP client written on aiohttp, for `engine_overhead.py --compare`."""

from __future__ import annotations

import asyncio
import ssl

import aiohttp
import yarl

from prefactory.engines.http import Reply, TransportError


class AiohttpClient:
    """What `prefactory.engines.http.Client` does, as far as a sound server needs it."""

    doubtful = 0

    def __init__(self, url: str, headers: dict[str, str], trial: int = 0) -> None:
        """Keep what all requests share; connections are kept from the first answer on."""
        self.url = yarl.URL(url)
        self.headers = {"Content-Type": "application/json", **headers}
        self.session: aiohttp.ClientSession | None = None

    async def post(self, path: str, body: bytes, timeout_s: float | None = None) -> Reply:
        """Send one request."""
        if self.session is None:
            tls = ssl.create_default_context()
            self.session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=tls, keepalive_timeout=3600),
                headers=self.headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
            self.address = yarl.URL(f"{self.url}{path}", encoded=True)
        try:
            async with (
                asyncio.timeout(timeout_s),
                self.session.post(self.address, data=body, allow_redirects=False) as reply,
            ):
                headers = {name.lower(): value for name, value in reply.headers.items()}
                return Reply(reply.status, headers, await reply.read())
        except (aiohttp.ClientError, OSError) as error:
            raise TransportError(str(error)) from error

    def close(self) -> None:
        """Close all connections, without waiting for their last words."""
        if self.session is not None and self.session.connector is not None:
            self.session.connector._close_immediately()  # close() wants a loop that runs on
            self.session.detach()
