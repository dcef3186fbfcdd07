"""Claims of calls: what one process is asking, no other asks meanwhile.

`<folder>/claims/<owner>.keys` has the keys of the calls that a process is making, `<owner>.alive`
is a lock that it holds while it lives. A claim ends with its call, or with its owner, however that
dies: then whoever wants the answer makes the call. Answers themselves are in the journal, written
before the claim is given back.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from prefactory.errors import store_error
from prefactory.folders import this_node
from prefactory.sharing.locks import held, locked
from prefactory.sharing.segments import Segments

_SUFFIX = ".keys"


class Claims:
    """Which calls of one engine this process is making. Safe for threads and processes.

    Attributes:
        look_s: how often at least it is looked whether others have answered what they claim.
        soon_s: calls are claimed at a time as many as are asked in so many seconds.
        later: where calls are claimed before they are wanted, if that takes long.
        segments: of the journal, where other machines have it as well.
    """

    look_s = 0.5
    soon_s = 0.1
    later: Executor | None = None
    segments: Segments | None = None

    def __init__(self, folder: Path) -> None:
        """Claim nothing yet.

        Args:
            folder: of the engine's journal; `claims` is made in it at the first claim.
        """
        self._folder = folder / "claims"
        self._mine: set[str] = set()
        self._changed = threading.Condition()
        self._alive: ExitStack | None = None
        self._owner = ""

    def take(self, keys: Sequence[str]) -> set[str]:
        """Those of some keys that nobody was making: they are this caller's until given back.

        Raises:
            StoreError: the disk refuses.
        """
        with self._changed, self._alone():
            others = self._of_others()
            taken = {key for key in keys if key not in others} - self._mine
            self._mine |= taken
            self._write()
        return taken

    def finish(self, keys: Iterable[str]) -> None:
        """Give claims back; other processes see it at the next `take` or `tell`."""
        with self._changed:
            self._mine.difference_update(keys)
            self._changed.notify_all()

    def tell(self) -> None:
        """Let other processes see what was given back."""
        with self._changed:
            if self._alive is not None:
                with self._alone():
                    self._write()

    def wait(self, seconds: float) -> None:
        """Wait until a thread of this process gives something back, so many seconds at most."""
        with self._changed:
            self._changed.wait(seconds)

    def close(self) -> None:
        """Give all back, and remove what a killed process claimed whose answers were all kept."""
        with self._changed:
            self._mine.clear()
            self._changed.notify_all()
            if self._alive is not None:
                with contextlib.suppress(OSError):  # without an owner it claims nothing
                    self._path().unlink(missing_ok=True)
                self._alive.close()
                self._alive = None
            if next(self._folder.glob(f"*{_SUFFIX}"), None) is not None:
                with contextlib.suppress(OSError), locked(self._folder / ".lock"):
                    self._of_others()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            with locked(self._folder / ".lock"):
                if self._alive is None:
                    self._owner = f"{this_node()}-{os.getpid()}-{secrets.token_hex(4)}"
                    self._alive = ExitStack()
                    self._alive.enter_context(locked(self._folder / f"{self._owner}.alive"))
                yield
        except OSError as error:
            told = f"calls can't be claimed in {self._folder}: {error}; what was answered is kept"
            raise store_error(told, error) from error

    def _path(self) -> Path:
        return self._folder / f"{self._owner}{_SUFFIX}"

    def _write(self) -> None:
        """Write in place: a file that is cut to nothing first may wait for the disk.

        Others read it under the lock, so a write that a kill ends halfway has no living owner.
        """
        if not self._mine:
            self._path().unlink(missing_ok=True)
            return
        keys = "\n".join(self._mine).encode("ascii")
        handle = os.open(self._path(), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(keys.ljust(os.fstat(handle).st_size, b"\n"))

    def _of_others(self) -> set[str]:
        """What living processes claim; the claims of dead ones are removed."""
        found: set[str] = set()
        for path in self._folder.glob(f"*{_SUFFIX}"):
            if path == self._path():
                continue
            if held(path.with_suffix(".alive")):
                found.update(path.read_text("ascii", "replace").split("\n"))
            else:
                path.unlink(missing_ok=True)
        return found
