"""Whether a file of a version is as its manifest lists it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from prefactory.store import file_digest


def problem_of(path: Path, listed: Mapping[str, Any] | None) -> str:
    """What is wrong with a file; "" if nothing.

    Args:
        path: of the file.
        listed: its `bytes` and `sha256`; None if the manifest does not list it.
    """
    return _problem(path, listed, file_digest)


def problem_at_first(path: Path, listed: Mapping[str, Any] | None) -> str:
    """The same, but a process reads a file once, unless it is changed."""

    def digest(path: Path, algorithm: str) -> str:
        now = path.stat()
        return _once(path, algorithm, now.st_size, now.st_mtime_ns)

    return _problem(path, listed, digest)


@lru_cache(maxsize=1 << 16)
def _once(path: Path, algorithm: str, size: int, changed_ns: int) -> str:
    del size, changed_ns  # which tell a file that is changed
    return file_digest(path, algorithm)


def _problem(
    path: Path, listed: Mapping[str, Any] | None, digest: Callable[[Path, str], str]
) -> str:
    if not path.is_file():
        return "missing"
    if listed is None:
        return ""
    if path.stat().st_size != listed["bytes"]:
        return f"{path.stat().st_size} bytes, not {listed['bytes']}"
    return "" if digest(path, "sha256") == listed["sha256"] else "its sha256 does not match"
