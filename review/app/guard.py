"""What stands before every request: hosts, headers, rates."""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from urllib.parse import urlsplit

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with less, browsers send forms without their origin
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
MOST_BODY = 8 * 1024 * 1024
"""Bytes of one request."""
LOCAL = ("localhost", "127.0.0.1", "[::1]")


class Rates:
    """A bucket for each key: `burst` requests at once, `per_second` in the long run."""

    def __init__(self, per_second: float, burst: float, keys: int = 10_000) -> None:
        """Start with full buckets; of more than `keys` the oldest are forgotten."""
        self.per_second, self.burst, self.keys = per_second, burst, keys
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def allows(self, key: str) -> bool:
        """Take one request from a bucket, if it holds one."""
        now = time.monotonic()
        with self._lock:
            held, before = self._buckets.pop(key, (self.burst, now))
            held = min(self.burst, held + (now - before) * self.per_second)
            allowed = held >= 1
            self._buckets[key] = (held - allowed, now)
            if len(self._buckets) > self.keys:
                self._buckets.popitem(last=False)
        return allowed


def host_of(header: str) -> str:
    """The host of a Host header, without its port."""
    header = header.strip().lower()
    return re.sub(r":\d*$", "", header)


def place_of(origin: str) -> str:
    """The host and port of an Origin header; empty if it is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
