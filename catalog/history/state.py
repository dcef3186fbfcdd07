"""What a catalog keeps of a dataset beside its versions: tags, the head, numbers that were used.

One small file, `<name>/history.json`, written whole under the lock of the name. Versions themselves
never change.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from prefactory.errors import CatalogError
from prefactory.folders import new_file
from prefactory.sharing.locks import locked

FILE = "history.json"


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
        CatalogError: the file is damaged.
    """
    path = folder / FILE
    try:
        data = json.loads(path.read_text("utf-8"))
        return State(
            {str(k): str(v) for k, v in data["tags"].items()},
            data["head"],
            data["over"],
            tuple(str(v) for v in data["removed"]),
        )
    except FileNotFoundError:
        return State()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CatalogError(
            f"{path} is damaged ({error}); it holds tags and a rollback: without it they are lost"
        ) from error


def change(root: Path, name: str, changed: Callable[[State], State]) -> State:
    """Change the state of a dataset, alone among threads and processes; return the new one."""
    with locked(root / f".{name}.lock"):
        state = changed(read(root / name))
        with new_file(root / name / FILE) as file:
            file.write(json.dumps(asdict(state), indent=2, sort_keys=True).encode() + b"\n")
        return state


def without(state: State, version: str) -> State:
    """The state once a version is removed: its number stays used."""
    removed = tuple(sorted({*state.removed, version}))
    if version in (state.head, state.over):
        return replace(state, head=None, over=None, removed=removed)
    return replace(state, removed=removed)
