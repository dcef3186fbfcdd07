"""Prefect's server for one run: started when none is set, and gone with this process.

Prefect starts one by itself, which outlives a parent that is killed, holds its outputs open, and is
given up after 20 s on a busy machine. Ours reads a pipe that only this process holds, and ends when
that ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from prefect.context import refresh_global_settings_context
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, get_current_settings, temporary_settings

from prefactory.errors import ConfigError

_LOG = logging.getLogger(__name__)
LIMIT_S = 300.0
FIRST_LINE_S, EVERY_S = 5.0, 20.0
"""Seconds until it is said that the server is waited for, and between two such lines."""
_URL = "PREFECT_API_URL"
_ERROR = re.compile(r"[\w.]+(Error|Exception): ")
_HALF_MADE = re.compile(
    r"sqlite3.*(already exists|no such table|no such column|duplicate column|malformed|"
    r"not a database)|Can't locate revision"
)
_PROGRAM = """
import os, socket, sys, threading
def end_with_parent():
    sys.stdin.buffer.read()
    os._exit(0)
threading.Thread(target=end_with_parent, daemon=True).start()
import uvicorn
from prefect.server.api.server import create_app
config = uvicorn.Config(create_app, factory=True, log_level="error", lifespan="on")
uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])
"""
_ITSELF = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",  # into a file that is read where it does not start
}


@contextmanager
def temporary_server() -> Iterator[str]:
    """A server on this machine for the time of the block; Prefect's settings name it.

    Yields:
        Its address.

    Raises:
        ConfigError: it did not start; with its last words.
    """
    with tempfile.TemporaryFile() as log, _listening() as at:
        process = _start(at, log)
        url = f"http://127.0.0.1:{at.getsockname()[1]}/api"
        at.close()
        try:
            _wait_until_up(process, url, log)
            with _named(url):
                yield url
                APILogHandler().flush()  # later there is no server, and Prefect tries long
        finally:
            _stop(process)


@contextmanager
def _named(url: str) -> Iterator[None]:
    """Let Prefect know the address in all threads, those with no context of Prefect's, too."""
    before = os.environ.get(_URL)
    os.environ[_URL] = url
    refresh_global_settings_context()
    try:
        with temporary_settings({PREFECT_API_URL: url}):
            yield
    finally:
        if before is None:
            del os.environ[_URL]
        else:
            os.environ[_URL] = before
        refresh_global_settings_context()


def _listening() -> socket.socket:
    at = socket.socket()
    at.bind(("127.0.0.1", 0))
    return at


def _start(at: socket.socket, log: IO[bytes]) -> subprocess.Popen[bytes]:
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", _PROGRAM, str(at.fileno())],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        pass_fds=[at.fileno()],
        start_new_session=True,  # Ctrl-C is for the run
        env={**os.environ, **settings, **_ITSELF},
    )


def _wait_until_up(process: subprocess.Popen[bytes], url: str, log: IO[bytes]) -> None:
    began = time.monotonic()
    told = FIRST_LINE_S
    while not _answers(url):
        waited = time.monotonic() - began
        if process.poll() is not None or waited > LIMIT_S:
            raise ConfigError(_no_server(process.poll() is not None, waited, log))
        if waited >= told:
            _LOG.info("Prefect's server is starting, %.0f s (--runner threads needs none)", waited)
            told += EVERY_S
        time.sleep(0.1)


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError):  # refused, late, or not ready
        plain = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with plain.open(f"{url}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    return False


def _no_server(ended: bool, waited: float, log: IO[bytes]) -> str:
    """Why there is no server, in a sentence with a cure."""
    words = _last_words(log)
    if _HALF_MADE.search(words):
        return (
            f"Prefect's server can't use its database {PREFECT_HOME.value() / 'prefect.db'} "
            f"({words}), as where its making was interrupted: move the file away (it holds what "
            "Prefect noted of past runs, nothing of ours), set PREFECT_HOME to another folder, or "
            "run with --runner threads"
        )
    return (
        f"no Prefect server (it {'ended' if ended else 'is silent'} after {waited:.0f} s"
        f"{words and f'; its last words: {words}'}); run with --runner threads, or start one with "
        "`prefect server start` and set PREFECT_API_URL"
    )


def _last_words(log: IO[bytes]) -> str:
    """The last error that a server named, or else its last line."""
    log.seek(0)
    lines = [line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    return (errors or lines or [""])[-1].strip()[:300]


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()
