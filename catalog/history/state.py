"""What a catalog keeps of a dataset beside its versions: tags, the head, numbers that were used.

One small file, `<name>/history.json`, written whole under the lock of the name, with the digest of
what it holds, and once more beside it: a damaged one is not believed, and the other stands in.
Versions themselves never change.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from prefactory.errors import CatalogError, disk_errors
from prefactory.folders import new_file
from prefactory.sharing.locks import locked
from prefactory.sharing.sealed import seal, unseal

_LOG = logging.getLogger(__name__)
FILE = "history.json"
COPY = "history.copy.json"


@dataclass(frozen=True)
class State:
    """What is kept of one dataset.

    Attributes:
        tags: name -> version.
        head: version that the bare name means since a rollback; the newest one if None.
        over: the newest version at that rollback: a newer one is the head again.
        removed: versions that were removed; their numbers are not used again.
    """

    tags: dict[str, str] = field(default_factory=dict)
    head: str | None = None
    over: str | None = None
    removed: tuple[str, ...] = ()


def read(folder: Path) -> State:
    """The state of a dataset's folder.

    Raises:
        CatalogError: the file is damaged, and so is its copy.
    """
    if not (folder / FILE).exists() and not (folder / COPY).exists():
        return State()
    for name in (FILE, COPY):
        try:
            return _state(folder / name)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _LOG.warning("%s is damaged (%s)", folder / name, error)
    raise CatalogError(
        f"{folder / FILE} and {COPY} are damaged; they hold tags, a rollback and the numbers that "
        "were used: remove both to go on without these"
    )


def _state(path: Path) -> State:
    return decode(path.read_bytes())


def encode(state: State) -> bytes:
    """A state as text, with its digest."""
    return seal(asdict(state), indent=2)


def decode(text: bytes) -> State:
    """The state that `encode` wrote.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is damaged.
    """
    data = unseal(text, [f.name for f in fields(State)])
    return State(
        {str(k): str(v) for k, v in data["tags"].items()},
        data["head"],
        data["over"],
        tuple(str(v) for v in data["removed"]),
    )


def change(root: Path, name: str, changed: Callable[[State], State]) -> State:
    """Change the state of a dataset, alone among threads and processes; return the new one.

    Raises:
        StoreError: the disk is full, or not writable.
    """
    with disk_errors(root), locked(root / f".{name}.lock"):
        state = changed(read(root / name))
        for file_name in (COPY, FILE):  # killed between the two, it has not happened
            with new_file(root / name / file_name) as file:
                file.write(encode(state))
        return state


def without(state: State, version: str) -> State:
    """The state once a version is removed: its number stays used."""
    removed = tuple(sorted({*state.removed, version}))
    if version in (state.head, state.over):
        return replace(state, head=None, over=None, removed=removed)
    return replace(state, removed=removed)
