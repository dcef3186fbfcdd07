"""One at a time, among machines that reach the same bucket.

Who is at work keeps a small object and changes it every few seconds; one that does not change any
more holds nobody up. That is told by its tag and by the clock of who waits alone.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prefactory.errors import StoreError
from prefactory.sharing.bucket import Bucket

_LOG = logging.getLogger(__name__)
BEAT_S = 5.0
"""How often who is at work says so."""
STALE_S = 60.0
"""How long it may not have said so, until another one takes its place."""


@contextmanager
def in_turn(bucket: Bucket, name: str, done: Callable[[], bool]) -> Iterator[None]:
    """Be the only one in this block, or come into it at once where there is nothing left to do.

    Who was silent for too long may still be at work: what counts is put by `Bucket.create`.

    Args:
        bucket: that all reach.
        name: key of the object that stands for the turn.
        done: whether another one has done it meanwhile.

    Raises:
        StoreError: the bucket can't be read or written.
    """
    me = f"{os.uname().nodename} {os.getpid()} {secrets.token_hex(4)}"
    tag = _taken(bucket, name, me, done)
    if tag is None:
        yield
        return
    over = threading.Event()
    beating = threading.Thread(target=_beat, args=(bucket, name, me, tag, over), daemon=True)
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join()
        bucket.delete(name)


def _taken(bucket: Bucket, name: str, me: str, done: Callable[[], bool]) -> str | None:
    seen, since, told = "", time.monotonic(), False
    while True:
        if bucket.create(name, me.encode()):
            found = bucket.read(name)
            if found is not None:
                return found[1]
        if done():
            return None
        found = bucket.read(name)
        if found is None:
            continue
        if found[1] != seen:
            seen, since = found[1], time.monotonic()
        elif time.monotonic() - since > STALE_S:
            tag = bucket.replace_if(name, f"{me} took over".encode(), seen)
            if tag is not None:
                return tag
        if not told:
            told = True
            _LOG.info("waiting for another run that is making the same")
        time.sleep(min(1.0, BEAT_S))


def _beat(bucket: Bucket, name: str, me: str, tag: str, over: threading.Event) -> None:
    beats = 0
    while not over.wait(BEAT_S):
        beats += 1
        try:
            new = bucket.replace_if(name, f"{me} {beats}".encode(), tag)
        except StoreError as error:  # the next beat may reach it
            _LOG.warning("%s", error)
            continue
        if new is None:
            return  # taken over
        tag = new
