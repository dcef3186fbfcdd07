"""What all runs under one budget have spent, and what they keep back for their calls in flight.

One file, a line of `crc32 json`, read and written under a lock: of each process the tokens and US
dollars that it has used and that it keeps back. What a killed one had kept back counts as spent:
somebody may bill for it.
"""

from __future__ import annotations

import json
import os
import secrets
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Protocol

from prefactory.errors import StoreError, store_error
from prefactory.folders import sync, this_node
from prefactory.sharing.locks import held, locked

SUFFIX = ".budget"
"""Of the records of budgets with a name."""


def money(usd: float) -> float:
    """US dollars to the billionth: sums of such are exact, in whatever order, up to millions."""
    return round(usd, 9)


@dataclass(frozen=True, slots=True)
class Spent:
    """Tokens and US dollars (as `money`): used, and kept back for calls in flight."""

    tokens: int = 0
    usd: float = 0.0
    held_tokens: int = 0
    held_usd: float = 0.0

    def __post_init__(self) -> None:
        """Take what the sum of two floats is off by from the dollars."""
        object.__setattr__(self, "usd", money(self.usd))
        object.__setattr__(self, "held_usd", money(self.held_usd))

    def __add__(self, other: Spent) -> Spent:
        """Both together."""
        return Spent(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def ended(self) -> Spent:
        """As of a process that is gone: what it kept back may have been used."""
        return Spent(self.tokens + self.held_tokens, self.usd + self.held_usd)


Decide = Callable[[Spent], tuple[bool, Spent]]
"""Told what all others have spent and keep back, it says yes or no, and what then is one's own."""


class Purse(Protocol):
    """One process's place in the record of a budget, wherever that is kept."""

    def change(self, decide: Decide) -> bool:
        """Decide while nobody else changes the record, and keep what is one's own; the answer."""

    def others(self) -> Spent:
        """What all others have spent and keep back."""

    def at_work(self) -> bool:
        """Whether another process that lives keeps something back."""

    def close(self) -> None:
        """Leave: what was used stays counted, if others go on or the record lasts."""


class Spending:
    """One process's place in the record of a budget. Safe for processes; threads take turns."""

    def __init__(self, path: Path, lasting: bool) -> None:
        """Join the runs under a budget.

        Args:
            path: of the record.
            lasting: the record counts all runs that there ever were; else those that are at work
                at the same time: it begins anew when none is, and ends with the last.

        Raises:
            StoreError: the record is damaged or can't be written.
        """
        self.path = path
        self._lasting = lasting
        self._owner = f"{this_node()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._alive = ExitStack()
        with self._record() as runs:
            self._alive.enter_context(locked(self._life(self._owner)))
            gone = [owner for owner in runs if owner and not held(self._life(owner))]
            before = runs.get("", Spent())
            for owner in gone:
                before += runs.pop(owner).ended()
            runs[""] = before if lasting or runs.keys() - {""} else Spent()
            runs[self._owner] = Spent()

    def change(self, decide: Decide) -> bool:
        """See `Purse`; it is written at once."""
        with self._record() as runs:
            decided, self._mine = decide(self._of_others(runs))
            runs[self._owner] = self._mine
        return decided

    def others(self) -> Spent:
        """See `Purse`."""
        with self._record() as runs:
            return self._of_others(runs)

    def _of_others(self, runs: Mapping[str, Spent]) -> Spent:
        return sum((s for owner, s in runs.items() if owner != self._owner), Spent())

    def at_work(self) -> bool:
        """Whether another process that lives keeps something back."""
        with self._record() as runs:
            holding = [o for o, s in runs.items() if o and (s.held_tokens or s.held_usd)]
        return any(held(self._life(owner)) for owner in holding if owner != self._owner)

    def close(self) -> None:
        """Leave: what was used stays counted, if others go on or the record lasts."""
        with self._record() as runs:
            runs[self._owner] = self._mine.ended()
            if not self._lasting and not any(
                held(self._life(owner)) for owner in runs if owner not in ("", self._owner)
            ):
                runs.clear()
            self._alive.close()

    _mine = Spent()

    def _life(self, owner: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{owner}")

    @contextmanager
    def _record(self) -> Iterator[dict[str, Spent]]:
        """The record, to be changed, and written at the end; without entries it is removed."""
        try:
            with locked(self.path.with_name(f"{self.path.name}.lock")):
                runs = read(self.path)
                before = dict(runs)
                yield runs
                if not runs:
                    self.path.unlink(missing_ok=True)
                elif runs != before:
                    _write(self.path, runs)
        except OSError as error:
            told = f"the record of a budget can't be kept in {self.path}: {error}"
            raise store_error(told, error) from error


def read(path: Path) -> dict[str, Spent]:
    """What is written of a budget, by process; under "" what those before have used.

    Raises:
        StoreError: the record is damaged.
    """
    try:
        line = path.read_bytes().strip()
    except FileNotFoundError:
        return {}
    try:
        if int(line[:8], 16) != zlib.crc32(line[9:]):
            raise ValueError("its checksum is wrong")
        return {owner: Spent(**spent) for owner, spent in json.loads(line[9:]).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{path} is damaged ({error}): nobody knows what was spent under this budget. Remove "
            "the file to begin it anew, or name another budget"
        ) from error


def everything(folder: Path) -> dict[str, Spent]:
    """What was spent under each name in a folder of records, by name."""
    paths = sorted(folder.glob(f"*{SUFFIX}"))
    return {p.name.removesuffix(SUFFIX): sum(read(p).values(), Spent()) for p in paths}


def drop(folder: Path, name: str) -> None:
    """Forget what was spent under a name.

    Raises:
        StoreError: there is no such record, or a run is at work under it.
    """
    path = folder / f"{name}{SUFFIX}"
    if path.name not in {p.name for p in folder.glob(f"*{SUFFIX}")}:
        raise StoreError(f"no budget {name!r} in {folder}; `prefactory budgets` lists them")
    with locked(path.with_name(f"{path.name}.lock")):
        if any(held(p) for p in folder.glob(f"{path.name}.*") if p.suffix != ".lock"):
            raise StoreError(f"a run spends the budget {name!r}; wait for its end, or stop it")
        path.unlink(missing_ok=True)


def _write(path: Path, runs: dict[str, Spent]) -> None:
    """Write in place, in one call: who is killed leaves the line of before, or this one."""
    text = json.dumps({owner: asdict(spent) for owner, spent in runs.items()}).encode()
    new = not path.exists()
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(handle).st_size
        os.pwrite(handle, (b"%08x %b" % (zlib.crc32(text), text)).ljust(size), 0)
    finally:
        os.close(handle)
    if new:
        sync(path.parent)
