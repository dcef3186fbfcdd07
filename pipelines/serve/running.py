"""Runs in progress: each says in a small file of its home what it is at, and what it has cost."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from prefactory.folders import alive

if TYPE_CHECKING:
    from pipelines.progress import Progress
    from prefactory.engines.accounts import Accounts

FOLDER = "running"
EVERY_S = 2.0
"""Seconds between two reports of a run."""
SILENT_S = 60.0
"""Without a report for so long, a run on another machine counts as ended."""


@dataclass(frozen=True)
class Running:
    """A run as it last said.

    Attributes:
        name: of its recipe, or what is trained.
        pid, host: its process.
        began, at: seconds since 1970: its beginning, and when it said this.
        doing: one line on what goes on.
        calls, failures, tokens: of models so far, without answers from the journal.
        usd: what they cost, US dollars, as far as prices are known (`priced`).
        budget_usd: what they may cost; None without a budget.
    """

    name: str
    pid: int
    host: str
    began: float
    at: float
    doing: str = ""
    calls: int = 0
    failures: int = 0
    tokens: int = 0
    usd: float = 0.0
    priced: bool = True
    budget_usd: float | None = None

    @property
    def ended(self) -> bool:
        """Whether it ended without saying so: it was killed, or its machine is gone."""
        if self.host == socket.gethostname():
            return not alive(self.pid)
        return time.time() - self.at > SILENT_S


@contextmanager
def announced(home: Path, progress: Progress, accounts: Accounts | None) -> Iterator[None]:
    """Keep a report of a run while the block runs.

    A report that can't be written is left out: it must not end a run.
    """
    path = home / FOLDER / f"{os.getpid()}-{secrets.token_hex(4)}.json"
    began, stop = time.time(), threading.Event()

    def report() -> None:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_text(json.dumps(asdict(_now(progress, accounts, began))), "utf-8")
            part.replace(path)

    def watch() -> None:
        report()
        while not stop.wait(EVERY_S):
            report()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _now(progress: Progress, accounts: Accounts | None, began: float) -> Running:
    run = Running(progress.title, os.getpid(), socket.gethostname(), began, time.time())
    told = {"doing": progress.line(accounts)}
    if accounts is None:
        return Running(**asdict(run) | told)
    used = accounts.total()
    counted = {
        "calls": used.calls,
        "failures": used.failures,
        "tokens": used.prompt_tokens + used.completion_tokens,
        "usd": used.usd,
        "priced": all(model["priced"] for model in accounts.report().values()),
        "budget_usd": accounts.budget.usd,
    }
    return Running(**asdict(run) | told | counted)


def running(home: Path) -> list[Running]:
    """What the runs of a home last said, the longest going first; damaged reports are left out."""
    known = {f.name for f in fields(Running)}
    found = []
    for path in sorted((home / FOLDER).glob("*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            data = json.loads(path.read_text("utf-8"))
            found.append(Running(**{k: v for k, v in data.items() if k in known}))
    return sorted(found, key=lambda run: run.began)
