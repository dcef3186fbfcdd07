"""How a run is going: a live line on a terminal, a plain line every ten seconds in a log.

It is read off what is counted anyway, by a thread of its own, so it costs a run nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from prefactory.engines.accounts import Accounts

_LOG = logging.getLogger(__name__)
FIRST_S, EVERY_S, LIVE_S = 1.0, 10.0, 0.5
"""Seconds to the first plain line of what goes on, between two of them, and of a live one."""


class Progress:
    """What is going on now. Safe for threads.

    Attributes:
        title: of the whole: a recipe, a training.
        what: label of the step, or of the training.
        done, total: parts of it, of which there are so many; a total of 0 is not known.
        unit: what the parts are.
    """

    def __init__(self, title: str = "") -> None:
        """Begin with nothing."""
        self.title = title
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self.what, self.unit = "", "parts"
        self.done = self.total = self.calls = self.rows = 0

    def begin(self, what: str, total: int, unit: str, calls: int = 0, rows: int = 0) -> None:
        """Something begins.

        Args:
            what: its label.
            total: parts of it.
            unit: what they are: `shards`, `steps`.
            calls: of models that it makes at most; 0 if none.
            rows: that it works on.
        """
        with self._lock:
            if what != self.what:
                self._began = time.monotonic()
            self.what, self.total, self.unit, self.done = what, total, unit, 0
            self.calls, self.rows = calls, rows

    def advance(self, done: int | None = None) -> None:
        """One part more is done, or so many in all."""
        with self._lock:
            self.done = self.done + 1 if done is None else done

    def line(self, accounts: Accounts | None) -> str:
        """What goes on, in one line; empty if nothing does."""
        with self._lock:
            what, done, total, unit = self.what, self.done, self.total, self.unit
            calls, rows, began = self.calls, self.rows, self._began
        seconds = max(time.monotonic() - began, 1e-9)
        label = what.removesuffix(" (fit)").removesuffix(" (gold)")
        used = accounts.of_step(label) if accounts is not None else None
        if used is not None and (used.calls or used.reused or used.failures):
            answered = used.calls + used.reused + used.failures
            pace = (used.calls + used.failures) / seconds
            parts = [
                f"{_of(answered, calls)} calls",
                *([f"{pace:.1f} a second", *_left(calls - answered, pace)] if seconds > 1 else []),
                f"{used.prompt_tokens + used.completion_tokens:,} tokens",
                *([f"{used.usd:.4f} US dollars"] if used.usd else []),
                *([f"{used.reused:,} from the journal"] if used.reused else []),
                f"{used.failures:,} failures",
            ]
            return f"{what}: {', '.join(parts)}"
        if not what:
            return ""
        asks = [f"{_of(0, calls)} calls"] if calls else []
        pace = done / seconds
        parts = [
            *asks,
            *([f"{_of(done, total)} {unit}"] if total > 1 or (total and not asks) else []),
            *([f"{rows:,} rows"] if rows else []),
            *([f"{pace:.2g} {unit} a second"] if done and total > 1 else []),
            *_left(total - done if done else 0, pace),
            f"{seconds:.0f} s",
        ]
        return f"{what}: {', '.join(parts)}"

    @contextmanager
    def shown(self, accounts: Accounts | None = None, live: bool = True) -> Iterator[Progress]:
        """Show it while the block runs, in plain lines if not live."""
        stop = threading.Event()
        console = Console(stderr=True, highlight=False)
        watch = self._live if live and console.is_terminal else self._plain
        thread = threading.Thread(target=watch, args=(accounts, stop, console), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()

    def _live(self, accounts: Accounts | None, stop: threading.Event, console: Console) -> None:
        with console.status("") as status:
            while not stop.wait(LIVE_S):
                status.update(self.line(accounts) or _calls(accounts))

    def _plain(self, accounts: Accounts | None, stop: threading.Event, console: Console) -> None:
        wait, last = FIRST_S, ""
        while not stop.wait(wait):
            line = self.line(accounts) or _calls(accounts)
            if line and line != last:
                _LOG.info("%s", line)
                last = line
            wait = EVERY_S


def _of(done: int, total: int) -> str:
    return f"{done:,} of {total:,}" if total >= done and total else f"{done:,}"


def _left(left: int, pace: float) -> list[str]:
    """Time left, for what is left at a pace a second."""
    if left <= 0 or pace <= 0:
        return []
    seconds = left / pace
    text = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    return [f"about {text if seconds < 7200 else f'{seconds / 3600:.1f} h'} left"]


def _calls(accounts: Accounts | None) -> str:
    """What all calls together come to, where nobody says what goes on."""
    used = accounts.total() if accounts is not None else None
    if used is None or not used.calls:
        return ""
    money = f", {used.usd:.4f} US dollars" if used.usd else ""
    tokens = used.prompt_tokens + used.completion_tokens
    return f"{used.calls:,} calls, {used.failures:,} failures, {tokens:,} tokens{money}"
