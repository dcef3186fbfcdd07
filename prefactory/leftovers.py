"""Temporary folders that a killed process left behind, told from those of a living one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path

_NAME = re.compile(r"\.?.+-(?P<node>[0-9a-f]{8})-(?P<pid>\d+)-[^-]+")


@cache
def _node() -> str:
    """What a process id means something in: this boot of this machine, this process namespace."""
    marks = [platform.node()]
    with contextlib.suppress(OSError):  # Linux only
        marks.append(Path("/proc/sys/kernel/random/boot_id").read_text("utf-8"))
        marks.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.blake2b("\n".join(marks).encode(), digest_size=4).hexdigest()


def temporary_folder(parent: Path, name: str) -> Path:
    """Make a temporary folder whose name tells which process made it."""
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{name}-{_node()}-{os.getpid()}-", dir=parent))


def sweep(parent: Path) -> int:
    """Remove the temporary folders of processes that are no more; return how many."""
    removed = 0
    for path in parent.iterdir() if parent.is_dir() else ():
        found = _NAME.fullmatch(path.name)
        if found and found["node"] == _node() and not _alive(int(found["pid"])):
            shutil.rmtree(path, ignore_errors=True)
            removed += 1
    return removed


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
