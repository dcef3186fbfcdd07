"""The engines behind every step that asks a model: one session per build."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console

from pipelines.settings import Settings

if TYPE_CHECKING:
    from prefactory.engines.accounts import Accounts

_LOG = logging.getLogger(__name__)


@contextmanager
def engines(
    settings: Settings, used: dict[str, dict[str, Any]] | None = None
) -> Iterator[Callable[[Any], Any]]:
    """`(engine config) -> Engine` for one build, journalled in the home; says what it used.

    Args:
        settings: home, prices and budget.
        used: filled at the end with what each model was used for (`Accounts.report`).

    Raises:
        ConfigError: the price file has the wrong form.
    """
    from prefactory.engines.session import Session

    with Session(settings.home / "journal", settings.prices, settings.budget) as session:
        try:
            with _progress(session.accounts):
                yield session.engine
        finally:
            report = session.report()
            if used is not None:
                used |= report
            for model, usage in report.items():
                _LOG.info(used_line(model, usage))


def used_line(model: str, used: dict[str, Any]) -> str:
    """One line about what a model was used for."""
    money = f"{used['usd']:.4f} US dollars" if used["priced"] else "price unknown"
    return (
        f"{model}: {used['calls']:,} calls, {used['reused']:,} from the journal, "
        f"{used['failures']:,} failures, {used['prompt_tokens']:,} + "
        f"{used['completion_tokens']:,} tokens, {money}"
    )


@contextmanager
def _progress(accounts: Accounts) -> Iterator[None]:
    """Say how the calls are going: a live line on a terminal, a plain line twice a minute else."""
    stop = threading.Event()
    console = Console(stderr=True, highlight=False)
    watch = _live if console.is_terminal else _plain
    thread = threading.Thread(target=watch, args=(accounts, stop, console), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _line(accounts: Accounts, started: float) -> str:
    used = accounts.total()
    pace = used.calls / max(time.monotonic() - started, 1e-9)
    money = f", {used.usd:.4f} US dollars" if used.usd else ""
    return (
        f"{used.calls:,} calls ({pace:.1f} a second), {used.reused:,} from the journal, "
        f"{used.failures:,} failures, {used.prompt_tokens + used.completion_tokens:,} tokens{money}"
    )


def _live(accounts: Accounts, stop: threading.Event, console: Console) -> None:
    started = time.monotonic()
    while not stop.wait(0.5):
        if accounts.total().calls:
            break
    else:
        return
    with console.status("") as status:
        while not stop.wait(0.5):
            status.update(_line(accounts, started))


def _plain(accounts: Accounts, stop: threading.Event, console: Console) -> None:
    started, last = time.monotonic(), ""
    while not stop.wait(30):
        line = _line(accounts, started)
        if accounts.total().calls and line != last:
            _LOG.info("%s", line)
            last = line
