"""Files and folders that are there whole and durable, or not at all.

They are written beside their place under a temporary name, fsynced, and renamed into it. The name
tells which process made it, so that what a killed one left behind can be told from the work of a
living one and removed (`sweep`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import BinaryIO

from prefactory.errors import ConfigError, DiskFullError, PrefactoryError, is_full

STALE_S = 3600.0
"""Age at which a temporary file (not a folder) counts as left behind, whoever made it."""
CHECKSUMS = "checksums.json"
"""In folders that `new_folder` made: what was written into them."""
UNFINISHED, FRONTIER = ".unfinished", ".frontier"
"""Ends of the names of folders beside a model that hold what its training can go on from."""
_NAME = re.compile(r"\.?.+-(?P<node>[0-9a-f]{8})-(?P<pid>\d+)-[^-]+")


@cache
def this_node() -> str:
    """What a process id means something in: this boot of this machine, this process namespace."""
    marks = [platform.node()]
    with contextlib.suppress(OSError):  # Linux only
        marks.append(Path("/proc/sys/kernel/random/boot_id").read_text("utf-8"))
        marks.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.blake2b("\n".join(marks).encode(), digest_size=4).hexdigest()


def _prefix(name: str) -> str:
    return f"{name}-{this_node()}-{os.getpid()}-"


@contextmanager
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """Make a folder in `parent`, made as well; what still has its name at the end is removed."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=_prefix(name), dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_file(final: Path) -> Iterator[BinaryIO]:
    """Open a file that has its name when the block ends: whole, durable, in place of an older one.

    After an exception nothing is left; what killed processes left in its folder before is removed.
    The folder is made.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=_prefix(f".{final.name}"), dir=final.parent)
    try:
        os.fchmod(handle, 0o644)
        with open(handle, "wb") as file:  # noqa: PTH123 - a file that is open already
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(final)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync(final.parent)
    sweep(final.parent)


@contextmanager
def new_folder(
    final: Path, error: type[PrefactoryError], *, checksums: bool = True
) -> Iterator[Path]:
    """Give a folder beside `final` to write into, and make it `final` at the end.

    After an exception nothing is left; what killed processes left there before is removed.

    Args:
        final: absent, or an empty folder.
        error: what is raised.
        checksums: list its files in it, so that `damaged` can tell later.

    Raises:
        error: `final` exists and is not an empty folder, or can't be made.
        DiskFullError: its disk is full.
    """
    if final.exists() and (not final.is_dir() or any(final.iterdir())):
        raise error(f"{final} exists already; name another folder, or remove it first")
    sweep(final.parent)
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(temporary_folder(final.parent, f".{final.name}"))
        except OSError as wrong:
            if is_full(wrong):
                raise DiskFullError(f"the disk of {final} is full; free some space") from wrong
            raise error(f"{final} can't be made ({wrong.strerror}); name another") from wrong
        yield folder
        for file in folder.rglob("*.safetensors"):  # the library lets only its owner read it
            file.chmod(0o644)
        if checksums:
            (folder / CHECKSUMS).write_text(checksums_of(folder / CHECKSUMS), "utf-8")
        settle(folder, final)


def checksums_of(listing: Path) -> str:
    """The files of a folder with their sizes and BLAKE2b digests, for a file of that folder."""
    found = {
        path.relative_to(listing.parent).as_posix(): [path.stat().st_size, _checksum(path)]
        for path in sorted(listing.parent.rglob("*"))
        if path.is_file() and path != listing
    }
    return json.dumps(found, indent=1)


def damaged(listing: Path) -> list[str]:
    """Files of a folder that are not as they were listed; none where nothing was listed."""
    try:
        text = listing.read_text("utf-8")
        listed = {str(name): (size, digest) for name, (size, digest) in json.loads(text).items()}
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, AttributeError):
        return [listing.name]
    wrong = []
    for name, (size, digest) in listed.items():
        path = listing.parent / name
        if not path.is_file() or path.stat().st_size != size or _checksum(path) != digest:
            wrong.append(name)
    return wrong


def undamaged(folder: Path) -> Path:
    """A folder that is whole, or lists no files; each is read once by a process.

    Raises:
        ConfigError: files of it are not as they were listed.
    """
    listing = folder / CHECKSUMS
    if listing.is_file():
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        if wrong := _damaged_once(listing, tuple((p, *_stamp(p)) for p in files)):
            raise ConfigError(
                f"{folder} is damaged ({', '.join(wrong[:3])}); remove it to make it again, or put "
                "a copy in its place"
            )
    return folder


def _stamp(path: Path) -> tuple[int, int]:
    now = path.stat()
    return now.st_size, now.st_mtime_ns


@lru_cache(maxsize=64)
def _damaged_once(listing: Path, stamps: tuple[tuple[Path, int, int], ...]) -> list[str]:
    del stamps  # which tell a file that is changed
    return damaged(listing)


def read_listed(path: Path) -> bytes:
    """The bytes of a file that its folder may list.

    Raises:
        OSError: it can't be read.
        ValueError: it is not as it was listed, or the list is damaged.
    """
    data, listing = path.read_bytes(), path.with_name(CHECKSUMS)
    listed = json.loads(listing.read_bytes()).get(path.name) if listing.is_file() else None
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    if listed not in (None, [len(data), digest]):
        raise ValueError("it is not as it was written")
    return data


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def settle(folder: Path, final: Path, mode: int = 0o755) -> None:
    """Make a folder with all that is in it durable, then visible as `final` in one rename.

    Args:
        folder: on the file system of `final`.
        final: absent, or an empty folder.
        mode: permissions of the folder.

    Raises:
        OSError: `final` holds something, or the disk fails.
    """
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)
    final.parent.mkdir(parents=True, exist_ok=True)
    folder.chmod(mode)
    folder.rename(final)
    sync(final.parent)


def sync(path: Path) -> None:
    """Make a file's bytes, or the names in a folder, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(parent: Path) -> int:
    """Remove the temporary files and folders of processes that are no more; return how many."""
    removed = 0
    for path in parent.iterdir() if parent.is_dir() else ():
        name = _NAME.fullmatch(path.name)
        if name and _left_behind(path, name["node"], int(name["pid"])):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(True)
            removed += 1
    return removed


def _left_behind(path: Path, node: str, pid: int) -> bool:
    if node == this_node():
        return not alive(pid)
    with contextlib.suppress(OSError):
        return path.is_file() and time.time() - path.stat().st_mtime > STALE_S
    return False


def alive(pid: int) -> bool:
    """Whether a process of this machine goes on."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
