"""What a connection may take: bytes before a request is told, time, and its like from an address.

Nobody is asked who he is before that: whoever can reach the server could fill its memory with one
endless header, or take all its connections and say nothing.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_HEAD = 65536
"""Bytes of a request's line and headers."""
PATIENCE_S = 60.0
"""Seconds in which a request must be there, else the connection ends."""
MOST_OF_ONE = 200
"""Connections from one address at a time."""


class Connection(H11Protocol):
    """A connection that ends when it is waited for in vain."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, unless its address has too many."""
        super().connection_made(transport)
        self._answered = False
        hosts = [client[0] for c in self.connections if (client := getattr(c, "client", None))]
        if self.client is not None and hosts.count(self.client[0]) > MOST_OF_ONE:
            transport.abort()
            return
        self._timer = self.loop.call_later(PATIENCE_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """End, and with it what waits for its end."""
        if hasattr(self, "_timer"):
            self._timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Go on to the next request."""
        self._answered = True
        super().on_response_complete()

    def _look(self) -> None:
        """End it if nothing was answered of late and no request is at work; else look again."""
        work = self.cycle
        idle = work is None or work.response_complete or work.more_body
        if idle and not self._answered:
            self.transport.abort()
            return
        self._answered = False
        self._timer = self.loop.call_later(PATIENCE_S, self._look)
