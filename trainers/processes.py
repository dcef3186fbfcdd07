"""Which process of a distributed training this is, and what only the first one does."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefactory.errors import ConfigError
from prefactory.folders import new_folder


def first() -> bool:
    """Whether this is the process that writes; the only one, if there is one."""
    return os.environ.get("RANK", "0") == "0"


def processes() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def model_folder(final: Path) -> Iterator[Path]:
    """The folder to write a model into: `final`, whole or not at all; scratch for other processes.

    Raises:
        ConfigError: `final` exists and is not an empty folder, or can't be made.
    """
    if first():
        with new_folder(final, ConfigError) as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory(prefix="prefactory-") as scratch:
        yield Path(scratch)
