"""Claims of calls among machines, and how far the answers of each are in the bucket.

`journal/<engine>/board.json` names for each process at work the keys of the calls that it is making
and the ends of its segments; it changes by compare and swap. A claim is taken from it after its
answer is in the bucket. A process takes claims many at a time, and gives them back every few
seconds: some requests for each batch of calls, whatever their number. The claims of a process that
is silent go to whoever wants them.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prefactory.errors import StoreError
from prefactory.sharing import turns
from prefactory.sharing.claims import Claims
from prefactory.sharing.presence import Presence
from prefactory.sharing.sealed import seal, unseal
from prefactory.sharing.segments import PLACE, Segments

_LOG = logging.getLogger(__name__)
LOOK_S = 2.0
"""How often the board is read, at most, where nothing is claimed."""


class BucketClaims(Claims):
    """Claims of calls among the threads and processes of a machine, and among machines.

    Attributes:
        segments: of the journal.
    """

    segments: Segments
    look_s = LOOK_S
    soon_s = 2.0

    def __init__(self, folder: Path, presence: Presence) -> None:
        """Join those who ask the engine; what was left here by killed ones goes to the bucket.

        Args:
            folder: of the engine's journal.
            presence: of this process.

        Raises:
            StoreError: the bucket can't be read or written.
        """
        super().__init__(folder)
        self.segments = Segments(presence.bucket, folder)
        self.segments.news = self._news
        self.segments.adopt()
        self.later = self._pool = ThreadPoolExecutor(1, thread_name_prefix="claims")
        self._presence, self._bucket = presence, presence.bucket
        self._key = f"{PLACE}/{folder.name}/board.json"
        self._turn = threading.RLock()
        self._held: set[str] = set()  # on the board, as this process's
        self._done: set[str] = set()  # of these, answered
        self._sent: set[str] = set()  # of these, with the answer in the bucket
        self._ends: dict[str, int] = {}
        self._told_at = time.monotonic()
        self._board: dict[str, Any] = {}
        self._read_at, self._fresh, self._left = -math.inf, False, -1
        self._over = False
        presence.often(self._tell_others)

    def take(self, keys: Sequence[str]) -> set[str]:
        """Those of some keys that nobody on any machine was asking.

        Raises:
            StoreError: the disk refuses, or the bucket can't be read or written.
        """
        taken = super().take(keys)
        if not taken:
            return taken
        try:
            ours = self._change(taken)
        except BaseException:
            super().finish(taken)
            raise
        if len(ours) < len(taken):
            super().finish(taken - ours)
            self.tell()
        return ours

    def finish(self, keys: Iterable[str]) -> None:
        """Give claims back; other machines see it when the answers are in the bucket."""
        keys = set(keys)
        with self._changed:
            self._done |= keys & self._held
        super().finish(keys)

    def close(self) -> None:
        """Put all answers into the bucket and give all back."""
        self._pool.shutdown()
        self._presence.no_more(self._tell_others)
        try:
            self.segments.send()
            self._change(set(), leaves=True)
        except StoreError as error:
            _LOG.warning("%s: the next run on this machine sends it", error)
        super().close()

    def _tell_others(self) -> None:
        """Put what was answered, then give back what was claimed for it."""
        with self._changed:
            done = set(self._done)
            idle = not self._mine
        self.segments.send()
        with self._changed:
            done &= self._done  # without what is asked again meanwhile
            self._done -= done
            self._sent |= done
        due = self._sent or self.segments.ends() != self._ends
        if due and (idle or time.monotonic() - self._told_at > turns.BEAT_S):
            self._change(set())

    def _change(self, wanted: set[str], leaves: bool = False) -> set[str]:
        """Change this process's part of the board; return what it has got of what it wants."""
        me, wait = self._presence.owner, 0.01
        with self._turn:
            while not self._over:
                board, tag = self._read()
                owners = {o: e for o, e in board["owners"].items() if o != me}
                left = board["left"]
                theirs = {key for entry in owners.values() for key in entry["keys"]}
                if leaves or wanted & theirs:
                    for owner in self._presence.gone(owners):
                        del owners[owner]
                        left += 1
                    theirs = {key for entry in owners.values() for key in entry["keys"]}
                ours = wanted - theirs
                with self._changed:
                    given = self._sent - ours
                held, ends = (self._held - given) | ours, self.segments.ends()
                if leaves:
                    left += 1
                else:
                    owners[me] = {"keys": sorted(held), "ends": ends}
                new = {"left": left, "owners": owners}
                if new == board or self._put(new, tag):
                    break
                time.sleep(random.uniform(0, wait))  # noqa: S311 - no secret
                wait = min(2 * wait, 1.0)
            else:
                return set()
            with self._changed:
                self._held = held
                self._sent -= given | ours
                self._done -= ours
            self._ends, self._told_at, self._over = ends, time.monotonic(), leaves
            self._board, self._read_at, self._fresh = new, time.monotonic(), True
            return ours

    def _put(self, board: Mapping[str, Any], tag: str) -> bool:
        text = seal(board)
        if not tag:
            return self._bucket.create(self._key, text)
        return self._bucket.replace_if(self._key, text, tag) is not None

    def _read(self) -> tuple[dict[str, Any], str]:
        found = self._bucket.read(self._key)
        if found is None:
            return {"left": 0, "owners": {}}, ""
        try:
            board = unseal(found[0], ("left", "owners"))
            return {
                "left": int(board["left"]),
                "owners": {
                    str(owner): {"keys": list(e["keys"]), "ends": dict(e["ends"])}
                    for owner, e in board["owners"].items()
                },
            }, found[1]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"{self._bucket.url}/{self._key} is damaged ({error}); it holds nothing but the "
                "claims of runs at work: delete it when none is"
            ) from error

    def _news(self) -> Mapping[str, int] | None:
        """How far the segments of others are; None: some have left, look at all."""
        with self._turn:
            if not self._fresh:
                if time.monotonic() - self._read_at < self.look_s:
                    return {}
                self._board, self._read_at = self._read()[0], time.monotonic()
            self._fresh = False
            if self._board["left"] != self._left:
                self._left = self._board["left"]
                return None
            return {
                segment: end
                for owner, entry in self._board["owners"].items()
                if owner != self._presence.owner
                for segment, end in entry["ends"].items()
            }
