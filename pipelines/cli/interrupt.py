"""Ctrl-C during a run."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def end_at_interrupt() -> None:
    """Make Ctrl-C end this process at once, with exit code 3.

    Threads in the middle of a shard can't be interrupted, and need not be: what is finished is
    durable and what is not is made again, as after `kill -9`. Only Prefect's temporary server, a
    process of its own, is ended first.
    """
    signal.signal(signal.SIGINT, _end)


def _end(signum: int, frame: FrameType | None) -> None:
    server = sys.modules.get("prefect.server.api.server")
    running = server.SubprocessASGIServer._instances.values() if server else ()
    for process in [s.server_process for s in running if s.server_process]:
        process.terminate()
    sys.stderr.write("\nstopped; run the same command again to resume\n")
    sys.stderr.flush()
    os._exit(3)
