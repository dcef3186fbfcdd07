"""How many requests may be in flight: found by trying, as TCP does.

It starts with what the user allows, 256 at most, doubles per round trip until the first sign of
overload, and from then on grows by one per round trip and halves at each overload. Used within one
event loop, so without locks.
"""

from __future__ import annotations

import asyncio
from collections import deque

START = 256
"""Slots at the start, if the user allows as many: eight, doubled each time, lost a fifth of the
first second at 64 in flight and two fifths at 256, of servers that answer in a tenth of it."""


class Slot:
    """The right to have one request in flight; giving it back twice does nothing."""

    __slots__ = ("_limiter", "began")

    def __init__(self, limiter: Limiter, began: float) -> None:
        """Keep when it was got (seconds of the loop's clock)."""
        self._limiter: Limiter | None = limiter
        self.began = began

    def release(self) -> None:
        """Give the slot back."""
        limiter, self._limiter = self._limiter, None
        if limiter is not None:
            limiter.give_back()


class Limiter:
    """Hands out slots, first come, first served.

    Attributes:
        limit: slots at present, 1 to `most`.
        in_flight: slots in use.
    """

    def __init__(self, most: int) -> None:
        """Start with `START` at most.

        Args:
            most: upper bound of slots.
        """
        self.most = most
        self.limit = float(min(START, most))
        self.in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._doubling = True
        self._cut_at = -1.0
        self._paused_until = 0.0

    async def acquire(self) -> Slot:
        """Wait for a slot; release it."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if not self._waiting and self._free(now):
            self.in_flight += 1
            return Slot(self, now)
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        self._wake()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back()
            raise
        return Slot(self, loop.time())

    def give_back(self) -> None:
        """Take a slot back and hand it on; `Slot.release` calls it once."""
        self.in_flight -= 1
        self._wake()

    def success(self) -> None:
        """Note an answer, before its slot is released; grow if the slots are in use.

        Half of them are enough: answers that come together free many slots at once.
        """
        if 2 * self.in_flight < int(self.limit):
            return
        step = 1.0 if self._doubling else 1.0 / self.limit
        self.limit = min(float(self.most), self.limit + step)

    def overload(self, began: float, pause_s: float = 0.0) -> None:
        """Note that the server had too much to do.

        Args:
            began: when the request got its slot; those from before the last cut do not cut again.
            pause_s: for how long the server asks for silence, seconds.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        if began > self._cut_at:
            self.limit = max(1.0, self.limit / 2)
            self._doubling = False
            self._cut_at = now
        if pause_s > 0 and now + pause_s > self._paused_until:
            self._paused_until = now + pause_s
            loop.call_later(pause_s + 0.001, self._wake)

    def _free(self, now: float) -> bool:
        return self.in_flight < int(self.limit) and now >= self._paused_until

    def _wake(self) -> None:
        if not self._waiting:
            return
        now = asyncio.get_running_loop().time()
        while self._waiting and self._free(now):
            turn = self._waiting.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)
