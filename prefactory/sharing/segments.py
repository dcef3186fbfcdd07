"""The segments of a journal in a bucket, and copies of them in the journal's folder.

A segment is a file that one process appends to. What it has grown by is put as one piece,
`pieces/<segment>/<begin>-<end>`, so that a copy is the same bytes at the same places. Small pieces
are put together now and then. No piece ever changes, and one that is damaged costs the answers in
it: each line of a segment has a checksum of its own.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from prefactory.errors import store_error
from prefactory.folders import new_file
from prefactory.sharing.bucket import Bucket

SUFFIX = ".calls"
PLACE = "journal"
PIECE_BYTES = 8 << 20
MANY = 64
"""Small pieces that are put together."""
_AT_ONCE = 8
_PIECE = re.compile(r"pieces/([0-9a-f-]{1,120})/(\d{12})-(\d{12})")
_VOID = re.compile(r"void/([0-9a-f-]{1,120})")
Pieces = dict[str, list[tuple[int, int]]]


class Segments:
    """Sends the segments that this process writes, brings those of others. Safe for threads.

    Attributes:
        news: tells which segments have grown how far since it was asked last; None: any may have.
    """

    def __init__(self, bucket: Bucket, folder: Path) -> None:
        """Send and bring nothing yet.

        Args:
            bucket: a place in it.
            folder: of the journal; its name is that of the journal in the bucket.
        """
        self.news: Callable[[], Mapping[str, int] | None] = lambda: None
        self._bucket, self._folder = bucket, folder
        self._place = f"{PLACE}/{folder.name}"
        self._own: dict[Path, int] = {}
        self._small: dict[Path, list[tuple[int, int]]] = defaultdict(list)
        self._sending, self._bringing = threading.Lock(), threading.Lock()

    # -- sending -------------------------------------------------------------------------------

    def begun(self, path: Path) -> None:
        """Send this segment from now on: it is this process's own."""
        self._own[path] = 0

    def ends(self) -> dict[str, int]:
        """How far own segments are in the bucket, bytes."""
        return {path.stem: end for path, end in list(self._own.items()) if end}

    def send(self) -> None:
        """Put what own segments have grown by.

        Raises:
            StoreError: the bucket can't be written.
        """
        with self._sending:
            for path in list(self._own):
                self._send(path)

    def adopt(self) -> None:
        """Put what is in the folder and not in the bucket: of killed processes, or without one.

        Raises:
            StoreError: the bucket can't be read or written.
        """
        there, void = self._listed()
        self._forget(void)
        with self._sending:
            for path in self._folder.glob(f"*{SUFFIX}"):
                end = max((end for _, end in there.get(path.stem, [])), default=0)
                if path not in self._own and path.stat().st_size > end:
                    self._own[path] = end
                    self._send(path)
                    del self._own[path]  # if it is being written, its writer sends the rest

    def _send(self, path: Path) -> None:
        begin, size = self._own[path], path.stat().st_size
        if begin == size:
            return
        if not begin:
            text = self._folder / "engine.json"
            self._bucket.create(f"{self._place}/engine.json", text.read_bytes())
        while begin < size:
            end = min(size, begin + PIECE_BYTES)
            self._bucket.create(self._key(path.stem, begin, end), _bytes(path, begin, end))
            self._small[path].append((begin, end))
            self._own[path] = begin = end
        small = self._small[path]
        if len(small) >= MANY or small[-1][1] - small[0][0] >= PIECE_BYTES:
            self._join(path, small)
            del small[:]

    def _join(self, path: Path, small: Sequence[tuple[int, int]]) -> None:
        if len(small) == 1:
            return
        begin, end = small[0][0], small[-1][1]
        self._bucket.create(self._key(path.stem, begin, end), _bytes(path, begin, end))
        for one in small:
            self._bucket.delete(self._key(path.stem, *one))

    def replace(self, path: Path, new: Path) -> None:
        """Let a segment of the folder stand for another one, which nobody reads any more.

        Nobody else may be at work. Who is killed on the way has both there, or the new one.

        Raises:
            StoreError: the bucket can't be written.
        """
        with self._sending:
            self._own[new] = 0
            self._send(new)
        self._bucket.create(f"{self._place}/void/{path.stem}", b"%d" % path.stat().st_size)
        for key in self._bucket.list(f"{self._place}/pieces/{path.stem}"):
            self._bucket.delete(key)
        path.unlink()

    # -- what an engine keeps beside its journal -------------------------------------------------

    def keep(self, file: Path) -> None:
        """Put a small file of a folder beside the segments, which others find by `bring_kept`.

        Raises:
            StoreError: the bucket can't be written.
        """
        self._bucket.upload(file.read_bytes(), self._kept(file))

    def forget(self, file: Path) -> None:
        """Remove it there."""
        self._bucket.delete(self._kept(file))

    def bring_kept(self, folder: Path) -> None:
        """Bring the files of such a folder that are not here.

        Raises:
            StoreError: the bucket can't be read.
        """
        for key in self._bucket.list(f"{self._place}/kept/{folder.name}"):
            file = folder / key.rpartition("/")[2]
            if re.fullmatch(r"[0-9a-f]{32}\.json", file.name) and not file.exists():
                found = self._bucket.read(key)
                if found is not None:
                    with new_file(file) as new:
                        new.write(found[0])

    def _kept(self, file: Path) -> str:
        return f"{self._place}/kept/{file.parent.name}/{file.name}"

    # -- bringing ------------------------------------------------------------------------------

    def fetch(self) -> None:
        """Bring what others have put since the last time.

        Raises:
            StoreError: the bucket can't be read, or the folder not written.
        """
        with self._bringing:  # who comes second waits for the first one's
            grown = self.news()
            if grown is None:
                there, void = self._listed()
                self._forget(void)
                self._bring({s: pieces for s, pieces in there.items() if s not in void})
                return
            for segment, end in grown.items():
                if self._size(segment) < end:
                    self._bring(self._listed(segment)[0])

    def _forget(self, void: set[str]) -> None:
        """Remove copies that are not to be read; what was never sent of them stays."""
        for segment in void:
            if (path := self._path(segment)).exists():
                found = self._bucket.read(f"{self._place}/void/{segment}")
                rest = _bytes(path, int(found[0]) if found else 0, path.stat().st_size)
                if rest:
                    with new_file(another(path)) as file:
                        file.write(rest)
                path.unlink()

    def _listed(self, segment: str = "") -> tuple[Pieces, set[str]]:
        """Pieces by segment, and the segments that are not to be read."""
        pieces: Pieces = defaultdict(list)
        void: set[str] = set()
        prefix = f"{self._place}/pieces/{segment}" if segment else self._place
        for key in self._bucket.list(prefix):
            if found := _PIECE.fullmatch(key, len(self._place) + 1):
                pieces[found[1]].append((int(found[2]), int(found[3])))
            elif found := _VOID.fullmatch(key, len(self._place) + 1):
                void.add(found[1])
        return pieces, void

    def _bring(self, there: Pieces, last: bool = False) -> None:
        """Append pieces to the copies, in order.

        Where one is missing, small ones are just being put together; if it still is at the second
        look, somebody has deleted it, and its answers are lost.
        """
        wanted: list[tuple[str, int, int]] = []
        torn: set[str] = set()
        for segment, pieces in there.items():
            if self._path(segment) not in self._own:
                found, whole = _chain(pieces, self._size(segment), over_holes=last)
                wanted += [(segment, *piece) for piece in found]
                torn |= set() if whole else {segment}
        failed: set[str] = set()
        for (segment, begin, end), data in self._read(wanted):
            if segment in failed:
                continue
            if data is not None and len(data) == end - begin:
                self._append(segment, begin, data)
            elif not last:
                failed.add(segment)
        if again := torn | failed:
            self._bring({s: self._listed(s)[0].get(s, []) for s in again}, last=True)

    def _read(
        self, pieces: Sequence[tuple[str, int, int]]
    ) -> Iterator[tuple[tuple[str, int, int], bytes | None]]:
        def one(piece: tuple[str, int, int]) -> bytes | None:
            found = self._bucket.read(self._key(*piece))
            return None if found is None else found[0]

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for at in range(0, len(pieces), 4 * _AT_ONCE):  # not all of them in memory
                some = pieces[at : at + 4 * _AT_ONCE]
                yield from zip(some, pool.map(one, some), strict=True)

    def _append(self, segment: str, begin: int, data: bytes) -> None:
        path = self._path(segment)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                size = os.fstat(handle).st_size
                if size < begin:  # what is lost ends with a line of its own
                    os.pwrite(handle, b"\n", begin - 1)
                with memoryview(data) as left:  # another process may write the same at once
                    at = 0
                    while at < len(left):
                        at += os.pwrite(handle, left[at:], begin + at)
            finally:
                os.close(handle)
        except OSError as error:
            told = f"a copy of a journal can't be written: {path}: {error}"
            raise store_error(told, error) from error

    def _path(self, segment: str) -> Path:
        return self._folder / f"{segment}{SUFFIX}"

    def _size(self, segment: str) -> int:
        with contextlib.suppress(FileNotFoundError):
            return self._path(segment).stat().st_size
        return 0

    def _key(self, segment: str, begin: int, end: int) -> str:
        return f"{self._place}/pieces/{segment}/{begin:012d}-{end:012d}"


def _chain(
    pieces: Sequence[tuple[int, int]], at: int, over_holes: bool
) -> tuple[list[tuple[int, int]], bool]:
    """Pieces that lead on from a place, and whether they lead to the end."""
    found: list[tuple[int, int]] = []
    for begin, end in sorted(pieces, key=lambda piece: (piece[0], -piece[1])):
        if end > at:
            if begin > at and not over_holes:
                return found, False
            found.append((begin, end))
            at = end
    return found, True


def another(path: Path) -> Path:
    """A name beside a segment's for one that takes its place."""
    return path.with_name(f"{path.stem[:40]}-{secrets.token_hex(4)}{SUFFIX}")


def _bytes(path: Path, begin: int, end: int) -> bytes:
    with path.open("rb") as file:
        file.seek(begin)
        return file.read(end - begin)
