"""Locks among threads, processes and machines that share a home.

A lock is a file that its holder has locked (`flock`), which the system gives back when the holder
dies. Where the file system has no such locks (some network and FUSE ones), the holders of a lock
are files in a folder beside it, named by machine and process and touched every few seconds; one
that is not touched any more, or whose process is gone, holds nothing. That needs no more than new
files that others see when they list the folder: no hard links, no clocks that agree.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from prefactory.errors import store_error
from prefactory.folders import alive, this_node

_LOG = logging.getLogger(__name__)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
BEAT_S = 5.0
"""How often a holder touches its file."""
SILENT_S = 60.0
"""A file that is not touched for so long, by the clock of who looks, holds nothing any more."""


@contextmanager
def locked(
    path: Path, *, shared: bool = False, busy: Callable[[], object] | None = None
) -> Iterator[None]:
    """Hold a lock among threads and processes; that of a killed one is free again.

    Args:
        path: of the file that stands for the lock; made as well as its folder, removed by its last
            holder.
        shared: with others who share it.
        busy: called once if somebody else holds it, before waiting; what it raises ends the wait.

    Raises:
        StoreError: the file can't be made.
    """
    while True:
        handle = _lock_file(path)
        try:
            if not _taken(handle, shared, busy):
                with _leased(path, shared, busy):
                    yield
                return
            if not _names(path, handle):  # its last holder has removed it
                continue
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # shared by others, or a disk that refuses
                    if shared:
                        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink(missing_ok=True)
            return
        finally:
            with contextlib.suppress(OSError):  # a forked child has the handle, and may live on
                fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)


class _HeldError(Exception):
    """Somebody holds it."""


def held(path: Path) -> bool:
    """Whether somebody holds a lock alone. A lock that a killed process left is removed."""

    def busy() -> None:
        raise _HeldError

    try:
        with locked(path, busy=busy):
            return False
    except _HeldError:
        return True


def _lock_file(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        told = f"{path} can't be written ({error.strerror}); nothing finished is lost"
        raise store_error(told, error) from error


def _taken(handle: int, shared: bool, busy: Callable[[], object] | None) -> bool:
    """Lock a file, waiting for others; False if the file system has no locks."""
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if busy is not None:
                busy()
            fcntl.flock(handle, kind)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _say_no_locks()
        return False
    return True


@cache
def _say_no_locks() -> None:
    _LOG.warning(
        "the file system of the home has no locks: runs tell each other by files instead, and wait "
        "for %.0f s where one was killed on another machine",
        SILENT_S,
    )


def _names(path: Path, handle: int) -> bool:
    """Whether a path still is the file that was opened."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(handle))
    return False


# -- where the file system has no locks ------------------------------------------------------------


@contextmanager
def _leased(path: Path, shared: bool, busy: Callable[[], object] | None) -> Iterator[None]:
    """Hold a lock by a file of one's own in a folder.

    Who finds nobody else there makes its file and looks again: of two that did so at once each may
    see the other, and both give way and try again after a while of their own; never do both stay.
    """
    folder = path.with_name(f"{path.name}.holders")
    mine = folder / f"{'s' if shared else 'x'}-{this_node()}-{os.getpid()}-{secrets.token_hex(4)}"
    while not _alone(mine, shared):
        if busy is not None:
            busy()
            busy = None
        time.sleep((50 + secrets.randbelow(150)) / 1000)
    beats = _beats()
    beats.add(mine)
    try:
        yield
    finally:
        beats.discard(mine)
        mine.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others are in it
            folder.rmdir()
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _alone(mine: Path, shared: bool) -> bool:
    if _others(mine, shared):
        return False
    try:
        mine.parent.mkdir(parents=True, exist_ok=True)
        mine.touch(0o600)
    except (FileNotFoundError, FileExistsError):  # its last holder is removing the folder
        return False
    except OSError as error:
        told = f"{mine} can't be written ({error.strerror}); nothing finished is lost"
        raise store_error(told, error) from error
    if not _others(mine, shared):
        return True
    mine.unlink(missing_ok=True)
    return False


def _others(mine: Path, shared: bool) -> bool:
    """Whether somebody alive holds the lock in a way that excludes mine; the dead are removed."""
    try:
        holders = list(mine.parent.iterdir())
    except FileNotFoundError:
        return False
    found = False
    for path in holders:
        if path == mine or (shared and path.name.startswith("s")):
            continue
        if _dead(path):
            path.unlink(missing_ok=True)
        else:
            found = True
    return found


_LAST: dict[Path, tuple[int, float]] = {}
"""Of other holders: when they touched their file last, and when that was first seen here."""


def _dead(path: Path) -> bool:
    _, where, pid, _ = path.name.split("-")
    if where == this_node() and not alive(int(pid)):
        return True
    try:
        touched = path.stat().st_mtime_ns
    except FileNotFoundError:
        return True
    now = time.monotonic()
    before, since = _LAST.get(path, (None, now))
    if before != touched:
        _LAST[path] = touched, now
        return False
    return now - since > SILENT_S


@cache
def _beats_of(pid: int) -> set[Path]:
    """Files that a process touches while it lives."""
    del pid  # a forked child has none of its parent's
    files: set[Path] = set()

    def beat() -> None:
        while True:
            time.sleep(BEAT_S)
            for file in list(files):
                with contextlib.suppress(OSError):
                    os.utime(file)

    threading.Thread(target=beat, daemon=True, name="locks").start()
    return files


def _beats() -> set[Path]:
    return _beats_of(os.getpid())
