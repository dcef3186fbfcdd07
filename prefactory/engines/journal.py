"""The journal: every finished call is on disk before its answer is used, and is never made twice.

`<root>/<engine fingerprint>/<time>-<pid>-<random>.calls` are segments, one per process that wrote,
of lines `crc32 key json`. Each line is written by one `write` the moment the call ends, so that
`kill -9` loses only calls in flight; it is fsynced, many lines at a time, before `run` returns and
once a second meanwhile, so that a power cut loses nothing that was used. A torn or damaged line
fails its checksum and is ignored.

Why not sqlite: writers of several processes would wait for each other, its shared-memory WAL does
not work on network file systems, and a commit per call costs more than the line. Appending to a
file of one's own needs no lock. The index keeps 16-byte keys and places, never answers.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import orjson

from prefactory.errors import StoreError, store_error
from prefactory.folders import new_file, sync
from prefactory.identity import fingerprint
from prefactory.sharing.locks import locked
from prefactory.sharing.segments import SUFFIX, Segments, another

_SYNC_S = 1.0
_LENGTH_BITS, _OFFSET_BITS = 28, 40


class Journal:
    """Finished calls of one engine. Safe for threads, and for processes with a journal each."""

    def __init__(
        self,
        root: Path,
        fingerprint: str,
        identity: Mapping[str, Any],
        segments: Segments | None = None,
    ) -> None:
        """Read what is there.

        Args:
            root: folder of all journals.
            fingerprint: of the engine; names its folder.
            identity: written beside the segments, for people.
            segments: brings those of other machines from a bucket, and sends this process's there.

        Raises:
            StoreError: the folder can't be read.
        """
        self.folder = root / fingerprint
        self._identity = dict(identity)
        self._shared = segments
        self._lock = threading.RLock()
        self._sync_lock = threading.Lock()
        self._index: dict[bytes, int] = {}
        self._paths: list[Path] = []
        self._read_to: dict[Path, int] = {}
        self._handles: dict[int, int] = {}
        self._file: int | None = None
        self._pid = 0
        self._number = -1
        self._size = 0
        self._synced = 0
        self._torn = False
        self._closing = threading.Event()
        self.refresh()

    def __len__(self) -> int:
        return len(self._index)

    def refresh(self) -> None:
        """Take in what other processes have written since the last look.

        Raises:
            StoreError: a segment can't be read.
        """
        if self._shared is not None:
            self._shared.fetch()
        with self._lock:
            for path in self._segments():
                if path not in self._read_to:
                    self._paths.append(path)
                    self._read_to[path] = 0
            for number, path in enumerate(self._paths):
                if number != self._number:
                    self._take_in(number, path)

    def get(self, key: str) -> dict[str, Any] | None:
        """What was answered to a key (32 hex digits); None if nothing was.

        Raises:
            StoreError: the segment can't be read any more.
        """
        with self._lock:
            packed = self._index.get(bytes.fromhex(key))
            if packed is None:
                return None
            length = packed & ((1 << _LENGTH_BITS) - 1)
            offset = packed >> _LENGTH_BITS & ((1 << _OFFSET_BITS) - 1)
            line = self._pread(packed >> (_LENGTH_BITS + _OFFSET_BITS), length, offset)
        answer = _value(line[42:])
        return answer if isinstance(answer, dict) else None

    def doubt(self, key: str, facts: Mapping[str, Any]) -> None:
        """Write that the answer to a key could not be used; the first word on it stays."""
        self.put(fingerprint(["doubt", key]), {"doubt": key, **facts})

    def entries(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """All that is written, by key: answers, and doubts about them (they have `doubt`)."""
        with self._lock:
            keys = list(self._index)
        for raw in keys:
            value = self.get(raw.hex())
            if value is not None:
                yield raw.hex(), value

    def put(self, key: str, value: Mapping[str, Any]) -> dict[str, Any] | None:
        """Write an answer; `commit` makes it durable.

        Returns:
            What was answered to the key before, which stays, or None.

        Raises:
            StoreError: it can't be written (full disk).
        """
        payload = b"%b %b" % (key.encode("ascii"), _json(value))
        line = b"%08x %b\n" % (zlib.crc32(payload), payload)
        with self._lock:
            raw = bytes.fromhex(key)
            if raw in self._index:
                return self.get(key)
            if len(line) >= 1 << _LENGTH_BITS:
                raise StoreError(f"an answer of {len(line)} bytes is too long for the journal")
            offset = self._append(line)
            self._index[raw] = _packed(self._number, offset, len(line))
            return None

    def commit(self) -> None:
        """Return when all that was put before is on the disk; threads share one fsync.

        Raises:
            StoreError: the disk refuses.
        """
        with self._lock:
            wanted, file = self._size, self._file
        if file is None or self._synced >= wanted:
            return
        with self._sync_lock:
            if self._synced >= wanted:
                return  # another thread's fsync covered it
            with self._lock:
                size = self._size
            try:
                os.fsync(file)
            except OSError as error:
                told = f"can't write the journal in {self.folder}: {error}"
                raise store_error(told, error) from error
            self._synced = size

    def close(self) -> None:
        """Make all durable and close the files."""
        self._closing.set()
        self.commit()
        with self._lock:
            for handle in {*self._handles.values(), *([] if self._file is None else [self._file])}:
                with contextlib.suppress(OSError):
                    os.close(handle)
            self._handles, self._file, self._number = {}, None, -1

    # -- writing -------------------------------------------------------------------------------

    def _append(self, line: bytes) -> int:
        """Write a line whole and return its offset; after a torn one, begin on a new line."""
        file = self._own()
        data = b"\n" + line if self._torn else line
        offset = self._size + len(data) - len(line)
        try:
            written = os.write(file, data)
            self._size += written
            while written < len(data):
                more = os.write(file, data[written:])
                written += more
                self._size += more
        except OSError as error:
            self._torn = True
            with contextlib.suppress(OSError):
                self._size = os.fstat(file).st_size
            raise store_error(
                f"can't write the journal in {self.folder}: {error}; free some space and run the "
                "same command again: what was answered is kept",
                error,
            ) from error
        self._torn = False
        return offset

    def _own(self) -> int:
        """This process's segment, begun at its first answer."""
        if self._file is not None and self._pid == os.getpid():
            return self._file
        self._pid = os.getpid()  # a forked process begins a segment of its own
        name = f"{time.time_ns():019d}-{os.getpid()}-{uuid.uuid4().hex[:8]}{SUFFIX}"
        path = self.folder / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._describe()
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
            self._file = os.open(path, flags, 0o600)
            sync(self.folder)
        except OSError as error:
            told = f"can't begin a journal in {self.folder}: {error}"
            raise store_error(told, error) from error
        self._number, self._size, self._synced = len(self._paths), 0, 0
        self._paths.append(path)
        self._read_to[path] = 0
        self._handles[self._number] = self._file
        if self._shared is not None:
            self._shared.begun(path)
        threading.Thread(target=self._sync_often, daemon=True, name="journal").start()
        return self._file

    def _sync_often(self) -> None:
        while not self._closing.wait(_SYNC_S):
            with contextlib.suppress(StoreError):  # the next commit tells
                self.commit()

    def _describe(self) -> None:
        path = self.folder / "engine.json"
        if not path.exists():
            text = json.dumps(self._identity, indent=1, sort_keys=True)
            path.write_text(text, encoding="utf-8")

    # -- reading -------------------------------------------------------------------------------

    def _segments(self) -> list[Path]:
        try:
            with os.scandir(self.folder) as entries:
                return sorted(Path(e.path) for e in entries if e.name.endswith(SUFFIX))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"can't read the journal in {self.folder}: {error}") from error

    def _take_in(self, number: int, path: Path) -> None:
        """Index the whole lines after what was read; the last may still be in the writing."""
        start = self._read_to[path]
        try:
            with path.open("rb") as file:  # a network file system looks anew when it opens
                if os.fstat(file.fileno()).st_size <= start:
                    return
                file.seek(start)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    if _sound(line):
                        key = bytes.fromhex(line[9:41].decode())
                        self._index.setdefault(key, _packed(number, start, len(line)))
                    start += len(line)
        except OSError as error:
            raise StoreError(f"can't read the journal at {path}: {error}") from error
        self._read_to[path] = start

    def _pread(self, number: int, length: int, offset: int) -> bytes:
        try:
            if number not in self._handles:
                flags = os.O_RDONLY | os.O_CLOEXEC
                self._handles[number] = os.open(self._paths[number], flags)
            line = os.pread(self._handles[number], length, offset)
        except OSError as error:
            raise StoreError(f"can't read the journal in {self.folder}: {error}") from error
        if not _sound(line):
            raise StoreError(f"the journal at {self._paths[number]} changed under us; run again")
        return line


