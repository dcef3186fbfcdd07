"""Which processes are at work on a place of a bucket, as the others can tell.

Each keeps `alive/<owner>` and changes it every few seconds. One that has not changed for long, by
the clock of who looks, is of a process that is gone, whatever that had claimed or kept back.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress

from prefactory.errors import StoreError
from prefactory.folders import alive, this_node
from prefactory.sharing import turns
from prefactory.sharing.bucket import Bucket

_LOG = logging.getLogger(__name__)
TICK_S = 2.0
"""How often what is new is told to the others, at most."""
_ALONE = "turns/journal"


class Presence:
    """This process, as long as it is at work on a place of a bucket. Safe for threads.

    Attributes:
        bucket: the place.
        owner: its name.
    """

    def __init__(self, bucket: Bucket) -> None:
        """Be there. Who drops answers is waited for.

        Raises:
            StoreError: the bucket can't be read or written.
        """
        self.bucket = bucket
        self.owner = f"{this_node()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._seen: dict[str, tuple[str, float]] = {}
        self._jobs: list[Callable[[], None]] = []
        self._over, self._wake = threading.Event(), threading.Event()
        self._beats = 0
        self._beat_at = self._steady_since = self.now()
        self._beat()
        seen, since = "", time.monotonic()
        while (found := bucket.read(_ALONE)) is not None:
            if found[1] != seen:
                seen, since = found[1], time.monotonic()
            elif time.monotonic() - since > turns.STALE_S:
                break  # who was alone is gone
            bucket.delete(_key(self.owner))
            time.sleep(min(1.0, turns.BEAT_S))
            self._beat()
        self._threads = [
            threading.Thread(target=work, daemon=True, name="presence")
            for work in (self._keep_beating, self._keep_telling)
        ]
        for thread in self._threads:
            thread.start()

    def often(self, job: Callable[[], None]) -> None:
        """Do something every `TICK_S` seconds, in a thread of its own."""
        self._jobs.append(job)

    def no_more(self, job: Callable[[], None]) -> None:
        """End that."""
        self._jobs.remove(job)

    def soon(self) -> None:
        """Do it now."""
        self._wake.set()

    def gone(self, owners: Collection[str]) -> set[str]:
        """Those of some processes that have left, or were silent for too long since first seen."""
        found: set[str] = set()
        if not owners:
            return found
        there, now = self.bucket.tags("alive"), time.monotonic()
        for owner in owners:
            tag = there.get(_key(owner))
            before, since = self._seen.get(owner, ("", now))
            if tag is None:
                found.add(owner)
            elif _killed(owner) or (tag == before and now - since > turns.STALE_S):
                found.add(owner)
                self.bucket.delete(_key(owner))
            elif tag != before:
                self._seen[owner] = tag, now
        return found

    def now(self) -> float:
        """Seconds on this machine's clock, which goes on while it sleeps (where there is such)."""
        return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

    def steady(self, since: float) -> bool:
        """Whether nobody can have taken this process for gone since then, by `now`."""
        return since >= self._steady_since and self.now() - self._beat_at < turns.STALE_S / 2

    def close(self) -> None:
        """Leave."""
        self._over.set()
        self._wake.set()
        for thread in self._threads:
            thread.join()
        with suppress(StoreError):  # then it is silent
            self.bucket.delete(_key(self.owner))

    def _beat(self) -> None:
        began = self.now()
        self._beats += 1
        self.bucket.upload(f"{self.owner} {self._beats}".encode(), _key(self.owner))
        if self.now() - self._beat_at > turns.STALE_S / 2:
            self._steady_since = self.now()
        self._beat_at = began

    def _keep_beating(self) -> None:
        while not self._over.wait(turns.BEAT_S):
            try:
                self._beat()
            except StoreError as error:  # the next may reach it
                _LOG.warning("%s", error)

    def _keep_telling(self) -> None:
        while not self._over.is_set():
            self._wake.wait(TICK_S)
            self._wake.clear()
            for job in list(self._jobs):
                try:
                    job()
                except StoreError as error:
                    _LOG.warning("%s", error)


@contextmanager
def alone(bucket: Bucket) -> Iterator[None]:
    """Keep all others away from the journals and budgets of a place, while nobody is at work.

    Raises:
        StoreError: somebody is.
    """
    with turns.in_turn(bucket, _ALONE, lambda: False):
        before = bucket.tags("alive")
        before = {key: tag for key, tag in before.items() if not _killed(key.split("/")[-1])}
        if before:
            _LOG.info("looking for %.0f s whether a run of before is alive", turns.STALE_S)
        ends = time.monotonic() + turns.STALE_S
        while before:
            time.sleep(min(1.0, turns.BEAT_S))
            now = bucket.tags("alive")
            if any(tag != now[key] for key, tag in before.items() if key in now):
                raise StoreError(
                    f"a run is using {bucket.url}; wait for its end, or stop it, and try again"
                )
            before = {key: tag for key, tag in before.items() if key in now}
            if time.monotonic() > ends:
                for key in before:
                    bucket.delete(key)
                break
        yield


def _key(owner: str) -> str:
    return f"alive/{owner}"


def _killed(owner: str) -> bool:
    """Whether a process was one of this machine, and is no more."""
    node, _, rest = owner.partition("-")
    return node == this_node() and not alive(int(rest.partition("-")[0]))
