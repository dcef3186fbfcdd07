"""Ctrl-C during a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import FrameType


def end_at_interrupt() -> None:
    """Make Ctrl-C end this process at once, with exit code 3.

    Threads in the middle of a shard can't be interrupted, and need not be: what is finished is
    durable and what is not is made again, as after `kill -9`. Only Prefect's temporary server, a
    process of its own, is ended first.
    """
    signal.signal(signal.SIGINT, _end)


def temporary_servers() -> list[subprocess.Popen[bytes]]:
    """The servers that Prefect has started for runs of this process.

    Prefect has no public way to name them; where its private one is gone, they are left to end
    by themselves when nobody speaks to them any more.
    """
    module = sys.modules.get("prefect.server.api.server")
    instances = getattr(getattr(module, "SubprocessASGIServer", None), "_instances", {})
    processes = [getattr(server, "server_process", None) for server in instances.values()]
    return [process for process in processes if process is not None]


def _end(signum: int, frame: FrameType | None) -> None:
    for process in temporary_servers():
        process.terminate()
    sys.stderr.write("\nstopped; run the same command again to resume\n")
    sys.stderr.flush()
    os._exit(3)