def in_use(root: Path, shared: bool = True) -> AbstractContextManager[None]:
    """Hold all journals of a home: shared by runs, alone by who drops answers.

    Raises:
        StoreError: a run holds them, and they are wanted alone.
    """

    def busy() -> None:
        if not shared:
            raise StoreError(
                f"a run is using the journal in {root}; wait for its end, or stop it, and try again"
            )

    return locked(root / ".in_use", shared=shared, busy=busy)


def drop(
    folder: Path,
    gone: Callable[[str], bool],
    replace: Callable[[Path, Path], object] = lambda old, new: old.unlink(),
) -> int:
    """Rewrite the segments of one engine without some entries; call it within `in_use(alone)`.

    Who is killed on the way has dropped less.

    Args:
        folder: of the engine's journal.
        gone: tells by its key (32 hex digits) whether an entry goes. Doubts about an answer that
            goes are named apart.
        replace: removes a segment for which there is another one.

    Returns:
        Entries that went.
    """
    dropped = 0
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        lines = path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if not (_sound(line) and gone(line[9:41].decode()))]
        if len(kept) < len(lines):
            dropped += len(lines) - len(kept)
            with new_file(new := another(path)) as file:
                file.writelines(kept)
            replace(path, new)
    return dropped


def _sound(line: bytes) -> bool:
    """Tell whether a line is whole: checksum, key, JSON."""
    try:
        return len(line) > 43 and int(line[:8], 16) == zlib.crc32(line[9:-1])
    except ValueError:
        return False


def _json(value: Mapping[str, Any]) -> bytes:
    """JSON in one line; what the fast writer refuses or changes by Python's."""
    with contextlib.suppress(orjson.JSONEncodeError):  # lone surrogates
        if _all_finite(value.values()):
            return orjson.dumps(value)
    return json.dumps(value, separators=(",", ":")).encode()


def _all_finite(values: Iterable[Any]) -> bool:
    """No NaN or infinity, which the fast writer makes null."""
    return all(
        math.isfinite(v) if type(v) is float else _all_finite(v) if type(v) is list else True
        for v in values
    )


def _value(line: bytes) -> Any:  # noqa: ANN401 - JSON value
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:  # what only Python's writer can have written
        return json.loads(line)


def _packed(number: int, offset: int, length: int) -> int:
    return (number << _OFFSET_BITS | offset) << _LENGTH_BITS | length
