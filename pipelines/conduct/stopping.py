"""Ctrl-C, and SIGTERM (`docker stop`, systemd, Kubernetes), during a run: exit code 3, resumable.

What is finished is durable and what is not is made again, as after `kill -9`; so a thread in the
middle of a shard need not be waited for. Helpers in processes of their own (Prefect's temporary
server, llama.cpp) read a pipe that only this process holds, and end with it however it dies.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 3
PATIENCE_S = 8.0
"""How long Prefect has to report a run that was stopped; `docker stop` kills after 10 s."""

LEAVE_S = 4.0
"""How long it may take to put the last answers into a bucket, and to give back what is claimed."""


def end_at_signals() -> None:
    """Make Ctrl-C and SIGTERM end this process at once, with a line and exit code 3."""
    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)


def end(signum: int = 0, frame: FrameType | None = None) -> None:
    """Say how to go on, tell other machines if there are any, and end this process."""
    sys.stderr.write("\nstopped; run the same command again to resume\n")
    sys.stderr.flush()
    if (session := sys.modules.get("prefactory.engines.session")) is not None:
        session.leave(LEAVE_S)
    os._exit(EXIT_CODE)


@contextmanager
def ended_in_time() -> Iterator[None]:
    """End this process some seconds after SIGTERM, if who handles it else has not.

    Prefect raises an exception in the main thread, tells its server that the run crashed, and waits
    for all shards in work. One that can't be interrupted would hold it for as long as it takes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)

    def on_term(signum: int, frame: FrameType | None) -> None:
        timer = threading.Timer(PATIENCE_S, end)
        timer.daemon = True
        timer.start()
        if callable(before):
            before(signum, frame)
        else:
            end()

    signal.signal(signal.SIGTERM, on_term)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is on_term:
            signal.signal(signal.SIGTERM, before)
